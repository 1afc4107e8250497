"""Ranking quality: the area under the ROC curve, over all rows and within groups."""

from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from at4ctr.errors import InputError, unknown
from at4ctr.metrics import _inputs

Weights = Literal["equal", "impressions"]


class Curve(NamedTuple):
    """A ROC curve: the shares of negatives and of positives above each threshold, from (0, 0)."""

    negatives: npt.NDArray[np.float64]
    positives: npt.NDArray[np.float64]


def roc(labels: npt.ArrayLike, scores: npt.ArrayLike, points: int = 400) -> Curve:
    """The ROC curve of scores [N] and labels [N], 0 or 1, with one point a distinct score.

    points: at most so many, at equal steps of the distinct scores.
    """
    truth, z = np.asarray(labels), np.asarray(scores)
    order = np.argsort(-z, kind="stable")
    clicked = truth[order] == 1
    last = np.r_[np.nonzero(np.diff(z[order]))[0], z.size - 1]
    hits = np.r_[0, np.cumsum(clicked)[last]]
    false = np.r_[0, np.cumsum(~clicked)[last]]
    kept = np.unique(np.linspace(0, hits.size - 1, min(points, hits.size)).round().astype(int))
    return Curve(false[kept] / max(false[-1], 1), hits[kept] / max(hits[-1], 1))


class Areas(NamedTuple):
    """One entry a group: AUC (NaN where one class is missing) and number of rows."""

    auc: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]

    def mean(self, weights: Weights = "equal") -> float | None:
        """Their mean, weighted as in `gauc`; None where no group has both classes."""
        defined = ~np.isnan(self.auc)
        if not defined.any():
            return None
        shares = self.rows[defined] if weights == "impressions" else None
        return float(np.average(self.auc[defined], weights=shares))


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """P(s⁺ > s⁻) + ½ P(s⁺ = s⁻) over all pairs of a positive and a negative row.

    Exact: pairs are counted in integers after one sort, O(N log N); equal scores count one half.

    Args:
        labels: [N], 0 or 1.
        scores: [N], any real numbers (probabilities, logits, ±inf); only their order matters.

    Raises:
        InputError: one class only, no rows, NaN, a label other than 0 and 1, lengths that differ.
    """
    truth, values = _inputs.scored(labels, scores)
    _inputs.both_classes("auc", truth)
    order = np.argsort(values)
    starts = np.zeros(truth.size, bool)
    starts[0] = True
    return float(_areas(truth[order], values[order], starts).auc[0])


def ties(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Share of the rows whose score is also that of a row of the other class, in [0, 1].

    The AUC counts a pair of such rows one half. Arguments as for `auc`; defined for one class too.
    """
    truth, values = _inputs.scored(labels, scores)
    order = np.argsort(values)
    cells = np.flatnonzero(_changes(values[order]))
    sizes = np.diff(cells, append=truth.size)
    positives = np.add.reduceat(truth[order].astype(np.int64), cells)
    return float(sizes[(positives > 0) & (positives < sizes)].sum() / truth.size)


def gauc(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    weights: Weights = "equal",
) -> float:
    """Mean of the AUC within each group (user, session), over groups that hold both classes.

    Σ_g w_g AUC_g / Σ_g w_g with w_g = 1 (`"equal"`) or the group's number of rows
    (`"impressions"`: Zhou et al. 2018, "Deep Interest Network", Eq. 7). Other groups have no
    AUC and are left out. O(N log N), without a loop over groups.

    Args:
        labels: [N], 0 or 1.
        scores: [N], any real numbers.
        groups: [N], the id of each row's group: integers, floats or strings.
        weights: how groups are weighted.

    Raises:
        InputError: as for `auc`; also when no group holds both classes.
    """
    if weights not in get_args(Weights):
        raise unknown("gauc weights", weights, get_args(Weights))
    areas = group_areas(labels, scores, groups)
    found = areas.mean(weights)
    if found is None:
        raise InputError(
            f"gauc needs a group with both classes: none of {areas.auc.size} groups has, "
            "group by something coarser or evaluate on more rows"
        )
    return found


def group_areas(labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.ArrayLike) -> Areas:
    """The AUC within each group; arguments and errors as for `gauc`, which averages it."""
    truth, values = _inputs.scored(labels, scores)
    ids = _group_ids(groups)
    _inputs.same_length("labels", truth, "groups", ids)
    order = np.lexsort((values, ids))
    return _areas(truth[order], values[order], _changes(ids[order]))


def _group_ids(groups: npt.ArrayLike) -> npt.NDArray:
    ids = _inputs.vector("groups", groups)
    if ids.dtype.kind == "f":
        ids = _inputs.numbers("groups", ids)
    if ids.dtype.kind in "OSU":
        ids = np.unique(ids, return_inverse=True)[1]
    return ids


def _changes(values: npt.NDArray) -> _inputs.Flags:
    """True where a run of equal values starts."""
    return np.concatenate(([True], values[1:] != values[:-1]))


def _areas(truth: _inputs.Flags, scores: _inputs.Floats, group_starts: _inputs.Flags) -> Areas:
    """AUC of each group; rows come sorted by (group, score)."""
    cells = np.flatnonzero(group_starts | _changes(scores))  # runs of one group and one score
    groups = np.flatnonzero(group_starts)
    first_cell = np.searchsorted(cells, groups)
    sizes = np.diff(cells, append=truth.size)
    positives = np.add.reduceat(truth.astype(np.int64), cells)
    negatives = sizes - positives

    below = np.cumsum(negatives) - negatives
    group_of_cell = np.repeat(np.arange(groups.size), np.diff(first_cell, append=cells.size))
    below -= below[first_cell][group_of_cell]

    half_wins = np.add.reduceat(positives * (2 * below + negatives), first_cell)
    pairs = np.add.reduceat(positives, first_cell) * np.add.reduceat(negatives, first_cell)
    undefined = np.full(groups.size, np.nan)
    area = np.divide(half_wins, 2.0 * pairs, out=undefined, where=pairs > 0)
    return Areas(area, np.diff(groups, append=truth.size))
