"""Intervals over seeds and users against scikit-learn and a bootstrap written out."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from at4ctr.analysis import comparison
from at4ctr.analysis.comparison import Scores, differences
from at4ctr.errors import InputError


def drawn(seeds=(1, 2, 3), users=40, rows=600, gain=0.5):
    rng = np.random.default_rng(7)
    of_user, taste = rng.integers(0, users, rows) * 3 + 5, rng.normal(size=rows)
    y = (taste + rng.normal(size=rows) > 1).astype(np.int8)
    ours, base = {}, {}
    for seed in seeds:
        noise = rng.normal(size=(2, rows))
        ours[seed] = Scores(y, of_user, (gain + 0.3) * taste + noise[0])
        base[seed] = Scores(y, of_user, 0.3 * taste + noise[1])
    return ours, base


def test_the_means_are_scikit_learns():
    ours, base = drawn()
    found = differences(ours, base)
    each, of_users = [], []
    for seed in ours:
        y, users, score = ours[seed]
        other = base[seed].scores
        each.append(roc_auc_score(y, score) - roc_auc_score(y, other))
        rows = [users == u for u in np.unique(users)]
        both = [r for r in rows if 0 < y[r].sum() < r.sum()]
        of_users.append(
            np.mean([roc_auc_score(y[r], score[r]) - roc_auc_score(y[r], other[r]) for r in both])
        )
    assert found["auc"].mean == pytest.approx(np.mean(each), abs=1e-12)
    assert found["gauc"].mean == pytest.approx(np.mean(of_users), abs=1e-12)
    assert found["auc"].seeds == 3


def test_the_interval_holds_the_spread_of_seeds_and_of_users(monkeypatch):
    """Student's interval of both variances; the users' from a bootstrap of its own draws."""
    monkeypatch.setattr(comparison, "REPLICATES", 1600)
    ours, base = drawn()
    found = differences(ours, base)["auc"]
    y, users, _ = ours[1]
    each = [roc_auc_score(y, ours[s].scores) - roc_auc_score(y, base[s].scores) for s in ours]
    rng, replicates = np.random.default_rng(0), []
    for _ in range(400):
        chosen = rng.choice(np.unique(users), len(np.unique(users)))
        rows = np.concatenate([np.flatnonzero(users == u) for u in chosen])
        replicates.append(np.mean([
            roc_auc_score(y[rows], ours[s].scores[rows])
            - roc_auc_score(y[rows], base[s].scores[rows]) for s in ours
        ]))  # fmt: skip
    a, b = np.var(each, ddof=1) / 3, np.var(replicates, ddof=1)
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / (len(np.unique(users)) - 1))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(a + b)
    assert found.half == pytest.approx(half, rel=0.12)
    p = 2 * stats.t.sf(abs(found.mean) / np.sqrt(a + b), freedom)
    assert found.half is not None
    assert found.half < found.mean
    assert found.p == pytest.approx(p, abs=0.01)


def test_an_interval_covers_what_does_not_differ():
    """Two models alike in law: 95 % of the intervals should hold 0, and far fewer do not fail."""
    outside = 0
    for k in range(40):
        rng = np.random.default_rng(k)
        y, users = (rng.random(300) < 0.3).astype(np.int8), rng.integers(0, 60, 300)
        one, two = (
            {s: Scores(y, users, y * 0.5 + rng.normal(size=300)) for s in range(3)}
            for _ in range(2)
        )
        e = differences(one, two)["auc"]
        outside += abs(e.mean) > (e.half or 0.0)
    assert outside <= 6


def test_one_seed_has_no_interval_and_one_class_no_difference():
    ours, base = drawn(seeds=(4,))
    assert differences(ours, base)["auc"][1:3] == (None, None)
    flat = {4: ours[4]._replace(responses=np.zeros(600, np.int8))}
    assert differences(flat, flat) == {}
    assert differences(ours, {5: base[4]}) == {}


def test_a_run_without_predictions_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"predictions.parquet does not exist; expected the test"):
        comparison.read(tmp_path / "predictions.parquet")
