"""A number's logarithm, standardised, on one learned direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import EncodingConfig, Numbers, Tensor


@dataclass(frozen=True)
class Config(EncodingConfig):
    """limit: standard deviations beyond which a value counts as that many."""

    limit: float = 5.0

    def build(self, numbers: Numbers, dimension: int, seed: int) -> Logarithm:
        return Logarithm(self, numbers, dimension, seed)


class Logarithm(tf.Module):
    """f(x) = z a + b, z = (s(x) − mean) / deviation, s(x) = sign(x) ln(1 + |x|).

    Mean and deviation of s are those of the training rows' quantiles. a and b are learned vectors
    of D. A missing x (NaN) has a vector of its own.
    """

    def __init__(self, config: Config, numbers: Numbers, dimension: int, seed: int) -> None:
        super().__init__(name="log")
        found = [math.copysign(math.log1p(abs(q)), q) for q in numbers.quantiles]
        self.mean = sum(found) / len(found) if found else 0.0
        spread = sum((s - self.mean) ** 2 for s in found) / max(len(found), 1)
        self.deviation, self.limit = math.sqrt(spread) or 1.0, config.limit
        start = tf.random.stateless_uniform([3, dimension], [seed, 0], -0.05, 0.05)
        self.rows = tf.Variable(start, name="rows")  # a, b, missing

    def __call__(self, values: Tensor) -> Tensor:
        """[B] float32 -> [B, D]."""
        missing = tf.math.is_nan(values)
        known = tf.where(missing, tf.zeros_like(values), values)
        z = (tf.sign(known) * tf.math.log1p(tf.abs(known)) - self.mean) / self.deviation
        z = tf.clip_by_value(z, -self.limit, self.limit)[:, None]
        return tf.where(missing[:, None], self.rows[2], z * self.rows[0] + self.rows[1])
