"""What is usual: levels and histograms of the days before, with their noise.

A day may differ from the days before by sampling noise and because days differ. Both are estimated.
Sampling noise follows the binomial or multinomial law with users, not rows, as the number of trials
(rows of one user are alike, so this is cautious). The difference between days is the median
absolute deviation of the days before, which one odd day among them does not move. It contains
sampling noise too, so the larger of the two is taken. Values with a weekly pattern are compared
with the same weekday as well, and the smaller difference counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from at4ctr.gates.statistics import Stats

Floats = npt.NDArray[np.float64]

DAY = 86_400
TO_DEVIATION = 1.4826  # MAD of a normal law -> its standard deviation


@dataclass(frozen=True)
class Distance:
    """How far a value lies from what is usual. beyond: further than is allowed."""

    value: float
    usual: float
    difference: float
    allowed: float

    @property
    def beyond(self) -> bool:
        return abs(self.difference) > self.allowed


def weekday(stats: Stats) -> int:
    """0 to 6, of the period's first second."""
    return stats.begin // DAY % 7


def spread(values: Floats) -> float:
    """The standard deviation, estimated from the median absolute deviation."""
    return TO_DEVIATION * float(np.median(np.abs(values - np.median(values))))


@dataclass(frozen=True)
class Usual:
    """The days before, oldest first, and how many deviations count as odd.

    recent: how many of the last days the median is of.
    """

    days: tuple[Stats, ...]
    recent: int
    deviations: float

    def level(
        self, values: Sequence[float], today: Stats, value: float, noise: float, least: float
    ) -> Distance:
        """Today's `value` against `values` of the days: the nearer of two medians counts.

        noise: standard deviation of sampling. least: a smaller difference never counts. Allowed is
        max(least, deviations · max(spread, noise)).
        """
        past = np.asarray(values, np.float64)
        same = np.array([weekday(s) == weekday(today) for s in self.days])
        recent = past[-self.recent :]
        centres = [float(np.median(recent))]
        if same.any():
            centres.append(float(np.median(past[same])))
        usual = min(centres, key=lambda c: abs(value - c))
        allowed = self.deviations * max(spread(recent), noise)
        return Distance(value, usual, value - usual, max(least, allowed))

    def shape(
        self, past: Sequence[Floats], today: Floats, trials: float, least: float, largest: bool
    ) -> Distance:
        """Today's histogram against the nearest of the days.

        Each of the days has such a distance too, to the nearest of the others. Usual is the median
        of these, or the multinomial law's expected distance where that is more. Allowed is
        max(least, deviations · max(spread, noise)) above it. A smaller distance is never odd.

        past, today: shares [buckets]. trials: effective, of one day. largest: L∞ instead of the
        Jensen–Shannon divergence.
        """
        measure = largest_shift if largest else jensen_shannon
        rows = np.stack([*past, today])
        table = np.array([[measure(a, b) for b in rows] for a in rows])
        np.fill_diagonal(table, np.inf)
        value = float(table[-1, :-1].min())
        own = table[:-1, :-1].min(axis=1) if len(past) > 1 else np.zeros(1)
        mean, deviation = (_largest_noise if largest else _divergence_noise)(today, trials)
        usual = max(float(np.median(own)), mean)
        allowed = self.deviations * max(spread(own), deviation)
        return Distance(value, usual, max(0.0, value - usual), max(least, allowed))


def shares(counts: npt.ArrayLike) -> Floats:
    """Counts as shares; zeros stay zeros."""
    values = np.asarray(counts, np.float64)
    return values / max(float(values.sum()), 1.0)


def binomial(past: Sequence[float], users: int) -> float:
    """Standard deviation of a share that is usually the median of `past`, with users as trials."""
    usual, trials = float(np.median(past)), max(users, 1)
    return float(np.sqrt(max(usual * (1 - usual), 1 / trials) / trials))


def jensen_shannon(a: Floats, b: Floats) -> float:
    """½ KL(a‖m) + ½ KL(b‖m) with m = (a + b) / 2, in bits: 0 for equal shares, 1 for disjoint.

    Lin 1991, "Divergence measures based on the Shannon entropy", Eq. 3.4 with equal weights.
    """
    m = (a + b) / 2
    terms = [np.where(p > 0, p * np.log2(np.where(p > 0, p, 1) / np.where(m > 0, m, 1)), 0.0)
             for p in (a, b)]  # fmt: skip
    return float(max(0.0, (terms[0].sum() + terms[1].sum()) / 2))


def largest_shift(a: Floats, b: Floats) -> float:
    """L∞: the largest difference of two shares, 0 to 1."""
    return float(np.abs(a - b).max())


def _divergence_noise(today: Floats, trials: float) -> tuple[float, float]:
    """Mean and deviation of the divergence of two samples of one law.

    For two samples of n, 4 n ln 2 · JS is about χ² with f degrees of freedom, the buckets in use
    less one: its mean is f / (4 n ln 2), its deviation √(2 f) / (4 n ln 2).
    """
    freedom = max(int((today > 0).sum()) - 1, 1)
    scale = 1 / (4 * max(trials, 1.0) * np.log(2))
    return freedom * scale, float(np.sqrt(2 * freedom)) * scale


def _largest_noise(today: Floats, trials: float) -> tuple[float, float]:
    """Mean and deviation, roughly, of the largest difference of two samples: one deviation each."""
    top = float(today.max(initial=0.0))
    deviation = float(np.sqrt(2 * max(top * (1 - top), 0.01) / max(trials, 1.0)))
    return deviation, deviation
