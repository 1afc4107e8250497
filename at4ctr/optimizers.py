"""LazyAdam: Adam whose cost does not grow with the embedding tables."""

from __future__ import annotations

import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.errors import InputError


class LazyAdam(tf.keras.optimizers.Adam):
    """Adam (Kingma & Ba, ICLR 2015) that updates only the rows a sparse gradient names.

    For a row with gradient g at global step t (from 1):
        m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²,
        θ ← θ − lr · √(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v + ε).
    Duplicate ids are summed first. Dense gradients take ordinary Adam steps.

    Deviation from Adam: rows that are not named keep m, v and θ, where Adam (and TF1's
    AdamOptimizer) decays every row's moments and moves it; the bias correction uses the global
    step, as if every row had been named in every step. ε stands outside the corrected root
    (the paper's "epsilon hat"), as in Keras.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        name: str = "LazyAdam",
    ) -> None:
        # The base class's weight_decay=0 would still rewrite every table: only None is off.
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, weight_decay=None, jit_compile=False, name=name
        )

    def update_step(self, gradient: Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        correction = tf.sqrt(1 - tf.pow(self.beta_2, step)) / (1 - tf.pow(self.beta_1, step))
        rate = tf.cast(self.learning_rate, dtype) * correction
        index = self._index_dict[self._var_key(variable)]
        m, v = self._momentums[index], self._velocities[index]
        ids, g = gradient.indices, gradient.values
        m_rows = self.beta_1 * tf.gather(m, ids) + (1 - self.beta_1) * g
        v_rows = self.beta_2 * tf.gather(v, ids) + (1 - self.beta_2) * tf.square(g)
        m.scatter_update(tf.IndexedSlices(m_rows, ids))
        v.scatter_update(tf.IndexedSlices(v_rows, ids))
        change = rate * m_rows / (tf.sqrt(v_rows) + self.epsilon)
        variable.scatter_sub(tf.IndexedSlices(change, ids))


def build(name: str, learning_rate: float, decay_steps: int = 0) -> tf.keras.optimizers.Optimizer:
    """``lazy_adam``, or ``adam``: dense-equivalent, every row's moments decay at every step.

    decay_steps: 0 for a constant rate; otherwise it falls linearly to 0 over so many steps. At a
        constant rate the last step's noise is in the mean prediction (PCOC off by a tenth).
    """
    if decay_steps:
        learning_rate = tf.keras.optimizers.schedules.PolynomialDecay(
            learning_rate, decay_steps, end_learning_rate=0.0
        )
    if name == "lazy_adam":
        return LazyAdam(learning_rate)
    if name == "adam":
        return tf.keras.optimizers.Adam(
            learning_rate, epsilon=1e-8, weight_decay=None, jit_compile=False
        )
    raise InputError(f"fit.optimizer is {name!r}; expected lazy_adam or adam")
