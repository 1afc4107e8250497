"""What the local server answers and refuses by gRPC."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.export.serving import golden

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc, [("grpc.max_send_message_length", -1)]) as opened:
        yield opened


def message(raw: dict, signature: str = "serving_default", **dtypes) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "ctr", signature
    for name, value in raw.items():
        text = name in ("tags", "history_tags", "examples")
        dtype = dtypes.get(name, tf.string if text else tf.int64)
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.array(value), dtype))
    return request


def ask(channel, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return stub.Predict(request, timeout=60)


def refused(act) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        act()
    return caught.value.code().name, caught.value.details()


def still_right(channel, made: Path) -> None:
    """The server is up and its answers are the stored ones."""
    row = golden(made / "2")
    found = tf.make_ndarray(ask(channel, message(row["inputs"])).outputs["logit"])
    np.testing.assert_allclose(found, row["outputs"]["logit"], rtol=1e-5, atol=1e-5)


def rows(made: Path) -> dict:
    return {name: np.array(value) for name, value in golden(made / "2")["inputs"].items()}


def without(raw: dict, name: str) -> dict:
    return {n: v for n, v in raw.items() if n != name}


def long_example(count: int) -> bytes:
    values = tf.train.Int64List(value=[100] * count)
    feature = {"history_item": tf.train.Feature(int64_list=values)}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def float_example(value: float) -> bytes:
    feature = {"item": tf.train.Feature(float_list=tf.train.FloatList(value=[value]))}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def tall(raw: dict, length: int) -> dict:
    past = {n: np.repeat(v[:, :1], length, 1) for n, v in raw.items() if n.startswith("history_")}
    return raw | past


MALFORMED = {
    "wrong dtype": (lambda r: message(r, item=tf.float32), "item is DT_FLOAT; expected int64"),
    "NaN": (
        lambda r: message(r | {"item": r["item"] * np.nan}, item=tf.float64),
        "item is DT_DOUBLE; expected int64",
    ),
    "negative ids": (lambda r: message(r | {"item": r["item"] * 0 - 2}), "item holds -2"),
    "long history": (lambda r: message(tall(r, 10_000)), "10,000 behaviours; expected at most"),
    "many rows": (lambda _: message({"item": [101] * 5000}), "5,000 rows; expected at most"),
    "missing feature": (lambda r: message(without(r, "item")), "missing input 'item'"),
    "unknown feature": (lambda r: message(r | {"colour": r["item"]}), "unknown input 'colour'"),
    "unknown signature": (lambda r: message(r, "predict"), "unknown signature 'predict'"),
    "rank": (lambda r: message(r | {"item": r["item"][:, None]}), "item has 2 dimensions"),
    "rows differ": (lambda r: message(r | {"item": r["item"][:5]}), "rows and"),
    "behaviours differ": (
        lambda r: message(r | {"history_type": r["history_type"][:, :5]}),
        "behaviours and",
    ),
    "empty batch": (lambda r: message({n: v[:0] for n, v in r.items()}), "no row"),
    "no example": (lambda _: message({"examples": [b"\xff\xff"]}, "examples"), "no serialized"),
    "long example": (
        lambda _: message({"examples": [long_example(10_000)]}, "examples"),
        "10,000 values of history_item",
    ),
    "infinite example": (
        lambda _: message({"examples": [float_example(-np.inf)]}, "examples"),
        "example 0: item holds -inf; expected finite numbers, or NaN for a missing one",
    ),
    "float example": (
        lambda _: message({"examples": [float_example(np.nan)]}, "examples"),
        "expected type: int64",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_refused_in_words_and_the_server_stays(case, channel, made):
    make, words = MALFORMED[case]
    code, text = refused(lambda: ask(channel, make(rows(made))))
    assert code == "INVALID_ARGUMENT"
    assert words in text, text
    still_right(channel, made)


def test_a_message_above_the_limit_is_not_let_in(channel, made):
    request = message(rows(made) | {"tags": [["x" * (16 << 20)]]})
    code, text = refused(lambda: ask(channel, request))
    assert code == "RESOURCE_EXHAUSTED"
    assert f"vs. {16 << 20}" in text
    still_right(channel, made)


def test_a_tensor_may_not_claim_what_it_does_not_carry(channel, made):
    request = message(rows(made))
    request.inputs["item"].tensor_shape.dim[0].size = 1 << 50
    assert "claims" in refused(lambda: ask(channel, request))[1]
    request.inputs["item"].tensor_shape.dim[0].size = -1
    assert "unknown shape" in refused(lambda: ask(channel, request))[1]
    request = message(rows(made))
    request.inputs["item"].tensor_content = b"\0" * 7
    assert refused(lambda: ask(channel, request))[0] == "INVALID_ARGUMENT"
    request.inputs["item"].tensor_content = b""
    request.inputs["item"].int64_val.extend([101] * 1000)
    assert "item carries 1,000 values" in refused(lambda: ask(channel, request))[1]
    still_right(channel, made)


def test_one_value_that_stands_for_many_is_counted_over_all_inputs(channel, made):
    request = message(rows(made))
    for name in ("city", "item"):  # either alone may be that large
        request.inputs[name].CopyFrom(tf.make_tensor_proto(101, tf.int64, [10 << 20]))
    assert request.ByteSize() < 1 << 20
    code, text = refused(lambda: ask(channel, request))
    assert code == "INVALID_ARGUMENT"
    assert "claims 10,485,760 values; expected at most 6," in text
    still_right(channel, made)


def test_bytes_that_are_no_request_are_refused(channel, made):
    call = channel.unary_unary(PREDICT)
    assert refused(lambda: call(b"\xff" * 20, timeout=60))[0] == "INVALID_ARGUMENT"
    request = predict_pb2.PredictRequest()
    assert "no name" in refused(lambda: ask(channel, request))[1]
    still_right(channel, made)


@pytest.mark.parametrize("change", [{"name": "other"}, {"version": 1}])
def test_what_is_not_served_is_not_found(change, channel, made):
    request = message(rows(made))
    request.model_spec.name = change.get("name", "ctr")
    if "version" in change:
        request.model_spec.version.value = change["version"]
    assert refused(lambda: ask(channel, request))[0] == "NOT_FOUND"


def test_only_the_candidates_id_has_to_be_there(channel, made):
    """By gRPC the signature's defaults stand in: the answer is that of missing values."""
    raw = rows(made)
    missing = {n: np.full_like(v, -1 if v.dtype.kind == "i" else "") for n, v in raw.items()}
    short = ask(channel, message({"item": raw["item"]}))
    whole = ask(channel, message(missing | {"item": raw["item"]}))
    np.testing.assert_allclose(
        tf.make_ndarray(short.outputs["logit"]), tf.make_ndarray(whole.outputs["logit"]), atol=1e-6
    )
    assert short.model_spec.version.value == 2


def test_an_output_filter_picks_outputs(channel, made):
    request = message(rows(made))
    request.output_filter.append("logit")
    assert list(ask(channel, request).outputs) == ["logit"]
    request.output_filter[0] = "score"
    assert "unknown output 'score'" in refused(lambda: ask(channel, request))[1]
