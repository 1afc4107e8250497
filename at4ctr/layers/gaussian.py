"""A Gaussian process by random Fourier features, with the Laplace approximation of its posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.layers.towers import Logit

TINY = 1e-6  # below the mean square of any input that says something


class Fourier(tf.Module):
    """φ(x) = √(2/M) cos(W x̂/ℓ + u), W ~ N(0, 1), u ~ U[0, 2π), neither trained. x [..., I].

    x̂ is x less its mean over the I values and divided by its length, so that ‖x̂‖ is 1; a constant
    x gives 0. φ(x)ᵀφ(y) tends to exp(−‖x̂ − ŷ‖² / 2ℓ²) as M grows (Rahimi & Recht, NIPS 2007).
    """

    def __init__(self, width: int, number: int, length: float, seed: int, name: str) -> None:
        """width: I. number: M. length: ℓ."""
        super().__init__(name=name)
        kernel = tf.random.stateless_normal([width, number], (seed, 0)) / length
        phase = tf.random.stateless_uniform([number], (seed, 1), 0.0, 2 * math.pi)
        self.kernel = tf.Variable(kernel, trainable=False, name="kernel")
        self.phase = tf.Variable(phase, trainable=False, name="phase")
        self.scale = math.sqrt(2.0 / number)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., M], a squared length of about 1."""
        x -= tf.reduce_mean(x, -1, keepdims=True)
        square = tf.reduce_mean(tf.square(x), -1, keepdims=True)
        x *= tf.math.rsqrt(square + TINY) / math.sqrt(x.shape[-1])
        return self.scale * tf.cos(tf.linalg.matmul(x, self.kernel) + self.phase)


class GaussianProcess(tf.Module):
    """f = Σ_j f_j(x_j) + b, f_j a Gaussian process of its own input: f = βᵀφ + b,
    φ = [φ_1(x_1), …, φ_J(x_J)]/√J, a priori β ~ N(0, I/ridge). So f has the prior variance 1/ridge.

    The posterior covariance of β is Λ⁻¹, Λ = ridge·I + Σ_i w_i p_i (1 − p_i) φ_i φ_iᵀ over the
    training rows, p = σ(f) (SNGP, Liu et al., NeurIPS 2020, Eq. 9). With Λ = L Lᵀ the standard
    deviation of f is √(φᵀ Λ⁻¹ φ) = ‖L⁻¹ φ‖. `factor` holds L⁻¹, so that the variance is a sum of
    squares and never negative in float32. It is that of the prior until `set_precision`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        numbers: Sequence[int],
        length: float,
        ridge: float,
        seed: int,
        name: str,
    ) -> None:
        """widths, numbers: of each input, and of its random features."""
        super().__init__(name=name)
        self.inputs = [
            Fourier(width, number, length, seed + j, f"fourier_{j}")
            for j, (width, number) in enumerate(zip(widths, numbers, strict=True))
        ]
        self.size, self.ridge = sum(numbers), ridge
        self.logit = Logit(self.size, (seed, 999), "logit")
        prior = tf.eye(self.size) / math.sqrt(ridge)
        self.factor = tf.Variable(prior, trainable=False, name="factor")

    def features(self, inputs: Sequence[Tensor]) -> Tensor:
        """φ [B, M] of inputs [B, I_j]; one of one row stands for every row."""
        found = [fourier(x) for fourier, x in zip(self.inputs, inputs, strict=True)]
        rows = tf.shape(found[0])[0]
        spread = [
            tf.broadcast_to(x, [rows, x.shape[-1]]) if x.shape[0] == 1 else x for x in found
        ]
        return tf.concat(spread, -1) / math.sqrt(len(found))

    def deviation(self, features: Tensor) -> Tensor:
        """The standard deviation [B] of f, from φ [B, M]."""
        return tf.norm(tf.linalg.matmul(features, self.factor, transpose_b=True), axis=-1)

    def set_precision(self, evidence: np.ndarray) -> None:
        """Takes Σ_i w_i p_i (1 − p_i) φ_i φ_iᵀ [M, M] in, in float64."""
        precision = evidence + self.ridge * np.eye(self.size)
        lower = tf.linalg.cholesky(tf.constant(precision, tf.float64))
        inverse = tf.linalg.triangular_solve(lower, tf.eye(self.size, dtype=tf.float64))
        self.factor.assign(tf.cast(inverse, tf.float32))


def evidence(features: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i p_i (1 − p_i) φ_i φ_iᵀ [M, M] float64, of φ [B, M], logits [B] and weights [B]."""
    wide, z, w = (tf.cast(x, tf.float64) for x in (features, logits, weights))
    own = (w * tf.sigmoid(z) * tf.sigmoid(-z))[:, None] * wide
    return tf.linalg.matmul(wide, own, transpose_a=True)
