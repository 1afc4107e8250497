"""Golden rows: requests with the answers that the model itself gave, as JSON and for C."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.data.dataset import Split
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.model.serving import ServingModel
from export.lookup import Front
from export.requests import example, of_user, requests

MAGIC = b"AT4CTR\x00\x01"  # of a file of tensors, form 1


def answers(
    model: ServingModel, front: Front, store: Store, split: Split, rows: int
) -> dict[str, dict[str, Any]]:
    """Golden rows by signature, as TensorFlow Serving's REST requests with their ``outputs``.

    The inputs come from ``dims`` and the sequences, the outputs from the reader's batch of ids.
    ``candidates`` are answered with the user's part computed once, as they are served. Rounding
    makes the same rows with the user repeated differ by up to some 2e-6.
    """
    reader = Reader(
        store, split, batch_size=rows, history=front.history, shuffle=False, block_users=1
    )
    batch = {name: tf.constant(array) for name, array in reader.batch(0, 0).items()}
    count = len(batch["history_length"])  # fewer than ``rows`` where the split has fewer
    size = tf.constant(count)
    batch |= front.unserved(size, size)
    raw = requests(front, store, split, count)
    one = int(tf.argmax(batch["history_length"]))
    same = front.schema.of_user(batch)
    shown = {n: v[one : one + 1] if n in same else v for n, v in batch.items()}
    shown["owner"] = tf.zeros([count], tf.int32)
    alone = of_user(front, raw, one, slice(None))
    # In a graph, as in serving: eager execution rounds differently.
    answer = tf.function(model.answer, autograph=False)
    text = [base64.b64encode(example(front, raw, i)).decode() for i in range(count)]
    return {
        "serving_default": _request("serving_default", raw, answer(batch)),
        "examples": _request("examples", {"examples": [{"b64": t} for t in text]}, answer(batch)),
        "candidates": _request("candidates", alone, answer(shown)),
    }


def _request(name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> dict:
    for key, values in outputs.items():
        if not np.isfinite(values.numpy()).all():
            raise InputError(
                f"export: the model answers {name} with a {key} that is not finite; expected "
                "numbers; train it again with a smaller learning rate"
            )
    expected = {key: value.numpy().tolist() for key, value in outputs.items()}
    return {"signature_name": name, "inputs": dict(inputs), "outputs": expected}


def tensors(row: Mapping[str, Any], signature: Any) -> bytes:
    """A golden row in a form that C reads without a JSON library. signature: its SignatureDef.

    Little-endian: ``MAGIC``, the numbers of inputs and outputs (uint32), then each tensor: its name
    in the graph such as ``serving_default_item:0``, its DataType, rank (uint32) and dimensions
    (uint64), and its values; a text is its length (uint32) and its bytes.
    """
    made = [MAGIC, struct.pack("<2I", len(row["inputs"]), len(row["outputs"]))]
    for values, infos in (
        (row["inputs"], signature.inputs),
        (row["outputs"], signature.outputs),
    ):
        for key in sorted(values):
            made.append(_tensor(infos[key], values[key]))
    return b"".join(made)


def _tensor(info: Any, value: list) -> bytes:
    dtype = tf.as_dtype(info.dtype)
    if value and isinstance(value[0], dict):
        value = [base64.b64decode(one["b64"]) for one in value]
    rank = len(info.tensor_shape.dim)
    array = np.array(value, object if dtype == tf.string else dtype.as_numpy_dtype)
    shape = (array.shape + (0,) * rank)[:rank]  # of an empty list
    head = _text(info.name.encode()) + struct.pack("<2I", info.dtype, rank)
    head += struct.pack(f"<{rank}Q", *shape)
    if dtype == tf.string:
        texts = (t if isinstance(t, bytes) else t.encode() for t in array.ravel().tolist())
        return head + b"".join(map(_text, texts))
    return head + array.astype(array.dtype.newbyteorder("<")).tobytes()


def _text(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value
