"""The ranking loss of all pairs of a positive and a negative of a batch."""

from collections.abc import Callable

import tensorflow as tf

from at4ctr.losses._inputs import check_shape

TILE = 2**20  # differences of logits that are held at once


def pairwise_ranking(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """(1/(P N)) Σ_{i: y_i = 1} Σ_{j: y_j = 0} −ln σ(z_i − z_j), in nats.

    Pan et al., "Ad Recommendation in a Collapsed and Entangled World", §6.1, name a ranking loss
    and print no equation. This is the one of the public code of Lin et al., "Understanding the
    Ranking Loss for Recommendation with Sparse User Feedback". Adding a constant to all logits
    changes nothing.

    The P · N differences are computed in tiles of `TILE`, each with its gradient, so that the
    memory does not grow with P · N. A second derivative is not defined.

    Args:
        logits: z [B], any floating type; computed in float32.
        labels: y [B], 0 or 1, any numeric or boolean type.

    Returns:
        Scalar, float32. 0 with zero gradients where the batch lacks one of the two classes.

    Raises:
        InputError: static shapes that differ, or are not [B].
    """
    logits, labels = tf.convert_to_tensor(logits), tf.convert_to_tensor(labels)
    check_shape("pairwise_ranking", "logits", logits, tf.TensorShape([None]))
    check_shape("pairwise_ranking", "labels", labels, logits.shape)
    logits, positive = tf.cast(logits, tf.float32), tf.cast(labels, tf.float32) > 0.5
    return _mean(tf.boolean_mask(logits, positive), tf.boolean_mask(logits, ~positive))


@tf.custom_gradient
def _mean(positives: tf.Tensor, negatives: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """The loss of logits [P] and [N]."""
    rows = tf.maximum(TILE // tf.maximum(tf.size(negatives), 1), 1)
    pairs = tf.cast(tf.size(positives), tf.float32) * tf.cast(tf.size(negatives), tf.float32)

    def tile(
        begin: tf.Tensor, total: tf.Tensor, of_positives: tf.Tensor, of_negatives: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        behind = negatives - positives[begin : begin + rows, None]
        wrong = tf.sigmoid(behind)
        total += tf.reduce_sum(tf.nn.softplus(behind))
        of_positives = tf.concat([of_positives, -tf.reduce_sum(wrong, 1)], 0)
        return begin + rows, total, of_positives, of_negatives + tf.reduce_sum(wrong, 0)

    _, total, of_positives, of_negatives = tf.while_loop(
        lambda begin, *_: begin < tf.size(positives),
        tile,
        (tf.constant(0), tf.constant(0.0), tf.zeros([0]), tf.zeros_like(negatives)),
        shape_invariants=(
            tf.TensorShape([]), tf.TensorShape([]), tf.TensorShape([None]), negatives.shape,
        ),
    )  # fmt: skip

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        share = tf.math.divide_no_nan(upstream, pairs)
        return share * of_positives, share * of_negatives

    return tf.math.divide_no_nan(total, pairs), gradient
