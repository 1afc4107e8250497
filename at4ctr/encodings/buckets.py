"""A number's bucket between quantiles of the training rows, one vector each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from at4ctr.contracts import EncodingConfig, Numbers, Tensor
from at4ctr.errors import InputError


@dataclass(frozen=True)
class Config(EncodingConfig):
    """count: buckets of about as many training rows each. Equal quantiles share one."""

    count: int = 32

    def __post_init__(self) -> None:
        if self.count < 2:
            raise InputError(f"buckets.count is {self.count}; expected at least 2")

    def build(self, numbers: Numbers, dimension: int, seed: int) -> Buckets:
        return Buckets(self, numbers, dimension, seed)


class Buckets(tf.Module):
    """f(x) = X[Σ_j 1(x ≥ q_j)], q the distinct inner quantiles; a missing x (NaN) has its own row.

    A value below the smallest or above the largest training value is in the first or last bucket.
    """

    def __init__(self, config: Config, numbers: Numbers, dimension: int, seed: int) -> None:
        super().__init__(name="buckets")
        inner = np.linspace(0, 1, config.count + 1)[1:-1]
        found = np.interp(inner, np.linspace(0, 1, max(len(numbers.quantiles), 1)),
                          numbers.quantiles or (0.0,))  # fmt: skip
        self.edges = np.unique(found.astype(np.float32))
        rows = len(self.edges) + 2  # the last one: missing
        start = tf.random.stateless_uniform([rows, dimension], [seed, 0], -0.05, 0.05)
        self.rows = tf.Variable(start, name="rows")

    def __call__(self, values: Tensor) -> Tensor:
        """[B] float32 -> [B, D]."""
        missing = tf.math.is_nan(values)
        known = tf.where(missing, tf.zeros_like(values), values)
        bucket = tf.searchsorted(self.edges, known, side="right")
        return tf.gather(self.rows, tf.where(missing, len(self.edges) + 1, bucket))
