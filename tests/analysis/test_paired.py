"""Differences of two models on the same rows, against scikit-learn and a bootstrap written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score

from at4ctr.analysis import comparison, paired
from at4ctr.analysis.comparison import Scores
from at4ctr.metrics import roc


def drawn(users=90, rows=800, gain=0.6, seed=7):
    """A better and a worse model of one log, whose users are unlike."""
    rng = np.random.default_rng(seed)
    owner, of_user = rng.integers(0, users, rows), rng.normal(size=users)
    taste = rng.normal(size=rows) + of_user[owner]
    y = (taste + rng.normal(size=rows) > 1).astype(np.int8)
    noise = rng.normal(size=(2, rows))
    ours = Scores(y, owner * 3 + 5, (gain + 0.3) * taste + 0.4 * noise[0] - 1)
    return ours, Scores(y, owner * 3 + 5, 0.3 * taste + 0.4 * noise[1] - 1)


def metric(name, s, rows=slice(None)):
    y, users, z = (column[rows] for column in s)
    p = 1 / (1 + np.exp(-z))
    if name == "auc":
        return roc_auc_score(y, z)
    if name == "logloss":
        return log_loss(y, p)
    if name == "pcoc":
        return p.sum() / y.sum()
    each = [users == u for u in np.unique(users)]
    return np.mean([roc_auc_score(y[r], z[r]) for r in each if 0 < y[r].sum() < r.sum()])


@pytest.mark.parametrize("name", paired.METRICS)
def test_the_values_are_those_of_scikit_learn(name):
    ours, base = drawn()
    expected = metric(name, ours) - metric(name, base)
    assert paired.differences(ours, base)[name].mean == pytest.approx(expected, abs=1e-9)
    assert paired.values(ours)[name] == pytest.approx(metric(name, ours), abs=1e-9)


def test_the_interval_is_that_of_a_bootstrap_of_users(monkeypatch):
    monkeypatch.setattr(comparison, "REPLICATES", 800)
    ours, base = drawn(rows=400)
    found = paired.differences(ours, base)
    rng, replicates = np.random.default_rng(1), {"auc": [], "logloss": [], "pcoc": []}
    names = np.unique(base.users)
    of = [np.flatnonzero(base.users == u) for u in names]
    for _ in range(200):
        rows = np.concatenate([of[k] for k in rng.integers(0, len(of), len(of))])
        for name, values in replicates.items():
            values.append(metric(name, ours, rows) - metric(name, base, rows))
    t = stats.t.ppf(0.975, len(names) - 1)
    for name, values in replicates.items():
        assert found[name].half == pytest.approx(t * np.std(values, ddof=1), rel=0.2), name
        p = 2 * stats.t.sf(t * abs(found[name].mean) / found[name].half, len(names) - 1)
        assert found[name].p == pytest.approx(p, rel=1e-3, abs=1e-12)


def test_the_other_way_round_is_the_negative_and_a_model_equals_itself():
    ours, base = drawn()
    there, back = paired.differences(ours, base), paired.differences(base, ours)
    for name, e in there.items():
        assert e.mean == pytest.approx(-back[name].mean, abs=1e-12)
        assert e.half == pytest.approx(back[name].half)
    for e in paired.differences(ours, ours).values():
        assert (e.mean, e.half, e.p) == (0.0, None, None)


def test_models_that_are_alike_are_seldom_told_apart(monkeypatch):
    monkeypatch.setattr(comparison, "REPLICATES", 96)
    small = [
        paired.differences(*drawn(rows=300, gain=0.0, seed=s), only=("auc", "logloss"))
        for s in range(100)
    ]
    for name in ("auc", "logloss"):
        assert np.mean([(found[name].p or 1) < 0.05 for found in small]) < 0.11


def test_what_is_not_defined_is_left_out():
    ours, base = drawn(rows=60)
    none, every = np.zeros_like(ours.responses), np.ones_like(ours.responses)
    for responses, names in ((none, {"logloss"}), (every, {"logloss", "pcoc"})):
        pair = [s._replace(responses=responses) for s in (ours, base)]
        assert set(paired.differences(*pair)) == names
    alone = [s._replace(users=np.arange(60)) for s in (ours, base)]
    assert set(paired.differences(*alone)) == {"auc", "logloss", "pcoc"}
    one = [s._replace(users=np.zeros(60, int)) for s in (ours, base)]
    assert all(e.half is None for e in paired.differences(*one).values())
    few = [s._replace(users=np.arange(60) % 29) for s in (ours, base)]
    assert all(e.half is None and e.p is None for e in paired.differences(*few).values())


def test_segments_are_the_same_on_their_rows_and_small_ones_have_no_interval():
    ours, base = drawn()
    half = np.arange(800) < 400
    few, none = np.arange(800) < 20, np.zeros(800, bool)
    families = {"all": {"all": half | True}, "place": {"first": half, "few": few, "none": none}}
    parts = {p.name: p for p in paired.parts(ours, base, families)}
    assert set(parts) == {"first", "few"}
    cut = [Scores(*(c[half] for c in s)) for s in (ours, base)]
    assert parts["first"].found == paired.differences(*cut, only=paired.OF_SEGMENTS)
    assert (parts["first"].rows, parts["first"].positives) == (400, int(cut[0].responses.sum()))
    assert parts["few"].small
    assert all(e.half is None and e.p is None for e in parts["few"].found.values())
    assert parts["few"].found["auc"].mean != 0


def test_the_area_below_a_roc_curve_is_the_auc():
    ours, _ = drawn()
    tied = ours._replace(scores=np.round(ours.scores, 1))
    for scores in (ours, tied):
        curve = roc(scores.responses, scores.scores, points=10_000)
        area = np.trapezoid(curve.positives, curve.negatives)
        assert area == pytest.approx(roc_auc_score(scores.responses, scores.scores), abs=1e-12)
    few = roc(ours.responses, ours.scores, points=50)
    assert len(few.positives) <= 51
    assert few.positives[0] == few.negatives[0] == 0
    assert few.positives[-1] == few.negatives[-1] == 1
