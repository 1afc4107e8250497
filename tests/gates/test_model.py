"""The verdict: what passes, what fails, what holds, and what must not matter."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at4ctr.errors import InputError
from at4ctr.gates.calibration import overall
from at4ctr.gates.model import Scores, judge
from at4ctr.gates.ratios import Sums
from at4ctr.gates.verdict import NUMBERS, Thresholds, Verdict, decide, override
from at4ctr.metrics import auc
from tests.gates.evening import evening, halves, logit, scores

LIMITS, STRICT = Thresholds(), Thresholds(policy="strict")
ROW = evening(0, noise=(0.2, 0.6))


def outcomes(verdict):
    return {c.name: c.outcome for c in verdict.checks}


def judged(candidate, incumbent, limits=LIMITS, segments=None):
    segments = halves(candidate.labels) if segments is None else segments
    return judge(candidate, incumbent, limits, segments=segments)


@pytest.fixture(scope="module")
def pair():
    labels, owner, (good, worse) = ROW
    return scores(labels, owner, good), scores(labels, owner, worse)


def test_a_better_model_is_blessed_and_a_worse_one_rejected(pair):
    good, worse = pair
    verdict = judged(good, worse)
    assert verdict.decision == "BLESS", verdict
    assert set(outcomes(verdict).values()) == {"pass"}
    back = judged(worse, good)
    assert back.decision == "REJECT"
    assert outcomes(back)["auc"] == outcomes(back)["normalized entropy"] == "fail"


def test_a_model_passes_against_itself(pair):
    verdict = judged(pair[0], pair[0])
    found = {c.name: c for c in verdict.checks}
    assert verdict.decision == "BLESS"
    assert found["auc"].value == 0
    assert found["auc"].interval == (0, 0)
    assert found["normalized entropy"].value == 0


def test_what_few_users_leave_in_doubt_is_decided_by_the_policy():
    labels, owner, (a, b) = evening(0, users=300, rows=12, noise=(0.5, 0.5))
    pair = scores(labels, owner, a), scores(labels, owner, b)
    for limits, decision in ((LIMITS, "BLESS"), (STRICT, "HOLD")):
        verdict = judged(*pair, limits)
        check = next(c for c in verdict.checks if c.name == "auc")
        assert (verdict.decision, check.outcome) == (decision, "warn")
        assert check.value == auc(labels == 1, a) - auc(labels == 1, b)
        assert check.interval[0] < -0.001 < check.interval[1]
        assert check in verdict.decisive
    worse = scores(labels, owner, -np.asarray(a))
    for limits in (LIMITS, STRICT):
        assert judged(worse, pair[1], limits).decision == "REJECT"


def test_the_level_of_a_check_follows_from_the_error_and_the_labels():
    """Bonferroni: four families of each label; the sentence says which interval decided."""
    assert replace(LIMITS, error=0.08).level(5) == pytest.approx(0.004)
    labels, owner, (a, b) = evening(0, users=300, rows=12, noise=(0.5, 0.5))
    args = scores(labels, owner, a), scores(labels, owner, b), LIMITS
    one, three = (
        next(c for c in judge(*args, segments=halves(labels), labels=n).checks if c.name == "auc")
        for n in (1, 3)
    )
    assert one.interval == pytest.approx(three.interval, abs=5e-4)  # for people, always 95 %
    assert "(95 %:" in one.sentence
    assert "(98.33 %:" in three.sentence


@pytest.mark.parametrize(("factor", "outcome"), [(1.0, "pass"), (1.25, "fail"), (0.8, "fail")])
def test_pcoc(pair, factor, outcome):
    good, worse = pair
    off = with_probability(good, good.probability * factor / _pcoc(good))
    assert outcomes(judged(off, worse))["pcoc"] == outcome


def with_probability(s, p):
    return replace(s, calibrated=logit(np.minimum(p, 1 - 1e-12)))


def _pcoc(s):
    return s.probability.sum() / s.labels.sum()


def test_a_pcoc_that_is_off_fails_unless_the_incumbents_is_as_far_off(pair):
    labels, p, all_rows = pair[0].labels, pair[0].probability, np.ones(pair[0].labels.size, bool)

    def outcome(new, old, **given):
        models = (p * k * labels.sum() / p.sum() for k in (new, old))
        sums = Sums.of(all_rows, pair[0].users, labels, *models)
        return overall(sums, replace(LIMITS, **given), LIMITS.level(1)).outcome

    for new in (1.15, 0.86):
        assert outcome(new, 1.0) == outcome(new, 1.05) == "fail"
        assert outcome(new, 1.15) == outcome(new, 0.86) == "warn"
        assert outcome(new, new, pcoc=0.05, pcoc_limit=0.05) == "fail", "whatever the incumbent's"
    assert outcome(1.0, 1.15) == "pass"
    assert outcome(1.03, 1.0) == "pass", "not shown"


def test_a_large_segment_far_off_fails_and_a_small_one_does_not(pair):
    good, worse = pair
    first = np.arange(good.labels.size) % 2 == 0
    p = np.where(first, good.probability * 1.3, good.probability * 0.7)
    off = with_probability(good, p * good.labels.sum() / p.sum())
    found = outcomes(judged(off, worse))
    assert found["pcoc"] == "pass"
    assert found["segment row even"] == found["segment row odd"] == "fail"
    clicked = np.cumsum(good.labels)
    small = clicked < 0.04 * clicked[-1]
    bent = with_probability(good, np.where(small, good.probability**2, good.probability))
    segments = {"part": {"small": small, "large": ~small}}
    found = outcomes(judged(bent, worse, segments=segments))
    assert "segment part small" not in found
    assert found["segment part large"] == "pass"


def test_a_segment_off_by_less_than_its_noise_passes():
    labels, owner, (z, _) = evening(5, users=150, rows=20)
    s = scores(labels, owner, z)
    first = owner < 20
    p = np.where(first, s.probability * 1.1 * labels[first].sum() / s.probability[first].sum(),
                 s.probability)  # fmt: skip
    check = next(c for c in judged(with_probability(s, p), s,
                                   segments={"u": {"few": first, "more": ~first}}).checks
                 if c.name == "segment u few")  # fmt: skip
    assert check.value == pytest.approx(1.1)
    assert check.outcome == "pass"


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["candidate", "incumbent", "labels"]),
    st.sets(st.integers(0, ROW[0].size - 1), min_size=1, max_size=5),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_nothing_but_finite_logits_is_ever_blessed(where, rows, value):
    labels, owner, (good, worse) = ROW
    labels, p, q = labels.copy(), good.copy(), worse.copy()
    {"candidate": p, "incumbent": q, "labels": labels}[where][list(rows)] = value
    verdict = judged(Scores(labels, p, owner), Scores(labels, q, owner))
    assert verdict.decision == "HOLD"
    json.dumps(verdict.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    "name",
    ["auc_loss", "entropy_rise", "pcoc", "pcoc_limit", "segment_pcoc", "segment_share", "clicks",
     "users"],
)  # fmt: skip
def test_a_threshold_that_is_not_set_holds(pair, name):
    nothing: dict[str, Any] = {name: None}
    unset = replace(LIMITS, **nothing)
    verdict = judged(pair[0], pair[1], unset)
    assert verdict.decision == "HOLD"
    assert "hold" in outcomes(verdict).values()
    back = judged(pair[1], pair[0], unset)
    assert back.decision == "HOLD", "a failure elsewhere does not hide what nobody can tell"


def test_no_incumbent_holds_and_still_tells_of_the_candidate(pair):
    verdict = judged(pair[0], None)
    assert verdict.decision == "HOLD"
    assert outcomes(verdict)["incumbent"] == "hold"
    assert outcomes(verdict)["pcoc"] == "pass"


def test_no_segments_hold(pair):
    assert judged(pair[0], pair[1], segments={}).decision == "HOLD"


@pytest.mark.parametrize("limits", [LIMITS, STRICT], ids=lambda limits: limits.policy)
@pytest.mark.parametrize(("clicks", "negatives", "users", "what"), [
    (399, 5000, 500, "warn"), (500, 399, 500, "warn"), (500, 5000, 99, "warn"),
    (29, 900, 500, "hold"), (900, 29, 500, "hold"), (900, 900, 29, "hold"),
    (0, 900, 500, "hold"), (900, 0, 500, "hold"),
])  # fmt: skip
def test_little_evidence_is_a_warning_and_next_to_none_holds(
    clicks, negatives, users, what, limits
):
    labels = np.repeat([1.0, 0.0], [clicks, negatives])
    p = np.full(labels.size, np.clip(labels.mean(), 0.01, 0.99))
    s = Scores(labels, logit(p), np.arange(labels.size) % users)
    verdict = judged(s, s, limits)
    blessed = what == "warn" and limits.policy == "fresh"
    assert verdict.decision == ("BLESS" if blessed else "HOLD"), verdict
    assert {c.outcome for c in verdict.decisive} == {what}


def test_just_enough_evidence_is_no_hold():
    labels = np.repeat([1.0, 0.0], [400, 5000])
    s = Scores(labels, np.full(labels.size, 0.5), np.arange(labels.size) % 100)
    outcomes = {c.name: c.outcome for c in judged(s, s).checks}
    assert outcomes["clicks"] == outcomes["users"] == "pass"


def test_the_order_of_the_rows_does_not_matter(pair):
    rng = np.random.default_rng(1)
    good, worse = pair
    one = judged(good, worse)
    order = rng.permutation(good.labels.size)
    mixed = [Scores(s.labels[order], s.calibrated[order], s.users[order]) for s in pair]
    masks = {f: {n: m[order] for n, m in group.items()} for f, group in halves(good.labels).items()}
    two = judged(mixed[0], mixed[1], segments=masks)
    for a, b in zip(one.checks, two.checks, strict=True):
        assert (a.name, a.outcome, a.sentence) == (b.name, b.outcome, b.sentence)
        assert a.value == pytest.approx(b.value, rel=1e-12)
        if a.interval:
            assert a.interval == pytest.approx(b.interval, rel=1e-9)
    assert one.checks[5] == two.checks[5]
    assert one.checks[5].name == "auc"  # to the last bit


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_a_monotone_map_of_scores_leaves_the_auc_check(seed):
    labels, owner, (good, worse) = ROW
    rng = np.random.default_rng(seed)
    p = np.round(good, 2)  # with ties
    values, place = np.unique(p, return_inverse=True)
    mapped = np.sort(rng.choice(2**30, values.size, replace=False))[place] / 2**30
    incumbent = scores(labels, owner, worse)
    found = [
        next(c for c in judged(Scores(labels, q, owner), incumbent).checks if c.name == "auc")
        for q in (p, mapped)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("change", ["labels", "users", "order", "fewer"])
def test_other_rows_are_refused(pair, change):
    good, worse = pair
    if change == "fewer":
        other = Scores(worse.labels[:-1], worse.calibrated[:-1], worse.users[:-1])
    elif change == "order":
        other = Scores(worse.labels[::-1], worse.calibrated[::-1], worse.users[::-1])
    else:
        values = getattr(worse, change).copy()
        values[7] = 1 - values[7] if change == "labels" else values[7] + 1
        other = replace(worse, **{change: values})
    with pytest.raises(InputError, match="expected the same rows"):
        judged(good, other)


def test_models_that_float32_probabilities_cannot_tell_apart_are_judged():
    """Logits around 17: σ(17.5) is 1 in float32, so every pair would be tied."""
    labels, owner, (good, worse) = ROW
    found = judged(scores(labels, owner, good + 18), scores(labels, owner, worse + 18))
    plain = judged(scores(labels, owner, good), scores(labels, owner, worse))
    area, expected = (next(c for c in v.checks if c.name == "auc") for v in (found, plain))
    assert (area.value, area.interval) == (expected.value, expected.interval)
    rise = next(c for c in found.checks if c.name == "normalized entropy")
    lost = [np.logaddexp(0, np.where(labels == 1, -z, z) + 0.0).sum()
            for z in (np.asarray(good) + 18, np.asarray(worse) + 18)]  # fmt: skip
    assert rise.value == pytest.approx(lost[0] / lost[1] - 1)


def test_override_is_recorded_and_needs_a_reason(pair):
    held = judged(pair[0], None)
    for reason in ("", "  \n"):
        with pytest.raises(InputError, match="without a reason"):
            override(held, reason)
    blessed = override(held, "the first model of this chain")
    assert (blessed.decision, blessed.was) == ("BLESS", "HOLD")
    assert blessed.reason == "the first model of this chain"
    assert blessed.checks == held.checks
    assert Verdict.from_json(json.loads(json.dumps(blessed.to_json(), allow_nan=False))) == blessed


def test_no_reason_blesses_what_is_no_number(pair):
    z = pair[0].calibrated.copy()
    z[3] = np.nan
    broken = replace(pair[0], calibrated=z)
    held = judged(broken, pair[1])
    assert outcomes(held)[NUMBERS] == "hold"
    with pytest.raises(InputError, match="cannot be blessed"):
        override(held, "I insist")
    assert override(judged(pair[0], broken), "the live model is broken").decision == "BLESS"


def test_gate_json_goes_round(pair):
    for verdict in (judged(*pair), judged(*pair[::-1]), judged(pair[0], None)):
        text = json.dumps(verdict.to_json(), allow_nan=False)
        assert Verdict.from_json(json.loads(text)) == verdict
    with pytest.raises(InputError, match="not the record of a verdict"):
        Verdict.from_json({"decision": "BLESS"})


def test_no_check_at_all_holds():
    assert decide([], "fresh") == "HOLD"


@pytest.mark.parametrize("wrong", [{"replicates": 999}, {"auc_loss": -0.1}, {"error": 0.0},
                                   {"error": 1.0}, {"pcoc": 1.0}, {"policy": "brave"},
                                   {"pcoc": float("nan")}])  # fmt: skip
def test_thresholds_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        Thresholds(**wrong)


def test_the_intervals_cover_what_they_promise():
    """200 evenings of one world: two-sided 95 % cover the true ΔAUC."""
    big = evening(10_000, users=60_000, rows=12, noise=(0.4, 0.6))
    truth = auc(big[0], big[2][0]) - auc(big[0], big[2][1])
    inside = 0
    for seed in range(200):
        labels, owner, (a, b) = evening(seed, users=120, rows=12, noise=(0.4, 0.6))
        limits = replace(LIMITS, clicks=0, users=0)
        check = next(c for c in judged(scores(labels, owner, a), scores(labels, owner, b),
                                       limits).checks if c.name == "auc")  # fmt: skip
        inside += check.interval[0] <= truth <= check.interval[1]
    assert 0.91 <= inside / 200 <= 0.985  # 95 % ± 2.6 standard deviations of 200 trials
