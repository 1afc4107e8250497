"""Intervals of PCOC and ECE: they hold the truth as often as they say, also within users."""

import json
import time
from typing import Any

import numpy as np
import pytest

from at4ctr.errors import InputError
from at4ctr.metrics import expected_calibration_error, intervals, pcoc
from at4ctr.metrics.intervals import Z_95
from tests.oracles import calibration as oracle

trust: Any = intervals.trust  # an interval may be None, but is not here
by_segment: Any = intervals.by_segment


def rows(users=300, seed=0, spread=0.0, factor=1.0):
    """labels, what a model says (factor times the mean truth), users; a user's rows share luck."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, users)
    owner = np.repeat(np.arange(users), sizes)
    base = rng.beta(2, 12, owner.size)
    luck = np.exp(spread * rng.normal(size=users) - spread**2 / 2)[owner]
    labels = (rng.random(owner.size) < np.clip(base * luck, 0, 1)).astype(int)
    return labels, np.clip(base * factor, 0, 1), owner


def test_values_are_those_of_the_metrics_and_the_interval_that_of_the_loop():
    labels, p, users = rows(spread=0.5)
    found = trust(labels, p, users)
    assert found.pcoc == pytest.approx(pcoc(labels, p))
    assert found.ece == pytest.approx(expected_calibration_error(labels, p))
    assert (found.rows, found.clicks, found.users) == (labels.size, labels.sum(), 300)
    assert not found.small
    expected = oracle.pcoc_interval(labels.tolist(), p.tolist(), users.tolist(), Z_95)
    assert found.pcoc_interval == pytest.approx(expected, rel=1e-9)


def test_the_interval_is_near_a_bootstrap_of_users():
    labels, p, users = rows(spread=0.7)
    drawn = oracle.bootstrap_pcoc(labels.tolist(), p.tolist(), users.tolist(), 1500, seed=1)
    lower, upper = trust(labels, p, users).pcoc_interval
    width = upper - lower
    assert lower == pytest.approx(drawn[37], abs=0.15 * width)
    assert upper == pytest.approx(drawn[1462], abs=0.15 * width)


@pytest.mark.parametrize(("spread", "factor"), [(0.0, 1.0), (0.8, 1.0), (0.8, 1.4)])
def test_intervals_hold_the_truth_as_often_as_they_say(spread, factor):
    held, ece_held, clear = 0, 0, 0
    for seed in range(200):
        labels, p, users = rows(200, seed, spread, factor)
        found = trust(labels, p, users)
        held += found.pcoc_interval[0] <= factor <= found.pcoc_interval[1]
        true_ece = (factor - 1) * 2 / 14
        ece_held += found.ece_interval[0] <= true_ece <= found.ece_interval[1]
        clear += found.ece_interval[0] > 0
    assert 180 <= held <= 198
    assert ece_held >= 186
    assert clear > 100 if factor > 1 else clear <= 10


def test_rows_of_one_user_count_for_less():
    labels, p, users = rows(400, spread=1.2)
    alone = trust(labels, p, np.arange(labels.size)).pcoc_interval
    together = trust(labels, p, users).pcoc_interval
    assert together[1] - together[0] > 1.2 * (alone[1] - alone[0])


def test_order_and_names_of_users_are_of_no_effect():
    labels, p, users = rows()
    order = np.random.default_rng(0).permutation(labels.size)
    a, b = trust(labels, p, users), trust(labels[order], p[order], 10**6 - 3 * users[order])
    assert a.pcoc_interval == pytest.approx(b.pcoc_interval)
    assert a.ece_interval == pytest.approx(b.ece_interval, abs=1e-9)


def test_a_segment_is_the_trust_of_its_rows():
    labels, p, users = rows()
    masks = {"some": users % 3 == 0, "all": users >= 0, "nobody": users < 0, "one": users == 5}
    found = by_segment(labels, p, users, masks)
    for name in ("some", "all"):
        expected = trust(labels[masks[name]], p[masks[name]], users[masks[name]])
        assert found[name] == expected
    assert (found["nobody"].rows, found["nobody"].small, found["nobody"].pcoc) == (0, True, None)
    assert found["one"].users == 1
    assert found["one"].pcoc_interval is None
    assert found["one"].small


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_extreme_rows_give_json_without_nan(label, p, count):
    found = trust(np.full(count, label), np.full(count, p), np.arange(count))
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["rows"] == count
    assert ("pcoc" in found.to_json()) == bool(label)


def test_bad_input_is_refused():
    labels, p, users = rows()
    with pytest.raises(InputError, match="users"):
        trust(labels, p, users[1:])
    with pytest.raises(InputError, match="mask of segment 'x' has type int64"):
        by_segment(labels, p, users, {"x": users})


def test_a_million_rows_are_few_array_operations():
    """Not a bound on time: a loop over rows or users would take minutes here."""
    rng = np.random.default_rng(0)
    p = rng.beta(1, 20, 1_000_000)
    users = rng.integers(0, 200_000, p.size)
    masks = {str(k): users % 10 == k for k in range(10)} | {"all": np.ones(p.size, bool)}
    begin = time.process_time()
    found = by_segment(rng.random(p.size) < p, p, users, masks)
    print(f"1M rows, 11 segments: {time.process_time() - begin:.2f} s")
    assert sum(found[str(k)].rows for k in range(10)) == found["all"].rows == 1_000_000
    assert found["all"].pcoc_interval[0] < 1 < found["all"].pcoc_interval[1]


def drawn(rows, rate, predicted, users=200):
    labels = np.arange(rows) < round(rate * rows)
    return labels, np.full(rows, predicted), np.arange(rows) % users


@pytest.mark.parametrize(
    ("rows", "rate", "predicted", "far"),
    [
        (5000, 0.2, 0.0059, True),
        (5000, 0.2, 0.28, True),
        (5000, 0.2, 0.22, False),  # within 20 %
        (50, 0.2, 0.27, False),  # within noise
        (5000, 0.0, 0.01, True),  # 50 clicks are predicted and none is seen
        (5000, 0.0, 0.0001, False),
    ],
)
def test_a_mean_prediction_far_from_the_rate_is_seen(rows, rate, predicted, far):
    found = intervals.mean_prediction(*drawn(rows, rate, predicted))
    assert found.far is far
    assert found.predicted == pytest.approx(predicted)
    assert found.rate == pytest.approx(rate)
    assert ("ratio" in found.to_json()) == (rate > 0)


def test_one_user_alone_proves_nothing():
    assert not intervals.mean_prediction([1, 0], [0.01, 0.01], [7, 7]).far
    assert not intervals.mean_prediction([0] * 50, [0.5] * 50, [7] * 50).far
