"""DMR's match loss (Lyu et al., AAAI 2020, §"user-to-item network"): the state before the last
behaviour predicts that behaviour's item."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import AuxiliaryConfig, Tensor, View
from at4ctr.errors import InputError
from at4ctr.layers.mlp import Dense
from at4ctr.layers.shape import Shape, history_required, lengths
from at4ctr.schema import UNKNOWN, Schema, history_name


@dataclass(frozen=True)
class Config(AuxiliaryConfig):
    """weight: λ; 0.1 in the public code, whose log loss is not halved."""

    weight: float = 0.1

    def build(self, schema: Schema, shape: Shape, seed: int) -> LastBehaviour:
        history_required("last_behaviour", shape, "leave last_behaviour out")
        if schema.item_id.name not in schema.history:
            raise InputError(
                f"last_behaviour predicts the item id of a behaviour, but the history has "
                f"{schema.history}; add {schema.item_id.name!r} to Schema.history or leave "
                "last_behaviour out"
            )
        return LastBehaviour(schema, shape, seed)


class LastBehaviour(tf.Module):
    """L = −(1/n) Σ_i ln [ exp⟨u_i, v_{y_i}⟩ / Σ_{c ∈ C} exp⟨u_i, v_c⟩ ].

    i runs over the n samples with two behaviours and more, y_i is the item of the last one, u_i
    the backbone's state after the one before it [S], after a Dense to D where S is not D. C are the
    items of the batch's last behaviours (of a single behaviour too), every distinct id once.
    v [D] is a row of the backbone's output table, or of the item table where there is none. An
    unknown item is neither predicted nor a candidate. Without a sample the loss is 0 with zero
    gradients. The [n, |C|] logits are float32 whatever the inputs' type. The backbone must give
    states that have not seen later behaviours.

    The public code samples 2,000 negatives by a learned unigram, subtracts the log of their
    expected counts, and adds an output bias that is frozen at 0, and so has no effect. Here the
    candidates are the batch's own. Each counts once, however often the batch has it, which corrects
    for popularity: exactly for items that every batch has, and not at all for items that a batch
    has at most once. The public code's mean runs over samples with a shorter history as well. Of
    several replicas each has the candidates of its own rows. Every row of a user is a sample,
    positive or negative, so a user with many rows in a batch counts that often, although their last
    behaviours are much the same.
    """

    def __init__(self, schema: Schema, shape: Shape, seed: int) -> None:
        super().__init__(name="last_behaviour")
        self.key, self.table = history_name(schema.item_id.name), schema.item_id.table
        self.project = None
        if shape.states != shape.dimension:
            self.project = Dense(shape.states, shape.dimension, (seed, 0), "project")

    def loss(self, view: View) -> Tensor:
        sizes = lengths(view.embedded)
        rows = tf.where(sizes > 0)[:, 0]
        last = _at(view.batch[self.key], rows, sizes - 1)
        known = last != UNKNOWN
        rows = tf.boolean_mask(rows, known)
        candidates, own = tf.unique(tf.boolean_mask(last, known))
        anchors = tf.gather(sizes, rows) > 1
        rows, own = tf.boolean_mask(rows, anchors), tf.boolean_mask(own, anchors)
        states = _at(view.encoded.states, rows, sizes - 2)
        if self.project is not None:
            states = self.project(states)
        return _cross_entropy(states, self._vectors(view, candidates), own)

    def _vectors(self, view: View, ids: Tensor) -> Tensor:
        has_output = view.embedded.output.shape[-1] != 0
        return view.lookup(f"{self.table}/output" if has_output else self.table, ids)


def _at(values: Tensor, rows: Tensor, steps: Tensor) -> Tensor:
    """values [B, T, ...], rows [n], steps [B] -> values[row, steps[row]] [n, ...]."""
    steps = tf.cast(tf.gather(steps, rows), rows.dtype)
    return tf.gather_nd(values, tf.stack([rows, steps], 1))


def _cross_entropy(states: Tensor, vectors: Tensor, own: Tensor) -> Tensor:
    """Mean over states [n, D] of −ln softmax over vectors [m, D] at each one's own [n]; 0 if n is
    0, where the fused operation refuses m = 0."""
    states, vectors = tf.cast(states, tf.float32), tf.cast(vectors, tf.float32)
    logits = tf.linalg.matmul(states, vectors, transpose_b=True)
    aimed = tf.reduce_sum(states * tf.gather(vectors, own), -1)
    total = tf.reduce_sum(tf.reduce_logsumexp(logits, 1) - aimed)
    return tf.math.divide_no_nan(total, tf.cast(tf.size(own), tf.float32))
