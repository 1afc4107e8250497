"""Attention of a candidate over behaviours (DIN)."""

from __future__ import annotations

import tensorflow as tf

from at4ctr.contracts import Packed, Tensor
from at4ctr.errors import InputError
from at4ctr.layers.mlp import MLP, Dense, product
from at4ctr.layers.pairs import Pairs
from at4ctr.layers.segments import spread, sums

MASKED = -1e9  # a logit whose exponential is 0


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

    def __call__(
        self,
        query: Tensor,
        history: Packed,
        *,
        training: bool,
        one_user: bool = False,
        pairs: Pairs | None = None,
    ) -> Tensor:
        """query [B, Q], R behaviours of width J -> [B, J]. one_user: all behaviours are one
        user's (``cross``). pairs: of rows that share their users' behaviours (`shared_pairs`)."""
        keys, rows, _ = history
        query = self.project(query)
        if one_user:
            return pool_all(self.cross(query, keys, training=training), keys)
        if pairs is None:
            scores = self.scores(query, keys, rows, training=training, ordered=True)
        else:
            scores, keys = self.of_pairs(query, keys, pairs, training=training)
            rows = pairs.rows
        return pool(scores, keys, rows, tf.shape(query)[0])

    def dense(self, query: Tensor, keys: Tensor, mask: Tensor, *, training: bool) -> Tensor:
        """The same of padded behaviours: query [B, Q], keys [B, T, J], mask [B, T] -> [B, J]."""
        a, b, c, d = tf.split(self.first.kernel, 4)
        query = self.project(query)
        once = tf.linalg.matmul(query, a + c) + self.first.bias
        pair = tf.concat([keys, query[:, None] * keys], -1)
        hidden = product(pair, tf.concat([b - c, d], 0)) + once[:, None]
        scores = self.rest(tf.sigmoid(hidden), training=training)[..., 0]
        weights = tf.nn.softmax(tf.where(mask, scores, MASKED)) * tf.cast(mask, keys.dtype)
        return tf.linalg.matvec(keys, weights, transpose_a=True)

    def scores(
        self,
        query: Tensor,
        keys: Tensor,
        rows: Tensor | None,
        *,
        training: bool,
        ordered: bool = False,
    ) -> Tensor:
        """Projected query [B, J], keys [R, J] -> unnormalised scores [R].

        rows [R]: each key's query; None where every key has its own, query [R, J]. ordered: rows
        never decrease, so that the queries' gradients are cheap sums.
        """
        a, b, c, d = tf.split(self.first.kernel, 4)
        once = tf.linalg.matmul(query, a + c) + self.first.bias  # [B, H]
        if rows is not None:
            copy = spread if training and ordered else tf.gather  # a SavedModel takes no gradient
            query, once = copy(query, rows), copy(once, rows)
        pair = tf.concat([keys, query * keys], -1)  # [R, 2J]
        hidden = product(pair, tf.concat([b - c, d], 0)) + once
        return tf.squeeze(self.rest(tf.sigmoid(hidden), training=training), -1)

    def of_pairs(
        self, query: Tensor, keys: Tensor, pairs: Pairs, *, training: bool
    ) -> tuple[Tensor, Tensor]:
        """Projected query [B, J], keys [R, J] -> the scores [P] and keys [P, J] of P pairs.

        (B − C) k is computed once for each behaviour and not for each pair.
        """
        a, b, c, d = tf.split(self.first.kernel, 4)
        once = tf.linalg.matmul(query, a + c) + self.first.bias  # [B, H]
        copy = spread if training else tf.gather  # a SavedModel takes no gradient
        of_key = pairs.copy(product(keys, b - c), training=training)
        keys = pairs.copy(keys, training=training)
        hidden = product(copy(query, pairs.rows) * keys, d) + of_key + copy(once, pairs.rows)
        return tf.squeeze(self.rest(tf.sigmoid(hidden), training=training), -1), keys

    def cross(self, query: Tensor, keys: Tensor, *, training: bool) -> Tensor:
        """Scores of all pairs of keys [R, J] and projected queries [N, J] -> [R, N].

        The matrix that a behaviour k is multiplied with depends on the candidate q alone, and a one
        appended to k carries its constant. So the first layer of all pairs is one product of width
        J + 1:

            W₁[q; k; q−k; q⊙k] + b = [D diag(q) + B − C, (A + C) q + b] [k; 1].
        """
        a, b, c, d = tf.split(self.first.kernel, 4)
        once = tf.linalg.matmul(query, a + c) + self.first.bias  # [N, H]
        each = tf.transpose(query)[:, :, None] * d[:, None] + (b - c)[:, None]  # [J, N, H]
        each = tf.concat([each, once[None]], 0)
        each = tf.reshape(each, [each.shape[0], tf.size(once)])
        keys = tf.pad(keys, [[0, 0], [0, 1]], constant_values=1.0)
        return self._scored(tf.linalg.matmul(keys, each), query, keys, training)

    def cross_own(self, query: Tensor, keys: Tensor, *, training: bool) -> Tensor:
        """`cross` for candidates with a query of their own for each behaviour, [R, N, J] -> [R, N].

        Here the matrix, D diag(k) + A + C, depends on the behaviour and multiplies the queries.
        """
        a, b, c, d = tf.split(self.first.kernel, 4)
        once = tf.linalg.matmul(keys, b - c) + self.first.bias  # [R, H]
        each = keys[:, :, None] * d + (a + c)  # [R, J, H]
        hidden = tf.linalg.matmul(query, each) + once[:, None]
        return self._scored(hidden, query[0], keys, training)

    def _scored(self, hidden: Tensor, query: Tensor, keys: Tensor, training: bool) -> Tensor:
        """The layers after the first, applied to its sums for all pairs -> [R, N]."""
        hidden = tf.sigmoid(tf.reshape(hidden, [-1, self.first.kernel.shape[-1]]))
        scores = self.rest(hidden, training=training)
        return tf.reshape(scores, [tf.shape(keys)[0], tf.shape(query)[0]])


def segment_softmax(scores: Tensor, rows: Tensor, size: Tensor) -> Tensor:
    """Softmax of scores [R] within each row of ``rows`` [R] (0 ≤ row < size)."""
    top = tf.math.unsorted_segment_max(tf.stop_gradient(scores), rows, size)
    exp = tf.exp(scores - tf.gather(top, rows))
    return exp / tf.gather(tf.math.unsorted_segment_sum(exp, rows, size), rows)


def pool(scores: Tensor, keys: Tensor, rows: Tensor, size: Tensor) -> Tensor:
    """Σ_t softmax(scores)_t k_t within each row, keys [R, J] -> [size, J]; 0 of an empty row.

    ``rows`` [R] never decrease. The softmax's divisor is applied once, to the sum.
    """
    top = tf.math.unsorted_segment_max(tf.stop_gradient(scores), rows, size)
    exp = tf.exp(scores - tf.gather(top, rows))[:, None]
    return tf.math.divide_no_nan(sums(exp * keys, rows, size), sums(exp, rows, size))


def pool_all(scores: Tensor, keys: Tensor) -> Tensor:
    """Σ_t softmax(scores)_t k_t of every column of scores [R, N], keys [R, J] -> [N, J]; 0 if R is
    0."""
    return tf.linalg.matmul(tf.nn.softmax(scores, 0), keys, transpose_a=True)
