"""A version with a fused score: what it answers, and that all who read a version know it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.metrics import sigmoid
from at4ctr.tasks import Task
from export import client, saved_model
from export.verify import run
from tests.export import rich
from tests.oracles import derived

NAME, WEIGHT = "click_without_conversion", 0.02


@pytest.fixture(scope="module")
def model(rich_built):
    made = rich_built({"click": Task(serve=False), "conversion": Task(), NAME: Task()})
    made.score_weight = WEIGHT
    return made


@pytest.fixture(scope="module")
def version(model, rich_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    return saved_model.save(model, rich_store, folder, history=rich.T, facts={}, golden=8)


def test_it_verifies_and_answers_the_score_of_its_equation(model, version, rich_store):
    failed = [line for good, line in run(version) if not good]
    assert not failed
    raw, batch = rich.rows_of(rich_store)
    found = rich.ask(tf.saved_model.load(str(version)).signatures, raw)
    outputs = {f"{kind}_{k}" for kind in ("probability", "logit") for k in ("conversion", NAME)}
    assert set(found) == {*outputs, "score"}
    expected = rich.answers(model, batch)
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-5)
    logits = model({k: tf.constant(v) for k, v in batch.items()})
    p, c = (sigmoid(logits[k].numpy().astype(np.float64)) for k in ("click", NAME))
    unsampled = c / (p + (1 - p) / rich.RATE)
    np.testing.assert_allclose(found[f"probability_{NAME}"], unsampled, rtol=1e-4)
    wanted = derived.score(found["probability_conversion"], unsampled, WEIGHT)
    np.testing.assert_allclose(found["score"], wanted, rtol=1e-4)


def test_manifest_page_and_client_name_it(version):
    manifest = json.loads((version / "MANIFEST.json").read_text())
    assert manifest["score"] == {"labels": ["conversion", NAME], "weight": WEIGHT}
    page = (version / "SIGNATURES.md").read_text()
    said = "(s + P(conversion | click) − s P(click and not conversion)) / (1 + s), s = 0.02"
    assert page.count(f"`score` float32: {said}") == 3
    assert page.count(f"`probability_{NAME}` float32: P(click and not conversion)") == 3
    answer = {"probability": np.array([0.25]), "logit": np.zeros(1), "score": np.array([0.5])}
    assert client.table(answer, "host:1") == ["probability\tscore", "0.25\t0.5"]
