"""Balanced assignment of rows to codewords, and the loss that learns a codebook (AQCL §4.2.1)."""

import math

import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.losses._inputs import check_shape, check_temperature, unit


def sinkhorn(scores: tf.Tensor, epsilon: float, iterations: int) -> tf.Tensor:
    """A* = argmax_A Σ_bt A_bt s_bt + ε H(A), Σ_t A_bt = 1/B, Σ_b A_bt = 1/T (AQCL, Eq. 4).

    The solution is A_bt = u_b exp(s_bt / ε) v_t. Sinkhorn-Knopp finds it: each iteration scales the
    columns to 1/T and then the rows to 1/B, in the log domain. So row sums are exact after any
    number of iterations, and column sums at convergence only. The paper's constraint on samples has
    Q where A is meant. The paper does not give ε and the number of iterations; SwAV's code, which
    it follows, has 0.05 and 3.

    Args:
        scores: [B, T] s, cosines of B rows and T codewords. Computed in float32.
        epsilon: ε > 0, in units of s.
        iterations: at least 1.

    Returns:
        [B, T] float32, without gradient.

    Raises:
        InputError: ε that is not positive, no iteration, or scores that are not of rank 2.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise InputError(
            f"epsilon of sinkhorn is {epsilon}: expected a positive number, 0.05 is usual"
        )
    if iterations < 1:
        raise InputError(f"iterations of sinkhorn is {iterations}: expected at least 1, 3 is usual")
    scores = tf.convert_to_tensor(scores)
    check_shape("sinkhorn", "scores", scores, tf.TensorShape([None, None]))
    logs = tf.stop_gradient(tf.cast(scores, tf.float32)) / epsilon
    rows, columns = (tf.math.log(tf.cast(tf.shape(logs)[i], tf.float32)) for i in (0, 1))
    for _ in range(iterations):
        logs -= tf.reduce_logsumexp(logs, 0, keepdims=True) + columns
        logs -= tf.reduce_logsumexp(logs, 1, keepdims=True) + rows
    return tf.stop_gradient(tf.exp(logs))


def codebook_learning(
    z: tf.Tensor, codebook: tf.Tensor, assigned: tf.Tensor, temperature: float
) -> tf.Tensor:
    """−(1/B) Σ_b ln p_b(a_b), p_b = softmax_t(cos(z_b, q_t) / τ₃): AQCL, Eq. 5. A scalar in nats.

    Only the codebook has a gradient. The paper prints the sum over the batch and l where t is
    meant; this is the mean. A batch without rows gives 0. Vectors shorter than 1e-4 are shrunk
    instead of normalised.

    Args:
        z: [B, d] projected rows; no gradient reaches them. codebook: [T, d] q of any length.
        assigned: [B] integers a_b, the codeword of each row, as argmax_t of ``sinkhorn``.
        temperature: τ₃ > 0.

    Returns:
        Scalar, float32.

    Raises:
        InputError: a temperature that is not positive, or static shapes that do not fit.
    """
    z, codebook = unit(tf.stop_gradient(z)), unit(codebook)
    assigned = tf.convert_to_tensor(assigned)
    check_temperature("codebook_learning", temperature)
    check_shape("codebook_learning", "z", z, tf.TensorShape([None, None]))
    check_shape("codebook_learning", "codebook", codebook, tf.TensorShape([None, z.shape[-1]]))
    check_shape("codebook_learning", "assigned", assigned, z.shape[:1])
    logits = tf.linalg.matmul(z, codebook, transpose_b=True) / temperature
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(assigned, logits)
    return tf.math.divide_no_nan(tf.reduce_sum(each), tf.cast(tf.size(each), tf.float32))
