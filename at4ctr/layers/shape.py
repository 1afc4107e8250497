"""The widths that models are built for, and what every model makes of a history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import tensorflow as tf

from at4ctr.contracts import Embedded, Tensor, Tower
from at4ctr.errors import InputError
from at4ctr.layers.segments import sums
from at4ctr.schema import Group, Schema

_FIELDS: Mapping[Group, tuple[Group, ...]] = {  # group of features -> numbers that follow them
    "profile": ("profile",),
    "item": (),
    "context": ("item", "context"),
}


class Shape(NamedTuple):
    """Widths of an ``Embedded``: P, J of the candidate, C, J of a behaviour (0 without).

    states: S of ``Encoded.states``, for auxiliaries: J where the backbone does not say otherwise.
    alike: a behaviour begins with the candidate's very features in the same order, so that the two
    can be multiplied element by element (``product``).
    fields: name and group of each field of ``Embedded.fields``, in its order.
    past: the features of a behaviour, in order.
    towers: label -> the widths of its tower, for auxiliaries.
    mean_behaviours: gives the mean of the training rows' number of behaviours, for auxiliaries; a
        function, as it reads the store.
    """

    profile: int
    item: int
    context: int
    history: int
    dimension: int
    alike: bool
    states: int
    fields: tuple[tuple[str, Group], ...] = ()
    past: tuple[str, ...] = ()
    towers: Mapping[str, Tower] = MappingProxyType({})
    mean_behaviours: Callable[[], float] = lambda: 1.0

    @classmethod
    def of(cls, schema: Schema, dimension: int) -> Shape:
        profile, item, context = (
            dimension * len(schema.served(g)) for g in ("profile", "item", "context")
        )
        profile += dimension * len(schema.served_numbers("profile"))
        context += dimension * sum(len(schema.served_numbers(g)) for g in ("item", "context"))
        context += dimension * len(schema.similarities)
        item_names = tuple(f.name for f in schema.served("item"))
        alike = schema.history[: len(item_names)] == item_names
        history = dimension * len(schema.history)
        named: list[tuple[str, Group]] = []
        for group, numbers in _FIELDS.items():
            named += [(f.name, group) for f in schema.served(group)]
            named += [(n.name, g) for g in numbers for n in schema.served_numbers(g)]
        named += [(s.name, "context") for s in schema.similarities]
        return cls(
            profile, item, context, history, dimension, alike, history, tuple(named), schema.history
        )


def history_required(who: str, shape: Shape, instead: str) -> None:
    """Refuses a schema without behaviours. instead: what else to do about it, as an order."""
    if not shape.history:
        raise InputError(
            f"{who} needs a history, but the schema names no history features; "
            f"declare Schema.history or {instead}"
        )


def each(x: Embedded, of_user: Tensor) -> Tensor:
    """[H, W] of users -> [B, W] of rows."""
    return of_user if x.owner is None else tf.gather(of_user, x.owner)


def part(x: Embedded, of_user: Tensor) -> Tensor:
    """[H, W] of users -> a part of ``Encoded``: [B, W], or [1, W] of the one user."""
    return of_user if x.one_user else each(x, of_user)


def lengths(x: Embedded) -> Tensor:
    """How many behaviours each user has. [H] int32."""
    return tf.reduce_sum(tf.cast(x.mask, tf.int32), 1)


def recency(x: Embedded) -> Tensor:
    """[R] int32: 0 for a user's latest behaviour, 1 for the one before."""
    return tf.gather(lengths(x), x.packed.rows) - 1 - x.packed.positions


def total(x: Embedded) -> Tensor:
    """Sum of the real behaviours. [H, J]."""
    if x.dense:
        return tf.reduce_sum(x.history, 1)  # padding is zeros
    if x.one_user:
        return tf.reduce_sum(x.packed.values, 0, keepdims=True)
    return sums(x.packed.values, x.packed.rows, tf.shape(x.mask)[0])


def mean(x: Embedded) -> Tensor:
    """Mean of the real behaviours, 0 without one. [H, J]."""
    return tf.math.divide_no_nan(total(x), tf.cast(lengths(x), x.item.dtype)[:, None])


def product(x: Embedded, pooled: Tensor) -> Tensor:
    """candidate ⊙ what of pooled behaviours, a part [B or 1, J], has its features. [B, J]."""
    width = x.item.shape[-1]
    return x.item * (pooled if pooled.shape[-1] == width else pooled[:, :width])


def scatter(values: Tensor, where: Tensor, size: Tensor, steps: Tensor) -> Tensor:
    """Packed values [R, W] at (sample, position) [R, 2] int32 -> dense [size, steps, W], 0 where
    padded."""
    width = values.shape[-1]
    if not width:
        return tf.zeros([size, steps, 0])
    dense = tf.scatter_nd(where, values, tf.stack([size, steps, width]))
    return tf.ensure_shape(dense, [None, None, width])
