"""Both models on the rows that judge a night: ROC curves, and intervals clustered by user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from at4ctr.metrics.intervals import Z_95, clustered_error
from at4ctr.metrics.probability import losses

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """``predictions.npz``: [N] each. incumbent, uncalibrated: None where there is none.

    candidate, incumbent: logits of the served probabilities. uncalibrated: the candidate's after
    the sampling correction alone.
    """

    labels: npt.NDArray
    users: npt.NDArray
    lengths: npt.NDArray
    candidate: Floats
    incumbent: Floats | None = None
    uncalibrated: Floats | None = None

    @property
    def both(self) -> bool:
        """Whether both classes are there, without which there is no ROC."""
        return 0 < int((self.labels == 1).sum()) < self.labels.size

    @property
    def models(self) -> dict[str, Floats]:
        named = {"candidate": self.candidate, "incumbent": self.incumbent}
        return {name: z for name, z in named.items() if z is not None}


def read(path: Path, damaged: list[str]) -> Scores | None:
    """The scores of an attempt; None where there are none, or they are not finite."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in Scores.__annotations__ if name in file.files}
        scores = Scores(**found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, BadZipFile) as error:
        damaged.append(f"{path.name} cannot be read: {error}")
        return None
    size = scores.labels.size
    for name, values in found.items():
        if values.shape != (size,) or not size:
            damaged.append(f"{path.name} has {name} of shape {values.shape}; expected ({size},)")
            return None
    wrong = [n for n in ("candidate", "incumbent", "uncalibrated") if n in found
             and not np.isfinite(found[n]).all()]  # fmt: skip
    if wrong or not np.isin(scores.labels, (0, 1)).all():
        what = ", ".join(wrong) or "labels"
        damaged.append(f"{path.name}: {what} have values that are no logit or label, so no curves")
        return None
    return scores


def auc_interval(labels: npt.NDArray, z: Floats, users: npt.NDArray) -> tuple[float, float]:
    """95 % interval of the AUC, rows of one user together.

    With V_i the share of the other class that row i is ranked right against (ties one half), m
    clicks and n others, user u moves the AUC A by r_u = Σ_{i∈u, click} (V_i − A) / m +
    Σ_{i∈u, no click} (V_i − A) / n, and Var A = U/(U−1) Σ_u r_u²: Obuchowski 1997,
    "Nonparametric analysis of clustered ROC curve data", Eq. 3 to 5 with one factor U/(U−1) for
    its four. Needs both classes.
    """
    clicked = labels == 1
    right = np.empty(z.size)
    right[clicked] = _share_below(z[~clicked], z[clicked])
    right[~clicked] = 1 - _share_below(z[clicked], z[~clicked])
    area = float(right[clicked].mean())
    weight = np.where(clicked, 1 / clicked.sum(), 1 / (~clicked).sum())
    half = Z_95 * clustered_error((right - area) * weight, users)
    return max(area - half, 0.0), min(area + half, 1.0)


def entropy_interval(labels: npt.NDArray, z: Floats, users: npt.NDArray) -> tuple[float, float]:
    """95 % interval of NE = L / H(r), L the mean log loss and H the entropy of the click rate r.

    By linearisation a row moves it by [(l − L) / H − L H'(r) (y − r) / H²] / N, H'(r) =
    ln((1−r)/r). Needs both classes.
    """
    y, lost = (labels == 1).astype(np.float64), losses(labels, z)
    rate, mean = float(y.mean()), float(lost.mean())
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    slope = np.log1p(-rate) - np.log(rate)
    moved = ((lost - mean) / entropy - mean * slope * (y - rate) / entropy**2) / y.size
    half = Z_95 * clustered_error(moved, users)
    return mean / entropy - half, mean / entropy + half


def _share_below(others: Floats, values: Floats) -> Floats:
    """Of each value, the share of others below it, ties one half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return below / (2 * others.size)
