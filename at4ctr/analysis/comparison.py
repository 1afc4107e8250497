"""The difference between two models, with an interval over seeds and users.

Other seeds give other models, and other users another test split. Rows of one user are alike, so
users are drawn and not rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy import optimize, stats

from at4ctr.errors import InputError
from at4ctr.gates.resampling import Ranking, draws
from at4ctr.metrics.probability import losses
from at4ctr.metrics.ranking import group_areas

REPLICATES = 320  # draws of the users
SMALLEST = 1e-12  # p: smaller ones are given as this


class Scores(NamedTuple):
    """Of the test rows of one label: responses 0 or 1, users and scores. [N] each."""

    responses: npt.NDArray[np.integer]
    users: npt.NDArray[np.integer]
    scores: npt.NDArray[np.floating]


class Estimate(NamedTuple):
    """A mean difference, the half width of its 95 % interval, and the two-sided p of no difference.

    half, p: None where no spread can be estimated, as with a single seed.
    """

    mean: float
    half: float | None
    p: float | None
    seeds: int

    @property
    def halved(self) -> Estimate:
        """The estimate of half the metric."""
        return self._replace(mean=self.mean / 2, half=None if self.half is None else self.half / 2)


def read(path: Path) -> dict[str, Scores]:
    """Label -> the scores of a run's ``predictions.parquet``. InputError where it is missing."""
    if not path.exists():
        raise InputError(
            f"{path} does not exist; expected the test predictions of the run; delete the run's "
            "folder and run the same command again"
        )
    table = pq.read_table(path)
    labels = table["label"].combine_chunks()
    codes, names = np.asarray(labels.indices), labels.dictionary.to_pylist()
    columns = [table[name].to_numpy() for name in ("response", "user", "logit")]
    return {
        name: Scores(*(column[codes == code] for column in columns))
        for code, name in enumerate(names)
    }


def differences(
    ours: Mapping[int, Scores], base: Mapping[int, Scores], seed: int = 0, *, loss: bool = False
) -> dict[str, Estimate]:
    """ours − base of ``auc``, ``gauc`` (equal weight for each user) and, with ``loss``,
    ``logloss``, over the seeds that both have.

    half² = (t_(S−1) s / √S)² + (t_(U−1) b)², t the 97.5 % quantiles of Student's law (Howe 1974).
    Here s is the standard deviation of the S seeds' differences, b that of the mean difference over
    draws of the U users, all seeds under the same draw. p is the smallest level at which the
    interval excludes 0. Interval and p are conservative where both spreads matter. An interval from
    the sum of both variances (Satterthwaite 1946) is shorter, but with three seeds its small p come
    hundreds of times too often, as s is then small by chance.

    Test rows of one class alone have no difference: {}.

    Args:
        ours, base: seed -> scores, logits where ``loss`` is asked for, of the same rows in the same
            order; InputError otherwise.
        seed: of the draws.
    """
    seeds = sorted(ours.keys() & base.keys())
    if not seeds:
        return {}
    first = ours[seeds[0]]
    for s in seeds:
        _demand_same(first, s, (ours[s], base[s]))
    clicked = first.responses > 0
    if not clicked.any() or clicked.all():
        return {}
    names, owner = np.unique(first.users, return_inverse=True)
    pairs = [(ours[s], base[s]) for s in seeds]
    ranked = [[Ranking(clicked, m.scores, owner, names.size) for m in pair] for pair in pairs]
    one = np.ones((names.size, 1), np.float32)
    auc = np.array([float((a.areas(one) - b.areas(one))[0]) for a, b in ranked])
    areas = np.array(
        [
            group_areas(clicked, a.scores, owner).auc - group_areas(clicked, b.scores, owner).auc
            for a, b in pairs
        ]
    )
    has = ~np.isnan(areas[0])
    rows = np.bincount(owner)
    gains = [losses(a[0], a.scores) - losses(b[0], b.scores) for a, b in (pairs if loss else ())]
    lost = np.array([np.bincount(owner, gain, names.size) for gain in gains])  # [S, U]
    drawn_auc, drawn_gauc, drawn_loss = [], [], []
    for weights in draws(names.size, REPLICATES, seed):
        drawn_auc.append(np.mean([a.areas(weights) - b.areas(weights) for a, b in ranked], 0))
        if loss:
            drawn_loss.append(lost.mean(0) @ weights / (rows @ weights))
        if has.any():
            total = weights[has].sum(0)
            sums = areas[:, has].mean(0) @ weights[has]
            drawn_gauc.append(
                np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
            )
    found = {"auc": _estimate(auc, np.concatenate(drawn_auc), names.size)}
    if has.any():
        of_seed = areas[:, has].mean(1)
        found["gauc"] = _estimate(of_seed, np.concatenate(drawn_gauc), int(has.sum()))
    if loss:
        of_seed = lost.sum(1) / rows.sum()
        found["logloss"] = _estimate(of_seed, np.concatenate(drawn_loss), names.size)
    return found


def _demand_same(first: Scores, seed: int, every: Iterable[Scores]) -> None:
    for of in every:
        if not (np.array_equal(of.users, first.users)
                and np.array_equal(of.responses, first.responses)):  # fmt: skip
            raise InputError(
                f"the runs of seed {seed} were tested on {len(of.users):,} rows that are not the "
                f"{len(first.users):,} of the others; expected the same rows in the same order; "
                "compare runs of one store"
            )


def _estimate(
    values: npt.NDArray[np.floating], drawn: npt.NDArray[np.floating], users: int
) -> Estimate:
    """values [S]: by seed. drawn: their mean in each draw of the users, NaN where it has none."""
    count, mean = len(values), float(values.mean())
    drawn = drawn[~np.isnan(drawn)]
    if count < 2 or len(drawn) < 2 or users < 2:
        return Estimate(mean, None, None, count)
    errors = (values.std(ddof=1) / math.sqrt(count), drawn.std(ddof=1))
    if not max(errors) > 1e-12:  # equal but for rounding
        return Estimate(mean, None, None, count)
    return Estimate(mean, *interval(mean, errors, (count - 1, users - 1)), count)


def interval(
    mean: float, errors: tuple[float, ...], freedom: tuple[int, ...]
) -> tuple[float, float]:
    """Half the width of the 95 % interval, and p, of a mean with independent standard errors, each
    estimated with its degrees of freedom (`differences`)."""

    def half(level: float) -> float:
        return math.hypot(*(float(stats.t.isf(level / 2, f)) * e
                            for e, f in zip(errors, freedom, strict=True)))  # fmt: skip

    if half(SMALLEST) <= abs(mean):
        return half(0.05), SMALLEST
    p = 1.0 if not mean else float(optimize.brentq(lambda q: half(q) - abs(mean), SMALLEST, 1.0))
    return half(0.05), p
