"""A version with deviations: what it answers, and what its manifest and page say of a draw."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import din
from at4ctr.calibration import Platt
from at4ctr.heads import gaussian_process
from at4ctr.metrics import sigmoid
from at4ctr.model.build import Plan, serving_model
from export import saved_model
from export.verify import run
from tests.export import EMBEDDING, rich

HEAD = gaussian_process.Config(units=(16, 8), features=12, part_features=5)
LABELS = ("click", "conversion")


@pytest.fixture(scope="module")
def model(rich_store):
    rows = {t.name: rich_store.rows(t.name) for t in rich_store.schema.tables}
    plan = Plan.of(din.Config(), EMBEDDING, head=HEAD, negative_rate=rich.RATE, seed=3)
    made: Any = serving_model(
        rich_store.schema, rows, plan, rich_store.numbers(), rich_store.vectors()
    )
    rng = np.random.default_rng(0)
    for process in made.head.processes.values():
        process.factor.assign(np.tril(rng.normal(size=process.factor.shape)))
    made.calibrate({"click": rich.FITTED})
    return made


@pytest.fixture(scope="module")
def version(model, rich_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deviation")
    return saved_model.save(model, rich_store, folder, history=rich.T, facts={}, golden=8)


def test_it_verifies_and_answers_as_the_model(model, version, rich_store):
    failed = [line for good, line in run(version) if not good]
    assert not failed
    raw, batch = rich.rows_of(rich_store)
    found = rich.ask(tf.saved_model.load(str(version)).signatures, raw)
    expected = rich.answers(model, batch)
    assert set(found) == rich.OUTPUTS | {f"deviation_{label}" for label in LABELS}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    assert len({found[f"deviation_{label}"].tobytes() for label in LABELS}) == 2


def test_the_probability_of_a_draw_is_that_of_the_manifest(version, rich_store):
    """A draw of the logit itself has the served probability, calibrator and ln w included."""
    manifest = json.loads((version / "MANIFEST.json").read_text())
    raw, _ = rich.rows_of(rich_store)
    found = rich.ask(tf.saved_model.load(str(version)).signatures, raw)
    assert isinstance(rich.FITTED, Platt)
    slope, shift = rich.FITTED.slope, rich.FITTED.slope * np.log(rich.RATE)
    click, conversion = (manifest["draws"][label] for label in LABELS)
    assert click == pytest.approx({"slope": slope, "intercept": shift + rich.FITTED.intercept})
    assert conversion == {"slope": 1.0, "intercept": 0.0}
    for label in LABELS:
        draw = manifest["draws"][label]
        p = sigmoid(draw["slope"] * found[f"logit_{label}"] + draw["intercept"])
        np.testing.assert_allclose(p, found[f"probability_{label}"], rtol=1e-4)


def test_the_page_says_how_to_draw(version):
    page = (version / "SIGNATURES.md").read_text()
    said = "a draw f = logit_click + deviation_click · ε, ε ~ N(0, 1), has the probability σ(0.8 f"
    assert page.count(said) == 3
    assert page.count("`deviation_conversion` float32: standard deviation of logit_conversion") == 3
