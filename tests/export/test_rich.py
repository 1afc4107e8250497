"""A version of two labels, numbers and weighted values, from the log to the server's answer."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import din
from at4ctr.calibration import Platt
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.heads import shared_bottom
from at4ctr.model.build import Plan, serving_model
from export import client, native, saved_model
from export.checks import CheckError, Graph, defaults
from export.lookup import Front
from export.requests import example, of_user, requests
from export.verify import verify
from tests.data import rich_log
from tests.export import EMBEDDING
from tests.export.serving import Server

T = 5
ENCODINGS = {"age": "log", "price": "buckets", "rate": "mns"}
FLOATS = {*ENCODINGS, "weights_tags"}
PROFILE = {"user", "age"}  # what one user has in a batch, beside the history
OUTPUTS = {
    *(f"probability_{label}" for label in ("click", "conversion", "click_and_conversion")),
    *(f"logit_{label}" for label in ("click", "conversion")),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rich")
    found = Store.open(prepare(rich_log.Log(raw=rich_log.write(folder / "raw")), folder / "data"))
    numbers = [dataclasses.replace(n, encoding=ENCODINGS[n.name]) for n in found.schema.numbers]
    schema = dataclasses.replace(found.schema, numbers=tuple(numbers))
    return dataclasses.replace(found, schema=schema)


@pytest.fixture(scope="module")
def model(store):
    made = serving_model(
        store.schema,
        {t.name: store.rows(t.name) for t in store.schema.tables},
        Plan.of(
            din.Config(),
            EMBEDDING,
            head=shared_bottom.Config(bottom=(16,), tower=(8,)),
            negative_rate=0.5,
            seed=3,
        ),
        store.numbers(),
        store.vectors(),
    )
    for encoding in made.embedder.encodings.values():  # they start too small to be seen
        for variable in encoding.trainable_variables:
            variable.assign(20 * variable)
    made.calibrate({"conversion": Platt(0.8, -0.3)})
    return made


@pytest.fixture(scope="module")
def version(model, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return saved_model.save(model, store, folder, history=T, facts={})


@pytest.fixture(scope="module")
def signatures(version):
    return tf.saved_model.load(str(version)).signatures


@pytest.fixture(scope="module")
def server(version):
    started = Server(version.parent)
    started.wait("version 1 is available")
    yield started
    started.stop(signal.SIGINT)


def rows_of(store, split="test", rows=50):
    """Raw requests and the reader's batch of the same rows."""
    reader = Reader(store, split, batch_size=rows, history=T, shuffle=False, block_users=1)
    batch = reader.batch(0, 0)
    return requests(Front(store, T), store, split, rows), batch


def answers(model, batch):
    return {k: v.numpy() for k, v in model.answer(tensors(batch)).items()}


def tensors(batch):
    return {k: tf.constant(v) for k, v in batch.items()}


def ask(signatures, raw, name="serving_default"):
    specs = signatures[name].structured_input_signature[1]
    given = {k: tf.constant(v, specs[k].dtype) for k, v in raw.items()}
    return {k: v.numpy() for k, v in signatures[name](**given).items()}


def one_user(batch, row):
    """The batch with the user of a row in every row."""
    return {
        k: np.repeat(v[row : row + 1], len(v), 0) if k in PROFILE or "history" in k else v
        for k, v in batch.items()
    }


def same(found, expected, close=1e-5):
    assert found.keys() == expected.keys() == OUTPUTS
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=close, atol=close, err_msg=name)


@pytest.mark.parametrize("split", ["train", "test"])
def test_raw_requests_are_the_readers_rows(store, split):
    raw, batch = rows_of(store, split)
    front, size = Front(store, T), tf.constant(50)
    sent = {k: tf.constant(raw[k], i.dtype) for k, i in front.inputs.items()}
    found = front.present(sent, size) | front.histories(sent, size)
    assert found.keys() >= FLOATS
    for key, values in found.items():
        np.testing.assert_array_equal(values, batch[key], key)
    missing = [np.isnan(batch[name]) for name in ENCODINGS]
    assert all(not m.all() and (m.any() or split == "test") for m in missing)
    assert len(np.unique(batch["weights_tags"])) > 4


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_server_answers_as_the_model(protocol, server, model, store, version):
    raw, batch = rows_of(store)
    row = int(np.argmax(batch["history_length"]))
    asked = client.connect(protocol, getattr(server, protocol), "ctr", 60.0)
    default = asked.predict({"inputs": raw}, None)
    same(default, answers(model, batch))
    inputs = of_user(Front(store, T), raw, row, slice(None))
    alone = asked.predict({"signature_name": "candidates", "inputs": inputs}, None)
    same(alone, answers(model, one_user(batch, row)))
    same({k: v[row] for k, v in alone.items()}, {k: v[row] for k, v in default.items()})
    passed, lines = client.replay(asked, version, 1e-5)
    assert passed, lines
    asked.close()


def test_rows_that_name_their_user_have_its_number(model, store):
    """Of several users, whose entries the model repeats itself."""
    batch = rows_of(store)[1]
    owner = np.arange(50, dtype=np.int32) % 3
    users = {k: v[:3] if k in PROFILE or "history" in k else v for k, v in batch.items()}
    repeated = {k: v[owner] if len(v) == 3 else v for k, v in users.items()}
    same(answers(model, users | {"owner": owner}), answers(model, repeated), 1e-6)


def test_the_version_is_sound_in_python_and_c(version, tmp_path):
    report = verify(version)
    assert report.ok, report.lines
    manifest = json.loads((version / "MANIFEST.json").read_text())
    assert set(manifest["outputs"]) == OUTPUTS
    if not (os.environ.get("CC") or shutil.which("cc")):
        pytest.skip("no C compiler: neither CC nor cc")
    words = [str(native.build(tmp_path / "verify")), str(version)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok ") == 3


def test_every_number_and_weight_counts_and_what_is_left_out_is_missing(signatures, store, model):
    raw, batch = rows_of(store)
    whole = ask(signatures, raw)
    tagged = (batch["tags"] > 0).sum(1) > 1
    assert tagged.any()
    for name in ENCODINGS:
        found = ask(signatures, raw | {name: [np.nan]})
        same(found, answers(model, batch | {name: np.full(50, np.nan, np.float32)}))
        moved = np.abs(found["logit_click"] - whole["logit_click"]) > 1e-5
        assert (moved == ~np.isnan(batch[name])).all(), name
    one = np.where(batch["tags"] > 0, 1, 0).astype(np.float32)
    expected = answers(model, batch | {"weights_tags": one})
    assert (np.abs(expected["logit_click"] - whole["logit_click"])[tagged] > 1e-6).any()
    for weights in (np.zeros((1, 0)), np.full((50, 2), np.nan), np.ones((1, 2))):
        same(ask(signatures, raw | {"weights_tags": weights}), expected)
    spread = {  # missing values between others, of which each keeps its weight
        "tags": [["", tags[0], "", tags[1]] for tags in raw["tags"]],
        "weights_tags": [[7.0, w[0], np.nan, w[1]] for w in raw["weights_tags"]],
    }
    same(ask(signatures, raw | spread), whole)


def test_an_example_may_leave_numbers_and_weights_out(signatures, store, model):
    raw, batch = rows_of(store)
    front = Front(store, T)
    texts = [example(front, raw, row) for row in range(50)]
    same(ask(signatures, {"examples": texts}, "examples"), answers(model, batch))
    row = int(np.argmax((batch["tags"] > 0).sum(1)))
    made = tf.train.Example.FromString(texts[row])
    del made.features.feature["weights_tags"].float_list.value[1:]
    with pytest.raises(tf.errors.InvalidArgumentError, match="values of weights_tags as of tags"):
        ask(signatures, {"examples": [made.SerializeToString()]}, "examples")
    for name in FLOATS:
        made.features.feature.pop(name, None)
    bare = {k: v[row : row + 1].copy() for k, v in batch.items()}
    bare |= {name: np.full(1, np.nan, np.float32) for name in ENCODINGS}
    bare["weights_tags"] = np.where(bare["tags"] > 0, 1, 0).astype(np.float32)
    # beside a row with weights, so that its own are padded
    texts = [made.SerializeToString(), texts[row]]
    found = ask(signatures, {"examples": texts}, "examples")
    same({k: v[:1] for k, v in found.items()}, answers(model, bare))


MALFORMED = {
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


def test_malformed_numbers_are_refused_in_one_sentence(server, store):
    raw = {k: v[:2] for k, v in rows_of(store, rows=2)[0].items()}
    for protocol in ("grpc", "rest"):
        asked = client.connect(protocol, getattr(server, protocol), "ctr", 60.0)
        for case, (change, words) in MALFORMED.items():
            with pytest.raises((InputError, client.tensors.RefusedError)) as caught:
                asked.predict({"inputs": raw | change}, None)
            text = str(caught.value)
            assert words in text, (case, text)
            assert "\n" not in text, (case, text)
        inputs = of_user(Front(store, T), raw, 0, slice(None)) | {"price": [1.0] * 3}
        with pytest.raises(InputError, match="price must have one row, or as many as the cand"):
            asked.predict({"signature_name": "candidates", "inputs": inputs}, None)
        assert len(asked.predict({"inputs": raw}, None)["logit_click"]) == 2
        asked.close()
    connection = http.client.HTTPConnection(server.rest, timeout=60)
    for token, words in (("Infinity", "the request holds Infinity"), ("1e999", "price holds inf")):
        body = json.dumps({"inputs": raw | {"price": ["@", 1]}}).replace('"@"', token)
        connection.request("POST", "/v1/models/ctr:predict", body)
        response = connection.getresponse()
        assert words in json.loads(response.read())["error"]
        assert response.status == 400
    connection.close()


def test_the_graph_itself_refuses_numbers_that_are_none(signatures, store):
    """As TensorFlow Serving would be asked, which looks at no value."""
    raw, _ = rows_of(store, rows=2)
    for change, words in (
        ({"price": [np.inf, 1.0]}, "price holds an infinite number"),
        ({"age": [-np.inf]}, "age holds an infinite number"),
        ({"weights_tags": [[-1.0, 1.0]]}, "weights_tags holds no weight"),
        ({"weights_tags": [[np.inf, 1.0]]}, "weights_tags holds no weight"),
        ({"weights_tags": [[1.0]]}, "weights_tags must have as many values as tags"),
        ({"rate": [1.0] * 3}, "rate must have one row, or as many"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            ask(signatures, raw | change)


def test_the_page_names_numbers_and_weights_and_its_request_is_answered(signatures, version):
    page = (version / "SIGNATURES.md").read_text()
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
    assert ask(signatures, asked["inputs"], "candidates").keys() == OUTPUTS


def test_the_client_prints_one_label_by_its_name(server, version, capsys):
    file = version / "assets.extra/golden/candidates.json"
    options = ["--protocol=rest", f"--server={server.rest}", f"--request=golden:{file}"]
    expected = json.loads(file.read_text())["outputs"]["probability_conversion"]
    assert client.main([*options, "--label=conversion"]) == 0
    found = [float(line) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(found, expected, 1e-5)
    assert client.main([*options, "--label=conversions"]) == 2
    assert "unknown --label 'conversions': did you mean conversion or" in capsys.readouterr().err
    one = {"probability": np.zeros(1), "logit": np.zeros(1)}
    with pytest.raises(InputError, match="host:1 answers one probability, whose label has no name"):
        client.table(one, "host:1", "click")


def test_a_missing_number_that_a_version_would_not_take_is_refused(version):
    """A default of -1 is a number like any other."""
    graph = Graph.FromString((version / "saved_model.pb").read_bytes())
    manifest = json.loads((version / "MANIFEST.json").read_text())
    defaults(graph, manifest)
    proto = graph.meta_graphs[0].signature_def["candidates"].defaults["price"]
    proto.CopyFrom(tf.make_tensor_proto([-1.0], tf.float32))
    with pytest.raises(CheckError, match="default of candidates 'price'"):
        defaults(graph, manifest)
