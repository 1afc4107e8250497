"""Two finished models on the same rows: how far their metrics differ, with intervals over users.

Other users would give another test split. Rows of one user are alike, so users are drawn and not
rows, and both models see the same draws. What another training would give, from another seed, is
not in these intervals: `comparison.differences` has both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from at4ctr import metrics
from at4ctr.analysis import comparison
from at4ctr.analysis.comparison import Estimate, Scores
from at4ctr.analysis.segments import Families
from at4ctr.gates.resampling import Ranking, draws, per_user
from at4ctr.metrics.intervals import FEW, least_users
from at4ctr.metrics.probability import losses, sigmoid
from at4ctr.metrics.ranking import group_areas

METRICS = ("auc", "gauc", "logloss", "pcoc")
OF_SEGMENTS = ("auc", "logloss")
EQUAL = 1e-12  # a spread below it is rounding

Floats = npt.NDArray[np.floating]


class Part(NamedTuple):
    """The differences in a segment. small: too few users, positives or negatives for intervals."""

    family: str
    name: str
    rows: int
    positives: int
    small: bool
    found: Mapping[str, Estimate]


def values(scores: Scores) -> dict[str, float]:
    """`METRICS` of one model, without those that are not defined on its rows."""
    found = metrics.report(scores.responses, scores.scores, groups=scores.users)
    return {name: float(found[name]) for name in METRICS if name in found}


def differences(
    ours: Scores, base: Scores, *, only: Sequence[str] = METRICS, seed: int = 0
) -> dict[str, Estimate]:
    """Metric -> ours − base, on the same rows in the same order; scores are logits.

    half = t_(U−1) b, with t the 97.5 % quantile of Student's law and b the standard deviation of
    the difference over draws of the U users; of ``gauc``, users with both classes. half and p are
    None where the models' difference is the same in each draw, and where fewer than `FEW` users
    have a positive or fewer have a negative, as no interval holds then. A metric that is not
    defined on these rows is left out.

    only: the metrics. seed: of the draws.
    """
    clicked = base.responses > 0
    names, owner = np.unique(base.users, return_inverse=True)
    size, both = names.size, bool(clicked.any() and not clicked.all())
    pair = (ours.scores, base.scores)
    rows = per_user(np.ones(clicked.size), owner, size)
    positives = per_user(clicked.astype(np.float64), owner, size)
    lost = per_user(np.subtract(*(losses(clicked, z) for z in pair)), owner, size)
    predicted = per_user(np.subtract(*(sigmoid(z) for z in pair)), owner, size)
    wanted = {name for name in only if both or name == "logloss"}
    wanted |= {"pcoc"} & set(only) if clicked.any() else set()
    mean, of_users = dict[str, float](), dict.fromkeys(only, size)
    if "auc" in wanted:
        ranked = [Ranking(clicked, z, owner, size) for z in pair]
    if "gauc" in wanted:
        areas = np.subtract(*(group_areas(clicked, z, owner).auc for z in pair))
        has = ~np.isnan(areas)
        of_users["gauc"] = int(has.sum())
        wanted -= set() if has.any() else {"gauc"}

    def under(weights: Floats) -> dict[str, Floats]:
        """The differences [lanes] under users' weights [users, lanes]."""
        found = dict[str, Floats]()
        if "auc" in wanted:
            found["auc"] = ranked[0].areas(weights) - ranked[1].areas(weights)
        if "gauc" in wanted:
            found["gauc"] = _ratio(areas[has] @ weights[has], weights[has].sum(0))
        if "logloss" in wanted:
            found["logloss"] = _ratio(lost @ weights, rows @ weights)
        if "pcoc" in wanted:
            found["pcoc"] = _ratio(predicted @ weights, positives @ weights)
        return found

    mean = {name: float(v[0]) for name, v in under(np.ones((size, 1), np.float32)).items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in mean}
    for weights in draws(size, comparison.REPLICATES, seed):
        for name, v in under(weights).items():
            drawn[name].append(v)
    few = least_users(clicked, base.users) < FEW
    return {
        name: Estimate(mean[name], None, None, 1)
        if few
        else _estimate(mean[name], np.concatenate(drawn[name]), of_users[name])
        for name in only
        if name in mean
    }


def parts(ours: Scores, base: Scores, families: Families) -> list[Part]:
    """The differences of `OF_SEGMENTS` in every segment that has a row.

    families: family -> segment -> rows [N] (`segments.masks`); the one of all rows is left out.
    """
    found = []
    for family, group in families.items():
        for name, mask in group.items() if family != "all" else ():
            if mask.any():
                one, other = (
                    Scores(s.responses[mask], s.users[mask], s.scores[mask]) for s in (ours, base)
                )
                positives = int(one.responses.sum())
                small = least_users(one.responses, one.users) < FEW
                values = differences(one, other, only=OF_SEGMENTS)
                found.append(Part(family, name, int(mask.sum()), positives, small, values))
    return found


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)


def _estimate(mean: float, drawn: Floats, users: int) -> Estimate:
    drawn = drawn[~np.isnan(drawn)]
    error = float(drawn.std(ddof=1)) if len(drawn) > 1 and users > 1 else 0.0
    if error <= EQUAL:
        return Estimate(mean, None, None, 1)
    return Estimate(mean, *comparison.interval(mean, (error,), (users - 1,)), 1)
