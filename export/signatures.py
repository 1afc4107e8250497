"""The signatures of a version, their inputs, and the defaults of inputs that are left out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.model.serving import ServingModel
from export.lookup import Front, Input

Dims = list[int | None]


def functions(
    model: ServingModel, front: Front
) -> dict[str, tf.types.experimental.ConcreteFunction]:
    """The signatures, traced. Only variables that they read are exported.

    Raw ids as they stand in the log, int64 or string; -1 or "" is a missing value. Numbers and the
    weights of several values are float32; NaN is a missing number, and a missing weight is 1:
    ``serving_default``: every served feature ``[B]`` (several values: ``[B, M]``) and, of a model
        that reads it, ``history_<f>`` ``[B, L]`` (``[B, L, M]``), oldest first, any L, padding
        anywhere. One row instead of B stands for all;
    ``examples``: serialized ``tf.Example`` ``[B]`` with the same names; whatever is left out is
        missing; a history of several values is flat, ``Feature.length`` values a behaviour;
    ``candidates``: one user with N candidates: profile ``[1]`` (``[M]``), ``history_<f>`` ``[L]``
        (``[L, M]``), item and context ``[N]`` (``[N, M]``). What the user has is looked up and
        computed once.
    A model that reads ages also takes ``history_seconds_ago`` of the shape ``[B, L]`` or ``[L]``,
    int64; -1 is an unknown age.
    A number has the shape of a feature of one value, ``weights_<f>`` that of ``<f>``. All answer as
    ``ServingModel.answer``, ``[B]`` or ``[N]`` float32.
    """
    item = front.schema.item_id.name

    def batch(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        size = tf.shape(raw[item])[0]
        found = front.present(raw, size) | front.histories(raw, size)
        return found | front.unserved(size, size)

    def serving_default(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return model.answer(batch(raw))

    def examples(examples: Tensor) -> dict[str, Tensor]:
        return model.answer(batch(front.parse(examples)))

    def candidates(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        one = dict(raw)
        for key, given in front.inputs.items():
            if given.past or (given.group == "profile" and given.length):
                one[key] = raw[key][None]
        size, user = tf.shape(raw[item])[0], tf.constant(1)
        found = front.present(one, user, ("profile",)) | front.histories(one, user)
        found |= front.present(raw, size, ("item", "context")) | front.unserved(size, user)
        return model.answer(found | {"owner": tf.zeros([size], tf.int32)})

    text = tf.TensorSpec([None], tf.string, "examples")
    specs = (inputs(front, "serving_default"), text, inputs(front, "candidates"))
    signed = zip((serving_default, examples, candidates), specs, strict=True)
    return {f.__name__: tf.function(f, autograph=False).get_concrete_function(s) for f, s in signed}


def inputs(front: Front, signature: str) -> dict[str, tf.TensorSpec]:
    """The named inputs of ``serving_default`` or ``candidates``."""
    return {
        key: tf.TensorSpec(_shape(given, signature), given.dtype, key)
        for key, given in front.inputs.items()
    }


def _shape(given: Input, signature: str) -> Dims:
    wide: Dims = [] if given.length is None else [None]
    if signature != "candidates":
        return [None] * (1 + given.past) + wide
    if given.group == "profile":
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
        given = front.inputs[key]
        if key == front.schema.item_id.name:
            continue
        shape = [0] * spec.shape.rank
        if signature == "serving_default" or (given.group != "profile" and not given.past):
            shape[0] = 1
        if given.group == "profile" and given.length is None:
            shape = [1]
        dtype = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
        found[key] = np.full(shape, given.missing, dtype)
    return found
