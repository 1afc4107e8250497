"""MNS: multiple numeral systems (Pan et al., KDD 2024, Eq. 2), one table of digits per system."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from at4ctr.contracts import EncodingConfig, Numbers, Tensor
from at4ctr.errors import InputError

_NEGATIVE, _MISSING = 0, 1  # rows of the table beside the digits'


@dataclass(frozen=True)
class Config(EncodingConfig):
    """bases: of the numeral systems. bits: so many binary digits; every other system has as many
    digits as it needs for the same range.
    """

    bases: tuple[int, ...] = (2, 3, 10)
    bits: int = 16

    def __post_init__(self) -> None:
        if not self.bases or min(self.bases) < 2 or len(set(self.bases)) < len(self.bases):
            raise InputError(
                f"mns.bases are {self.bases}; expected different whole numbers of at least 2"
            )
        if not 1 <= self.bits <= 30:
            raise InputError(f"mns.bits is {self.bits}; expected 1 to 30")

    def build(self, numbers: Numbers, dimension: int, seed: int) -> MultipleNumeralSystems:
        return MultipleNumeralSystems(self, numbers, dimension, seed)


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


class MultipleNumeralSystems(tf.Module):
    """f(x) = Σ_b Σ_k X_b[b·k + digit_k(n)] (Eq. 2), n = round(|x| / unit), b over ``bases``.

    The paper leaves open what is not a small whole number. Here the unit is 1 where all training
    values are whole and fit, and otherwise such that the largest of their magnitudes (the 99.9 %
    quantile) fills all binary digits but one. n beyond the range is its largest number. A negative
    x has one vector more in the sum. A missing x (NaN) has a vector of its own and no digits.
    """

    def __init__(self, config: Config, numbers: Numbers, dimension: int, seed: int) -> None:
        super().__init__(name="mns")
        self.top = 2**config.bits - 1
        lengths = {b: math.ceil(config.bits * math.log(2, b) - 1e-9) for b in config.bases}
        self.lengths = lengths
        unit = numbers.largest / 2 ** (config.bits - 1)
        self.unit = max(unit, 1.0) if numbers.whole else unit or 1.0
        scale = 0.05
        self.tables = {
            f"base_{b}": tf.Variable(
                tf.random.stateless_uniform([b * n, dimension], [seed, b], -scale, scale),
                name=f"base_{b}",
            )
            for b, n in lengths.items()
        }
        start = tf.random.stateless_uniform([2, dimension], [seed, 1], -scale, scale)
        self.special = tf.Variable(start, name="special")

    def __call__(self, values: Tensor) -> Tensor:
        """[B] float32 -> [B, D]."""
        missing = tf.math.is_nan(values)
        known = tf.where(missing, tf.zeros_like(values), values)
        size = tf.minimum(tf.round(tf.abs(known) / self.unit), float(self.top))
        total = tf.where(known < 0, 1.0, 0.0)[:, None] * self.special[_NEGATIVE]
        for base, length in self.lengths.items():
            rows = codes(size, base, length) + base * tf.range(length)
            total += tf.reduce_sum(tf.gather(self.tables[f"base_{base}"], rows), 1)
        return tf.where(missing[:, None], self.special[_MISSING], total)
