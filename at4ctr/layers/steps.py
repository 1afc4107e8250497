"""Histories step by step: the order that recurrences run in."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from at4ctr.contracts import Packed, Tensor
from at4ctr.layers.shape import scatter


class Steps(NamedTuple):
    """Packed behaviours in time-major order, longer histories first within a step.

    The samples that live at step t are then the first n_t of those that lived at t − 1, and their
    states the first n_t rows (as of PyTorch's pack_padded_sequence). S steps, R real positions.
    """

    order: Tensor  # [R] int32: position i of this order is position order[i] of the packed one
    rows: Tensor  # [R] int32: which sample
    positions: Tensor  # [R] int32: which step; non-decreasing
    counts: Tensor  # [S] int32: n_t, non-increasing; [0] without any behaviour
    size: Tensor  # []: B

    @classmethod
    def of(cls, history: Packed, size: Tensor) -> Steps:
        """history: left-aligned. size: B."""
        _, rows, positions = history
        lengths = tf.math.unsorted_segment_sum(tf.ones_like(rows), rows, size)
        rank = tf.math.invert_permutation(tf.argsort(lengths, direction="DESCENDING", stable=True))
        longest = tf.reduce_max(tf.concat([lengths, [1]], 0))
        counts = tf.math.unsorted_segment_sum(tf.ones_like(rows), positions, longest)
        starts = tf.cumsum(counts, exclusive=True)
        order = tf.math.invert_permutation(tf.gather(starts, positions) + tf.gather(rank, rows))
        return cls(order, tf.gather(rows, order), tf.gather(positions, order), counts, size)

    def pack(self, values: Tensor) -> Tensor:
        """From the packed order to this one. [R, ...]."""
        return tf.gather(values, self.order)

    def unpack(self, values: Tensor) -> Tensor:
        """From this order to the packed one. [R, ...]."""
        return tf.gather(values, tf.math.invert_permutation(self.order))

    def dense(self, values: Tensor, steps: Tensor) -> Tensor:
        """values [R, W] in this order -> [B, steps, W], 0 where padded."""
        return scatter(values, tf.stack([self.rows, self.positions], 1), self.size, steps)

    def final(self, values: Tensor) -> Tensor:
        """Each sample's last row of values [R, W] in this order -> [B, W]; 0 without one."""
        starts = tf.gather(tf.cumsum(self.counts, exclusive=True), self.positions)
        rank = tf.range(tf.size(self.rows)) - starts
        living = tf.gather(self.counts - self.ends(), self.positions)
        last = tf.where(rank >= living)[:, 0]
        rows = tf.gather(self.rows, last)
        return tf.math.unsorted_segment_sum(tf.gather(values, last), rows, self.size)

    def ends(self) -> Tensor:
        """Samples whose last step is t. [S]."""
        return self.counts - tf.concat([self.counts[1:], [0]], 0)
