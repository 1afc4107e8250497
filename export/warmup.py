"""Requests that a server answers before it takes a version into service, from the training log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from at4ctr.data.store import Store
from at4ctr.schema import history_name
from export.lookup import Front
from export.requests import example, of_user, requests

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
SIZES: Mapping[int, int] = {1: 16, 32: 8, 512: 2}  # rows -> requests of each signature; ≤ 1,000


def write(folder: Path, front: Front, store: Store) -> None:
    """``FILE``: a TFRecord of ``PredictionLog``, as TensorFlow Serving replays it.

    Users, histories and candidates are those of the first rows of the training split, which are
    repeated where there are too few; the candidates of one user are those of consecutive rows.
    """
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / FILE)) as file:
        for request in made(front, store):
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            file.write(log.SerializeToString(deterministic=True))


def made(front: Front, store: Store) -> Iterator[predict_pb2.PredictRequest]:
    """The requests, small ones first."""
    raw = requests(front, store, "train", max(SIZES), longest=1)
    texts = [example(front, raw, i) for i in range(len(next(iter(raw.values()))))]
    turn = cycle(range(len(texts)))
    for size, count in SIZES.items():
        for _ in range(count):
            at = list(islice(turn, size))
            rows = {key: [values[i] for i in at] for key, values in raw.items()}
            past = _span(front, rows)
            rows |= {key: [row[past:] for row in rows[key]] for key in rows if key in _past(front)}
            yield _request(front, "serving_default", rows)
            yield _examples([texts[i] for i in at])
            yield _request(front, "candidates", of_user(front, rows, 0, slice(None)))


def _past(front: Front) -> list[str]:
    return [name for name, given in front.inputs.items() if given.past]


def _span(front: Front, rows: Mapping[str, list]) -> int:
    """How many leading positions are padding in every row; the last stays: L = 0 has no M."""
    if not front.past:
        return 0
    given = front.inputs[history_name(front.past[0].name)]
    first, missing, wide = rows[given.name], given.missing, given.length is not None
    return min(
        next(
            (
                i
                for i, v in enumerate(row)
                if (any(x != missing for x in v) if wide else v != missing)
            ),
            len(row) - 1,
        )
        for row in first
    )


def _request(front: Front, name: str, values: Mapping[str, Any]) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = name
    for key, given in front.inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(values[key], given.dtype))
    return request


def _examples(texts: list[bytes]) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "examples"
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto(texts, tf.string))
    return request
