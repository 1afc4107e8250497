"""Batch statistics of a layer, and their sums over many batches: its population statistics.

A layer that normalises by its batch in training needs statistics of its own in serving. A moving
average over the training steps mixes those of earlier weights into them. Here they are estimated
for one set of weights, over many batches: Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm",
§3, "Precise BN".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.layers.replicas import summed


class Sums(NamedTuple):
    """Of a layer's inputs x [B, W], over the rows of all replicas, in float64."""

    layer: tf.Module
    count: Tensor  # [1] rows
    total: Tensor  # [W] Σx
    squares: Tensor  # [W] Σx²: a float32's square is exact in float64, so the variance survives


_COLLECTED: ContextVar[list[Sums] | None] = ContextVar("collected", default=None)


@contextmanager
def collecting_sums() -> Iterator[list[Sums]]:
    """Inside, `batch_moments` appends to the list, and its moments are those of all replicas."""
    found: list[Sums] = []
    token = _COLLECTED.set(found)
    try:
        yield found
    finally:
        _COLLECTED.reset(token)


def batch_moments(layer: tf.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [W] of the rows of x [B, W]: of this replica's alone in training."""
    collected = _COLLECTED.get()
    if collected is None:
        mean, variance = tf.nn.moments(x, [0])
        return mean, variance
    wide = tf.cast(x, tf.float64)
    count = tf.fill([1], tf.cast(tf.shape(x)[0], tf.float64))
    squares = tf.reduce_sum(wide * wide, 0)
    sums = Sums(layer, *summed(count, tf.reduce_sum(wide, 0), squares))
    collected.append(sums)
    mean, variance = moments(sums)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def moments(sums: Sums) -> tuple[Tensor, Tensor]:
    """Mean and variance [W] in float64; 0 of no rows."""
    mean = tf.math.divide_no_nan(sums.total, sums.count)
    variance = tf.math.divide_no_nan(sums.squares, sums.count) - mean * mean
    return mean, tf.maximum(variance, 0.0)
