"""Sums of learned vectors of a whole number's digits in several numeral systems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from at4ctr.contracts import Tensor

_SCALE = 0.05  # vectors start uniform within it


class Digits(tf.Module):
    """f(n) = Σ_b Σ_k X_b[b·k + digit_k(n)] (Pan et al., KDD 2024, Eq. 2), b over ``bases``.

    The paper has one table X for all systems, in which rows of two systems would coincide. Here
    each system has a table of its own. A system has as many digits as numbers of ``bits`` binary
    digits need. An n above 2^bits − 1 is taken as that number.
    """

    def __init__(self, bases: Sequence[int], bits: int, dimension: int, seed: int) -> None:
        super().__init__(name="digits")
        self.top = 2**bits - 1
        self.lengths = {b: math.ceil(bits * math.log(2, b) - 1e-9) for b in bases}
        self.tables = {
            f"base_{b}": tf.Variable(
                tf.random.stateless_uniform([b * n, dimension], [seed, b], -_SCALE, _SCALE),
                name=f"base_{b}",
            )
            for b, n in self.lengths.items()
        }

    def __call__(self, values: Tensor) -> Tensor:
        """[N] whole numbers of at least 0 -> [N, D]."""
        found = []
        for base, length in self.lengths.items():
            rows = codes(values, base, length) + base * tf.range(length)
            found.append(tf.reduce_sum(tf.gather(self.tables[f"base_{base}"], rows), 1))
        return tf.add_n(found)


def special_rows(count: int, dimension: int, seed: int) -> tf.Variable:
    """[count, D]: vectors of what has no digits, such as a missing number."""
    start = tf.random.stateless_uniform([count, dimension], [seed, 1], -_SCALE, _SCALE)
    return tf.Variable(start, name="special")


def codes(values: Any, base: int, length: int) -> Tensor:
    """The digits of whole numbers, least significant first.

    51 has the binary digits 1 1 0 0 1 1 and, in base 3 at length 6, 0 2 2 1 0 0. A number of more
    digits than ``length`` is taken as the largest one that fits, base^length − 1.

    Args:
        values: [N] whole numbers of at least 0.
        base: at least 2.
        length: digits.

    Returns:
        [N, length] int32 in [0, base).
    """
    rest = tf.cast(values, tf.int64)
    rest = tf.minimum(rest, min(base**length - 1, 2**63 - 1))
    digits = []
    for _ in range(length):
        digits.append(rest % base)
        rest //= base
    return tf.cast(tf.stack(digits, -1), tf.int32)
