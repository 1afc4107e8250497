"""The row-sparse Adam step that no TensorFlow peer ships, patched in by hand at its best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def stepper(
    loss: Callable[[Any, Any], tf.Tensor],
    tables: Sequence[Any],
    rest: Sequence[Any],
    optimizer: Any,
) -> Callable[[Any, Any], tf.Tensor]:
    """A traced training step: Adam on ``rest``, and on the rows of ``tables`` that were read."""
    raw = [_resource(v) for v in tables]
    slots = [(tf.Variable(tf.zeros(t.shape)), tf.Variable(tf.zeros(t.shape))) for t in raw]
    count = tf.Variable(0.0)
    optimizer.build(rest)

    @tf.function
    def step(x: Any, y: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(x, y)
        gradients = tape.gradient(value, raw + [_resource(v) for v in rest])
        count.assign_add(1.0)
        rate = 1e-3 * tf.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        for table, (m, v), g in zip(raw, slots, gradients[: len(raw)], strict=True):
            assert isinstance(g, tf.IndexedSlices), "a dense gradient of a table"
            ids, place = tf.unique(g.indices)
            g = tf.math.unsorted_segment_sum(g.values, place, tf.shape(ids)[0])
            new_m = 0.9 * tf.gather(m, ids) + 0.1 * g
            new_v = 0.999 * tf.gather(v, ids) + 0.001 * g * g
            m.scatter_update(tf.IndexedSlices(new_m, ids))
            v.scatter_update(tf.IndexedSlices(new_v, ids))
            rows = tf.gather(table, ids) - rate * new_m / (tf.sqrt(new_v) + 1e-7)
            table.scatter_update(tf.IndexedSlices(rows, ids))  # quicker than scatter_sub
        optimizer.apply_gradients(zip(gradients[len(raw) :], rest, strict=True))
        return value

    return step


def _resource(variable: Any) -> Any:
    """The tf.Variable behind a variable of Keras 2 or 3."""
    value = getattr(variable, "value", variable)
    return variable if callable(value) else value
