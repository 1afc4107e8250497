"""Sampling correction: identities, and a simulation that gives the true odds back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from at4ctr.calibration import Z_95, correct_sampling, logit_shift, reliability
from at4ctr.errors import InputError
from at4ctr.metrics import auc, pcoc
from tests.oracles import metrics as oracle

rates = st.floats(1e-6, 1.0)
probabilities = st.floats(0.0, 1.0)


@given(probabilities, rates)
def test_equals_the_formula(p, w):
    assert correct_sampling(p, w) == pytest.approx(p / (p + (1 - p) / w), rel=1e-12)


@given(st.floats(1e-9, 1 - 1e-9), rates)
def test_is_a_logit_shift(p, w):
    shifted = np.log(p) - np.log1p(-p) + logit_shift(w)
    assert correct_sampling(p, w) == pytest.approx(1 / (1 + np.exp(-shifted)), rel=1e-9)


@given(probabilities)
def test_no_sampling_changes_nothing(p):
    assert correct_sampling(p, 1.0) == pytest.approx(p, rel=1e-15, abs=0)
    assert logit_shift(1.0) == 0.0


@given(st.floats(0.0, 0.999999), rates, rates)
def test_two_rates_compose_to_their_product(p, first, second):
    twice = correct_sampling(correct_sampling(p, first), second)
    assert twice == pytest.approx(correct_sampling(p, first * second), rel=1e-9)


@given(probabilities, probabilities, rates)
def test_keeps_the_order_and_never_raises_a_probability(p, q, w):
    low, high = sorted((p, q))
    assert correct_sampling(low, w) <= correct_sampling(high, w)
    assert correct_sampling(p, w) <= np.nextafter(p, 1.0)


def test_auc_is_unchanged():
    rng = np.random.default_rng(0)
    p = rng.random(1000)
    labels = rng.random(1000) < p
    assert auc(labels, correct_sampling(p, 0.1)) == auc(labels, p)


@pytest.mark.parametrize("w", [1e-320, 1e-12, 0.1, 1.0])
def test_extreme_probabilities_stay_finite(w):
    q = correct_sampling(np.array([0.0, 1e-300, 1 - 2**-53, 1.0]), w)
    assert np.isfinite(q).all()
    assert (q[0], q[-1]) == (0.0, 1.0)


def test_shape_and_type():
    assert correct_sampling(np.full((2, 3), 0.5, np.float32), 0.5).shape == (2, 3)
    assert correct_sampling(np.float32(0.5), 0.5).dtype == np.float64
    assert float(correct_sampling(0.5, 0.5)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("truth", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("w", [0.05, 0.5])
def test_gives_the_true_rate_back_after_sampling(truth, w):
    rng = np.random.default_rng(0)
    clicks = rng.random(1_000_000) < truth
    kept = clicks | (rng.random(clicks.size) < w)
    sampled = clicks[kept]
    error = np.sqrt(sampled.mean() * (1 - sampled.mean()) / sampled.size)
    below, found, above = correct_sampling(sampled.mean() + error * np.array([-4, 0, 4]), w)
    assert below < truth < above
    assert found == pytest.approx(truth, rel=0.05)


def test_pcoc_of_a_sampled_model_is_one_again_on_all_rows():
    rng = np.random.default_rng(1)
    truth, w = rng.beta(1, 9, 300_000), 0.1
    clicks = rng.random(truth.size) < truth
    learnt = truth / (truth + w * (1 - truth))  # what a perfect model of the kept rows says
    assert pcoc(clicks, learnt) > 2
    assert pcoc(clicks, correct_sampling(learnt, w)) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("w", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_refuses_a_keep_rate_outside_its_range(w):
    for call in (lambda: correct_sampling(0.5, w), lambda: logit_shift(w)):
        with pytest.raises(InputError, match=f"negative_rate is {w}; expected 0 < w <= 1"):
            call()


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_refuses_what_is_no_probability(p):
    with pytest.raises(InputError, match=f"p holds {p}: expected"):
        correct_sampling(np.array([0.5, p]), 0.5)


def test_reliability_of_true_probabilities():
    rng = np.random.default_rng(2)
    p = rng.beta(1, 6, 100_000)
    found = reliability(rng.random(p.size) < p, p, bins=100)
    assert (found.count == 1000).all()
    assert (np.diff(found.predicted) > 0).all()
    inside = (found.lower < found.predicted) & (found.predicted < found.upper)
    assert 0.88 <= inside.mean() <= 1.0


def test_intervals_are_wilsons():
    labels = np.array([0] * 10 + [1] * 3 + [0] * 7 + [1] * 10)
    found = reliability(labels, np.repeat([0.1, 0.4, 0.9], 10), bins=3)
    for i, clicks in enumerate([0, 3, 10]):
        expected = oracle.wilson(clicks, 10, Z_95)
        assert (found.lower[i], found.upper[i]) == pytest.approx(expected, abs=1e-9)
        assert found.observed[i] == clicks / 10
