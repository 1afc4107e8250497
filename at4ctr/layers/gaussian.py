"""A Gaussian process by random Fourier features, with the Laplace posterior of its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.layers.towers import Logit

TINY = 1e-6  # added to a mean square, so that a vector of zeros stays one


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

    The Laplace approximation of the posterior is N(β̂, Λ⁻¹), Λ = ridge·I + Σ_i w_i p_i (1 − p_i)
    φ_i φ_iᵀ over the training rows, p = σ(f) (SNGP, Liu et al., NeurIPS 2020, Eq. 9). With
    Λ = L Lᵀ the standard deviation of f is √(φᵀ Λ⁻¹ φ) = ‖L⁻¹ φ‖. `factor` holds L⁻¹, so that the
    variance is a sum of squares and never negative in float32.

    `mean` and `factor` describe the present distribution of β: the prior until `Laplace` has seen
    rows, the posterior from then on. A warm start takes them from its parent, whose posterior is
    then the prior. The bias has a flat prior, and its own variance is left out.
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
        self.size = sum(numbers)
        self.logit = Logit(self.size, (seed, 999), "logit")
        prior = tf.eye(self.size) / math.sqrt(ridge)
        self.factor = tf.Variable(prior, trainable=False, name="factor")
        self.mean = tf.Variable(tf.zeros([self.size]), trainable=False, name="mean")

    def features(self, inputs: Sequence[Tensor]) -> Tensor:
        """φ [B, M] of inputs [B, I_j]; one of one row stands for every row."""
        found = [fourier(x) for fourier, x in zip(self.inputs, inputs, strict=True)]
        rows = tf.shape(found[0])[0]
        spread = [tf.broadcast_to(x, [rows, x.shape[-1]]) if x.shape[0] == 1 else x for x in found]
        return tf.concat(spread, -1) / math.sqrt(len(found))

    def deviation(self, features: Tensor) -> Tensor:
        """The standard deviation [B] of f, from φ [B, M]."""
        return tf.norm(tf.linalg.matmul(features, self.factor, transpose_b=True), axis=-1)

    @property
    def weights(self) -> tuple[tf.Variable, tf.Variable]:
        """β [M, 1] and b [1]."""
        assert self.logit.dense is not None
        return self.logit.dense.kernel, self.logit.bias


def evidence(features: Tensor, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The rows' part in the posterior of [β; b], as one float64 vector: with a = [φ; 1] the matrix
    Σ w p (1 − p) a aᵀ, the gradient Σ w (y − p) a of the log likelihood, and the loss −Σ w ln P(y).

    Args:
        features: φ [B, M].
        logits, labels, weights: f, y and w [B].

    Returns:
        [(M + 1)² + M + 2] float64.
    """
    wide, z, y, w = (tf.cast(x, tf.float64) for x in (features, logits, labels, weights))
    a = tf.concat([wide, tf.ones_like(z)[:, None]], -1)
    matrix = tf.linalg.matmul(a, (w * tf.sigmoid(z) * tf.sigmoid(-z))[:, None] * a, True)
    gradient = tf.linalg.matvec(a, w * (y - tf.sigmoid(z)), True)
    lost = w * tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=z)
    return tf.concat([tf.reshape(matrix, [-1]), gradient, [tf.reduce_sum(lost)]], 0)


class Laplace:
    """Newton's method for the posterior's mode from the evidence of all rows, in float64.

    For n steps call `take` n + 1 times, each time with the evidence at the present [β; b], and then
    `finish`. A step that does not lower −ln P(y, β) is halved.
    """

    def __init__(self, process: GaussianProcess) -> None:
        self.process = process
        inverse = np.linalg.inv(process.factor.numpy().astype(np.float64))
        self.prior = np.zeros((process.size + 1, process.size + 1))
        self.prior[:-1, :-1] = inverse @ inverse.T
        self.mean = np.append(process.mean.numpy().astype(np.float64), 0.0)
        self.least, self.step = math.inf, np.zeros(0)
        self.best, self.precision = self.mean, self.prior

    def take(self, found: np.ndarray, *, last: bool) -> None:
        """found: the sum of `evidence` over all rows. last: no further step is taken."""
        size = self.process.size + 1
        matrix, gradient = found[: size * size].reshape(size, size), found[size * size : -1]
        here = np.concatenate([v.numpy().ravel() for v in self.process.weights]).astype(np.float64)
        pull = self.prior @ (here - self.mean)
        lost = found[-1] + 0.5 * (here - self.mean) @ pull
        if lost <= self.least:
            self.least, self.best, self.precision = lost, here, self.prior + matrix
            known = self.precision + np.diag(np.append(np.zeros(size - 1), TINY))  # b of no row
            self.step = np.linalg.solve(known, gradient - pull)
        else:
            self.step /= 2
        if not last:
            self._move(self.best + self.step)

    def finish(self) -> None:
        """Gives the process the best [β; b] and the posterior around it."""
        self._move(self.best)
        lower = tf.linalg.cholesky(tf.constant(self.precision[:-1, :-1], tf.float64))
        whole = tf.eye(self.process.size, dtype=tf.float64)
        inverse = tf.linalg.triangular_solve(lower, whole)
        self.process.factor.assign(tf.cast(inverse, tf.float32))
        self.process.mean.assign(self.best[:-1].astype(np.float32))

    def _move(self, to: np.ndarray) -> None:
        kernel, bias = self.process.weights
        kernel.assign(to[:-1, None].astype(np.float32))
        bias.assign(to[-1:].astype(np.float32))
