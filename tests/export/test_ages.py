"""A version that reads how long ago each behaviour was, from the log to the server's answer."""

from __future__ import annotations

import json
import signal
from typing import Any, cast

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import tin
from at4ctr.errors import InputError
from at4ctr.heads import shared_bottom
from at4ctr.model.build import Plan, serving_model
from at4ctr.schema import AGES
from export import client, requests, saved_model
from export.lookup import Front
from export.verify import run
from tests.export import EMBEDDING
from tests.export.rich import T, answers, ask, of_user, rows_of, same
from tests.export.serving import Server


@pytest.fixture(scope="module")
def model(rich_store):
    """Not trained, with rows of intervals that can be told apart."""
    rows = {t.name: rich_store.rows(t.name) for t in rich_store.schema.tables}
    head = shared_bottom.Config(bottom=(16,), tower=(8,))
    plan = Plan.of(tin.Config("both"), EMBEDDING, head=head, seed=3)
    made = serving_model(rich_store.schema, rows, plan, rich_store.numbers(), rich_store.vectors())
    intervals = cast(Any, made.backbone).intervals
    intervals.assign(20 * intervals)
    return made


@pytest.fixture(scope="module")
def version(model, rich_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ages")
    return saved_model.save(model, rich_store, folder, history=T, facts={})


@pytest.fixture(scope="module")
def signatures(version):
    return tf.saved_model.load(str(version)).signatures


@pytest.fixture(scope="module")
def asked(rich_store):
    """Raw requests with ages, longer than the model sees, and the reader's batch of their rows."""
    batch = rows_of(rich_store)[1]
    return requests.requests(Front(rich_store, T, ages=True), rich_store, "test", 50), batch


def test_raw_ages_are_the_readers(rich_store, asked):
    raw, batch = asked
    front, size = Front(rich_store, T, ages=True), tf.constant(50)
    sent = {k: tf.constant(raw[k], i.dtype) for k, i in front.inputs.items()}
    found = front.histories(sent, size)
    assert found[AGES].dtype == tf.int32
    np.testing.assert_array_equal(found[AGES], batch[AGES])
    assert len(np.unique(batch[AGES])) > 20
    assert max(map(len, raw[AGES])) > T


def test_the_version_is_sound_and_names_the_input(version):
    assert [line for good, line in run(version) if not good] == []
    page = (version / "SIGNATURES.md").read_text()
    assert "| `history_seconds_ago` | int64 | [B, L] | seconds from each behaviour" in page
    assert "| `history_seconds_ago` | int64 | [L] | seconds from each behaviour" in page
    golden = json.loads((version / saved_model.GOLDEN / "candidates.json").read_text())
    assert max(golden["inputs"][AGES]) > 0


def test_ages_count_and_may_be_left_out(signatures, model, asked):
    raw, batch = asked
    whole = ask(signatures, raw)
    same(whole, answers(model, batch))
    unknown = answers(model, batch | {AGES: np.full_like(batch[AGES], -1)})
    moved = np.abs(unknown["logit_click"] - whole["logit_click"]) > 1e-5
    np.testing.assert_array_equal(moved, batch["history_length"] > 0)
    same(ask(signatures, raw | {AGES: np.zeros((1, 0), np.int64)}), unknown)
    longest = np.where(np.array(raw[AGES]) < 0, -1, 2**40)
    most = np.full_like(batch[AGES], 2**31 - 1)
    same(ask(signatures, raw | {AGES: longest}), answers(model, batch | {AGES: most}))


def test_an_example_may_leave_ages_out(signatures, model, rich_store, asked):
    raw, batch = asked
    front = Front(rich_store, T, ages=True)
    texts = [requests.example(front, raw, row) for row in range(50)]
    same(ask(signatures, {"examples": texts}, "examples"), answers(model, batch))
    bare = [tf.train.Example.FromString(text) for text in texts]
    for example in bare:
        del example.features.feature[AGES]
    found = ask(signatures, {"examples": [e.SerializeToString() for e in bare]}, "examples")
    same(found, answers(model, batch | {AGES: np.full_like(batch[AGES], -1)}))


@pytest.mark.parametrize("values", [[[-2]], [[5, 6]]])
def test_refuses_ages_that_are_none_or_of_another_number(signatures, asked, values):
    raw = {k: v[:1] for k, v in asked[0].items()}
    row = int(np.argmax(asked[1]["history_length"]))
    raw |= {k: [v[row][-1:]] for k, v in asked[0].items() if k.startswith("history_")}
    with pytest.raises(tf.errors.InvalidArgumentError, match=AGES):
        ask(signatures, raw | {AGES: np.array(values, np.int64)})


def test_a_server_answers_by_rest_and_grpc(version, model, rich_store, asked):
    raw, batch = asked
    row = int(np.argmax(batch["history_length"]))
    inputs = requests.of_user(Front(rich_store, T, ages=True), raw, row, slice(None))
    one = {k: np.repeat(v[row : row + 1], 50, 0) if of_user(k) else v for k, v in batch.items()}
    server = Server(version.parent)
    server.wait("version 1 is available")
    try:
        for protocol in ("grpc", "rest"):
            connected = client.connect(protocol, getattr(server, protocol), "ctr", 60.0)
            same(connected.predict({"inputs": raw}, None), answers(model, batch))
            alone = connected.predict({"signature_name": "candidates", "inputs": inputs}, None)
            same(alone, answers(model, one))
            left_out = {k: v for k, v in raw.items() if k != AGES}
            if protocol == "grpc":  # whose request takes the defaults of the signature
                connected.predict({"inputs": left_out}, None)
            passed, lines = client.replay(connected, version, 1e-5)
            assert passed, lines
            with pytest.raises(InputError, match=AGES):
                connected.predict({"inputs": raw | {AGES: [a[1:] for a in raw[AGES]]}}, None)
            connected.close()
    finally:
        server.stop(signal.SIGINT)


def test_a_model_without_ages_has_no_such_input(rich_version, rich_store):
    assert AGES not in Front(rich_store, T).inputs
    assert "reads_ages" not in json.loads((rich_version / saved_model.MANIFEST).read_text())
    assert AGES not in (rich_version / "SIGNATURES.md").read_text()
