"""What an evening can tell: which segments are large, whose clicks count, how many are enough."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from at4ctr.gates.model import Scores, judge
from at4ctr.gates.verdict import Thresholds
from tests.gates import power
from tests.gates.evening import evening, halves, logit, scores, sigmoid

LIMITS = Thresholds()


def judged(candidate, incumbent, limits=LIMITS, segments=None):
    """Name -> check."""
    segments = halves(candidate.labels) if segments is None else segments
    checks = judge(candidate, incumbent, limits, segments=segments).checks
    return {c.name: c for c in checks}


def _segment(labels, owner, p, first):
    """The checks of two segments, the first of which is ``few``."""
    s = Scores(labels, logit(p), owner)
    return judged(s, s, segments={"u": {"few": first, "more": ~first}})


@pytest.mark.parametrize("clicks", [0, 56])
def test_a_segment_is_large_by_what_is_predicted_too(clicks):
    """Rows with next to no click that are predicted as all others are: nobody's clicks are few."""
    rng = np.random.default_rng(4)
    owner = rng.integers(0, 4000, 40_000)
    first = np.arange(owner.size) % 10 < 3
    labels = (rng.random(owner.size) < 0.05).astype(float)
    labels[first] = 0
    labels[np.flatnonzero(first)[:clicks]] = 1
    p = np.full(owner.size, 0.015)
    p[~first] = labels[~first].mean()
    found = _segment(labels, owner, p, first)
    assert p[first].sum() > 0.05 * p.sum()
    assert labels[first].sum() < 0.05 * labels.sum()
    assert found["segment u few"].outcome == "fail"
    assert found["segment u more"].outcome == "pass"
    few = _segment(labels, np.where(first, owner % 20, owner), p, first)
    assert few["segment u few"].outcome == ("fail" if clicks else "hold")


@pytest.mark.parametrize(("factor", "shown"), [(1.02, True), (0.9, False)])
def test_a_segment_that_is_off_without_proof_is_named(factor, shown):
    labels, owner, (z, _) = evening(5, users=400, rows=20)
    p, first = sigmoid(z), owner < 80
    p[first] *= factor * labels[first].sum() / p[first].sum()
    check = _segment(labels, owner, p, first)["segment u few"]
    assert (check.value, check.outcome) == (pytest.approx(factor), "pass")
    assert labels[first].sum() == 300
    assert ("segment u few" in check.sentence and "not shown" in check.sentence) != shown


def test_two_of_five_sound_evenings_of_300_clicks_look_off_by_5_percent():
    """Why a point beyond the bound does not fail."""
    seen = np.random.default_rng(0).poisson(300, 100_000)
    assert (np.abs(300 / seen - 1) > 0.05).mean() == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("users", [99, 100])
def test_users_without_a_click_are_no_evidence(users):
    labels = np.repeat([1.0, 0.0], [1000, 9000])
    owner = np.r_[np.arange(1000) % users, 5000 + np.arange(9000) % 800]
    for y in (labels, 1 - labels):
        s = Scores(y, np.full(y.size, logit(y.mean())), owner)
        check = judged(s, s)["users"]
        assert (check.value, check.outcome) == (users, "hold" if users < 100 else "pass")
        assert "click" in check.sentence


def _area(labels, owner, a, b, loss=0.001):
    limits = replace(LIMITS, clicks=0, users=0, auc_loss=loss)
    return judged(scores(labels, owner, a), scores(labels, owner, b), limits)["auc"]


def test_a_refusal_tells_what_is_worse_from_what_is_not_shown_to_be_as_good():
    labels, owner, (a, b) = evening(1, users=300, rows=12, noise=(0.4, 0.4))
    said = _area(labels, owner, a, b)
    assert said.outcome == "fail"
    assert said.interval[1] > -0.001
    assert "not shown to be worse" in said.sentence
    worse = _area(labels, owner, a - 3 * np.sin(np.arange(a.size)), b)
    assert worse.interval[1] < -0.001
    assert (worse.outcome, "not shown" in worse.sentence) == ("fail", False)
    none = _area(labels, owner, a, b, loss=0.0)
    assert "no number of clicks" in none.sentence


def test_the_clicks_that_would_tell_are_those_that_do():
    """About half of all evenings of so many clicks pass two equally good models."""
    limits = replace(LIMITS, clicks=0, users=0, auc_loss=0.006)
    check, clicks = power.judged(3, 1000, 0.9, limits)
    (told,) = re.findall(r"about ([\d,]+) clicks", check.sentence)
    needed = int(told.replace(",", ""))
    assert f"has {clicks:,}" in check.sentence
    assert float(f"{needed:.2g}") == needed
    passed = [power.judged(seed, needed, 0.9, limits)[0].outcome == "pass" for seed in range(24)]
    assert 5 <= sum(passed) <= 19


def test_the_table_of_power_is_of_these_thresholds():
    kept = json.loads(power.RESULT.read_text())
    assert kept["thresholds"] == json.loads(json.dumps(asdict(LIMITS)))
    assert {x["clicks"]: x["evenings"] for x in kept["auc"]} == power.EVENINGS
    (again,) = power.table({400: power.EVENINGS[400]})
    assert again == pytest.approx(kept["auc"][0])
