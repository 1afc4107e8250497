"""Attention of behaviours among themselves (AT4CTR's auxiliary networks)."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from at4ctr.contracts import Packed, Tensor
from at4ctr.layers import segments
from at4ctr.layers.attention import MASKED


class Lengths(NamedTuple):
    """Histories packed row after row: how many rows belong to each sample, and where they begin."""

    sizes: Tensor  # [B] int32
    starts: Tensor  # [B] int32

    @classmethod
    def of(cls, rows: Tensor, size: Tensor) -> Lengths:
        """From ``Packed.rows`` of ``size`` samples."""
        sizes = tf.math.unsorted_segment_sum(tf.ones_like(rows), rows, size)
        return cls(sizes, tf.cumsum(sizes, exclusive=True))


class Groups(NamedTuple):
    """Samples grouped by length; each group is dense and as long as its longest sample.

    So attention, which costs t² for a sample of t positions, spends little on padding. P places in
    all; R behaviours.
    """

    index: Tensor  # [P] int32: the behaviour of each place, R of padding
    places: Tensor  # [R] int32: the place of each behaviour
    masks: list[Tensor]  # [b, t] of each group, True where real

    @classmethod
    def of(cls, history: Packed, lengths: Lengths, count: int = 8) -> Groups:
        order = tf.argsort(lengths.sizes, stable=True)
        size, none = tf.size(order), tf.shape(history.values)[0]
        bounds = size * tf.range(count + 1) // count
        masks, index, widths = [], [], []
        for samples in tf.split(order, bounds[1:] - bounds[:-1], num=count):
            real = tf.gather(lengths.sizes, samples)
            steps = tf.range(tf.reduce_max(tf.concat([real, [0]], 0)))
            masks.append(steps < real[:, None])
            rows = tf.gather(lengths.starts, samples)[:, None] + steps
            index.append(tf.reshape(tf.where(masks[-1], rows, none), [-1]))
            widths.append(tf.fill(tf.shape(real), tf.size(steps)))
        begins = tf.cumsum(tf.concat(widths, 0), exclusive=True)
        begins = tf.gather(begins, tf.math.invert_permutation(order))  # [B]
        places = tf.gather(begins, history.rows) + history.positions
        return cls(tf.concat(index, 0), places, masks)

    def pack(self, values: Tensor) -> Tensor:
        """values [R, d] -> [P, d], 0 where padded."""
        return segments.pack(values, self.index, self.places)

    def unpack(self, values: Tensor) -> Tensor:
        """values [P, d] -> [R, d]."""
        return segments.unpack(values, self.index, self.places)

    def split(self, values: Tensor) -> list[Tensor]:
        """values [P, d] -> [b, t, d] of each group."""
        sizes = [tf.size(mask) for mask in self.masks]
        shapes = [tf.concat([tf.shape(m), values.shape[-1:]], 0) for m in self.masks]
        parts = zip(tf.split(values, sizes, num=len(sizes)), shapes, strict=True)
        return [tf.reshape(part, shape) for part, shape in parts]


class SelfAttention(tf.Module):
    """One head, no residual, no position: softmax(XW_Q (XW_K)ᵀ / √d) XW_V (AT4CTR, Eq. 2 and 8).

    Scores are X (W_Q W_Kᵀ / √d) Xᵀ: one product of width d per behaviour instead of two.
    """

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

    def _weights(self, x: Tensor, groups: Groups, *, causal: bool) -> list[Tensor]:
        """x [P, d] -> [b, t, t] of each group; padded keys, and future ones if causal, get 0."""
        once = tf.linalg.matmul(self.query * self.width**-0.5, self.key, transpose_b=True)
        queries, keys = groups.split(tf.linalg.matmul(x, once)), groups.split(x)
        found = []
        for q, k, mask in zip(queries, keys, groups.masks, strict=True):
            seen = mask[:, None, :]
            if causal:
                steps = tf.range(tf.shape(mask)[1])
                seen = steps[None, :] <= steps[:, None]  # which spares real queries all padding
            scores = tf.linalg.matmul(q, k, transpose_b=True)
            found.append(tf.nn.softmax(scores + tf.where(seen, 0.0, MASKED)))
        return found

    def dense_states(self, x: Tensor) -> Tensor:
        """`states` of padded behaviours [B, T, d] -> [B, T, d]; the values at padding have no
        meaning."""
        steps = tf.range(tf.shape(x)[1])
        weights = self._dense_weights(x, (steps[None, :] <= steps[:, None])[None])
        return tf.linalg.matmul(tf.linalg.matmul(weights, x), self.value)

    def dense_pooled(self, x: Tensor, mask: Tensor) -> Tensor:
        """`pooled` of padded behaviours [B, T, d], mask [B, T] -> [B, d]."""
        real = tf.cast(mask, x.dtype)
        weights = self._dense_weights(x, mask[:, None, :]) * real[:, :, None]
        total = tf.linalg.matvec(x, tf.reduce_sum(weights, 1) * real, transpose_a=True)
        mean = tf.math.divide_no_nan(total, tf.reduce_sum(real, 1, keepdims=True))
        return tf.linalg.matmul(mean, self.value)

    def _dense_weights(self, x: Tensor, seen: Tensor) -> Tensor:
        """x [B, T, d] -> [B, T, T]; keys that are not ``seen`` get 0."""
        once = tf.linalg.matmul(self.query * self.width**-0.5, self.key, transpose_b=True)
        scores = tf.linalg.matmul(tf.linalg.matmul(x, once), x, transpose_b=True)
        return tf.nn.softmax(scores + tf.where(seen, 0.0, MASKED))

    def states(self, history: Packed, lengths: Lengths) -> Tensor:
        """Causal: state k has seen behaviours 0..k. -> [R, d]."""
        groups = Groups.of(history, lengths)
        x = groups.pack(history.values)
        weights = self._weights(x, groups, causal=True)
        values = groups.split(x)
        found = [tf.linalg.matmul(w, v) for w, v in zip(weights, values, strict=True)]
        flat = tf.concat([tf.reshape(f, [-1, self.width]) for f in found], 0)
        return tf.linalg.matmul(groups.unpack(flat), self.value)

    def pooled(self, history: Packed, lengths: Lengths) -> Tensor:
        """Mean of the outputs over real positions (Eq. 3) -> [B, d]; 0 if none is.

        mean_i Σ_j P_ij x_j W_V = (Σ_j (Σ_i P_ij) x_j) W_V / n: the [R, d] output is never made.
        """
        groups = Groups.of(history, lengths)
        weights = self._weights(groups.pack(history.values), groups, causal=False)
        shares = []
        for w, mask in zip(weights, groups.masks, strict=True):
            real = tf.cast(mask, w.dtype)[:, :, None]
            shares.append(tf.reshape(tf.reduce_sum(w * real, 1), [-1, 1]))
        shares = groups.unpack(tf.concat(shares, 0))  # [R, 1]
        size = tf.size(lengths.sizes)
        total = segments.sums(shares * history.values, history.rows, size)
        mean = tf.math.divide_no_nan(total, tf.cast(lengths.sizes, total.dtype)[:, None])
        return tf.linalg.matmul(mean, self.value)
