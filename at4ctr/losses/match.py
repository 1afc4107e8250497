"""User-item match: InfoNCE between the two sides of a positive row."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import tensorflow as tf
from tensorflow_recommenders.tasks import Retrieval

from at4ctr.losses._inputs import check_shape, check_temperature, unit


def user_item_match(
    user: tf.Tensor,
    item: tf.Tensor,
    labels: tf.Tensor,
    temperature: float,
    *,
    user_ids: tf.Tensor | None = None,
    item_ids: tf.Tensor | None = None,
    anchors: tf.Tensor | None = None,
    owner: tf.Tensor | None = None,
) -> tf.Tensor:
    """L_ui + L_iu of AT4CTR, Eq. 6 and 7, with sim the cosine. A scalar in nats, float32.

    L_ui = -(1/n₊) Σ_{k: y_k = 1} ln [ exp(sim(u_k, v_k)/τ) / Σ_{j=1..n} exp(sim(u_k, v_j)/τ) ],
    and L_iu with the sides exchanged. user u [B, d], item v [B, d] projected; labels y [B]; τ > 0.
    Anchors are the positives; all n rows of the batch, negatives and the anchor's own pair
    included, are candidates. Eq. 6 prints r₊ on both sides: read r_k.

    With `anchors` [B] bool, the sums run over the positives among the anchors alone, while n₊ still
    counts all positives. So the losses of disjoint sets of anchors that cover the batch add up to
    the whole loss.

    With `owner` [B] int32, user is [H, d] and row k's user is u_owner(k): the rows of one request
    share it. L_iu then has the H users as candidates, each once, where the paper's batch repeats
    the user in every row of the request. Without repeated users the two are equal.

    Duplicates (not in the paper): with `item_ids` [B], other rows with the anchor's own item are no
    candidates in L_ui; with `user_ids` [B], other rows with the anchor's own user are none in L_iu.
    Neither ever removes the anchor's own pair. A batch without positives, or without rows, gives
    0 and zero gradients. Vectors shorter than 1e-4 are shrunk instead of normalised, so the
    gradient at the zero vector is finite. Each direction computes [n₊, B] logits, in float32
    whatever the inputs' type.
    Raises InputError for a temperature that is not positive, or static shapes that do not fit.
    """
    user, item, labels = unit(user), unit(item), tf.convert_to_tensor(labels)
    if owner is not None:
        return _of_requests(user, item, labels, temperature, user_ids, item_ids, anchors, owner)
    _check(user, item, labels, temperature)
    positive = tf.cast(labels, tf.float32) > 0.5
    own = positive if anchors is None else positive & anchors
    order = tf.concat([tf.where(own)[:, 0], tf.where(~own)[:, 0]], axis=0)
    user_ids, item_ids = (_reorder(ids, order) for ids in (user_ids, item_ids))
    user, item = tf.gather(user, order), tf.gather(item, order)
    user, item, user_ids, item_ids = (_never_empty(x) for x in (user, item, user_ids, item_ids))
    count = tf.math.count_nonzero(own, dtype=tf.int32)
    total = _in_batch_softmax(user[:count], item, temperature, item_ids)
    total += _in_batch_softmax(item[:count], user, temperature, user_ids)
    return tf.math.divide_no_nan(total, tf.reduce_sum(tf.cast(positive, tf.float32)))


def _of_requests(
    user: tf.Tensor,
    item: tf.Tensor,
    labels: tf.Tensor,
    temperature: float,
    user_ids: tf.Tensor | None,
    item_ids: tf.Tensor | None,
    anchors: tf.Tensor | None,
    owner: tf.Tensor,
) -> tf.Tensor:
    check_temperature("user_item_match", temperature)
    check_shape("user_item_match", "user", user, tf.TensorShape([None, None]))
    check_shape("user_item_match", "item", item, tf.TensorShape([None, user.shape[-1]]))
    check_shape("user_item_match", "owner", owner, item.shape[:1])
    check_shape("user_item_match", "labels", labels, item.shape[:1])
    positive = tf.cast(labels, tf.float32) > 0.5
    rows = tf.where(positive if anchors is None else positive & anchors)[:, 0]
    users = tf.gather(owner, rows)
    if user_ids is not None:  # of rows; a user's rows agree
        size = tf.shape(user)[0]
        user_ids = tf.math.unsorted_segment_max(tf.convert_to_tensor(user_ids), owner, size)
    total = _softmax(tf.gather(user, users), item, rows, temperature, item_ids)
    total += _softmax(tf.gather(item, rows), user, users, temperature, user_ids)
    return tf.math.divide_no_nan(total, tf.reduce_sum(tf.cast(positive, tf.float32)))


def _softmax(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    own: tf.Tensor,
    temperature: float,
    ids: tf.Tensor | None,
) -> tf.Tensor:
    """Σ_k -ln softmax(q_k · c / τ) at own_k; without others of the same id. [P, d], [n, d], [P]"""
    logits = tf.linalg.matmul(queries, candidates, transpose_b=True) / temperature
    if ids is not None:
        ids, numbers = tf.convert_to_tensor(ids), tf.range(tf.shape(candidates)[0], dtype=own.dtype)
        same = (tf.gather(ids, own)[:, None] == ids) & (numbers != own[:, None])
        logits = tf.where(same, tf.constant(-1e9, logits.dtype), logits)
    aimed = tf.reduce_sum(queries * tf.gather(candidates, own), -1) / temperature
    return tf.reduce_sum(tf.reduce_logsumexp(logits, 1) - aimed)


def _check(user: tf.Tensor, item: tf.Tensor, labels: tf.Tensor, temperature: float) -> None:
    check_temperature("user_item_match", temperature)
    check_shape("user_item_match", "user", user, tf.TensorShape([None, None]))
    check_shape("user_item_match", "item", item, user.shape)
    check_shape("user_item_match", "labels", labels, user.shape[:1])


def _reorder(ids: tf.Tensor | None, order: tf.Tensor) -> tf.Tensor | None:
    if ids is None:
        return None
    ids = tf.convert_to_tensor(ids)
    check_shape("user_item_match", "user_ids or item_ids", ids, order.shape)
    return tf.gather(ids, order)


def _never_empty(rows: tf.Tensor | None) -> tf.Tensor | None:
    """One row of zeros, or of an empty string, where there is none: Retrieval refuses a batch
    without candidates, and without positives nothing reads that row."""
    if rows is None:
        return None
    missing = tf.cast(tf.shape(rows)[0] == 0, tf.int32)
    shape = tf.concat([[missing], tf.shape(rows)[1:]], 0)
    return tf.concat([rows, tf.zeros(shape, rows.dtype)], 0)


def _in_batch_softmax(
    queries: tf.Tensor, candidates: tf.Tensor, temperature: float, ids: tf.Tensor | None
) -> tf.Tensor:
    """Σ_k -ln softmax(q_k · c / τ)_k; the first candidates are the queries' own. [P, d], [B, d]"""
    with _float32_layers():
        task = Retrieval(temperature=temperature, remove_accidental_hits=ids is not None)
        return _retrieval()(
            task,
            queries,
            candidates,
            candidate_ids=ids,
            compute_metrics=False,
            compute_batch_metrics=False,
        )


@cache
def _retrieval() -> Any:
    """``Retrieval.call``, whose ``len`` of a tensor AutoGraph must convert: training is traced
    without it."""
    return tf.autograph.to_graph(Retrieval.call, recursive=False)


@contextmanager
def _float32_layers() -> Iterator[None]:
    """Retrieval takes no dtype: under mixed precision it would cast its queries to float16."""
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("float32")
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)
