"""UIM's and NIP's losses of padded batches: static shapes, no loop, so that XLA compiles them."""

from __future__ import annotations

import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.errors import InputError
from at4ctr.losses._inputs import check_shape, check_temperature, unit

_MASKED = -1e9  # a logit whose exponential is 0


def dense_user_item_match(
    user: Tensor,
    item: Tensor,
    labels: Tensor,
    temperature: float,
    *,
    user_ids: Tensor | None = None,
    item_ids: Tensor | None = None,
    anchors: Tensor | None = None,
) -> Tensor:
    """`user_item_match`, computed from all B × B logits; anchors that are negatives have weight 0.

    user u [B, d], item v [B, d], labels y [B], τ > 0; ids, anchors [B] and the errors are those of
    `user_item_match`. A scalar in nats, float32.
    """
    name = "user_item_match"
    user, item, labels = unit(user), unit(item), tf.convert_to_tensor(labels)
    check_temperature(name, temperature)
    check_shape(name, "item", item, user.shape)
    check_shape(name, "labels", labels, user.shape[:1])
    positive = tf.cast(tf.cast(labels, tf.float32) > 0.5, tf.float32)
    weights = positive if anchors is None else positive * tf.cast(anchors, tf.float32)
    logits = tf.linalg.matmul(user, item, transpose_b=True) / temperature
    own = tf.linalg.diag_part(logits)
    rows = tf.reduce_logsumexp(_without(logits, item_ids), 1)
    columns = tf.reduce_logsumexp(_without(logits, user_ids), 0)
    total = tf.reduce_sum(weights * (rows + columns - 2.0 * own))
    return tf.math.divide_no_nan(total, tf.reduce_sum(positive))


def _without(logits: Tensor, ids: Tensor | None) -> Tensor:
    """logits [B, B], -∞ where another row has the same id."""
    if ids is None:
        return logits
    count = tf.range(tf.shape(logits)[0])
    other = (ids[:, None] == ids[None, :]) & (count[:, None] != count[None, :])
    return tf.where(other, _MASKED, logits)


def dense_next_item_prediction(
    states: Tensor,
    behaviours: Tensor,
    mask: Tensor,
    temperature: float,
    *,
    item_ids: Tensor | None = None,
    block: int | None = None,
) -> Tensor:
    """`next_item_prediction` of padded histories, as one batched product over positions.

    states r [B, T, d], behaviours e [B, T, d], mask [B, T] True where real, left-aligned, τ > 0,
    item_ids [B, T]; block and the errors are those of `next_item_prediction`. A scalar in nats,
    float32.

    The terms of a position are split into ⌈B / block⌉ blocks, some of them empty, each with room
    for ``block`` terms: (T − 1) · B · block logits, (T − 1) · B² without ``block``.
    """
    name = "next_item_prediction"
    states, behaviours = tf.convert_to_tensor(states), tf.convert_to_tensor(behaviours)
    mask = tf.convert_to_tensor(mask)
    check_temperature(name, temperature)
    if block is not None and block < 4:
        raise InputError(
            f"block of {name} is {block}: expected at least 4, or None for the whole batch"
        )
    check_shape(name, "behaviours", behaviours, states.shape)
    check_shape(name, "mask", mask, states.shape[:2])
    counted = tf.transpose(mask)[1:]  # [T-1, B]: both k and k + 1 are real
    counted &= tf.reduce_sum(tf.cast(counted, tf.int32), 1, keepdims=True) >= 2
    q = tf.transpose(unit(states), [1, 0, 2])[:-1] / temperature
    e = tf.transpose(unit(behaviours), [1, 0, 2])[1:]
    ids = None if item_ids is None else tf.transpose(item_ids)[1:]
    total = tf.reduce_sum(tf.cast(counted, tf.float32))
    if block is None:
        q, e, counted = q[:, None], e[:, None], counted[:, None]
        ids = None if ids is None else ids[:, None]
    else:
        order, counted = _dealt(counted, block)
        q, e = (tf.gather(x, order, batch_dims=1) for x in (q, e))
        ids = None if ids is None else tf.gather(ids, order, batch_dims=1)
    logits = tf.linalg.matmul(q, e, transpose_b=True)  # [T-1, P, W, W]
    own = tf.reduce_sum(q * e, -1)
    candidate = counted[..., :, None] & counted[..., None, :]
    if ids is not None:
        same = ids[..., :, None] == ids[..., None, :]
        candidate &= ~same | tf.eye(tf.shape(q)[-2], dtype=tf.bool)
    logits = tf.where(candidate, logits, _MASKED)
    rows, columns = (tf.reduce_logsumexp(logits, axis) for axis in (-1, -2))
    terms = tf.where(counted, rows + columns - 2.0 * own, 0.0)
    return tf.math.divide_no_nan(tf.reduce_sum(terms), total)


def _dealt(counted: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Which sample has each place of each block, and which places are taken. [K, P, W] of [K, B].

    The n terms of a position go, in the order of their samples, to ⌈n / block⌉ blocks, whose sizes
    differ by at most one, the larger ones first.
    """
    samples = tf.shape(counted)[1]
    order = tf.argsort(tf.cast(~counted, tf.int32), axis=1, stable=True)  # counted ones first
    found = tf.reduce_sum(tf.cast(counted, tf.int32), 1)[:, None]  # [K, 1]
    parts = (found + block - 1) // block
    numbers = tf.range((samples + block - 1) // block)  # [P]
    least = found // tf.maximum(parts, 1)
    larger = found % tf.maximum(parts, 1)
    begins = numbers * least + tf.minimum(numbers, larger)  # [K, P]
    sizes = tf.where(numbers < parts, least + tf.cast(numbers < larger, tf.int32), 0)
    steps = tf.range(block)
    taken = steps < sizes[..., None]
    rank = tf.minimum(begins[..., None] + steps, samples - 1)
    return tf.gather(order, rank, batch_dims=1), taken
