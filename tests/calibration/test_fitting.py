"""Calibrators: monotone, bounded, what scikit-learn and plain loops fit; chosen for a reason."""

import logging
import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from at4ctr.calibration import Isotonic, Platt, fitting, reliability
from at4ctr.calibration.fitted import KNOTS
from at4ctr.calibration.fitting import ROWS_A_BIN, choose
from at4ctr.errors import InputError
from at4ctr.metrics import (
    auc,
    bin_means,
    expected_calibration_error,
    logit,
    logloss,
    pcoc,
    sigmoid,
)
from tests.oracles import calibration as oracle

fit: Any = fitting.fit  # the kind says which calibrator it is
EDGES = np.array([-1e30, -800.0, -88.0, -20.0, 0.0, 20.0, 88.0, 800.0, 1e30])


def log(rows=20_000, slope=1.0, intercept=0.0, seed=0, users=2_000, bend=0.0):
    """(z, labels, users) where P(click) = σ(slope · z + intercept + bend · z²)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-2, 1, rows).astype(np.float32)
    truth = sigmoid(slope * z.astype(float) + intercept + bend * (z + 2.0) ** 2)
    return z, (rng.random(rows) < truth).astype(np.float32), rng.integers(0, users, rows)


@pytest.mark.parametrize(("slope", "intercept"), [(0.7, -0.5), (1.0, 0.0), (1.4, 0.6)])
def test_platt_finds_the_line_that_made_the_labels(slope, intercept):
    z, labels, _ = log(200_000, slope, intercept)
    found = fit("platt", z, labels)
    assert found.slope == pytest.approx(slope, abs=0.04)
    assert found.intercept == pytest.approx(intercept, abs=0.08)


def test_platt_is_the_maximum_likelihood():
    """Both moments of the residuals are 0, and any step away costs log loss."""
    z, labels, _ = log(3_000, 0.8, 0.3)
    found = fit("platt", z, labels)
    residual = labels - found(z)
    assert abs(residual.mean()) < 1e-8
    assert abs((residual * z).mean()) < 1e-8
    least = logloss(labels, found.logits(z))
    for a, b in [(1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)]:
        assert logloss(labels, Platt(found.slope + a, found.intercept + b).logits(z)) > least
    assert pcoc(labels, found(z)) == pytest.approx(1.0, abs=1e-7)


def test_isotonic_has_the_levels_of_pooled_adjacent_violators():
    z, labels, _ = log(6_000, bend=0.2)
    found = fit("isotonic", z, labels)
    p = sigmoid(z).astype(np.float32)
    bins = bin_means(labels, p, 6_000 // ROWS_A_BIN)
    levels = oracle.pooled(bins.label, bins.count)
    distinct = sorted(set(np.round(levels, 12)))
    assert 5 < len(distinct) == len(found.y)
    start = 1 if distinct[0] == 0 else 0  # a first block without a click is lifted
    np.testing.assert_allclose(found.y[start:], distinct[start:], rtol=1e-9)
    judge = IsotonicRegression(out_of_bounds="clip")
    judge.fit(bins.probability, bins.label, sample_weight=bins.count)
    np.testing.assert_allclose(judge.predict(found.x)[start:], found.y[start:], rtol=1e-6)


@pytest.mark.parametrize("bend", [0.0, 0.25])
def test_isotonic_is_near_the_regression_of_single_rows_and_no_worse(bend):
    z, labels, _ = log(100_000, bend=bend)
    found = fit("isotonic", z, labels)
    judge = IsotonicRegression(out_of_bounds="clip").fit(sigmoid(z), labels)
    steps, truth = judge.predict(sigmoid(z)), sigmoid(z + bend * (z + 2.0) ** 2)
    assert np.abs(found(z) - steps).mean() < 0.006
    assert np.abs(found(z) - truth).mean() < np.abs(steps - truth).mean()
    assert len(found.x) <= KNOTS
    assert pcoc(labels, found(z)) == pytest.approx(1.0, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 3_000), st.floats(0.01, 0.99))
def test_any_fit_is_monotone_bounded_and_never_nan(seed, rows, rate):
    rng = np.random.default_rng(seed)
    z = np.round(rng.normal(-1, 3, rows), int(rng.integers(0, 6))).astype(np.float32)
    labels = rng.random(rows) < np.clip(rate + 0.05 * z, 0, 1)
    at = np.sort(np.concatenate([EDGES, z, rng.normal(0, 5, 100)]))
    for kind in ("platt", "isotonic"):
        try:
            found = fit(kind, z, labels)
        except InputError:  # one class, or nothing that rises: refused, and said elsewhere
            continue
        q = found(at)
        assert np.isfinite(q).all()
        assert ((q >= 0) & (q <= 1)).all()
        assert (np.diff(q) >= 0).all()
        if kind == "isotonic":
            assert 0 < found.y[0] <= found.y[-1] < 1


def test_platt_leaves_auc_alone_and_isotonic_only_ties():
    z, labels, _ = log(30_000, 0.6, -0.4)
    fresh, truth, _ = log(5_000, 0.6, -0.4, seed=1)
    assert auc(truth, fit("platt", z, labels).logits(fresh)) == auc(truth, fresh)
    isotonic = fit("isotonic", z, labels)
    q = isotonic(fresh)
    np.testing.assert_allclose(isotonic.logits(fresh), logit(q), rtol=1e-12)
    order = np.argsort(fresh, kind="stable")
    assert (np.diff(q[order]) >= 0).all()
    assert auc(truth, q) == pytest.approx(auc(truth, fresh), abs=0.002)


def test_both_repair_what_is_bent_or_shifted():
    z, labels, _ = log(60_000, 0.7, -0.6)
    fresh, truth, _ = log(60_000, 0.7, -0.6, seed=1)
    assert abs(pcoc(truth, sigmoid(fresh)) - 1) > 0.1
    for kind in ("platt", "isotonic"):
        q = fit(kind, z, labels)(fresh)
        assert pcoc(truth, q) == pytest.approx(1.0, abs=0.03)
        assert expected_calibration_error(truth, q) < 0.01
        assert reliability(truth, q).count.sum() == 60_000


@pytest.mark.parametrize(
    ("settings_of", "kind"),
    [
        ({}, "none"),
        ({"slope": 0.6, "intercept": -0.8}, "platt"),
        ({"bend": 0.5}, "isotonic"),
    ],
)
def test_auto_takes_the_simplest_that_is_as_good(settings_of, kind):
    z, labels, users = log(40_000, **settings_of)
    found = choose("auto", z, labels, users)
    assert found.kind == kind
    assert set(found.logloss) == set(found.error) == {"none", "platt", "isotonic"}
    assert found.logloss[kind] <= min(found.logloss.values()) + found.error[kind]
    assert found.logloss["none"] == pytest.approx(logloss(labels, z))
    if kind == "none":
        assert found.calibrator is None
    else:
        assert found.calibrator == fit(kind, z, labels)


def test_the_simplest_within_the_error_of_the_best_is_taken():
    """Of logits that are right already, another kind is often the best by chance."""
    by_chance = 0
    for seed in range(12):
        z, labels, users = log(3_000, seed=seed)
        found = choose("auto", z, labels, users)
        best = min(found.logloss, key=found.logloss.__getitem__)
        if found.logloss["none"] - found.logloss[best] <= found.error["none"]:
            assert found.kind == "none"
            by_chance += best != "none"
    assert by_chance


def test_log_loss_out_of_fold_is_of_other_users():
    """Users whose labels are their own noise: a fit that saw them would look better."""
    z, labels, _ = log(4_000)
    users = np.arange(4_000) // 2
    found = choose("auto", z, labels, users, seed=5)
    assert found.logloss["isotonic"] > logloss(labels, fit("isotonic", z, labels).logits(z))
    assert found == choose("auto", z, labels, users, seed=5)
    relabelled = choose("auto", z, labels, users + 7, seed=5)
    assert relabelled.logloss == found.logloss


def test_the_error_is_clustered_by_user():
    z, labels, _ = log(2_000, 0.6, -0.8)
    alone = choose("auto", z, labels, np.arange(2_000))
    copies = [np.tile(v, 8) for v in (z, labels, np.arange(2_000))]
    together = choose("auto", copies[0], copies[1], copies[2])
    for kind in ("none", "isotonic"):
        assert together.error[kind] > 0.5 * alone.error[kind]


@pytest.mark.parametrize("asked", ["auto", "platt", "isotonic"])
@pytest.mark.parametrize("rows", ["nothing", "one class", "one user", "separated"])
def test_where_rows_do_not_suffice_it_is_none_with_a_warning(asked, rows, caplog):
    z, labels, users = log(400)
    if rows == "nothing":
        z, labels, users = z[:0], labels[:0], users[:0]
    elif rows == "one class":
        labels[:] = 0
    elif rows == "one user":
        users[:] = 3
    else:
        z, labels = np.ones(400, np.float32), (np.arange(400) % 2).astype(np.float32)
    with caplog.at_level(logging.WARNING):
        found = choose(asked, z, labels, users)
    if rows == "one user" and asked != "auto":
        assert found.calibrator is not None
        return
    assert (found.kind, found.calibrator) == ("none", None)
    assert caplog.records
    assert all("\n" not in r.getMessage() for r in caplog.records)


def test_scores_that_fall_where_the_label_rises_are_named(caplog):
    z, labels, users = log(400)
    with caplog.at_level(logging.WARNING):
        found = choose("platt", -np.asarray(z), labels, users, label="conversion")
    assert found.calibrator is None
    (said,) = (r.getMessage() for r in caplog.records)
    assert re.fullmatch(
        r"conversion: no calibrator is fitted: its scores fall where the label rises on the "
        r"validation rows \(slope -\d\.\d{1,3}\); the ranking of conversion is no better than "
        r"chance there; train longer, or give more validation rows",
        said,
    )


def test_none_asks_for_nothing(caplog):
    assert choose("none", [], [], []).calibrator is None
    assert not caplog.records


def test_bad_input_is_refused_in_a_sentence():
    z, labels, users = log(100)
    with pytest.raises(InputError, match="did you mean platt"):
        choose("plat", z, labels, users)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="labels has 100 rows and users 99"):
        choose("auto", z, labels, users[1:])
    with pytest.raises(InputError, match="holds 1 NaN"):
        choose("auto", np.append(z[1:], np.nan), labels, users)
    with pytest.raises(InputError, match="slope is -1"):
        Platt(-1.0, 0.0)
    for x, y in [
        ((0.1,), (0.1,)),
        ((0.1, 0.1), (0.1, 0.2)),
        ((0.1, 0.2), (0.2, 0.1)),
        ((0.1, 0.1 + 1e-12), (0.1, 0.2)),
        ((0.1, math.nan), (0.1, 0.2)),
        (tuple(np.linspace(0, 1, KNOTS + 1)),) * 2,
    ]:
        with pytest.raises(InputError, match="isotonic calibrator"):
            Isotonic(x, y)


def test_the_package_needs_no_scikit_learn_to_serve():
    code = (
        "import sys, at4ctr; from at4ctr.calibration import graph; import at4ctr.model.serving; "
        "sys.exit(any(m.split('.')[0] == 'sklearn' for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
