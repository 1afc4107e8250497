"""Cross entropy and calibration metrics: properties, then scikit-learn and the definitions."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss

from at4ctr.errors import InputError
from at4ctr.metrics import (
    bin_means,
    expected_calibration_error,
    logit,
    logloss,
    logloss_half,
    losses,
    normalized_entropy,
    pcoc,
    sigmoid,
)
from tests.oracles import metrics as oracle

OF_LOGITS: list[Any] = [logloss, logloss_half, normalized_entropy]
OF_PROBABILITIES: list[Any] = [pcoc, expected_calibration_error]


def calibrated(n: int, seed: int = 0):
    """Labels drawn from known probabilities."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1.0, 6.0, n)
    return (rng.random(n) < p).astype(int), p


def test_sigmoid_and_logit_are_inverse_and_never_overflow():
    z = np.array([-745.0, -30.0, -1.0, 0.0, 1e-9, 17.5, 30.0])
    np.testing.assert_allclose(logit(sigmoid(z)), z, rtol=1e-3, atol=1e-12)
    assert sigmoid([-1e308, 1e308]).tolist() == [0.0, 1.0]
    assert logit([0.0, 0.5, 1.0]).tolist() == [-np.inf, 0.0, np.inf]


def test_logloss_equals_sklearn():
    labels, p = calibrated(500)
    assert logloss(labels, logit(p)) == pytest.approx(log_loss(labels, p), rel=1e-12)


def test_a_sure_and_wrong_logit_costs_itself():
    """No clipping: 36 nats was the cliff of probabilities that were clipped at 2⁻⁵²."""
    z = np.array([17.5, -17.5, 40.0, -800.0, 17.5, 800.0])
    labels = np.array([0, 1, 0, 1, 1, 1])
    expected = [math.log1p(math.exp(17.5))] * 2 + [40.0, 800.0, math.log1p(math.exp(-17.5)), 0.0]
    np.testing.assert_allclose(losses(labels, z), expected, rtol=1e-14, atol=1e-300)
    assert logloss(labels, z) == pytest.approx(np.mean(expected))
    assert losses(labels.astype(np.float32), z.astype(np.float32)).dtype == np.float64


def test_logloss_of_known_predictions():
    assert logloss([0, 1], [0.0, 0.0]) == pytest.approx(np.log(2))
    assert logloss([1], [800.0]) == 0.0
    assert logloss([0], [logit(1e-12)]) == pytest.approx(1e-12, rel=1e-3)


def test_logloss_half_is_half():
    labels, p = calibrated(100)
    assert logloss_half(labels, logit(p)) == logloss(labels, logit(p)) / 2


def test_normalized_entropy_of_the_constant_guess_is_one_and_of_truth_zero():
    labels, p = calibrated(1000)
    guess = np.full(1000, logit(labels.mean()))
    assert normalized_entropy(labels, guess) == pytest.approx(1.0)
    assert normalized_entropy(labels, np.where(labels == 1, 99.0, -99.0)) == pytest.approx(0.0)
    assert 0 < normalized_entropy(labels, logit(p)) < 1


def test_pcoc_of_the_true_probabilities_is_one_within_its_error():
    labels, p = calibrated(200_000)
    error = np.sqrt((p * (1 - p)).sum()) / p.sum()
    assert abs(pcoc(labels, p) - 1) < 4 * error
    assert pcoc(labels, p / 2) == pytest.approx(pcoc(labels, p) / 2)


@pytest.mark.parametrize("bins", [1, 7, 20, 1000])
def test_calibration_error_equals_the_definition(bins):
    labels, p = calibrated(300, seed=3)
    expected = oracle.expected_calibration_error(labels, p, bins)
    assert expected_calibration_error(labels, p, bins) == pytest.approx(expected, rel=1e-10)


def test_calibration_error_of_truth_is_noise_and_of_a_shift_the_shift():
    labels, p = calibrated(200_000, seed=1)
    assert expected_calibration_error(labels, p) < 0.005
    p = np.minimum(p, 0.8)
    shifted = expected_calibration_error(labels, p + 0.2)
    assert shifted == pytest.approx(0.2, abs=0.01)


def test_ties_share_a_bin_so_row_order_never_matters():
    rng = np.random.default_rng(5)
    p, labels = rng.integers(0, 4, 400) / 4, rng.integers(0, 2, 400)
    b = bin_means(labels, p, 20)
    assert sorted(set(p)) == pytest.approx(list(b.probability))
    assert bin_means([0, 0, 0, 1, 1, 1], [0.1] + [0.5] * 5, 2).count.tolist() == [1, 5]
    order = rng.permutation(400)
    assert expected_calibration_error(labels[order], p[order]) == pytest.approx(
        expected_calibration_error(labels, p)
    )


def test_bins_of_equal_mass_and_of_equal_width():
    labels, p = calibrated(1000)
    assert (bin_means(labels, p, 20).count == 50).all()
    width = bin_means(labels, p, 10, "width")
    assert (np.diff(np.floor(width.probability * 10)) > 0).all()
    assert bin_means([0, 1], [0.0, 1.0], 10, "width").count.tolist() == [1, 1]
    assert expected_calibration_error([0, 1], [0.1, 0.1], 5, "width") == pytest.approx(0.4)


@pytest.mark.parametrize("metric", [*OF_LOGITS, *OF_PROBABILITIES])
def test_float_out_and_row_order_does_not_matter(metric):
    labels, p = calibrated(500, seed=2)
    order = np.random.default_rng(0).permutation(500)
    assert type(metric(labels, p)) is float
    assert metric(labels[order], p[order]) == pytest.approx(metric(labels, p), rel=1e-12)


@pytest.mark.parametrize("metric", [*OF_LOGITS, *OF_PROBABILITIES])
@pytest.mark.parametrize(
    ("labels", "p", "words"),
    [
        ([], [], "labels is empty"),
        ([0, 1], [0.1, np.nan], "holds 1 NaN"),
        ([0, 1], [0.1], "labels has 2 rows and (probabilities|scores) 1"),
        ([0, 0.5], [0.1, 0.2], "labels holds 0.5 at row 1"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(metric, labels, p, words):
    with pytest.raises(InputError, match=words):
        metric(labels, p)


@pytest.mark.parametrize("metric", OF_PROBABILITIES)
@pytest.mark.parametrize("wrong", [1.5, -0.1])
def test_what_is_no_probability_is_refused(metric, wrong):
    with pytest.raises(InputError, match=f"probabilities holds {wrong} at row 1"):
        metric([0, 1], [0.1, wrong])


def test_one_class_is_refused_where_undefined():
    with pytest.raises(InputError, match="normalized_entropy needs both classes"):
        normalized_entropy([1, 1], [0.5, 0.5])
    with pytest.raises(InputError, match="pcoc needs a positive: labels has none in 2 rows"):
        pcoc([0, 0], [0.5, 0.5])
    with pytest.raises(InputError, match="bins is 0"):
        expected_calibration_error([0, 1], [0.5, 0.5], 0)
    with pytest.raises(InputError, match="unknown spacing of bins 'widht'"):
        expected_calibration_error([0, 1], [0.5, 0.5], 5, "widht")  # type: ignore[arg-type]
