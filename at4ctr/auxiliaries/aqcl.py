"""AQCL (Pan et al.): contrast with augmented views and, for users of few behaviours, codewords."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import Monitored, Tensor, View
from at4ctr.errors import InputError
from at4ctr.layers.replicas import summed
from at4ctr.layers.shape import Shape
from at4ctr.layers.views import Augmentation, ProjectedViews
from at4ctr.losses import codebook_learning, quantisation_share, quantised_contrast, sinkhorn
from at4ctr.schema import BEHAVIOURS, Schema


@dataclass(frozen=True)
class Config(Augmentation):
    """weight: λ; the paper tries 0.01, 0.05 and 0.1. codewords: T. nearest: K. cluster_temperature,
    codebook_temperature: τ₂, τ₃. epsilon, iterations: of the Sinkhorn assignment; the paper gives
    neither, and these are SwAV's. w1, w2: of α = exp(−w₁ (L/L̄)^w₂); the paper searches them on
    validation.
    """

    codewords: int = 128
    nearest: int = 5
    cluster_temperature: float = 0.1
    codebook_temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    w1: float = 1.0
    w2: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cluster_temperature", "codebook_temperature", "epsilon", "w1", "w2"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"aqcl.{name} is {value}; expected a finite number above 0")
        if not 1 <= self.nearest <= self.codewords:
            raise InputError(
                f"aqcl.nearest is {self.nearest}; expected 1 to aqcl.codewords={self.codewords}"
            )
        if self.iterations < 1:
            raise InputError(f"aqcl.iterations is {self.iterations}; expected at least 1")

    def demand_rows(self, rows: int) -> None:
        if rows < self.codewords:
            raise InputError(
                f"aqcl.codewords is {self.codewords} and a step has {rows} rows on each device, "
                f"too few to assign one to every codeword; expected at most {rows} codewords; set "
                f"auxiliaries.aqcl.codewords={rows} or a larger fit.batch_size"
            )

    def build(self, schema: Schema, shape: Shape, seed: int) -> QuantisedContrast:
        del schema
        return QuantisedContrast(self, shape, seed)


class QuantisedContrast(tf.Module):
    """L_AQCL of ``losses.quantised_contrast`` (Eq. 3), and a codebook that Eq. 5 alone learns.

    z and z' come from ``layers.views.ProjectedViews``. α = exp(−w₁ (L/L̄)^w₂) (Eq. 6), L the
    number of behaviours before the row, however few of them the model sees, and L̄ its mean over
    the training rows. (The paper's L̄ is over users.) The codeword that Eq. 5 pulls towards z_b is
    the argmax of row b of ``losses.sinkhorn`` on cos(z, q).

    The value of the loss is Eq. 3 alone, as in Eq. 8. The codebook's gradient in the total loss is
    that of Eq. 5 with weight 1, whatever λ is; no other variable has a gradient from Eq. 5, and the
    codebook has none from Eq. 3. Both read codewords by their directions, so that a codeword's
    length changes no loss; it is normalised where it is used and not written back. The gradient is
    orthogonal to the codeword, which therefore never shrinks but by the optimizer's momentum.

    Monitors: ``codebook``, Eq. 5, which stays at ln T where all codewords are alike; ``usage``, the
    share of the codewords to which Sinkhorn assigns a row of the batch; ``entropy``, that of the
    counts of each row's nearest codeword over ln T, 1 if all are nearest equally often and 0 if a
    single one is. Of several replicas, each assigns its own rows; counts and the codebook's
    gradients are summed, and nothing is kept between steps.
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="aqcl")
        self.config = config
        self.views = ProjectedViews(config, shape, seed)
        self.mean_behaviours = shape.mean_behaviours()
        start = tf.random.stateless_normal([config.codewords, config.units[-1]], [seed, 100])
        self.codebook = tf.Variable(tf.math.l2_normalize(start, -1), name="codebook")

    def loss(self, view: View) -> Monitored:
        c, (z, augmented) = self.config, self.views(view)
        codebook = tf.convert_to_tensor(self.codebook)
        alpha = quantisation_share(view.batch[BEHAVIOURS], self.mean_behaviours, c.w1, c.w2)
        contrast = quantised_contrast(
            z, augmented, codebook, alpha, c.nearest, c.temperature, c.cluster_temperature
        )
        units = (tf.math.l2_normalize(tf.stop_gradient(x), -1) for x in (z, codebook))
        scores = tf.linalg.matmul(*units, transpose_b=True)
        assigned = tf.argmax(sinkhorn(scores, c.epsilon, c.iterations), 1)
        learning = codebook_learning(z, codebook, assigned, c.codebook_temperature)
        value = tf.stop_gradient(learning)
        monitors = {
            "codebook": value,
            "usage": tf.reduce_mean(tf.cast(self._counts(assigned) > 0, tf.float32)),
            "entropy": self._entropy(self._counts(tf.argmax(scores, 1))),
        }
        return Monitored(contrast + (learning - value) / c.weight, monitors)

    def _counts(self, codewords: Tensor) -> Tensor:
        """How many rows [B] name each codeword, over all replicas. [T]."""
        ones = tf.ones_like(codewords, tf.float32)
        (counts,) = summed(tf.math.unsorted_segment_sum(ones, codewords, self.config.codewords))
        return counts

    def _entropy(self, counts: Tensor) -> Tensor:
        """That of the shares of counts [T], over ln T."""
        shares = tf.math.divide_no_nan(counts, tf.reduce_sum(counts))
        nats = -tf.reduce_sum(tf.math.xlogy(shares, shares))
        return tf.math.divide_no_nan(nats, math.log(self.config.codewords))
