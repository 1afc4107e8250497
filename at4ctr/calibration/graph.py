"""Fitted calibrators inside a serving graph: variables and a few elementwise operations."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from at4ctr.calibration.fitted import KNOTS, Calibrator, Isotonic, Platt
from at4ctr.contracts import Tensor


def served(calibrator: Calibrator) -> Logistic | Piecewise:
    """The calibrator as a module from corrected logits [B] to probabilities [B], float32.

    Its ``logits`` gives the logits of those probabilities in the type of its argument, which is
    float64 for metrics.
    """
    if isinstance(calibrator, Platt):
        return Logistic(calibrator)
    return Piecewise(calibrator)


class Logistic(tf.Module):
    """σ(slope · z + intercept)."""

    def __init__(self, calibrator: Platt) -> None:
        super().__init__(name="platt")
        self.slope, self.intercept = (
            tf.Variable(value, trainable=False, dtype=tf.float32, name=name)
            for name, value in (("slope", calibrator.slope), ("intercept", calibrator.intercept))
        )

    def __call__(self, z: Tensor) -> Tensor:
        return tf.sigmoid(self.logits(z))

    def logits(self, z: Tensor) -> Tensor:
        return tf.cast(self.slope, z.dtype) * z + tf.cast(self.intercept, z.dtype)


class Piecewise(tf.Module):
    """Linear interpolation of knots at σ(z).

    `at` never decreases, in float32 either; TensorFlow's float32 σ itself may, in its last bit.

    knots: [2, KNOTS], x and y. Unused x are ∞, so a p beyond the last real knot lies at the very
    beginning of an endless segment and gets the last y; graphs of any number of knots are equal.
    """

    def __init__(self, calibrator: Isotonic) -> None:
        super().__init__(name="isotonic")
        knots = np.full((2, KNOTS), np.inf, np.float32)
        knots[1] = calibrator.y[-1]
        knots[:, : len(calibrator.x)] = calibrator.x, calibrator.y
        self.knots = tf.Variable(knots, trainable=False, dtype=tf.float32, name="knots")

    def __call__(self, z: Tensor) -> Tensor:
        return self.at(tf.sigmoid(z))

    def logits(self, z: Tensor) -> Tensor:
        q = self(z)
        return tf.math.log(q) - tf.math.log1p(-q)

    def at(self, p: Tensor) -> Tensor:
        """[B] probabilities -> [B] calibrated ones."""
        x, y = tf.unstack(tf.cast(self.knots, p.dtype))
        first = tf.clip_by_value(tf.searchsorted(x, p, side="right") - 1, 0, KNOTS - 2)
        left, right, low, high = (tf.gather(v, first + k) for v in (x, y) for k in (0, 1))
        q = low + (high - low) * ((p - left) / (right - left))
        return tf.clip_by_value(q, low, high)  # rounding must not step over the next knot
