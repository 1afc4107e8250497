"""Quality of predicted probabilities: cross entropy and calibration."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from at4ctr.errors import InputError, unknown
from at4ctr.metrics import _inputs

Floats = npt.NDArray[np.float64]
Spacing = Literal["mass", "width"]


@dataclass(frozen=True)
class Bins:
    """One entry for each non-empty bin, by rising probability."""

    count: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]  # mean prediction
    label: npt.NDArray[np.float64]  # mean label


def sigmoid(z: npt.ArrayLike) -> Floats:
    """σ(z) = 1 / (1 + e^-z) in float64, without overflow."""
    x = np.asarray(z, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1 + small)


def logit(p: npt.ArrayLike) -> Floats:
    """ln p − ln(1 − p) in float64, the inverse of `sigmoid`; ∓∞ of 0 and 1."""
    x = np.asarray(p, np.float64)
    with np.errstate(divide="ignore"):
        return np.log(x) - np.log1p(-x)


def losses(labels: npt.ArrayLike, logits: npt.ArrayLike) -> Floats:
    """-[y ln σ(z) + (1 - y) ln(1 - σ(z))] of each row [N], in nats.

    It is ln(1 + e^∓z), so a sure and wrong z costs |z|: nothing is clipped.

    Raises:
        InputError: no rows, NaN, a label other than 0 and 1, lengths that differ.
    """
    truth, z = _inputs.scored(labels, logits)
    return np.logaddexp(0.0, np.where(truth, -z, z).astype(np.float64))


def logloss(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """The mean of `losses`, which raises its errors. Defined for one class too."""
    return float(losses(labels, logits).mean())


def logloss_half(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """Half of `logloss`: what AT4CTR and the public DBPMaN, CAN and DIEN code print as "Logloss".

    Their loss is the mean over a [B, 2] tensor of y ln p and (1 - y) ln(1 - p), so it divides
    by 2B. For comparison with those papers only.
    """
    return logloss(labels, logits) / 2


def normalized_entropy(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """logloss / H(ȳ), H(ȳ) = -ȳ ln ȳ - (1 - ȳ) ln(1 - ȳ): 1 for the constant guess, 0 for truth.

    He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook", Eq. 1.

    Raises:
        InputError: as for `losses`; also for one class, where H = 0.
    """
    truth, z = _inputs.scored(labels, logits)
    _inputs.both_classes("normalized_entropy", truth)
    rate = truth.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return float(logloss(truth, z) / entropy)


def pcoc(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Predicted clicks over observed clicks, Σp / Σy; 1 is calibrated, above 1 too high.

    Raises:
        InputError: as for `losses`; also for p outside [0, 1], and without a positive row.
    """
    truth, p = _inputs.predicted(labels, probabilities)
    if not truth.any():
        raise InputError(
            f"pcoc needs a positive: labels has none in {truth.size} rows, evaluate on more rows "
            "or leave this metric out"
        )
    return float(p.sum() / truth.sum())


def expected_calibration_error(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    bins: int = 20,
    spacing: Spacing = "mass",
) -> float:
    """Σ_b (n_b / N) |mean p in b - mean y in b|, in units of probability.

    Click probabilities crowd near zero, so the default is 20 bins of equal mass (5 % of the rows
    each) and not of equal width (Naeini et al. 2015). It is biased upwards by about
    √(2 ȳ (1 - ȳ) bins / (π N)) for a perfect model.

    Args:
        labels: [N], 0 or 1.
        probabilities: [N], in [0, 1].
        bins: number of bins, at least 1.
        spacing: `"mass"` or `"width"`, see `bin_means`.

    Raises:
        InputError: as for `pcoc`; also for `bins` below 1 or an unknown spacing.
    """
    b = bin_means(labels, probabilities, bins, spacing)
    return float(np.average(np.abs(b.probability - b.label), weights=b.count))


def bin_means(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int, spacing: Spacing = "mass"
) -> Bins:
    """Mean prediction and mean label of each bin of the predictions.

    `"mass"`: bin ⌊bins · r / N⌋, r the middle rank of a row's probability, so equal
    probabilities share a bin and the order of the rows is of no effect. `"width"`: bin
    ⌊bins · p⌋, p = 1 in the last. Empty bins are left out.
    """
    if spacing not in get_args(Spacing):
        raise unknown("spacing of bins", spacing, get_args(Spacing))
    if bins < 1:
        raise InputError(f"bins is {bins}: expected at least 1, 20 is usual")
    truth, p = _inputs.predicted(labels, probabilities)
    if spacing == "width":
        bin_of = np.minimum((bins * p).astype(np.int64), bins - 1)
    else:
        order = np.argsort(p)
        p, truth = p[order], truth[order]
        bin_of = bins * _middle_ranks(p) // p.size
    count = np.bincount(bin_of, minlength=bins)
    used = count > 0
    sums = [np.bincount(bin_of, weights=x, minlength=bins)[used] for x in (p, truth)]
    return Bins(count[used], sums[0] / count[used], sums[1] / count[used])


def _middle_ranks(ordered: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """From 0 to N - 1; ties share the (rounded down) middle of their ranks."""
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sizes = np.diff(first, append=ordered.size)
    return np.repeat(first + (sizes - 1) // 2, sizes)
