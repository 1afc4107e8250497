"""HashID (Pan et al., KDD 2024, §3.1.2): ids by the locality-sensitive hash of a vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.layers.digits import Digits, special_rows


class HashID(tf.Module):
    """f(id) = Σ_b Σ_k X_b[b·k + digit_k(c(id))] (Eq. 2), c(id) the hash code of the id's vector.

    Ids whose vectors point the same way share binary digits, and so learn from each other. Only
    the binary system keeps the Hamming distance of two codes; the digits of the others tell codes
    apart. An id without a code (-1) has a vector of its own. Codes do not learn.
    """

    def __init__(
        self, codes: np.ndarray, bits: int, bases: Sequence[int], dimension: int, seed: int
    ) -> None:
        """codes: [rows] int64 of `at4ctr.data.preparation.hash_codes`, below 2^bits."""
        super().__init__(name="hash_id")
        self.codes = tf.Variable(codes, trainable=False, name="hash_codes")
        self.digits = Digits(bases, bits, dimension, seed)
        self.special = special_rows(1, dimension, seed)

    def __call__(self, ids: Tensor) -> Tensor:
        """[N] -> [N, D]."""
        found = tf.gather(self.codes, ids)
        vectors = self.digits(tf.maximum(found, 0))
        return tf.where(found[:, None] < 0, self.special, vectors)
