"""The main job on a log of two labels whose true probabilities are known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from at4ctr import config
from at4ctr.backbones import widedeep
from at4ctr.config import Experiment
from at4ctr.data.dataset import Options, Source
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.fit import Fit
from at4ctr.heads import shared_bottom
from at4ctr.layers import embedder
from at4ctr.schema import Feature, Label, Schema, Table
from at4ctr.tasks import Task
from pipelines import train
from pipelines.assembly import Assembly
from tests.oracles import derived
from tests.oracles import metrics as oracle

USERS, ITEMS, ROWS, RATE = 50, 40, 400_000, 0.1
DERIVED = "click_without_conversion"


@dataclass(frozen=True)
class Log(Options):
    """P(click) and P(conversion | click) depend on the user and the item, in opposite ways."""

    min_behaviours: int = 0
    min_history: int = 0
    FEWEST = 0

    def schema(self):
        return Schema(
            tables=(Table("user"), Table("item")),
            features=(Feature("user", "profile", "user"), Feature("item", "item", "item")),
            labels=(Label("click", sampled=True), Label("conversion", within="click")),
        )

    def acquire(self):
        return Source((Path(self.raw),), simulated=True)

    def load(self, engine, source):
        engine.read_parquet("raw", source.files[0])
        seen = '"user", item, 0::BIGINT AS "timestamp", min(ord) AS ord'
        engine.run("log", f'CREATE TABLE log AS SELECT {seen} FROM raw GROUP BY "user", item')
        engine.run("impressions", "CREATE TABLE impressions AS SELECT * FROM raw")

    def split(self):
        return f"""CASE WHEN "timestamp" > {0.8 * ROWS} THEN 'test'
            WHEN "timestamp" > {0.7 * ROWS} THEN 'validation' ELSE 'train' END"""


def write(path):
    rng = np.random.default_rng(5)
    user, item = rng.integers(USERS, size=ROWS), rng.integers(ITEMS, size=ROWS)
    taste, pull = rng.normal(0, 1, USERS), rng.normal(0, 1, ITEMS)
    click = 1 / (1 + np.exp(1.3 - taste[user] - pull[item]))
    bought = 1 / (1 + np.exp(0.5 - 0.5 * taste[user] + 0.8 * pull[item]))
    clicked = rng.random(ROWS) < click
    table = {
        "user": user, "item": item, "timestamp": np.arange(ROWS) + 1, "ord": np.arange(ROWS),
        "label_click": clicked.astype(np.int8),
        "label_conversion": pa.array((rng.random(ROWS) < bought).astype(np.int8), mask=~clicked),
        "truth_click": click, "truth_conversion": bought,
    }  # fmt: skip
    pq.write_table(pa.table(table), path)
    return str(path)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(assembly, the run's folder, its metrics), trained on a tenth of the rows without a click."""
    root = tmp_path_factory.mktemp("labels")
    e = Experiment.of(
        Log(raw=write(root / "log.parquet"), negative_rate=RATE),
        widedeep.Config(),
        embedder.Config(dimension=4),
        head=shared_bottom.Config(bottom=(16,), tower=(8,)),
        tasks={"click": Task(), "conversion": Task(), DERIVED: Task(serve=False)},
        fit=Fit(batch_size=1024, epochs=3, learning_rate=0.01, decay="linear",
                watch="click_and_conversion.logloss"),
    )  # fmt: skip
    store = Store.open(prepare(e.data, root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "RUNS", root / "runs")
        folder = train.run(e, "widedeep", store)
    return Assembly(e, store), folder, json.loads((folder / "metrics.json").read_text())


LABELS = ("click", "conversion", "click_and_conversion")
EVERY = (*LABELS, DERIVED)


@pytest.mark.parametrize("label", EVERY)
def test_predictions_match_the_true_probabilities_though_negatives_were_sampled(done, label):
    """The mean of the predictions against that of the true probabilities: within 2 %."""
    made, folder, metrics = done
    found = made.predictions(made.restored(folder), "test")
    assert list(found) == list(metrics["labels"]) == list(EVERY)
    rows, written = found[label], metrics["labels"][label]
    assert rows.truth is not None
    assert rows.probability.mean() / rows.truth.mean() == pytest.approx(1, abs=0.02)
    order = np.argsort(rows.truth)
    low, high = order[: order.size // 2], order[order.size // 2 :]
    for half in (low, high):  # not on average alone
        assert rows.probability[half].mean() == pytest.approx(rows.truth[half].mean(), rel=0.06)
    assert 0 <= written["bayes_auc"] - written["auc"] < 0.01


def test_each_label_is_measured_on_the_rows_where_it_is_known(done):
    made, folder, metrics = done
    found = made.predictions(made.restored(folder), "test")
    click, bought, both = (found[label] for label in LABELS)
    clicked = click.labels == 1
    assert bought.labels.size == clicked.sum()
    assert both.labels.size == click.labels.size == ROWS // 5
    np.testing.assert_array_equal(both.labels[clicked], bought.labels)
    assert not both.labels[~clicked].any()
    np.testing.assert_array_equal(both.truth[clicked], click.truth[clicked] * bought.truth)
    np.testing.assert_allclose(
        both.probability[clicked], click.probability[clicked] * bought.probability, rtol=1e-12
    )
    np.testing.assert_array_equal(click.users[clicked], bought.users)
    gauc = oracle.gauc(bought.labels, bought.calibrated, bought.users)
    assert metrics["labels"]["conversion"]["gauc"] == pytest.approx(gauc, abs=1e-6)
    assert metrics["auc"] == metrics["labels"]["click"]["auc"]
    assert metrics["bayes_auc"] == metrics["labels"]["click"]["bayes_auc"]


def test_the_run_has_a_picture_and_an_output_of_each_label(done):
    _, folder, _ = done
    for end in ("", "_conversion", "_click_and_conversion", f"_{DERIVED}"):
        assert {f"reliability{end}.png", f"segments{end}.png", f"segments{end}.md"} <= {
            p.name for p in folder.iterdir()
        }
    exported = next((folder / "export").iterdir())
    answers = json.loads((exported / "MANIFEST.json").read_text())
    text = json.dumps(answers)
    for label in LABELS:
        assert f"probability_{label}" in text
    assert f"probability_{DERIVED}" not in text


def test_the_score_has_its_weight_from_validation_and_is_exported_where_it_is_above_0(done):
    made, folder, metrics = done
    score, model = metrics["score"], made.restored(folder)
    assert score["label"] == "conversion"
    assert (
        model.score_weight
        == score["weight"]
        == float(max(score["validation"], key=score["validation"].get))
    )
    found = made.predictions(model, "test")
    bought, clicked = found["conversion"], found["click"].labels == 1
    rest = found[DERIVED].probability[clicked]
    value = derived.score(bought.probability, rest, score["weight"])
    assert score["auc"] == pytest.approx(oracle.auc(bought.labels, value), abs=1e-9)
    exported = json.loads((next((folder / "export").iterdir()) / "MANIFEST.json").read_text())
    assert ("score" in exported["outputs"]) == bool(score["weight"])


@pytest.mark.parametrize(
    ("watch", "message"),
    [("conversions.auc", "did you mean conversion"), ("click.acu", "did you mean auc")],
)
def test_a_watched_metric_that_nobody_computes_is_refused(done, watch, message):
    with pytest.raises(InputError, match=message):
        config.override(done[0].experiment, [f"fit.watch={watch}"])
