"""The similarity of pre-trained vectors (Pan et al., KDD 2024, Eq. 3)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.layers.quantized import Stored, gathered


class Similarity(tf.Module):
    """w(u, i) = 1 + cos(v_u, v_i), NaN where one of the two has no vector. Nothing of it learns.

    The paper's number is the cosine itself. One is added because the digits of an encoding order
    numbers of one sign alone.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, name: str) -> None:
        """users, items: [rows, W] float32 by model id, of length 1, or 0 where there is none."""
        super().__init__(name=name)
        self.users: tf.Variable | Stored = tf.Variable(users, trainable=False, name="user_vectors")
        self.items: tf.Variable | Stored = tf.Variable(items, trainable=False, name="item_vectors")

    def __call__(self, users: Tensor, items: Tensor) -> Tensor:
        """Ids [B] and [B] -> [B] float32."""
        u, i = gathered(self.users, users), gathered(self.items, items)
        known = tf.reduce_any(u != 0, -1) & tf.reduce_any(i != 0, -1)
        return tf.where(known, 1.0 + tf.reduce_sum(u * i, -1), float("nan"))
