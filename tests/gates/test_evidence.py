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
    s, right = Scores(labels, logit(p), owner), np.full(labels.size, labels.mean())
    for part in (first, ~first):
        right[part] = np.clip(labels[part].mean(), 1e-6, 1)
    live = Scores(labels, logit(right), owner)
    return judged(s, live, segments={"u": {"few": first, "more": ~first}})


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
    assert few["segment u few"].outcome == ("fail" if clicks else "warn")


@pytest.mark.parametrize(("factor", "shown"), [(1.02, True), (0.9, False)])
def test_a_segment_that_is_off_without_proof_is_named(factor, shown):
    labels, owner, (z, _) = evening(5, users=400, rows=20)
    p, first = sigmoid(z), owner < 80
    p[first] *= factor * labels[first].sum() / p[first].sum()
    check = _segment(labels, owner, p, first)["segment u few"]
    assert (check.value, check.outcome) == (pytest.approx(factor), "pass")
    assert labels[first].sum() == 300
    assert ("not shown" in check.sentence) != shown


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
        assert (check.value, check.outcome) == (users, "warn" if users < 100 else "pass")
        assert "click" in check.sentence


def _area(labels, owner, a, b, loss=0.001):
    limits = replace(LIMITS, clicks=0, users=0, auc_loss=loss)
    return judged(scores(labels, owner, a), scores(labels, owner, b), limits)["auc"]


def test_a_refusal_tells_what_is_worse_from_what_is_not_shown():
    labels, owner, (a, b) = evening(1, users=300, rows=12, noise=(0.4, 0.4))
    said = _area(labels, owner, a, b)
    assert said.outcome == "warn"
    assert "neither to be worse by 0.00100 nor to be as good" in said.sentence
    worse = _area(labels, owner, a - 3 * np.sin(np.arange(a.size)), b)
    assert worse.interval[1] < -0.001
    assert (worse.outcome, "shown to be below" in worse.sentence) == ("fail", True)
    none = _area(labels, owner, a, b, loss=0.0)
    assert "no number of clicks" in none.sentence


def test_the_clicks_that_would_tell_are_those_that_do():
    """About half of all evenings of so many clicks show two equally good models to be so."""
    limits = replace(LIMITS, auc_loss=0.008)

    def area(seed, clicks):
        found = power.judged(seed, clicks, 0.0, limits)
        return next(c for c in found.checks if c.name == "auc"), found.clicks

    check, clicks = area(3, 400)
    (told,) = re.findall(r"about ([\d,]+) clicks", check.sentence)
    needed = int(told.replace(",", ""))
    assert f"has {clicks:,}" in check.sentence
    assert float(f"{needed:.2g}") == needed
    passed = [area(seed, needed)[0].outcome == "pass" for seed in range(24)]
    assert 5 <= sum(passed) <= 19


@pytest.mark.parametrize(("clicks", "loss", "evenings"), [(2_000, 0.0, 30), (6_000, 0.0, 20),
                                                          (6_000, 0.01, 20)])  # fmt: skip
def test_equally_good_models_pass_and_worse_ones_do_not(clicks, loss, evenings):
    """The two error rates, on simulated evenings; the page has them of hundreds."""
    found = power.line(clicks, loss, evenings)
    if loss:
        assert found["refused"] >= 0.95 * evenings
        assert found["published, strict"] == 0
    else:
        assert found["published"] >= 0.9 * evenings
        assert found["held"] == 0


def test_the_page_of_power_is_of_these_thresholds_and_rates():
    kept = json.loads(power.RESULT.read_text())
    assert kept["thresholds"] == json.loads(json.dumps(asdict(LIMITS)))
    assert power.PAGE.read_text() == power.page(kept["lines"])
    known = {(x["clicks"], x["auc_loss"]): x for x in kept["lines"]}
    assert {c: known[c, 0.0]["evenings"] for c in power.EVENINGS} == power.EVENINGS
    for clicks in (2_000, 6_000):
        assert known[clicks, 0.0]["published"] >= 0.9 * known[clicks, 0.0]["evenings"]
    assert known[6_000, 0.01]["refused"] >= 0.95 * known[6_000, 0.01]["evenings"]
    assert power.line(400, 0.0, power.EVENINGS[400]) == known[400, 0.0]
