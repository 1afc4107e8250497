"""Attention over behaviours: of a candidate (DIN), and of behaviours among themselves."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from at4ctr.contracts import Packed, Tensor
from at4ctr.errors import InputError
from at4ctr.layers.mlp import MLP, Dense

_MASKED = -1e9


class TargetAttention(tf.Module):
    """DIN's activation unit with softmax weights (DIN, Eq. 3; softmax as in the public code).

    a_t = w₃ᵀσ(W₂σ(W₁[q; k_t; q − k_t; q ⊙ k_t])), out = Σ_t softmax(a)_t k_t, with q the candidate
    after one linear layer to the behaviours' width. Evaluated at real positions only, and by

        W₁[q; k; q−k; q⊙k] = (A + C) q + (B − C) k + D (q ⊙ k),   W₁ = [A B C D],

    so that the part of q is computed once per candidate. Both are exact. An empty history gives 0.
    """

    def __init__(
        self, query: int, width: int, units: tuple[int, ...], seed: int, name: str = "attention"
    ) -> None:
        super().__init__(name=name)
        if not units or min(units) < 1:
            raise InputError(
                f"units of {name} are {units}; expected one width or more, all positive"
            )
        self.project = Dense(query, width, (seed, 100), "query")
        self.first = Dense(4 * width, units[0], (seed, 101), "first")
        self.rest = MLP(
            units[0], (*units[1:], 1), "sigmoid", seed=seed + 1, last="linear", name="rest"
        )

    def __call__(self, query: Tensor, history: Packed, *, training: bool) -> Tensor:
        """query [B, Q], R behaviours of width J -> [B, J]."""
        keys, rows, _ = history
        size = tf.shape(query)[0]
        scores = self.scores(self.project(query), keys, rows, training=training)
        weights = segment_softmax(scores, rows, size)
        return tf.math.unsorted_segment_sum(weights[:, None] * keys, rows, size)

    def scores(self, query: Tensor, keys: Tensor, rows: Tensor, *, training: bool) -> Tensor:
        """Projected query [B, J], keys [R, J] -> unnormalised scores [R]."""
        a, b, c, d = tf.split(self.first.kernel, 4)
        once = tf.linalg.matmul(query, a + c) + self.first.bias  # [B, H]
        pair = tf.concat([keys, tf.gather(query, rows) * keys], -1)  # [R, 2J]
        hidden = tf.linalg.matmul(pair, tf.concat([b - c, d], 0)) + tf.gather(once, rows)
        return tf.squeeze(self.rest(tf.sigmoid(hidden), training=training), -1)


def segment_softmax(scores: Tensor, rows: Tensor, size: Tensor) -> Tensor:
    """Softmax of scores [R] within each row of ``rows`` [R] (0 ≤ row < size)."""
    top = tf.math.unsorted_segment_max(tf.stop_gradient(scores), rows, size)
    exp = tf.exp(scores - tf.gather(top, rows))
    return exp / tf.gather(tf.math.unsorted_segment_sum(exp, rows, size), rows)


def by_length(
    attend: Callable[[Tensor, Tensor], Tensor], x: Tensor, mask: Tensor, groups: int = 8
) -> Tensor:
    """attend(x [b, t, d], mask [b, t]) in groups of samples of like length, each cut to its own
    longest: what costs t² per sample costs little more than the real positions do. Same result;
    samples must be left-aligned.
    """
    lengths = tf.reduce_sum(tf.cast(mask, tf.int32), 1)
    order = tf.argsort(lengths, stable=True)
    bounds = tf.shape(x)[0] * tf.range(groups + 1) // groups
    sizes = bounds[1:] - bounds[:-1]
    found = []
    # Split, not slices: the gradient of a slice is a padded copy of the whole.
    parts = (tf.split(tf.gather(t, order), sizes, num=groups) for t in (x, mask, lengths))
    for part, real, longest in zip(*parts, strict=True):
        steps = tf.reduce_max(tf.concat([longest, [1]], 0))
        found.append(attend(part[:, :steps], real[:, :steps]))
    return tf.gather(tf.concat(found, 0), tf.math.invert_permutation(order))


class SelfAttention(tf.Module):
    """One head, no residual, no position: softmax(XW_Q (XW_K)ᵀ / √d) XW_V (AT4CTR, Eq. 2 and 8)."""

    def __init__(self, width: int, seed: int, name: str = "self_attention") -> None:
        super().__init__(name=name)
        self.width = width
        limit = (6.0 / (2 * width)) ** 0.5
        self.query, self.key, self.value = (
            tf.Variable(
                tf.random.stateless_uniform([width, width], [seed, i], -limit, limit), name=label
            )
            for i, label in enumerate(("query", "key", "value"))
        )

    def weights(self, x: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
        """x [B, T, d], mask [B, T] -> [B, T, T]; padded keys, and future ones if causal, get 0."""
        queries = tf.linalg.matmul(x, self.query) * self.width**-0.5
        scores = tf.linalg.matmul(queries, tf.linalg.matmul(x, self.key), transpose_b=True)
        if causal:
            steps = tf.range(tf.shape(x)[1])
            seen = (steps[None, :] <= steps[:, None])[None] & mask[:, None, :]
        else:
            seen = mask[:, None, :]
        return tf.nn.softmax(scores + tf.where(seen, 0.0, _MASKED))

    def states(self, x: Tensor, mask: Tensor) -> Tensor:
        """Causal: state k has seen behaviours 0..k. x [B, T, d] -> [B, T, d], 0 where padded."""
        steps = tf.shape(x)[1]

        def attend(x: Tensor, mask: Tensor) -> Tensor:
            found = tf.linalg.matmul(
                self.weights(x, mask, causal=True), tf.linalg.matmul(x, self.value)
            )
            found *= tf.cast(mask, found.dtype)[..., None]
            return tf.pad(found, [[0, 0], [0, steps - tf.shape(x)[1]], [0, 0]])

        return by_length(attend, x, mask)

    def pooled(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mean of the outputs over real positions (Eq. 3). x [B, T, d] -> [B, d]; 0 if none is.

        mean_i Σ_j P_ij x_j W_V = (Σ_j (mean_i P_ij) x_j) W_V: the [B, T, d] output is never made.
        """
        return by_length(self._pooled, x, mask)

    def _pooled(self, x: Tensor, mask: Tensor) -> Tensor:
        real = tf.cast(mask, x.dtype)
        share = tf.linalg.matmul(real[:, None, :], self.weights(x, mask, causal=False))  # [B, 1, T]
        total = tf.squeeze(tf.linalg.matmul(share * real[:, None, :], x), 1)
        length = tf.reduce_sum(real, 1, keepdims=True)
        return tf.linalg.matmul(tf.math.divide_no_nan(total, length), self.value)
