"""Runs compared: the page's figures, the verdict, and what is no comparison."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from at4ctr import evaluation
from at4ctr.analysis import comparison, plots
from at4ctr.backbones import widedeep
from at4ctr.data.store import Store
from at4ctr.heads import shared_bottom
from at4ctr.model.build import Plan, serving_model
from pipelines import compare, measure, train
from pipelines.assembly import Assembly
from tests.data import toy_store
from tests.model import toys

DATA = SimpleNamespace(history=12, negative_rate=1.0, unknown_rate=0.0, protocol="strict")
E: Any = SimpleNamespace(data=DATA, seed=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store.open(toy_store.make(tmp_path_factory.mktemp("s") / "s", users=500, rich=True).path)


@pytest.fixture(scope="module")
def rows(store):
    unscored = compare._Unscored(["click", "conversion"])
    return evaluation.Predictor(unscored)(Assembly(E, store).reader("test"))


@pytest.fixture
def job(store, rows, tmp_path, monkeypatch):
    """An empty folder with three finished runs: plain, better and a twin of plain."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "REPLICATES", 64)
    monkeypatch.setattr(train, "open_store", lambda *_: store)
    monkeypatch.setattr(train, "load_snapshot", lambda path: (E, path.parent.name, "s"))
    rng = np.random.default_rng(3)
    noise = {label: rng.normal(size=one.labels.size) for label, one in rows.items()}
    for name, gain in (("plain", 0.3), ("better", 3.0), ("twin", 0.3)):
        made(tmp_path / name, rows, gain, noise)
    return tmp_path


def made(folder, rows, gain, noise):
    folder.mkdir()
    found, metrics = {}, {}
    for label, one in rows.items():
        logits = gain * (one.labels - 0.5) + noise[label] - 0.5
        found[label] = evaluation.Predictions(one.labels, logits, one.users, one.lengths, None)
        metrics[label] = {"auc": roc_auc_score(one.labels, logits)}
    measure.keep({k: measure.Measured(v, None, {}, {}) for k, v in found.items()}, folder)
    whole = {**metrics["click"], "labels": metrics, "rows": 1, "train_seconds": 61.4}
    (folder / "metrics.json").write_text(json.dumps(whole))
    experiment = {"backbone": folder.name, "fit": {"epochs": 1, "seed": [0]}}
    snapshot = {"store": "s", "recipe": folder.name, "experiment": experiment}
    (folder / "config.json").write_text(json.dumps(snapshot))


def cells(page, begin):
    return [[c.strip() for c in line.split("|")[1:-1]]
            for line in page.splitlines() if line.startswith(begin)]  # fmt: skip


def test_the_page_shows_what_differs_and_the_verdict_says_it(job, capsys):
    assert compare.main(["--runs=plain,better,twin"]) == 0
    said = capsys.readouterr().out.splitlines()
    out = job / "runs" / "compare-plain-better-twin"
    assert said[-1] == "runs/compare-plain-better-twin/comparison.md"
    names = ["comparison.json", "comparison.md", "comparison.png", "comparison_conversion.png"]
    assert sorted(p.name for p in out.iterdir()) == names
    page, data = (out / names[1]).read_text(), json.loads((out / names[0]).read_text())
    assert "Simulated log." in page
    assert cells(page, "| backbone") == [["backbone", '"plain"', '"better"', '"twin"']]
    assert not cells(page, "| fit.")
    assert cells(page, "| better | better")[0][2] == "61.4"
    for label in ("click", "conversion"):
        one = data["labels"][label]
        better, twin = one["differences"]["better"], one["differences"]["twin"]
        expected = [json.loads((job / n / "metrics.json").read_text())["labels"][label]["auc"]
                    for n in ("better", "plain")]  # fmt: skip
        assert better["auc"]["value"] == pytest.approx(expected[0] - expected[1], abs=1e-9)
        assert better["auc"]["value"] - better["auc"]["half_width"] > 0
        assert better["auc"]["p"] <= better["auc"]["p_holm"]
        assert all(e == {"value": 0.0} for e in twin.values())
        for family in ("user", "category"):
            parts = [s for s in one["segments"]["better"] if s["family"] == family]
            assert sum(s["rows"] for s in parts) == one["rows"]
        assert {s["segment"] for s in parts} <= {"missing", "unknown", *map(str, range(100, 105))}
    first = cells(page, "| better − plain | AUC")[0]
    value = data["labels"]["click"]["differences"]["better"]["auc"]
    assert first[2] == f"{value['value']:+.4f}"
    assert first[-1] == "higher"
    assert cells(page, "| better − plain | log loss")[0][-1] == "lower"
    assert all(row[-1] == "not shown to differ" for row in cells(page, "| twin − plain"))
    assert "higher" in next(x for x in said if x.startswith("click, better − plain: AUC +"))
    twin = next(x for x in said if x.startswith("click, twin − plain"))
    assert twin.count("not shown to differ") == 2
    tests = sum("p" in e for one in data["labels"].values()
                for pair in one["differences"].values() for e in pair.values())  # fmt: skip
    assert f"all {tests} differences" in page
    assert compare.main(["--runs=plain,better,twin", "--out=again"]) == 0
    again = {p.name: p.read_bytes() for p in (job / "again").iterdir()}
    assert again == {p.name: p.read_bytes() for p in out.iterdir()}


def refused(capsys, *words):
    assert compare.main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    return said


def test_what_cannot_be_compared_is_refused_in_a_sentence(job, rows, capsys):
    assert "RUNS names no run" in refused(capsys)
    assert "two or more different runs" in refused(capsys, "--runs=plain")
    assert "two or more different runs" in refused(capsys, "--runs=plain,./plain")
    assert "nowhere holds no metrics.json" in refused(capsys, "--runs=plain,nowhere")
    assert "Unknown command line flag" in refused(capsys, "--run=plain,better")
    metrics = json.loads((job / "twin" / "metrics.json").read_text())
    metrics["labels"]["conversion"]["auc"] += 0.01
    (job / "twin" / "metrics.json").write_text(json.dumps(metrics))
    assert "expected the predictions of this very run" in refused(capsys, "--runs=plain,twin")
    order = {k: one.labels.size - 1 - np.arange(one.labels.size) for k, one in rows.items()}
    turned = {
        k: evaluation.Predictions(o.labels[order[k]], 3.0 * o.labels[order[k]],
                                  o.users[order[k]], o.lengths, None)
        for k, o in rows.items()
    }  # fmt: skip
    measure.keep({k: measure.Measured(v, None, {}, {}) for k, v in turned.items()}, job / "twin")
    (job / "twin" / "metrics.json").write_text(json.dumps({"rows": 1, "auc": 1.0}))
    assert "expected its test rows in its order" in refused(capsys, "--runs=plain,twin")
    snapshot = json.loads((job / "twin" / "config.json").read_text())
    (job / "twin" / "config.json").write_text(json.dumps(snapshot | {"store": "other"}))
    assert "expected runs of one store" in refused(capsys, "--runs=plain,twin")
    (job / "twin" / "metrics.json").write_text(json.dumps({"validation": {}}))
    assert "no metrics.json of a test split" in refused(capsys, "--runs=plain,twin")
    assert not (job / "runs").exists()


def test_a_run_without_predictions_is_predicted_and_keeps_them(job, store, monkeypatch, capsys):
    sizes = {t.name: store.rows(t.name) for t in store.schema.tables}
    head = shared_bottom.Config(bottom=(6,), tower=(4,))
    plan = Plan.of(widedeep.Config(), toys.EMBEDDING, head=head, seed=3)
    model = serving_model(store.schema, sizes, plan, store.numbers())
    monkeypatch.setattr(Assembly, "restored", lambda *_: model)
    monkeypatch.setattr(plots, "paired", lambda *_, **__: None)
    path = job / "twin" / "predictions.parquet"
    path.unlink()
    (job / "twin" / "metrics.json").write_text(kept := json.dumps({"rows": 1, "labels": {}}))
    assert compare.main(["--runs=plain,twin"]) == 0
    said = capsys.readouterr()
    assert "predicting the test rows with twin" in said.err
    # the composed label is of the model alone, and so is not compared
    assert [x.split(",")[0] for x in said.out.splitlines()[:-1]] == ["click", "conversion"]
    batch = Assembly(E, store).reader("test").batch(0, 0)
    expected = model.scores(toys.tensors(batch))["calibrated"]["click"].numpy()
    np.testing.assert_allclose(comparison.read(path)["click"].scores, expected, atol=1e-5)
    assert (job / "twin" / "metrics.json").read_text() == kept
