"""A row's representations in the towers of two labels, pulled together (PICO)."""

import tensorflow as tf

from at4ctr.losses._inputs import check_shape, unit


def inter_task_contrast(
    anchors: tf.Tensor,
    candidates: tf.Tensor,
    temperature: tf.Tensor,
    normalise: bool = False,
) -> tf.Tensor:
    """L = −(1/B) Σ_x ln [ exp(a_x · c_x / τ_x) / Σ_z exp(a_x · c_z / τ_x) ], PICO's Eq. 11.

    The candidates of a row are all B rows of the batch, its own included. The temperature is that
    of the anchor. One direction alone: anchors of one label against candidates of the other. Lin
    et al., AAAI 2023, "Personalized Inter-Task Contrastive Learning for CTR&CVR Joint Estimation".

    Deviations: Eq. 11 is a sum over the data, and this is the mean over the batch's rows. Computed
    as a log-sum-exp, so that products of any finite float16 vectors at τ = 0.05 are finite.

    Args:
        anchors: a [B, d], any floating type, computed in float32.
        candidates: c [B, d], likewise.
        temperature: τ [B], above 0. Its gradient is the caller's to stop.
        normalise: whether products are cosines; otherwise they are dot products, as in the paper.

    Returns:
        Scalar in nats, float32, at least 0. A batch without rows gives 0.

    Raises:
        InputError: static shapes that do not fit.
    """
    anchors, candidates = _pair("inter_task_contrast", anchors, candidates, normalise)
    temperature = tf.cast(temperature, tf.float32)
    check_shape("inter_task_contrast", "temperature", temperature, anchors.shape[:1])
    logits = tf.linalg.matmul(anchors / temperature[:, None], candidates, transpose_b=True)
    return _mean(tf.reduce_logsumexp(logits - tf.linalg.diag_part(logits)[:, None], 1))


def inter_task_product(
    anchors: tf.Tensor, candidates: tf.Tensor, normalise: bool = False
) -> tf.Tensor:
    """L = −(1/B) Σ_x a_x · c_x, PICO's Eq. 4, which prints the other sign. It has no lower bound
    unless the products are cosines.

    Arguments and errors are those of ``inter_task_contrast``.

    Returns:
        Scalar, float32. A batch without rows gives 0.
    """
    anchors, candidates = _pair("inter_task_product", anchors, candidates, normalise)
    return -_mean(tf.reduce_sum(anchors * candidates, -1))


def _pair(
    loss: str, anchors: tf.Tensor, candidates: tf.Tensor, normalise: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    anchors, candidates = tf.convert_to_tensor(anchors), tf.convert_to_tensor(candidates)
    check_shape(loss, "anchors", anchors, tf.TensorShape([None, None]))
    check_shape(loss, "candidates", candidates, anchors.shape)
    if normalise:
        return unit(anchors), unit(candidates)
    return tf.cast(anchors, tf.float32), tf.cast(candidates, tf.float32)


def _mean(rows: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(tf.reduce_sum(rows), tf.cast(tf.size(rows), tf.float32))
