"""Information abundance, against the eigenvalues of the matrix times its transpose."""

import numpy as np
import pytest

from at4ctr.analysis import abundance
from at4ctr.analysis.abundance import information_abundance, spectra, spectrum
from at4ctr.errors import InputError

RNG = np.random.default_rng(0)


def expected(matrix):
    small = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    return np.sqrt(np.maximum(np.linalg.eigvalsh(small)[::-1], 0))


@pytest.mark.parametrize("shape", [(50, 6), (6, 50), (7, 7)])
def test_singular_values_and_their_ratio(monkeypatch, shape):
    monkeypatch.setattr(abundance, "_BLOCK", 8)  # several blocks
    matrix = RNG.normal(size=shape) * np.geomspace(1, 0.01, shape[1])
    sigma = expected(matrix)
    np.testing.assert_allclose(spectrum(matrix).singular, sigma, rtol=1e-6)
    found = information_abundance(matrix)
    assert type(found) is float
    assert found == pytest.approx(sigma.sum() / sigma.max(), rel=1e-6)
    assert information_abundance(1e-3 * matrix) == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize(
    ("matrix", "value"),
    [
        (np.eye(9)[:, :4] * 3, 4.0),
        (np.outer(np.arange(1, 9), np.arange(1, 4)), 1.0),
        (np.zeros((5, 3)), 0.0),
        (np.zeros((0, 3)), 0.0),
    ],
)
def test_its_limits(matrix, value):
    assert information_abundance(matrix) == pytest.approx(value, abs=1e-9)


def test_a_large_table_has_its_largest_values_by_a_randomised_svd(monkeypatch):
    monkeypatch.setattr(abundance, "EXACT", 0)
    monkeypatch.setattr(abundance, "SKETCH", 5)
    matrix = RNG.normal(size=(300, 40)) * np.geomspace(1, 1e-3, 40)
    found = spectrum(matrix)
    np.testing.assert_allclose(found.singular, expected(matrix)[:5], rtol=1e-4)


def test_padding_and_unknown_do_not_count():
    table = RNG.normal(size=(20, 3)).astype(np.float32)
    found = spectra({"item": table})["item"]
    assert (found.rows, found.width) == (18, 3)
    np.testing.assert_allclose(found.singular, expected(table[2:].astype(float)), rtol=1e-6)


def test_refuses_what_is_no_matrix_or_not_finite():
    with pytest.raises(InputError, match=r"matrix has shape \(3,\)"):
        information_abundance(np.ones(3))
    with pytest.raises(InputError, match="1 of 4 values of the matrix are not finite"):
        information_abundance([[1.0, np.inf], [0.0, 1.0]])
