"""Intervals over seeds and users against scikit-learn and a bootstrap written out."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

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


def test_the_log_loss_is_scikit_learns_and_its_interval_a_bootstraps(monkeypatch):
    monkeypatch.setattr(comparison, "REPLICATES", 1600)
    ours, base = drawn()
    assert "logloss" not in differences(ours, base)
    found = differences(ours, base, loss=True)["logloss"]
    y, users, _ = ours[1]

    def mean(rows):
        return [
            log_loss(y[rows], expit(ours[s].scores[rows]))
            - log_loss(y[rows], expit(base[s].scores[rows])) for s in ours
        ]  # fmt: skip

    each, rng, replicates = mean(np.arange(len(y))), np.random.default_rng(1), []
    for _ in range(200):
        chosen = rng.choice(np.unique(users), len(np.unique(users)))
        rows = np.concatenate([np.flatnonzero(users == u) for u in chosen])
        replicates.append(np.mean(mean(rows)))
    assert found.mean == pytest.approx(np.mean(each), abs=1e-12)
    seeds = stats.t.ppf(0.975, 2) * np.std(each, ddof=1) / np.sqrt(3)
    of_users = stats.t.ppf(0.975, len(np.unique(users)) - 1) * np.std(replicates, ddof=1)
    assert found.half == pytest.approx(np.hypot(seeds, of_users), rel=0.15)
    assert found.half is not None
    assert found.halved[:2] == pytest.approx((found.mean / 2, found.half / 2))
    assert found.halved.p == found.p


def test_other_rows_are_refused_and_one_class_has_no_difference():
    ours, base = drawn()
    other = {s: Scores(v.responses, v.users + 1, v.scores) for s, v in base.items()}
    short = {s: Scores(*(column[:-1] for column in v)) for s, v in base.items()}
    for wrong in (other, short):
        with pytest.raises(InputError, match="expected the same rows in the same order"):
            differences(ours, wrong)
    none = {s: Scores(0 * v.responses, v.users, v.scores) for s, v in ours.items()}
    assert differences(none, none, loss=True) == {}


def test_the_interval_holds_the_spread_of_seeds_and_of_users(monkeypatch):
    """The hypotenuse of both half widths; the users' from a bootstrap of its own draws."""
    monkeypatch.setattr(comparison, "REPLICATES", 1600)
    ours, base = drawn()
    found = differences(ours, base)["auc"]
    y, users, _ = ours[1]
    each = [roc_auc_score(y, ours[s].scores) - roc_auc_score(y, base[s].scores) for s in ours]
    rng, replicates = np.random.default_rng(0), []
    for _ in range(200):
        chosen = rng.choice(np.unique(users), len(np.unique(users)))
        rows = np.concatenate([np.flatnonzero(users == u) for u in chosen])
        replicates.append(np.mean([
            roc_auc_score(y[rows], ours[s].scores[rows])
            - roc_auc_score(y[rows], base[s].scores[rows]) for s in ours
        ]))  # fmt: skip
    seeds = stats.t.ppf(0.975, 2) * np.std(each, ddof=1) / np.sqrt(3)
    of_users = stats.t.ppf(0.975, len(np.unique(users)) - 1) * np.std(replicates, ddof=1)
    assert found.half == pytest.approx(np.hypot(seeds, of_users), rel=0.15)


@pytest.mark.parametrize("ratio", [0.1, 1.0, 20.0])
def test_an_interval_errs_at_most_as_often_as_it_says(ratio):
    """Three seeds of two models that do not differ; s² of chance alone, b known."""
    rng, trials = np.random.default_rng(5), 2000
    mean = rng.normal(size=trials) * np.sqrt(ratio + 1)
    seeds = np.sqrt(ratio * rng.chisquare(2, trials) / 2)
    found = [comparison.interval(m, (s, 1.0), (2, 500)) for m, s in zip(mean, seeds, strict=True)]
    half, p = np.array(found).T
    assert (np.abs(mean) > half).mean() <= 0.057
    assert (p < 0.01).mean() <= 0.014
    assert (p < 1e-4).sum() <= 2
    np.testing.assert_array_equal(np.abs(mean) > half, p < 0.05)


def test_one_spread_alone_is_students():
    values = np.array([0.01, 0.03, 0.02, 0.05])
    error = stats.sem(values)
    half, p = comparison.interval(values.mean(), (error, 0.0), (3, 9))
    assert half == pytest.approx(stats.t.ppf(0.975, 3) * error)
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6)
    assert comparison.interval(0.0, (error, error), (3, 9))[1] == 1.0


def test_one_seed_has_no_interval_and_one_class_no_difference():
    ours, base = drawn(seeds=(4,))
    assert differences(ours, base)["auc"][1:3] == (None, None)
    flat = {4: ours[4]._replace(responses=np.zeros(600, np.int8))}
    assert differences(flat, flat) == {}
    assert differences(ours, {5: base[4]}) == {}


def test_a_run_without_predictions_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"predictions.parquet does not exist; expected the test"):
        comparison.read(tmp_path / "predictions.parquet")
