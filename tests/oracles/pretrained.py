"""Vectors made elsewhere, one row at a time: cosines, hash codes, digits (Pan et al., Eq. 2, 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def similarity(user: np.ndarray, item: np.ndarray) -> float:
    """1 + cos; NaN where a vector is 0."""
    lengths = math.sqrt(sum(x * x for x in user)), math.sqrt(sum(x * x for x in item))
    if 0 in lengths:
        return math.nan
    return 1 + sum(a * b for a, b in zip(user, item, strict=True)) / (lengths[0] * lengths[1])


def signs(vector: np.ndarray, planes: np.ndarray) -> list[int]:
    """1 for each hyperplane that the vector lies above."""
    return [int(sum(a * b for a, b in zip(vector, plane, strict=True)) > 0) for plane in planes]


def digit_sum(n: int, lengths: Mapping[int, int], tables: Mapping[int, np.ndarray]) -> np.ndarray:
    """The vectors of n's digits in each base, summed."""
    found = np.zeros(next(iter(tables.values())).shape[1])
    for base, length in lengths.items():
        for k in range(length):
            found += tables[base][base * k + n // base**k % base]
    return found
