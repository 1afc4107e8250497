"""Gradients of dense variables and of table rows: distinct rows, the global norm, clipping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

from at4ctr.contracts import Tensor

Gradient: TypeAlias = Tensor | tf.IndexedSlices
Pairs: TypeAlias = list[tuple[Gradient, tf.Variable]]


def distinct(gradient: Gradient) -> bool:
    """Whether the graph shows that no row is named twice: its ids are a result of tf.unique."""
    if not isinstance(gradient, tf.IndexedSlices) or not hasattr(gradient.indices, "op"):
        return False
    found = gradient.indices
    while found.op.type in ("Identity", "Reshape"):
        found = found.op.inputs[0]
    return found.op.type in ("Unique", "UniqueV2") and found.value_index == 0


def summed(gradient: Gradient) -> Gradient:
    """The same gradient, with each row named once. One that is dense, or known to have distinct
    rows, is given back as it is."""
    if not isinstance(gradient, tf.IndexedSlices) or distinct(gradient):
        return gradient
    ids, place = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, place, tf.shape(ids)[0])
    return tf.IndexedSlices(values, ids, gradient.dense_shape)


def global_norm(gradients: Sequence[Gradient]) -> Tensor:
    """√(Σ g²) over all elements of all gradients, a float32 scalar. Rows must be distinct: the
    norm of a sum of slices is not that of the slices."""
    values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
    return tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(tf.cast(v, tf.float32))) for v in values]))


def clip(gradients: Sequence[Gradient], largest: float) -> tuple[list[Gradient], Tensor]:
    """g · min(1, largest / N) and N = `global_norm`, before clipping (Pascanu, Mikolov and Bengio,
    ICML 2013).

    Slices of rows are summed first, and stay slices. A gradient whose norm is at most ``largest``
    keeps its bits. Where N is not finite all become NaN, so that no half of a broken step is taken.
    """
    once = [summed(g) for g in gradients]
    norm, limit = global_norm(once), tf.cast(largest, tf.float32)
    factor = tf.where(norm > limit, limit / norm, tf.ones_like(norm))
    factor = tf.where(tf.math.is_finite(norm), factor, tf.constant(float("nan")))
    return [_scaled(g, factor) for g in once], norm


def clip_applied(
    optimizer: tf.keras.optimizers.Optimizer, pairs: Pairs, largest: float
) -> tuple[Pairs, Tensor]:
    """`clip` of what an optimizer would apply: gradients are first summed over all replicas, so
    that each replica has the same norm. Apply them with ``skip_gradients_aggregation=True``.

    optimizer: also one that scales the loss; the gradients are unscaled already.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    gradients, variables = zip(*inner.aggregate_gradients(pairs), strict=True)
    clipped, norm = clip(gradients, largest)
    return list(zip(clipped, variables, strict=True)), norm


def _scaled(gradient: Gradient, factor: Tensor) -> Gradient:
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)
