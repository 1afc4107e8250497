"""Pairs of a row and a behaviour of its user, where the rows of a request share one history."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from at4ctr.contracts import Embedded, Packed, Tensor
from at4ctr.layers.segments import sums
from at4ctr.layers.shape import lengths


class Pairs(NamedTuple):
    """The P pairs of B rows and what is packed of H users, R in all; row after row."""

    rows: Tensor  # [P] int32, non-decreasing: whose pair it is
    positions: Tensor  # [P] int32: the position in the user's history
    index: Tensor  # [P] int32: which of the R
    starts: Tensor  # [B] int32: each row's first pair
    owner: Tensor  # [B] int32: each row's user
    users: Tensor  # []: H

    @classmethod
    def of(cls, sizes: Tensor, owner: Tensor) -> Pairs:
        """sizes [H]: how many of the R belong to each user. owner [B]."""
        own = tf.gather(sizes, owner)
        starts = tf.cumsum(own, exclusive=True)
        rows = tf.repeat(tf.range(tf.size(owner)), own)
        positions = tf.range(tf.size(rows)) - tf.gather(starts, rows)
        begins = tf.gather(tf.cumsum(sizes, exclusive=True), owner)
        index = tf.gather(begins, rows) + positions
        return cls(rows, positions, index, starts, owner, tf.size(sizes))

    def copy(self, values: Tensor, *, training: bool) -> Tensor:
        """values [R, W] -> [P, W], those of each pair.

        In training the rows of one user stand side by side, and the gradient is a sum over sorted
        rows.
        """
        if not training:  # a SavedModel takes no gradient of ours
            return tf.gather(values, self.index)

        @tf.custom_gradient
        def copied(values: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            size = tf.shape(values)[0]

            def gradient(up: Tensor) -> Tensor:
                order = self._sorted()
                return sums(tf.gather(up, order), tf.gather(self.index, order), size)

            return tf.gather(values, self.index), gradient

        return copied(values)

    def _sorted(self) -> Tensor:
        """The pairs in the order of ``index``. [P]."""
        ones = tf.ones_like(self.owner)
        counts = tf.math.unsorted_segment_sum(ones, self.owner, self.users)
        firsts = tf.gather(tf.cumsum(counts, exclusive=True), self.owner)  # the user's first row
        number = tf.range(tf.size(self.owner)) - firsts  # of a row among those of its user
        # A user's pairs fill the same places in both orders.
        place = tf.gather(tf.gather(self.starts, firsts) + number, self.rows)
        place += self.positions * tf.gather(tf.gather(counts, self.owner), self.rows)
        return tf.math.invert_permutation(place)


def shared_pairs(x: Embedded) -> Pairs | None:
    """The pairs of rows that share users; None where each row has its own user, or all have one."""
    return None if x.owner is None or x.one_user else Pairs.of(lengths(x), x.owner)


def by_row(x: Embedded, *, training: bool) -> Packed:
    """The behaviours of each row's user, row after row; those of the one user where H is 1."""
    pairs = shared_pairs(x)
    if pairs is None:
        return x.packed
    values = pairs.copy(x.packed.values, training=training)
    return Packed(values, pairs.rows, pairs.positions)
