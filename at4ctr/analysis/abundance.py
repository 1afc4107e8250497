"""Dimensional collapse: the singular values of an embedding table, and what they add up to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from at4ctr.errors import InputError
from at4ctr.schema import FIRST_ID

EXACT = 2**26  # values up to which a table is decomposed whole
SKETCH = 64  # singular values of a larger one
_BLOCK = 2**18  # rows of a product in float64


class Spectrum(NamedTuple):
    """A table's singular values, largest first.

    rows, width: of the matrix. singular: min(rows, width) values, or the largest `SKETCH`.
    """

    rows: int
    width: int
    singular: tuple[float, ...]

    @property
    def abundance(self) -> float:
        return _abundance(np.array(self.singular))

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "abundance": self.abundance}


def information_abundance(matrix: npt.ArrayLike) -> float:
    """IA(E) = Σ_k σ_k / max_k σ_k of the singular values σ of a matrix.

    Guo et al., "On the Embedding Collapse When Scaling up Recommendation Models", cited in Pan et
    al., §7.2. It lies between 1, of a matrix of rank 1, and min(N, K), where all σ are equal. It
    does not change with the scale of the matrix.

    Args:
        matrix: E [N, K], finite.

    Returns:
        IA. 0 of a matrix that is empty or 0 throughout.

    Raises:
        InputError: no matrix, or a value that is not finite.
    """
    return spectrum(matrix).abundance


def spectrum(matrix: npt.ArrayLike) -> Spectrum:
    """The singular values of a matrix E [N, K].

    They are computed in float64. A tall matrix has those of the triangular factor of its blocks of
    rows, which needs K² values and no copy of the matrix. A matrix of more than `EXACT` values of
    which the shorter side exceeds `SKETCH` has its `SKETCH` largest alone, by scikit-learn's
    randomised SVD (Halko, Martinsson and Tropp 2011). The others would add to IA, so that it is
    then a lower bound.

    Raises:
        InputError: no matrix, or a value that is not finite.
    """
    values = np.asarray(matrix)
    if values.ndim != 2:
        raise InputError(
            f"spectrum: the matrix has shape {values.shape}; expected two axes, rows and width; "
            "pass an embedding table"
        )
    if not np.isfinite(values).all():
        raise InputError(
            f"spectrum: {int((~np.isfinite(values)).sum())} of {values.size} values of the matrix "
            "are not finite; expected none; restore weights of a run that did not diverge"
        )
    rows, width = values.shape
    return Spectrum(rows, width, tuple(map(float, _singular(values))))


def spectra(
    tables: Mapping[str, npt.NDArray[np.floating]],
) -> dict[str, Spectrum]:
    """The spectrum of every table of a model, padding (row 0) and unknown (row 1) left out."""
    return {name: spectrum(rows[FIRST_ID:]) for name, rows in tables.items()}


def _singular(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    short, large = min(values.shape), values.size > EXACT
    if not short:
        return np.zeros(0)
    if large and short > SKETCH:
        from sklearn.utils.extmath import randomized_svd

        found: npt.NDArray[np.float64] = randomized_svd(values, SKETCH, random_state=0)[1]
        return found.astype(np.float64)
    tall = values if values.shape[0] >= values.shape[1] else values.T
    triangle: npt.NDArray[np.float64] = np.zeros((0, tall.shape[1]))
    for begin in range(0, len(tall), _BLOCK):
        block = tall[begin : begin + _BLOCK].astype(np.float64)
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))
    return np.asarray(np.linalg.svd(triangle, compute_uv=False), np.float64)


def _abundance(singular: npt.NDArray[np.float64]) -> float:
    largest = float(singular.max(initial=0.0))
    return float(singular.sum()) / largest if largest > 0 else 0.0
