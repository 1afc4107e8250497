"""Rows of tables in fewer bytes, made float32 again after they are gathered."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.errors import InputError

LEVELS = 127  # the largest code; -128 is not used, so that a row and its negative have equal errors
LEAST_SCALE = float(np.finfo(np.float32).tiny)  # smaller numbers are 0 in TensorFlow's kernels
LARGEST_HALF = float(np.finfo(np.float16).max)
BLOCK = 1 << 16  # rows quantised at a time

Floats = npt.NDArray[np.float32]


class Int8Rows(tf.Module):
    """row = scale · codes, with codes in [-127, 127] and one float32 scale a row.

    scale = max|row| / 127, so that no value moves by more than scale / 2. A row of zeros stays
    zeros.
    """

    stored = "int8 rows"

    def __init__(self, table: Floats) -> None:
        """table: [R, D]."""
        super().__init__(name="int8_rows")
        codes, scales = int8_rows(table)
        self.codes = tf.Variable(codes, trainable=False, name="codes")
        self.scales = tf.Variable(scales, trainable=False, name="scales")

    def __call__(self, ids: Tensor) -> Tensor:
        """[...] ids -> [..., D] float32."""
        codes = tf.cast(tf.gather(self.codes, ids), tf.float32)
        return codes * tf.gather(self.scales, ids)[..., None]

    def rows(self, begin: int, end: int) -> Floats:
        """[end - begin, D] float32, as they are read."""
        codes = self.codes[begin:end].numpy().astype(np.float32)
        found: Floats = codes * self.scales[begin:end].numpy()[:, None]
        return found

    def bound(self) -> float:
        """By how much a value may differ from the table's: half of the largest scale."""
        scales = self.scales.numpy()
        return float(scales.max()) / 2 if scales.size else 0.0


class Halves(tf.Module):
    """Values as half floats: 11 significant bits, so that a value moves by at most 2⁻¹¹ of its
    size, or by 2⁻²⁵ below 2⁻¹⁴."""

    stored = "half floats"

    def __init__(self, table: Floats) -> None:
        """table: [R, D]. Raises InputError for a value beyond ±65,504."""
        super().__init__(name="halves")
        self.values = tf.Variable(halves(table), trainable=False, name="values")

    def __call__(self, ids: Tensor) -> Tensor:
        """[...] ids -> [..., D] float32."""
        return tf.cast(tf.gather(self.values, ids), tf.float32)

    def rows(self, begin: int, end: int) -> Floats:
        """[end - begin, D] float32, as they are read."""
        found: Floats = self.values[begin:end].numpy().astype(np.float32)
        return found

    def bound(self) -> float:
        """By how much a value may differ from the table's: by that of the largest one."""
        values = np.abs(self.values.numpy())
        largest = float(values.max()) if values.size else 0.0
        return max(largest * 2.0**-11, 2.0**-25)


Stored = Int8Rows | Halves


def gathered(table: tf.Variable | Stored, ids: Tensor) -> Tensor:
    """Rows of a table, whichever way it is stored: [...] -> [..., D] float32."""
    return table(ids) if isinstance(table, Int8Rows | Halves) else tf.gather(table, ids)


def int8_rows(table: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Codes [R, D] and scales [R] of a table [R, D]: codes = round(row / scale).

    scale = max|row| / 127, at least the smallest normal float32, and 0 of a row of zeros. A code
    that lies between two whole numbers is the even one.

    Raises InputError for a value that is not finite.
    """
    codes = np.empty(table.shape, np.int8)
    scales = np.zeros(len(table), np.float32)
    for begin, rows in _blocks(table):
        largest = np.abs(rows).max(-1, initial=0.0)
        scale = np.maximum(largest / np.float32(LEVELS), np.float32(LEAST_SCALE))
        codes[begin : begin + len(rows)] = np.rint(rows.astype(np.float64) / scale[:, None])
        scales[begin : begin + len(rows)] = np.where(largest > 0, scale, 0)
    return codes, scales


def halves(table: Floats) -> npt.NDArray[np.float16]:
    """The nearest half float of each value.

    Raises InputError for a value that is not finite or lies beyond ±65,504.
    """
    values = np.empty(table.shape, np.float16)
    for begin, rows in _blocks(table):
        largest = float(np.abs(rows).max(initial=0.0))
        if largest > LARGEST_HALF:
            raise InputError(
                f"a table holds a value of size {largest:.6g}; expected at most "
                f"{LARGEST_HALF:,.0f}, the largest half float; set export.quantize=none"
            )
        values[begin : begin + len(rows)] = rows
    return values


def _blocks(table: Floats) -> Iterator[tuple[int, Floats]]:
    """Some rows at a time and where they begin. Refuses what is not finite."""
    for begin in range(0, len(table), BLOCK):
        rows = table[begin : begin + BLOCK]
        if not np.isfinite(rows).all():
            raise InputError(
                "a table holds a value that is not finite; expected finite numbers; train the "
                "model again with a smaller learning rate"
            )
        yield begin, rows
