"""Contrast of rows with their augmented views, and with codewords beside them (AQCL)."""

import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.losses._inputs import check_shape, check_temperature, unit


def instance_contrast(z: tf.Tensor, z_augmented: tf.Tensor, temperature: float) -> tf.Tensor:
    """L_ICL = −(1/B) Σ_i ln [ e^(cos(z_i, z'_i)/τ) / Σ_j e^(cos(z_i, z'_j)/τ) ]: AQCL, Eq. 2.

    A scalar in nats. The paper does not say which negatives: here they are the augmented views of
    the other rows of the batch. A batch of one row has no negative and gives 0, as one without
    rows does. Vectors shorter than 1e-4 are shrunk instead of normalised.

    Args:
        z: [B, d] projected rows, of any float type. z_augmented: [B, d] of their augmented views.
        temperature: τ > 0.

    Returns:
        Scalar, float32.

    Raises:
        InputError: a temperature that is not positive, or static shapes that do not fit.
    """
    scores = _scores("instance_contrast", z, z_augmented, temperature)
    return _mean(tf.reduce_logsumexp(scores, 1) - tf.linalg.diag_part(scores))


def quantised_contrast(
    z: tf.Tensor,
    z_augmented: tf.Tensor,
    codebook: tf.Tensor,
    alpha: tf.Tensor,
    nearest: int,
    temperature: float,
    cluster_temperature: float,
) -> tf.Tensor:
    """L_AQCL of AQCL, Eq. 3: contrast with augmented views and codewords. A scalar in nats.

    With s_ij = cos(z_i, z'_j) / τ₁ and c_it = cos(z_i, q_t) / τ₂,
    L = −(1/B) Σ_i [ (1 − α_i) s_ii + α_i ln Σ_{t ∈ Q⁺_i} e^c_it − ln (Σ_j e^s_ij + Σ_t e^c_it) ],
    Q⁺_i the K codewords of the largest c_it. α = 0 is not ``instance_contrast``, since codewords
    stay in the denominator. No gradient reaches the codebook: Eq. 5 alone learns it. Negatives are
    the augmented views of the batch's other rows. A batch without rows gives 0. Vectors shorter
    than 1e-4 are shrunk instead of normalised.

    Args:
        z: [B, d] projected rows, of any float type. z_augmented: [B, d] of their augmented views.
        codebook: [T, d] q of any length. alpha: [B] α in [0, 1], see ``quantisation_share``.
        nearest: K, from 1 to T. temperature: τ₁ > 0. cluster_temperature: τ₂ > 0.

    Returns:
        Scalar, float32.

    Raises:
        InputError: a temperature that is not positive, K outside 1 to T, or static shapes that do
            not fit.
    """
    name = "quantised_contrast"
    own = _scores(name, z, z_augmented, temperature)
    codebook = tf.stop_gradient(unit(codebook))
    check_temperature(name, cluster_temperature)
    check_shape(
        name, "codebook", codebook, tf.TensorShape([None, tf.convert_to_tensor(z).shape[-1]])
    )
    alpha = tf.cast(alpha, tf.float32)
    check_shape(name, "alpha", alpha, own.shape[:1])
    if not 1 <= nearest <= (codebook.shape[0] or nearest):
        raise InputError(
            f"nearest of {name} is {nearest}: expected 1 to {codebook.shape[0]}, the codewords"
        )
    clusters = tf.linalg.matmul(unit(z), codebook, transpose_b=True) / cluster_temperature
    near = tf.reduce_logsumexp(tf.math.top_k(clusters, nearest, sorted=False).values, 1)
    every = tf.reduce_logsumexp(tf.concat([own, clusters], 1), 1)
    return _mean(every - (1.0 - alpha) * tf.linalg.diag_part(own) - alpha * near)


def quantisation_share(behaviours: tf.Tensor, mean: float, w1: float, w2: float) -> tf.Tensor:
    """α = exp(−w₁ (L / L̄)^w₂): AQCL, Eq. 6; 1 without a behaviour, and falling with L.

    Args:
        behaviours: [B] L, each user's number of behaviours. mean: L̄; 0 makes every α 1.
        w1, w2: above 0, without unit.

    Returns:
        [B] float32.
    """
    share = tf.math.divide_no_nan(tf.cast(behaviours, tf.float32), mean)
    return tf.exp(-w1 * tf.pow(share, w2))


def _scores(loss: str, z: tf.Tensor, z_augmented: tf.Tensor, temperature: float) -> tf.Tensor:
    """cos(z_i, z'_j) / τ. [B, B]."""
    z, z_augmented = unit(z), unit(z_augmented)
    check_temperature(loss, temperature)
    check_shape(loss, "z", z, tf.TensorShape([None, None]))
    check_shape(loss, "z_augmented", z_augmented, z.shape)
    return tf.linalg.matmul(z, z_augmented, transpose_b=True) / temperature


def _mean(each: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(tf.reduce_sum(each), tf.cast(tf.size(each), tf.float32))
