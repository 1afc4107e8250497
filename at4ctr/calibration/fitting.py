"""Fits calibrators with scikit-learn and chooses one by cross-fitting over users."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from at4ctr.calibration.fitted import KNOTS, Asked, Calibrator, Isotonic, Platt
from at4ctr.errors import InputError, unknown
from at4ctr.metrics import _inputs, bin_means
from at4ctr.metrics.probability import Floats, losses, sigmoid

log = logging.getLogger(__name__)

KINDS = ("none", "platt", "isotonic")  # simplest first
ROWS_A_BIN = 100  # at least, in the bins that isotonic regression sees
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    calibrator: fitted on all rows; None for "none".
    logloss: kind -> mean log loss out of fold; empty where nothing was compared.
    error: kind -> standard error, clustered by user, of its log loss minus the least one.
    """

    kind: str
    calibrator: Calibrator | None = None
    rows: int = 0
    logloss: Mapping[str, float] = field(default_factory=dict)
    error: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For a run's metrics; the calibrator's numbers are left out."""
        compared = {"logloss": dict(self.logloss), "error": dict(self.error)}
        return {"kind": self.kind, "rows": self.rows} | (compared if self.logloss else {})


def choose(
    asked: Asked,
    z: npt.ArrayLike,
    labels: npt.ArrayLike,
    users: npt.ArrayLike,
    seed: int = 0,
    label: str = "label",
) -> Choice:
    """The calibrator that was asked for, fitted on all rows.

    "auto": users are halved at random; each kind is fitted on one half and its log loss taken on
    the other, both ways. Of the kinds whose mean log loss exceeds the least by at most one
    standard error of that difference (paired by row, clustered by user) the simplest is taken.
    Where nothing can be fitted (no row, one class, classes that separate) the kind is "none", with
    a warning.

    Args:
        z: [N], logit + ln w, of validation rows, which are not sampled.
        labels: [N], 0 or 1.
        users: [N], ids.
        label: its name, for warnings.

    Raises:
        InputError: lengths that differ, NaN, other labels, an unknown name.
    """
    if asked not in get_args(Asked):
        raise unknown("calibrator", asked, get_args(Asked))
    rows = np.size(z)
    if asked == "none" or not rows:
        if asked != "none":
            log.warning("%s: no calibrator is fitted: there is no validation row", label)
        return Choice("none", rows=rows)
    truth, scores = _inputs.scored(labels, z)
    logits = scores.astype(np.float64)
    owners = _inputs.vector("users", users)
    _inputs.same_length("labels", truth, "users", owners)
    compared = _compare(logits, truth, owners, seed, label) if asked == "auto" else Choice(asked)
    try:
        calibrator = None if compared.kind == "none" else fit(compared.kind, logits, truth, label)
    except InputError as error:
        log.warning("%s: no calibrator is fitted: %s", label, error)
        return Choice("none", rows=rows)
    return Choice(compared.kind, calibrator, rows, compared.logloss, compared.error)


def fit(kind: str, z: npt.ArrayLike, labels: npt.ArrayLike, label: str = "label") -> Calibrator:
    """The "platt" or "isotonic" of corrected logits [N] and labels [N] of validation rows.

    label: its name, for errors.

    Raises:
        InputError: an unknown kind; where it is not defined: one class, no two different logits,
            classes that a threshold separates, labels that do not rise with the logit.
    """
    if kind not in KINDS[1:]:
        raise unknown("calibrator", kind, KINDS[1:])
    truth, scores = _inputs.scored(labels, z)
    _inputs.both_classes(f"{kind} calibrator", truth)
    fitted = _platt if kind == "platt" else _isotonic
    return fitted(scores.astype(np.float64), truth, label)


def _platt(z: Floats, truth: Flags, label: str) -> Platt:
    """Maximum likelihood, without a penalty."""
    if z[truth].min() >= z[~truth].max() or z[truth].max() <= z[~truth].min():
        raise InputError(
            "platt calibrator: a threshold on the logit separates the classes, so no finite slope "
            "is the best; expected classes that overlap, fit it on more rows"
        )
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=200)
    model.fit(z[:, None], truth)
    slope = float(model.coef_[0, 0])
    if slope <= 0:
        raise InputError(
            f"its scores fall where the label rises on the validation rows (slope {slope:.3g}); "
            f"the ranking of {label} is no better than chance there; train longer, or give more "
            "validation rows"
        )
    return Platt(slope, float(model.intercept_[0]))


def _isotonic(z: Floats, truth: Flags, label: str) -> Isotonic:
    """Isotonic regression of bins of equal mass, each block a knot at its mean probability.

    Two deviations from the regression of single rows (Zadrozny & Elkan 2002): at most `KNOTS`
    bins, of `ROWS_A_BIN` rows or more; and lines between the blocks' means, not steps at their
    edges (Oron & Flournoy 2017, "Centered Isotonic Regression"), so that a rounding error of a
    logit stays one of the probability. An outer block of n rows at 0 or 1 gets (clicks + ½) /
    (n + 1), or the next block's rate where that is nearer: no answer is certain.
    """
    p = sigmoid(z).astype(np.float32)  # as the graph sees it: knots then differ in float32
    bins = bin_means(truth, p, int(np.clip(p.size // ROWS_A_BIN, 2, KNOTS)))
    model = IsotonicRegression().fit(bins.probability, bins.label, sample_weight=bins.count)
    levels = model.predict(bins.probability)
    starts = np.flatnonzero(np.diff(levels, prepend=-1.0) > 0)
    if starts.size < 2:
        raise InputError(
            f"the rate of {label} does not rise with its probability in {p.size:,} validation "
            "rows; expected at least two levels; train longer, or give more validation rows"
        )
    rows = np.add.reduceat(bins.count, starts)
    x = np.add.reduceat(bins.probability * bins.count, starts) / rows
    y = levels[starts].copy()
    if y[0] == 0:
        y[0] = min(0.5 / (rows[0] + 1), y[1])
    if y[-1] == 1:
        y[-1] = max((rows[-1] + 0.5) / (rows[-1] + 1), y[-2])
    return Isotonic(tuple(x.tolist()), tuple(y.tolist()))


def _compare(z: Floats, truth: Flags, users: npt.NDArray, seed: int, label: str) -> Choice:
    """The kind to take by the one-standard-error rule; its calibrator is not fitted yet."""
    names, owner = np.unique(users, return_inverse=True)
    half = np.random.default_rng(seed).permutation(names.size) % 2 == 0
    first = half[owner]
    lost: dict[str, Floats] = {}
    for kind in KINDS:
        try:
            lost[kind] = _out_of_fold(kind, z, truth, first, label)
        except InputError as error:
            log.warning("%s: calibrator %s is left out: %s", label, kind, error)
    means = {kind: float(loss.mean()) for kind, loss in lost.items()}
    best = min(means, key=means.__getitem__)
    errors = {k: _clustered_error(loss - lost[best], owner) for k, loss in lost.items()}
    kind = next(k for k in means if means[k] - means[best] <= errors[k])
    return Choice(kind, logloss=means, error=errors)


def _out_of_fold(kind: str, z: Floats, truth: Flags, first: Flags, label: str) -> Floats:
    """Log loss [N] of each row under a calibrator fitted on the other half of the users."""
    q = z.copy()
    if kind != "none":
        for scored in (first, ~first):
            if scored.all():
                raise InputError("one user has all rows; expected two or more, fit it on more rows")
            q[scored] = fit(kind, z[~scored], truth[~scored], label).logits(z[scored])
    return losses(truth, q)


def _clustered_error(values: Floats, owner: npt.NDArray[np.int64]) -> float:
    """Standard error of the mean of values [N] whose rows depend within an owner."""
    sums = np.bincount(owner, weights=values - values.mean())
    groups = np.count_nonzero(np.bincount(owner))
    return float(np.sqrt((sums**2).sum() * groups / max(groups - 1, 1)) / values.size)
