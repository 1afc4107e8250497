"""What the local server answers and refuses by REST."""

from __future__ import annotations

import http.client
import json

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
    "deep": (b"[" * 100_000, 400, "no JSON"),
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
    assert post(server, b"", **{"Content-Length": "x"})[0] == 411
    assert post(server, columns({}))[0] == 200


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
