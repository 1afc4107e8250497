"""What the local server answers and refuses by REST."""

from __future__ import annotations

import http.client
import json
import socket

import numpy as np
import pytest

from tests.export.serving import golden


def post(server, body: bytes, path: str = "/v1/models/ctr:predict", **headers):
    connection = http.client.HTTPConnection(server.rest, timeout=60)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def columns(change: dict) -> bytes:
    whole = {
        "user": [100], "city": [3], "item": [101], "category": [102], "tags": [["101"]],
        "position": [100], "history_item": [[103]], "history_category": [[104]],
        "history_tags": [[["105"]]], "history_type": [[101]],
    }  # fmt: skip
    return json.dumps({"inputs": whole | change}).encode()


RESTED = {
    "no JSON": (b"{", 400, "no JSON"),
    "deep": (b"[" * 100_000, 400, "deeper than 32"),
    "900 lists": (columns({"item": "@"}).replace(b'"@"', b"[" * 900 + b"]" * 900), 400, "deeper"),
    "7M values": (columns({"item": [1] * 5_000_000}), 400, "5,000,000 values in the rows"),
    "190,000 rows": (b'{"instances": [' + b"{}," * 189_999 + b"{}]}", 400, "190,000 rows"),
    "rows of a column": (columns({"item": [1] * 5000}), 400, "5,000 rows; expected at most"),
    "UTF-16": (json.dumps({"inputs": {}}).encode("utf-16"), 400, "no JSON"),
    "a list in a list": (columns({"item": [1, [2]]}), 400, "item holds a list"),
    "an object": (columns({"item": [{"a": 1}]}), 400, "item holds an object"),
    "mixed": (columns({"tags": [["1", 1]]}), 400, "tags holds 1; expected string"),
    "no object": (b"[1]", 400, "expected a JSON object"),
    "NaN": (columns({"item": [float("nan")]}), 400, "holds NaN"),
    "float": (columns({"item": [1.0]}), 400, "item holds 1.0; expected int64 [?]"),
    "bool": (columns({"item": [True]}), 400, "item holds true"),
    "null": (columns({"item": [None]}), 400, "item holds null"),
    "text": (columns({"item": ["1"]}), 400, 'item holds "1"'),
    "beyond int64": (columns({"item": [1 << 63]}), 400, "item holds 9223372036854775808"),
    "negative": (columns({"item": [-2]}), 400, "item holds -2"),
    "ragged": (columns({"history_item": [[1], [1, 2]]}), 400, "ragged at depth 1"),
    "shallow": (columns({"history_item": [1]}), 400, "history_item has the shape [1]"),
    "long": (columns({"history_item": [[1] * 10_000]}), 400, "behaviours"),
    "signature": (b'{"signature_name": "x", "inputs": {}}', 400, "unknown signature 'x'"),
    "missing": (b'{"inputs": {"item": [1]}}', 400, "missing input"),
    "both": (b'{"inputs": {}, "instances": []}', 400, "either 'inputs'"),
    "no rows": (b'{"instances": []}', 400, "expected one entry a row"),
    "base64": (b'{"signature_name": "examples", "instances": [{"b64": "?"}]}', 400, "no base64"),
}


@pytest.mark.parametrize("case", RESTED)
def test_rest_refuses_in_words(case, server):
    body, status, words = RESTED[case]
    found, answer = post(server, body)
    assert found == status
    assert words in answer["error"], answer
    assert post(server, columns({}))[0] == 200


def test_rest_answers_the_statuses_of_http(server):
    assert post(server, b"{}", "/v1/models/other:predict")[0] == 404
    assert post(server, columns({}), "/v1/models/ctr/versions/1:predict")[0] == 404
    assert post(server, columns({}), "/v1/models/ctr/versions/2:predict")[0] == 200
    assert post(server, b"{}", "/v1/models/ctr:classify")[0] == 400
    assert post(server, b"x" * 100_000_000)[0] == 413
    assert post(server, b"", **{"Content-Length": "x"})[0] == 400
    assert post(server, columns({}))[0] == 200


REQUESTS = {
    "PUT": (b"PUT /v1/models/ctr HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "DELETE": (b"DELETE /v1/models/ctr HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "a long field": (b"GET / HTTP/1.1\r\nHost: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    "a long path": (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "no length": (b"POST /v1/models/ctr:predict HTTP/1.1\r\nHost: x\r\n\r\n", 411),
    "no HTTP": (b"hello\r\n\r\n", 400),
}


def raw(server, data: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to bytes, after which the connection is closed."""
    host, port = server.rest.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as opened:
        opened.sendall(data)
        found = b""
        while got := opened.recv(1 << 16):
            found += got
    head, _, body = found.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("case", REQUESTS)
def test_what_is_refused_unread_is_answered_in_json(case, server):
    data, status = REQUESTS[case]
    head, body = raw(server, data)
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Content-Type: application/json" in head
    assert json.loads(body)["error"]


def test_head_is_refused_without_a_body(server):
    head, body = raw(server, b"HEAD /v1/models/ctr HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 Method Not Allowed")
    assert b"Allow: GET, POST" in head
    assert body == b""


def test_a_body_in_chunks_is_taken(server):
    connection = http.client.HTTPConnection(server.rest, timeout=60)
    text = columns({})
    parts = iter([text[:7], text[7:]])
    connection.request("POST", "/v1/models/ctr:predict", parts, encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})  # fmt: skip
    response = connection.getresponse()
    assert response.status == 200
    assert json.loads(response.read()) == post(server, text)[1]
    connection.close()


def test_rest_takes_rows_and_columns(server, made):
    """Both formats, and the answers of the stored rows in each."""
    stored = golden(made / "2")
    status, found = post(server, json.dumps({"inputs": stored["inputs"]}).encode())
    assert status == 200
    np.testing.assert_allclose(found["outputs"]["logit"], stored["outputs"]["logit"], atol=1e-5)
    instances = [
        dict(zip(stored["inputs"], row, strict=True))
        for row in zip(*stored["inputs"].values(), strict=True)
    ]
    status, found = post(server, json.dumps({"instances": instances}).encode())
    assert status == 200
    logits = [row["logit"] for row in found["predictions"]]
    np.testing.assert_allclose(logits, stored["outputs"]["logit"], atol=1e-5)


def test_metrics_count_what_was_answered(server):
    def counted() -> dict[str, float]:
        connection = http.client.HTTPConnection(server.rest, timeout=60)
        connection.request("GET", "/monitoring/prometheus/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in lines if x[0] != "#")}

    name = ':tensorflow:serving:request_{}{{model_name="ctr",{}}}'
    good, bad = (name.format("count", f'status="{s}"') for s in ("OK", "INVALID_ARGUMENT"))
    spent = name.format("latency_bucket", 'API="Predict",entrypoint="REST",le="+Inf"')
    before = counted()
    assert post(server, columns({}))[0] == 200
    assert post(server, b"{")[0] == 400
    after = counted()
    rise = {key: after[key] - before.get(key, 0) for key in (good, bad, spent)}
    assert rise == {good: 1, bad: 1, spent: 2}
