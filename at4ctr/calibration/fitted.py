"""Fitted calibrators: monotone maps from a corrected logit to a probability, in numpy.

They are applied after the sampling correction, to z = logit + ln w. No map reverses the order of
two rows. `Platt` is strictly increasing, so AUC stays. `Isotonic` may tie rows below its first
knot and rows above its last one, so that a pair of rows keeps its order or becomes a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from at4ctr.errors import InputError
from at4ctr.metrics.probability import Floats, logit, sigmoid

Asked = Literal["none", "platt", "isotonic", "auto"]  # auto: chosen on validation
KNOTS = 256  # at most so many in an `Isotonic`; the serving graph always holds so many


@dataclass(frozen=True)
class Platt:
    """q = σ(slope · z + intercept), slope > 0.

    Platt 1999, "Probabilistic Outputs for Support Vector Machines", on corrected logits, so
    slope 1 and intercept 0 change nothing. Deviation: labels are not smoothed (the paper's
    (N₊ + 1) / (N₊ + 2)), which matters for a few dozen rows only.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (0 < self.slope < math.inf and math.isfinite(self.intercept)):
            raise InputError(
                f"Platt calibrator: slope is {self.slope} and intercept {self.intercept}; expected "
                "a finite slope above 0 and a finite intercept; fit it again"
            )

    def __call__(self, z: npt.ArrayLike) -> Floats:
        """Probabilities in float64, of the shape of z."""
        return sigmoid(self.logits(z))

    def logits(self, z: npt.ArrayLike) -> Floats:
        """Those of the probabilities, in float64."""
        return self.slope * np.asarray(z, np.float64) + self.intercept


@dataclass(frozen=True)
class Isotonic:
    """q = linear interpolation of (x, y) at p = σ(z); y₀ below x₀ and y_K above x_K.

    x: 2 to `KNOTS` probabilities, strictly increasing also in float32, the graph's type.
    y: as many, not decreasing, in [0, 1].
    """

    x: Sequence[float]
    y: Sequence[float]

    def __post_init__(self) -> None:
        x, y = np.asarray(self.x, np.float64), np.asarray(self.y, np.float64)
        fits = x.ndim == 1 and x.shape == y.shape and 2 <= x.size <= KNOTS
        fits = fits and bool(((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).all())
        rises = (np.diff(x.astype(np.float32)) > 0).all() and (np.diff(y) >= 0).all()
        if not (fits and rises):
            raise InputError(
                f"isotonic calibrator: {x.size} x and {y.size} y; expected 2 to {KNOTS} knots, x "
                "strictly increasing and y not decreasing, all in [0, 1]; fit it again"
            )

    def __call__(self, z: npt.ArrayLike) -> Floats:
        """Probabilities in float64, of the shape of z."""
        return np.interp(sigmoid(z), np.asarray(self.x), np.asarray(self.y))

    def logits(self, z: npt.ArrayLike) -> Floats:
        """Those of the probabilities, in float64."""
        return logit(self(z))


Calibrator = Platt | Isotonic
