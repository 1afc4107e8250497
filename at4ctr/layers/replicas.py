"""What the replicas of a step give each other; one replica alone keeps what it has."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from at4ctr.contracts import Tensor


class Share(NamedTuple):
    """The part of a computation on gathered rows that one replica does: ``rank`` of ``size``.

    A loss is the mean over the replicas, so a replica that does a part returns ``size`` times it.
    """

    rank: Tensor | int
    size: int


WHOLE = Share(0, 1)


def share() -> Share:
    """Of this replica; ``WHOLE`` outside of a strategy's replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return WHOLE
    return Share(context.replica_id_in_sync_group, context.num_replicas_in_sync)


def gathered(*tensors: Tensor) -> list[Tensor]:
    """[n_r, ...] of every replica r -> [Σ n_r, ...] on all of them, replica after replica.

    The gradient at a replica's rows is the sum of the gradients that all replicas have for them.
    """
    if share().size == 1:
        return list(tensors)
    context = tf.distribute.get_replica_context()
    found = [_placed(context.all_gather(_placed(tensor), axis=0)) for tensor in tensors]
    for whole, tensor in zip(found, tensors, strict=True):
        whole.set_shape([None, *tensor.shape[1:]])  # which collectives forget
    return found


def gathered_owners(owner: Tensor, users: Tensor) -> Tensor:
    """``gathered`` of owners [B] among each replica's H users, as owners among the users of all."""
    (counts,) = gathered(users[None])
    before = tf.cumsum(counts, exclusive=True)[share().rank]
    return gathered(owner + before)[0]


def summed(*tensors: Tensor) -> list[Tensor]:
    """The sum of each tensor over the replicas, on all of them; it passes no gradient."""
    if share().size == 1:
        return list(tensors)
    context = tf.distribute.get_replica_context()
    return [context.all_reduce(tf.distribute.ReduceOp.SUM, _placed(t)) for t in tensors]


@tf.custom_gradient
def _placed(x: Tensor):  # type: ignore[no-untyped-def]
    """x, with a device of its own both ways: collectives refuse tensors that name none."""
    return tf.identity(x), lambda up: tf.identity(up)
