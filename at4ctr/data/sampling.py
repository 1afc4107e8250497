"""A keyed uniform number for each impression, the same in SQL and numpy; negative sampling by it.

An impression's stable words (raw keys, time, ordinal) are combined by a random linear form modulo
p = 2^31 - 1 and then mixed by a random cubic polynomial modulo p, whose four coefficients come
from the seed: values of any four different forms are independent (Carter & Wegman 1979). All
intermediate values stay below 2^62, so 64-bit integers of every SQL engine compute it exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from at4ctr.errors import InputError
from at4ctr.schema import Label

PRIME = 2**31 - 1


def coefficient(seed: int | str, role: str, number: int) -> int:
    """One of the hash's constants, 1 .. p-1."""
    digest = hashlib.sha256(f"{seed}/{role}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (PRIME - 1) + 1


def reduced_sql(word: str) -> str:
    """SQL of a BIGINT of any size and sign modulo p, 0 .. p-1."""
    return f"((CAST({word} AS BIGINT) % {PRIME} + {PRIME}) % {PRIME})"


def linear_sql(words: Sequence[str], seed: int | str, below: int = 0) -> str:
    """SQL of Σ c_j · w_j mod p over BIGINT words.

    below: what the words, none negative, are known to be smaller than, which saves divisions; 0
        for words of any size and sign.
    """
    words = [f"CAST({word} AS BIGINT)" if below else reduced_sql(word) for word in words]
    terms = [f"{coefficient(seed, 'linear', j)} * {word}" for j, word in enumerate(words)]
    if not 0 < below * PRIME * len(words) < 2**63:
        terms = [f"({term}) % {PRIME}" for term in terms]
    return f"(({' + '.join(terms)}) % {PRIME})"


def mix_sql(form: str, seed: int | str) -> str:
    """SQL of the cubic polynomial of a linear form in 0 .. p-1, by Horner's rule."""
    value = f"CAST({coefficient(seed, 'cubic', 3)} AS BIGINT)"
    for degree in (2, 1, 0):
        value = f"(({value} * ({form}) + {coefficient(seed, 'cubic', degree)}) % {PRIME})"
    return value


def uniform31_sql(words: Sequence[str], seed: int | str, below: int = 0) -> str:
    """SQL of `uniform31`; words and `below` as in `linear_sql`."""
    return mix_sql(linear_sql(words, seed, below), seed)


def uniform31(words: Sequence[np.ndarray], seed: int | str) -> np.ndarray:
    """Keyed uniform numbers, int64 in 0 .. 2^31-2.

    words: integer arrays that broadcast together; together they name an impression.
    """
    form = np.zeros((), np.int64)
    for j, word in enumerate(words):
        reduced = np.asarray(word, np.int64) % PRIME
        form = (form + coefficient(seed, "linear", j) * reduced % PRIME) % PRIME
    value = np.full_like(form, coefficient(seed, "cubic", 3))
    for degree in (2, 1, 0):
        value = (value * form + coefficient(seed, "cubic", degree)) % PRIME
    return value


def keep(labels: np.ndarray, u31: np.ndarray, w: float) -> np.ndarray:
    """Which rows Bernoulli down-sampling of negatives keeps: positives, and u31 < ⌊w · p⌋.

    w: rate in (0, 1]; 1 keeps every row. The rows kept at a rate are kept at every higher one.
    """
    demand_rate(w)
    return (np.asarray(labels) > 0) | (np.asarray(u31) < math.floor(w * PRIME))


def sampled_label(labels: Sequence[Label], w: float, where: str = "") -> str:
    """The column of the label whose negatives are kept at the rate w < 1.

    A row is kept or left out as a whole, so every other label must be known within that one: it is
    then known in kept rows alone, and its probability is not changed.
    Raises InputError where a label could not be corrected.
    """
    sampled = [label for label in labels if label.sampled]
    found = ""
    if not sampled:
        found = "no label is sampled"
    elif sampled[0].within is not None:
        found = f"the sampled label {sampled[0].name!r} is known within {sampled[0].within!r}"
    else:
        inside = {sampled[0].name}
        for label in labels:
            if label.name not in inside and label.within not in inside:
                found = f"label {label.name!r} is not known within {sampled[0].name!r} alone"
                break
            inside.add(label.name)
    if found:
        raise InputError(
            f"{where}{': ' if where else ''}negative_rate is {w} and {found}; expected a sampled "
            "label known in every row and all others within it, as nothing else can be corrected; "
            "set data.negative_rate=1, or sampled and within in the schema"
        )
    return sampled[0].column


def demand_rate(w: float, where: str = "") -> None:
    """Raises InputError unless w, the share of negatives kept, is in (0, 1]; NaN is not.

    where: what has the rate, for the error.
    """
    if not 0 < w <= 1:
        raise InputError(
            f"{where}{': ' if where else ''}negative_rate is {w}; expected 0 < w <= 1, the share "
            "of negatives to keep; set data.negative_rate=1 to keep all"
        )
