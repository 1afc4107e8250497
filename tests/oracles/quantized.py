"""Quantised rows, one value after the other, in Python's own floats."""

from __future__ import annotations

import struct

import numpy as np

TINY = 2.0**-126  # the smallest normal float32


def int8_rows(table: np.ndarray) -> tuple[list[list[int]], list[float]]:
    """Codes and scales: each row's largest value becomes 127, ties go to the even code."""
    codes, scales = [], []
    for row in table:
        largest = max((abs(float(v)) for v in row), default=0.0)
        scale = max(single(largest / 127.0), TINY) if largest else 0.0
        codes.append([round(float(v) / scale) if scale else 0 for v in row])
        scales.append(scale)
    return codes, scales


def read(table: np.ndarray, columns: int) -> np.ndarray:
    """A table as a quantised model reads it: up to so many columns as half floats."""
    if table.shape[-1] <= columns:
        return np.array([[half(float(v)) for v in row] for row in table], np.float32)
    codes, scales = int8_rows(table)
    return (np.array(codes, np.float64) * np.array(scales)[:, None]).astype(np.float32)


def single(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def half(value: float) -> float:
    return float(struct.unpack("<e", struct.pack("<e", value))[0])
