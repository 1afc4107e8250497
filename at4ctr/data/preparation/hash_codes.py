"""Hash codes of vectors by random hyperplanes (Charikar, STOC 2002)."""

from __future__ import annotations

import numpy as np

SEED = 20240825  # of the hyperplanes; one for all logs, so that equal vectors have equal codes
NONE = -1  # the code of a vector of zeros
ROWS = 2**16  # at once


def hash_codes(vectors: np.ndarray, bits: int) -> np.ndarray:
    """Bit k of a vector v is 1 where v·h_k > 0; the h_k are standard normal, through the origin.

    Two vectors at the angle θ differ in a bit with probability θ / π. Bits depend on the width of
    the vectors and on nothing else, and the first bits of a longer code are those of a shorter one.

    Args:
        vectors: [N, W] finite.
        bits: 1 to 62.

    Returns:
        [N] int64 in [0, 2^bits), the bit k being worth 2^k; `NONE` for a vector of zeros.
    """
    planes = np.random.Generator(np.random.PCG64(SEED)).standard_normal((bits, vectors.shape[1]))
    found = np.full(len(vectors), NONE, np.int64)
    for first in range(0, len(vectors), ROWS):
        some = vectors[first : first + ROWS].astype(np.float64)
        made = np.zeros(len(some), np.int64)
        for k, plane in enumerate(planes):
            # A product of matrices would give equal rows sums that differ in the last bit.
            made |= ((some * plane).sum(1) > 0).astype(np.int64) << k
        known = some.any(axis=1)
        found[first : first + ROWS][known] = made[known]
    return found
