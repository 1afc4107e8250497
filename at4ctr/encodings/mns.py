"""MNS: the digits of a number in multiple numeral systems (Pan et al., KDD 2024, Eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import EncodingConfig, Numbers, Tensor
from at4ctr.errors import InputError
from at4ctr.layers.digits import Digits, special_rows

_NEGATIVE, _MISSING = 0, 1  # rows of the vectors beside the digits'


@dataclass(frozen=True)
class Config(EncodingConfig):
    """bases: of the numeral systems; HashIDs (`at4ctr.layers.hash_id`) have the same. bits: so many
    binary digits; every other system has as many digits as it needs for the same range.
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


class MultipleNumeralSystems(tf.Module):
    """f(x) = Σ_b Σ_k X_b[b·k + digit_k(n)] (Eq. 2), n = round(|x| / unit), b over ``bases``.

    The paper leaves open what is not a small whole number. Here the unit is 1 where all training
    values are whole and fit, and otherwise such that the largest of their magnitudes (the 99.9 %
    quantile) fills all binary digits but one. n beyond the range is its largest number. A negative
    x has the digits of |x| and one vector more in the sum. A missing x (NaN) has a vector of its
    own and no digits. x is float32, so n has at most 24 significant binary digits.
    """

    def __init__(self, config: Config, numbers: Numbers, dimension: int, seed: int) -> None:
        super().__init__(name="mns")
        unit = numbers.largest / 2 ** (config.bits - 1)
        self.unit = max(unit, 1.0) if numbers.whole else unit or 1.0
        self.digits = Digits(config.bases, config.bits, dimension, seed)
        self.special = special_rows(2, dimension, seed)

    def __call__(self, values: Tensor) -> Tensor:
        """[B] float32 -> [B, D]."""
        missing = tf.math.is_nan(values)
        known = tf.where(missing, tf.zeros_like(values), values)
        size = tf.minimum(tf.round(tf.abs(known) / self.unit), float(self.digits.top))
        total = tf.where(known < 0, 1.0, 0.0)[:, None] * self.special[_NEGATIVE]
        total += self.digits(size)
        return tf.where(missing[:, None], self.special[_MISSING], total)
