"""Correction of probabilities for negative down-sampling, and the data of reliability diagrams.

Training keeps every positive and each negative with probability w, so the model learns odds that
are 1/w too high. He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook",
§6.3, give the correction; it is monotone, so no ranking metric moves. Never combine it with
1/w sample weights in training: those have corrected already.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from at4ctr.data.sampling import demand_rate
from at4ctr.errors import InputError
from at4ctr.metrics import bin_means

Z_95 = 1.959963984540054  # the standard normal's 97.5 % quantile


@overload
def correct_sampling(p: float | np.floating, w: float) -> np.float64: ...


@overload
def correct_sampling(p: npt.NDArray | Sequence[float], w: float) -> npt.NDArray[np.float64]: ...


def correct_sampling(
    p: float | np.floating | npt.NDArray | Sequence[float], w: float
) -> npt.NDArray[np.float64] | np.float64:
    """q = p / (p + (1 - p) / w), the click probability without negative down-sampling.

    He et al. 2014, §6.3; equal to sigmoid(logit(p) + ln w). Computed as p w / (p w + 1 - p), which
    overflows nowhere.

    Args:
        p: probabilities in [0, 1] of a model trained on the sampled rows, scalar or array.
        w: the share of negatives that sampling kept, in (0, 1].

    Returns:
        q in float64, of the shape of p.

    Raises:
        InputError: w outside (0, 1] or NaN; p outside [0, 1] or NaN.
    """
    demand_rate(w)
    sampled = np.asarray(p, np.float64)
    wrong = ~((sampled >= 0) & (sampled <= 1))
    if wrong.any():
        raise InputError(
            f"p holds {float(sampled[wrong][0])}: expected probabilities in [0, 1], "
            "pass the sigmoid of the logit"
        )
    odds = sampled * w
    return odds / (odds + (1 - sampled))


def logit_shift(w: float) -> float:
    """ln w: what `correct_sampling` adds to a logit, for use inside a serving graph.

    Raises:
        InputError: w outside (0, 1] or NaN.
    """
    demand_rate(w)
    return math.log(w)


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: one entry for each bin of equal mass, by rising probability.

    `lower` and `upper` bound the bin's true click rate with 95 % confidence (Wilson 1927); in
    a calibrated model about 95 % of the bins hold `predicted` between them.
    """

    count: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]


def reliability(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 20) -> Reliability:
    """Mean prediction against mean label, with its Wilson 95 % interval, by bins of equal mass.

    Args:
        labels: [N], 0 or 1.
        probabilities: [N], in [0, 1]; equal ones share a bin, so there may be fewer bins.
        bins: number of bins, at least 1.

    Raises:
        InputError: no rows, NaN, a label other than 0 and 1, p outside [0, 1], lengths that
            differ, `bins` below 1.
    """
    b = bin_means(labels, probabilities, bins)
    lower, upper = _wilson(b.label, b.count)
    return Reliability(b.count, b.probability, b.label, lower, upper)


def _wilson(
    rate: npt.NDArray[np.float64], n: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Score interval of a binomial rate seen in n trials."""
    z2 = Z_95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * np.sqrt(rate * (1 - rate) / n + z2 / (4 * n**2)) / (1 + z2 / n)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
