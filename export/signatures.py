"""What a version is asked: the signatures, their inputs, and what stands for one left out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.model.serving import ServingModel
from at4ctr.schema import Feature, history_name
from export.lookup import Front

Dims = list[int | None]


def functions(
    model: ServingModel, front: Front
) -> dict[str, tf.types.experimental.ConcreteFunction]:
    """The signatures, traced. What they read is all that can be exported.

    Raw ids as they stand in the log, int64 or string; -1 or "" is a missing value:
    ``serving_default``: every served feature ``[B]`` (several values: ``[B, M]``) and, of a model
        that reads it, ``history_<f>`` ``[B, L]`` (``[B, L, M]``), oldest first, any L, padding
        anywhere. One row instead of B stands for all;
    ``examples``: serialized ``tf.Example`` ``[B]`` with the same names; whatever is left out is
        missing; a history of several values is flat, ``Feature.length`` values a behaviour;
    ``candidates``: one user with N candidates: profile ``[1]`` (``[M]``), ``history_<f>`` ``[L]``
        (``[L, M]``), item and context features ``[N]`` (``[N, M]``). What the user has is looked
        up and computed once.
    All answer as ``ServingModel.answer``, ``[B]`` or ``[N]`` float32.
    """
    item = front.schema.item_id.name
    profile = [f for f in front.now if f.group == "profile"]
    rest = [f for f in front.now if f.group != "profile"]

    def batch(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        size = tf.shape(raw[item])[0]
        found = front.ids(front.now, raw, size) | front.histories(raw, size)
        return found | front.unserved(size, size)

    def serving_default(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return model.answer(batch(raw))

    def examples(examples: Tensor) -> dict[str, Tensor]:
        return model.answer(batch(front.parse(examples)))

    def candidates(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        one = {f.name: raw[f.name] if f.length is None else raw[f.name][None] for f in profile}
        past = {history_name(f.name): raw[history_name(f.name)][None] for f in front.past}
        size, user = tf.shape(raw[item])[0], tf.constant(1)
        found = front.ids(profile, one, user) | front.histories(past, user)
        found |= front.ids(rest, raw, size) | front.unserved(size, user)
        return model.answer(found | {"owner": tf.zeros([size], tf.int32)})

    text = tf.TensorSpec([None], tf.string, "examples")
    specs = (inputs(front, "serving_default"), text, inputs(front, "candidates"))
    signed = zip((serving_default, examples, candidates), specs, strict=True)
    return {f.__name__: tf.function(f, autograph=False).get_concrete_function(s) for f, s in signed}


def inputs(front: Front, signature: str) -> dict[str, tf.TensorSpec]:
    """The named inputs of ``serving_default`` or ``candidates``."""
    return {
        key: tf.TensorSpec(_shape(front, key, f, signature), front.dtype(f), key)
        for key, f in front.inputs.items()
    }


def _shape(front: Front, key: str, feature: Feature, signature: str) -> Dims:
    wide: Dims = [] if feature.length is None else [None]
    past = key not in {f.name for f in front.now}
    if signature != "candidates":
        return [None] * (1 + past) + wide
    if feature.group == "profile":
        return wide or [1]
    return [None, *wide]


def defaults(front: Front, signature: str) -> dict[str, np.ndarray]:
    """Input -> what stands for it in a request that leaves it out: missing values. Only the
    candidate's id, which says how many rows there are, has none.

    A server reads them from ``SignatureDef.defaults``; a call from Python names every input.
    """
    if signature == "examples":
        return {}
    found = {}
    for key, spec in inputs(front, signature).items():
        feature = front.inputs[key]
        if key == front.schema.item_id.name:
            continue
        shape = [0] * spec.shape.rank
        past = key not in {f.name for f in front.now}
        if signature == "serving_default" or (feature.group != "profile" and not past):
            shape[0] = 1
        if feature.group == "profile" and feature.length is None:
            shape = [1]
        dtype = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
        found[key] = np.full(shape, front.missing(feature), dtype)
    return found
