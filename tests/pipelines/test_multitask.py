"""The plans of CTnoCVR's and PICO's tables, and the report of several labels."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

import configs
from at4ctr import config
from at4ctr.analysis import comparison
from at4ctr.analysis.tables import Row
from at4ctr.data.datasets import aliccp, retailrocket
from at4ctr.errors import InputError
from at4ctr.evaluation import Predictions
from pipelines import measure
from pipelines.tables import bodies, multitask
from pipelines.tables.page import Page
from pipelines.tables.plans import Cell, Plan
from tests.pipelines.test_paper import composed_cells, paper

DATA = {"retailrocket": retailrocket.Config(), "aliccp": aliccp.Config()}
EVERY = [(t, "") for t in multitask.TABLES] + [("", f) for f in multitask.FIGURES]


@pytest.mark.parametrize("dataset", DATA)
@pytest.mark.parametrize(("table", "figure"), EVERY)
def test_every_cell_composes(dataset, table, figure):
    plan = multitask.plan(dataset, table, figure)
    for cell, made in composed_cells(plan, DATA[dataset]):
        assert made.fit.watch == "click_and_conversion.auc"
        assert ("click_without_conversion" in made.tasks) == ("ctnocvr" in cell.recipe)
        fields = {a.partition("=")[0] for a in cell.overrides}
        assert not fields & {a.partition("=")[0] for a in plan.defaults}


def test_every_method_has_the_same_trials():
    groups: dict[str, set[tuple[str, ...]]] = {}
    for cell in multitask.trials("retailrocket").cells:
        groups.setdefault(cell.group, set()).add(cell.overrides[-2:])
    assert list(groups) == list(multitask.METHODS)
    assert all(tried == set(multitask.TRIALS) for tried in groups.values())
    for chosen in multitask.CHOSEN.values():
        assert set(chosen) == set(multitask.METHODS)
        assert set(chosen.values()) <= set(multitask.TRIALS)


def test_ctnocvr_differs_from_its_base_in_one_label_alone():
    plan = multitask.ctnocvr3("retailrocket")
    made = {
        c.label: config.override(configs.recipe(c.recipe, DATA["retailrocket"]), c.overrides)
        for c in plan.cells
    }
    for cell in plan.cells:
        if cell.base:
            ours, base = made[cell.label].tasks, made[cell.base].tasks
            assert {k: t for k, t in ours.items() if k in base} == base
            assert base["conversion"].weight == 0.5


def test_printed_numbers_are_the_papers():
    pico, ctnocvr = paper("pico.txt"), paper("ctnocvr.txt")
    for table in (multitask.PICO_TABLE2, multitask.PICO_TABLE3, multitask.PICO_TABLE4):
        for values in table.values():
            assert all(f"{value:.3f}" in pico for value in values)
    assert all(f"${v:.2f} \\pm" in ctnocvr for v in multitask.CTNOCVR_TABLE3.values())


def test_a_dataset_of_one_label_is_refused():
    with pytest.raises(
        InputError, match="TABLE=pico2 compares clicks and conversions, and DATASET"
    ):
        multitask.plan("taobao", "pico2", "")


def test_the_report_of_two_labels(tmp_path):
    """Differences of two rows over two seeds; conversions are known on clicked rows alone."""
    rng = np.random.default_rng(3)
    click = (rng.random(400) < 0.4).astype(np.int8)
    conversion = (rng.random(int(click.sum())) < 0.5).astype(np.int8)
    users = np.arange(400) % 25
    folders: dict[str, dict[int, Path]] = {"plain": {}, "better": {}}
    rows = []
    for label, gain in (("plain", 0.2), ("better", 2.0)):
        runs = {}
        for seed in (1, 2):
            found = {}
            for name, y, of in (
                ("click", click, users),
                ("conversion", conversion, users[click > 0]),
            ):
                logit = gain * (y - 0.5) + rng.normal(size=len(y))
                found[name] = SimpleNamespace(found=Predictions(y, logit, of, of, None))
            folder = folders[label][seed] = tmp_path / f"{label}{seed}"
            folder.mkdir()
            measure.keep(found, folder)  # type: ignore[arg-type]
            metrics = {"auc": 0.6, "gauc": 0.5, "normalized_entropy": 1.5 - gain / 2, "pcoc": 1.0}
            runs[seed] = {"labels": {"click": metrics, "conversion": metrics}, "seconds": 3.0}
        rows.append(Row(label, runs, "plain" if label == "better" else None))
    cells = (Cell("plain", "dnn", printed={"conversion.auc": 0.6}),
             Cell("better", "dnn", base="plain", printed={"conversion.auc": 0.625}))  # fmt: skip
    page = Page(Plan("t", "labels", "T", cells), {}, 2, tmp_path)
    lines = bodies.labels(page, rows, folders)
    text = "\n".join(lines)
    assert "Worse than a constant: plain (click), plain (conversion)." in text
    assert "adjusted for the 4 tests" in text
    (line,) = [x for x in lines if x.startswith("| better − plain | conversion | AUC")]
    mean, interval, p, _, seeds, printed = [c.strip() for c in line.split("|")[4:10]]
    assert float(mean) > 0.2
    assert float(interval.split(" … ")[0]) > 0
    assert float(p) < 0.05
    assert (seeds, printed) == ("2", "+0.0250")
    assert [p.name for p in folder.iterdir()] == ["predictions.parquet"]


@pytest.mark.parametrize("printed", [True, False])
def test_results_have_the_log_loss_of_the_first_label_that_all_serve(
    tmp_path, monkeypatch, printed
):
    """Half of it beside a paper that prints half of it. A row without a run has no difference."""
    monkeypatch.setattr(comparison, "REPLICATES", 64)
    rng, users = np.random.default_rng(3), np.arange(400) % 25
    y, kept, rows = (rng.random(400) < 0.5).astype(np.int8), {}, []
    folders: dict[str, dict[int, Path]] = {"none": {}}
    for label, gain in (("plain", 0.2), ("better", 2.0)):
        folders[label], metrics = {}, {"auc": 0.6, "normalized_entropy": 1.5 - gain / 2}
        for seed in (1, 2):
            logit = gain * (y - 0.5) + rng.normal(size=len(y))
            kept[label, seed] = log_loss(y, expit(logit))
            labels = ("click", "conversion") if label == "plain" else ("conversion",)
            found = {k: SimpleNamespace(found=Predictions(y, logit, users, users, None))
                     for k in labels}  # fmt: skip
            folder = folders[label][seed] = tmp_path / f"{label}{seed}"
            folder.mkdir()
            measure.keep(found, folder)  # type: ignore[arg-type]
        paper = (0.7, 0.3 - gain / 100) if printed else None
        base = "plain" if label == "better" else None
        rows.append(Row(label, {1: metrics, 2: metrics}, base, paper))
    rows.append(Row("none", {}, "plain"))
    cells = tuple(Cell(row.label, "dnn", base=row.base) for row in rows)
    page = Page(Plan("t", "results", "T", cells), {}, 2, tmp_path)
    lines = bodies.results(page, rows, folders)
    text = "\n".join(lines)
    assert "Worse than a constant: plain." in text
    assert "as no seed has test rows of both: none − plain (conversion)." in text
    name = "½ log loss" if printed else "log loss"
    (line,) = [x for x in lines if x.startswith(f"| better − plain | conversion | {name}")]
    mean, interval, *_, last = [c.strip() for c in line.split("|")[4:-1]]
    gain = np.mean([kept["better", s] - kept["plain", s] for s in (1, 2)]) / (1 + printed)
    assert float(mean) == pytest.approx(gain, abs=6e-5)
    low, high = map(float, interval.split(" … "))
    assert (low + high) / 2 == pytest.approx(gain, abs=1e-4)
    assert last == ("-0.0180" if printed else "2")


def test_a_row_that_serves_one_label_has_its_columns(tmp_path):
    click = np.array([1, 0, 1, 0], np.int8)
    metrics = {"auc": 0.6, "gauc": 0.5, "normalized_entropy": 0.9, "pcoc": 1.0}
    runs: dict[str, dict[str, Any]] = {
        "both": {
            "labels": {"click": metrics, "conversion": metrics | {"auc": 0.7}},
            "seconds": 3.0,
        },
        "one": {**metrics, "auc": 0.8, "seconds": 3.0},
    }
    folders = {label: {1: tmp_path / label} for label in runs}
    for label, names in (("both", ("click", "conversion")), ("one", ("click",))):
        folders[label][1].mkdir()
        found = {
            name: SimpleNamespace(found=Predictions(click, click * 1.0, click, click, None))
            for name in names
        }
        measure.keep(found, folders[label][1])  # type: ignore[arg-type]
    page = Page(
        Plan("t", "labels", "T", (Cell("both", "dnn"), Cell("one", "dnn"))), {}, 1, tmp_path
    )
    rows = [Row(label, {1: run}) for label, run in runs.items()]
    lines = bodies.labels(page, rows, folders)
    (line,) = [x for x in lines if x.startswith("| one |")]
    assert [c.strip() for c in line.split("|")[3:11]] == [
        "0.8000",
        "0.5000",
        "0.9000",
        "1.0000",
    ] + (["–"] * 4)
