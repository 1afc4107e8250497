"""A version of two labels, numbers and weighted values, from the log to the server's answer."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.errors import InputError
from export import client, native, requests
from export.checks import CheckError, Graph, defaults, training_only
from export.lookup import Front
from export.server.tensors import RefusedError
from export.verify import run
from tests.export.rich import (
    ENCODINGS,
    FLOATS,
    OUTPUTS,
    T,
    answers,
    ask,
    of_user,
    rows_of,
    same,
)
from tests.export.serving import Server


@pytest.fixture(scope="module")
def rich_server(rich_version):
    started = Server(rich_version.parent)
    started.wait("version 1 is available")
    yield started
    started.stop(signal.SIGINT)


@pytest.mark.parametrize("split", ["train", "test"])
def test_raw_requests_are_the_readers_rows(rich_store, split):
    raw, batch = rows_of(rich_store, split)
    front, size = Front(rich_store, T), tf.constant(50)
    sent = {k: tf.constant(raw[k], i.dtype) for k, i in front.inputs.items()}
    found = front.present(sent, size) | front.histories(sent, size)
    assert found.keys() >= FLOATS
    for key, values in found.items():
        np.testing.assert_array_equal(values, batch[key], key)
    missing = [np.isnan(batch[name]) for name in ENCODINGS]
    assert all(not m.all() and (m.any() or split == "test") for m in missing)
    assert len(np.unique(batch["weights_tags"])) > 4


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_server_answers_as_the_model(protocol, rich_server, rich_model, rich_store, rich_version):
    raw, batch = rows_of(rich_store)
    row = int(np.argmax(batch["history_length"]))
    asked = client.connect(protocol, getattr(rich_server, protocol), "ctr", 60.0)
    default = asked.predict({"inputs": raw}, None)
    same(default, answers(rich_model, batch))
    inputs = requests.of_user(Front(rich_store, T), raw, row, slice(None))
    one = {k: np.repeat(v[row : row + 1], 50, 0) if of_user(k) else v for k, v in batch.items()}
    alone = asked.predict({"signature_name": "candidates", "inputs": inputs}, None)
    same(alone, answers(rich_model, one))
    same({k: v[row] for k, v in alone.items()}, {k: v[row] for k, v in default.items()})
    passed, lines = client.replay(asked, rich_version, 1e-5)
    assert passed, lines
    asked.close()


def test_rows_that_name_their_user_have_its_number(rich_model, rich_store):
    """Of several users, whose entries the rich_model repeats itself."""
    batch = rows_of(rich_store)[1]
    owner = np.arange(50, dtype=np.int32) % 3
    users = {k: v[:3] if of_user(k) else v for k, v in batch.items()}
    repeated = {k: v[owner] if len(v) == 3 else v for k, v in users.items()}
    same(answers(rich_model, users | {"owner": owner}), answers(rich_model, repeated), 1e-6)


def test_the_version_is_sound_in_python_and_c(rich_version, tmp_path):
    assert [line for good, line in run(rich_version) if not good] == []
    if not (os.environ.get("CC") or shutil.which("cc")):
        pytest.skip("no C compiler: neither CC nor cc")
    words = [str(native.build(tmp_path / "verify")), str(rich_version)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok ") == 3


def test_every_number_and_weight_counts_or_is_missing(rich_signatures, rich_store, rich_model):
    raw, batch = rows_of(rich_store)
    whole = ask(rich_signatures, raw)
    tagged = (batch["tags"] > 0).sum(1) > 1
    assert tagged.any()
    for name in ENCODINGS:
        found = ask(rich_signatures, raw | {name: [np.nan]})
        same(found, answers(rich_model, batch | {name: np.full(50, np.nan, np.float32)}))
        moved = np.abs(found["logit_click"] - whole["logit_click"]) > 1e-5
        assert (moved == ~np.isnan(batch[name])).all(), name
    one = np.where(batch["tags"] > 0, 1, 0).astype(np.float32)
    expected = answers(rich_model, batch | {"weights_tags": one})
    assert (np.abs(expected["logit_click"] - whole["logit_click"])[tagged] > 1e-6).any()
    for weights in (np.zeros((1, 0)), np.full((50, 2), np.nan), np.ones((1, 2))):
        same(ask(rich_signatures, raw | {"weights_tags": weights}), expected)
    spread = {  # missing values between others, of which each keeps its weight
        "tags": [["", tags[0], "", tags[1]] for tags in raw["tags"]],
        "weights_tags": [[7.0, w[0], np.nan, w[1]] for w in raw["weights_tags"]],
    }
    same(ask(rich_signatures, raw | spread), whole)


def test_an_example_may_leave_numbers_and_weights_out(rich_signatures, rich_store, rich_model):
    raw, batch = rows_of(rich_store)
    front = Front(rich_store, T)
    texts = [requests.example(front, raw, row) for row in range(50)]
    same(ask(rich_signatures, {"examples": texts}, "examples"), answers(rich_model, batch))
    row = int(np.argmax((batch["tags"] > 0).sum(1)))
    made = tf.train.Example.FromString(texts[row])
    del made.features.feature["weights_tags"].float_list.value[1:]
    with pytest.raises(tf.errors.InvalidArgumentError, match="values of weights_tags as of tags"):
        ask(rich_signatures, {"examples": [made.SerializeToString()]}, "examples")
    for name in FLOATS:
        made.features.feature.pop(name, None)
    bare = {k: v[row : row + 1].copy() for k, v in batch.items()}
    bare |= {name: np.full(1, np.nan, np.float32) for name in ENCODINGS}
    bare["weights_tags"] = np.where(bare["tags"] > 0, 1, 0).astype(np.float32)
    # beside a row with weights, so that its own are padded
    texts = [made.SerializeToString(), texts[row]]
    found = ask(rich_signatures, {"examples": texts}, "examples")
    same({k: v[:1] for k, v in found.items()}, answers(rich_model, bare))


MALFORMED: dict[str, tuple[dict, str]] = {
    "text": ({"price": ["dear", 1]}, 'price holds "dear"; expected float32 [?]'),
    "null": ({"age": [None]}, "age holds null; expected float32 [?]"),
    "bool": ({"age": [True]}, "age holds true; expected float32 [?]"),
    "beyond float32": ({"rate": [1e39]}, "rate holds inf; expected finite numbers, or NaN"),
    "rank": ({"price": [[1.0, 2.0]]}, "expected float32 [?]"),
    "rows": ({"price": [1.0] * 3}, "rows and"),
    "ragged": ({"weights_tags": [[1.0], [1.0, 2.0]]}, "pad with NaN"),
    "weights": ({"weights_tags": [[1.0]] * 2}, "weights_tags has 1 values and tags 2"),
    "negative": ({"weights_tags": [[1.0, -0.5]] * 2}, "holds -0.5; expected finite weights of at"),
    "NaN id": ({"slot": [float("nan")]}, "slot holds NaN; expected int64 [?]"),
}


def test_malformed_numbers_are_refused_in_one_sentence(rich_server, rich_store):
    raw = {k: v[:2] for k, v in rows_of(rich_store, rows=2)[0].items()}
    for protocol in ("grpc", "rest"):
        asked = client.connect(protocol, getattr(rich_server, protocol), "ctr", 60.0)
        for case, (change, words) in MALFORMED.items():
            with pytest.raises((InputError, RefusedError)) as caught:
                asked.predict({"inputs": raw | change}, None)
            text = str(caught.value)
            assert words in text, (case, text)
            assert "\n" not in text, (case, text)
        inputs = requests.of_user(Front(rich_store, T), raw, 0, slice(None)) | {"price": [1.0] * 3}
        with pytest.raises(InputError, match="price must have one row, or as many as the cand"):
            asked.predict({"signature_name": "candidates", "inputs": inputs}, None)
        assert len(asked.predict({"inputs": raw}, None)["logit_click"]) == 2
        asked.close()
    connection = http.client.HTTPConnection(rich_server.rest, timeout=60)
    for token, words in (("Infinity", "the request holds Infinity"), ("1e999", "price holds inf")):
        body = json.dumps({"inputs": raw | {"price": ["@", 1]}}).replace('"@"', token)
        connection.request("POST", "/v1/models/ctr:predict", body)
        response = connection.getresponse()
        assert words in json.loads(response.read())["error"]
        assert response.status == 400
    connection.close()


def test_the_graph_itself_refuses_numbers_that_are_none(rich_signatures, rich_store):
    """As TensorFlow Serving would be asked, which looks at no value."""
    raw, _ = rows_of(rich_store, rows=2)
    for change, words in (
        ({"price": [np.inf, 1.0]}, "price holds an infinite number"),
        ({"age": [-np.inf]}, "age holds an infinite number"),
        ({"weights_tags": [[-1.0, 1.0]]}, "weights_tags holds no weight"),
        ({"weights_tags": [[np.inf, 1.0]]}, "weights_tags holds no weight"),
        ({"weights_tags": [[1.0]]}, "weights_tags must have as many values as tags"),
        ({"rate": [1.0] * 3}, "rate must have one row, or as many"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            ask(rich_signatures, raw | change)


def test_the_page_names_numbers_and_its_request_is_answered(rich_signatures, rich_version):
    page = (rich_version / "SIGNATURES.md").read_text()
    for line in (
        "| `age` | float32 | [B] | number `age` of the user |",
        "| `age` | float32 | [1] | number `age` of the user |",
        "| `price` | float32 | [N] | number `price` of the candidate |",
        "| `rate` | float32 | [N] | number `rate` of the impression |",
        "| `weights_tags` | float32 | [N, M] | weight, of at least 0, of each value of `tags`",
    ):
        assert line in page
    (line,) = (line for line in page.splitlines() if line.startswith('{"signature_name"'))
    asked = json.loads(line)
    assert ask(rich_signatures, asked["inputs"], "candidates").keys() == OUTPUTS


def test_the_client_prints_one_label_by_its_name(rich_server, rich_version, capsys):
    file = rich_version / "assets.extra/golden/candidates.json"
    options = ["--protocol=rest", f"--server={rich_server.rest}", f"--request=golden:{file}"]
    expected = json.loads(file.read_text())["outputs"]["probability_conversion"]
    assert client.main([*options, "--label=conversion"]) == 0
    found = [float(line) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(found, expected, 1e-5)
    assert client.main([*options, "--label=conversions"]) == 2
    assert "unknown --label 'conversions': did you mean conversion or" in capsys.readouterr().err
    one = {"probability": np.zeros(1), "logit": np.zeros(1)}
    with pytest.raises(InputError, match="host:1 answers one probability, whose label has no name"):
        client.table(one, "host:1", "click")


def test_a_doctored_number_is_refused(rich_version):
    """A default of -1 is a number like any other, and what training alone reads is no input."""
    graph = Graph.FromString((rich_version / "saved_model.pb").read_bytes())
    manifest = json.loads((rich_version / "MANIFEST.json").read_text())
    defaults(graph, manifest)
    training_only(graph, manifest)
    for kind, name, found in (("numbers", "age", "age"), ("features", "tags", "tags|weights_tags")):
        schema = manifest["schema"]
        hidden = [one | {"serve": one["name"] != name and one["serve"]} for one in schema[kind]]
        with pytest.raises(CheckError, match=rf"the graph reads '({found})'"):
            training_only(graph, manifest | {"schema": schema | {kind: hidden}})
    proto = graph.meta_graphs[0].signature_def["candidates"].defaults["price"]
    proto.CopyFrom(tf.make_tensor_proto([-1.0], tf.float32))
    with pytest.raises(CheckError, match="default of candidates 'price'"):
        defaults(graph, manifest)
