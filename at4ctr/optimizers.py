"""Optimizers whose cost does not grow with the embedding tables: LazyAdam, row-wise Adagrad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from at4ctr.contracts import TABLE, Tensor
from at4ctr.errors import InputError
from at4ctr.gradients import Gradient, summed
from at4ctr.schedules import Schedule

# Keras starts at 2¹⁵, where the gradients of a loss at temperature 0.02 overflow for many steps.
FIRST_SCALE = 2.0**10
NAMES = ("lazy_adam", "rowwise_adagrad", "adam")


class LazyAdam(tf.keras.optimizers.Adam):
    """Adam (Kingma & Ba, ICLR 2015) that updates only the rows a sparse gradient names.

    For a row with gradient g at global step t (from 1):
        m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²,
        θ ← θ − lr · √(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v + ε).
    Duplicate ids are summed first; those that ``tf.unique`` gave are known to have none. Dense
    gradients take ordinary Adam steps.

    Deviation from Adam: rows that are not named keep m, v and θ, where Adam (and TF1's
    AdamOptimizer) decays every row's moments and moves it; the bias correction uses the global
    step, as if every row had been named in every step. ε stands outside the corrected root
    (the paper's "epsilon hat"), as in Keras.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        name: str = "LazyAdam",
        table_rate: float = 1.0,
    ) -> None:
        """table_rate: the rate of embedding tables' rows over that of all else."""
        # The base class's weight_decay=0 would still rewrite every table: only None is off.
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, weight_decay=None, jit_compile=False, name=name
        )
        self.table_rate = table_rate

    def _rate_of(self, variable: tf.Variable) -> Tensor:
        rate = tf.cast(self.learning_rate, variable.dtype)
        own = self.table_rate != 1.0 and variable.name.startswith(TABLE)
        return rate * self.table_rate if own else rate

    def update_step(self, gradient: Gradient, variable: tf.Variable) -> None:
        index = self._index_dict[self._var_key(variable)]
        m, v = self._momentums[index], self._velocities[index]
        if isinstance(gradient, tf.IndexedSlices):
            self._update_rows(gradient, variable, m, v)
            return
        rate, step = self._rate_of(variable), tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(  # one kernel a variable, where Keras takes ten
            var=variable.handle,
            m=m.handle,
            v=v.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    def _update_rows(
        self, gradient: tf.IndexedSlices, variable: tf.Variable, m: tf.Variable, v: tf.Variable
    ) -> None:
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        correction = tf.sqrt(1 - tf.pow(self.beta_2, step)) / (1 - tf.pow(self.beta_1, step))
        rate = self._rate_of(variable) * correction
        ids, g = gradient.indices, gradient.values
        m_rows = self.beta_1 * tf.gather(m, ids) + (1 - self.beta_1) * g
        v_rows = self.beta_2 * tf.gather(v, ids) + (1 - self.beta_2) * tf.square(g)
        m.scatter_update(tf.IndexedSlices(m_rows, ids))
        v.scatter_update(tf.IndexedSlices(v_rows, ids))
        change = rate * m_rows / (tf.sqrt(v_rows) + self.epsilon)
        # Whole rows are written in a third of the time that scatter_sub takes, to the same bits.
        rows = tf.gather(variable, ids) - change
        variable.scatter_update(tf.IndexedSlices(rows, ids))

    def _deduplicate_sparse_grad(self, grads: Sequence[Gradient]) -> list[Gradient]:
        return [summed(g) for g in grads]


class RowwiseAdagrad(LazyAdam):
    """Adagrad with one accumulator a row for embedding tables, and Adam for all else.

    For a table's row θ [D] with the gradient g [D]:
        a ← a + (1/D) Σ_d g_d²,  θ ← θ − r lr · g / (√a + ε),  r = ``table_rate``, a [1] from 0.
    It is FBGEMM's exact row-wise Adagrad, which TorchRec trains with. A row without a gradient
    keeps θ and a. A table is a variable whose name begins with `contracts.TABLE`. It has N values
    of state for N rows, where Adam has 2 N D.
    """

    def __init__(
        self, learning_rate: Any = 1e-3, table_rate: float = 1.0, epsilon: float = 1e-8
    ) -> None:
        super().__init__(
            learning_rate, epsilon=epsilon, name="RowwiseAdagrad", table_rate=table_rate
        )

    def add_variable_from_reference(
        self, model_variable: tf.Variable, variable_name: str, shape: Any = None, **more: Any
    ) -> tf.Variable:
        """Of a table, ``m`` is its accumulator [N]; ``v``, which nothing reads, is one value."""
        if model_variable.name.startswith(TABLE):
            shape = model_variable.shape[:1] if variable_name == "m" else [1]
        return super().add_variable_from_reference(model_variable, variable_name, shape, **more)

    def update_step(self, gradient: Gradient, variable: tf.Variable) -> None:
        if not variable.name.startswith(TABLE):
            super().update_step(gradient, variable)
            return
        sums = self._momentums[self._index_dict[self._var_key(variable)]]
        rate = self._rate_of(variable)
        if not isinstance(gradient, tf.IndexedSlices):
            sums.assign_add(tf.reduce_mean(tf.square(gradient), -1))
            variable.assign_sub(rate * gradient / (tf.sqrt(sums) + self.epsilon)[:, None])
            return
        ids, g = gradient.indices, gradient.values
        total = tf.gather(sums, ids) + tf.reduce_mean(tf.square(g), -1)
        sums.scatter_update(tf.IndexedSlices(total, ids))
        change = rate * g / (tf.sqrt(total) + self.epsilon)[:, None]
        variable.scatter_update(tf.IndexedSlices(tf.gather(variable, ids) - change, ids))


def build(
    name: str,
    learning_rate: float | Schedule,
    *,
    table_rate: float = 0.0,
    scale_loss: bool = False,
) -> tf.keras.optimizers.Optimizer:
    """The optimizer ``lazy_adam``, ``rowwise_adagrad``, or ``adam``, which decays the moments of
    every table row in every step.

    learning_rate: a number or a schedule. At a constant rate the last steps' noise stays in the
        mean prediction (PCOC off by a tenth).
    table_rate: of embedding tables; 0 for ``learning_rate``. A schedule scales both alike.
    scale_loss: for float16, which would lose small gradients: Keras's ``LossScaleOptimizer``, whose
        scale is in the checkpoint. The caller scales the loss and unscales the gradients with it; a
        step whose gradients are not finite is left out and halves the scale.
    """
    peak = learning_rate.peak if isinstance(learning_rate, Schedule) else learning_rate
    ratio = table_rate / peak if table_rate else 1.0
    if name == "lazy_adam":
        made = LazyAdam(learning_rate, table_rate=ratio)
    elif name == "rowwise_adagrad":
        made = RowwiseAdagrad(learning_rate, ratio)
    elif name == "adam" and ratio != 1.0:
        raise InputError(
            f"fit.table_rate is {table_rate} and fit.optimizer is adam, which has one rate; "
            "expected lazy_adam or rowwise_adagrad; set fit.table_rate=0"
        )
    elif name == "adam":
        made = tf.keras.optimizers.Adam(
            learning_rate, epsilon=1e-8, weight_decay=None, jit_compile=False
        )
    else:
        raise InputError(f"fit.optimizer is {name!r}; expected one of {', '.join(NAMES)}")
    if not scale_loss:
        return made
    return tf.keras.mixed_precision.LossScaleOptimizer(made, initial_scale=FIRST_SCALE)
