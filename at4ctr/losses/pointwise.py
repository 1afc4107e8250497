"""Losses of one row at a time."""

import tensorflow as tf

from at4ctr.losses._inputs import check_shape


def binary_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """-mean[y ln F(x) + (1 - y) ln(1 - F(x))] with F = sigmoid(logit), from logits.

    AT4CTR Eq. 11, which prints (1 - y)(1 - log F) for (1 - y) log(1 - F). It is the full cross
    entropy. DBPMaN's public code has half of it, so a weight λ that was chosen beside that code
    corresponds to 2 λ here. An empty batch gives 0.

    Args:
        labels: [B], 0 or 1, any numeric type.
        logits: [B], any floating type; computed in float32.

    Returns:
        Scalar, float32, in nats.

    Raises:
        InputError: static shapes that differ.
    """
    labels, logits = tf.convert_to_tensor(labels), tf.convert_to_tensor(logits)
    rank_one = tf.TensorShape([None])
    check_shape("binary_cross_entropy", "labels", labels, rank_one)
    check_shape("binary_cross_entropy", "logits", logits, rank_one)
    check_shape("binary_cross_entropy", "labels", labels, logits.shape)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(
        labels=tf.cast(labels, tf.float32), logits=tf.cast(logits, tf.float32)
    )
    return tf.math.divide_no_nan(tf.reduce_sum(losses), tf.cast(tf.size(losses), tf.float32))
