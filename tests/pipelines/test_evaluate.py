"""A run evaluated on other rows: another log by the model's ids, another split, and the page."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from at4ctr.backbones import din
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.heads import shared_bottom
from at4ctr.model.build import Plan, serving_model
from export.lookup import Front
from export.requests import requests
from pipelines import evaluate
from pipelines.assembly import Assembly
from tests.data import rich_log
from tests.model import toys

T = 5


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A store, an experiment and a model of it that is not trained, and another log's folder."""
    folder = tmp_path_factory.mktemp("evaluate")
    data = rich_log.Log(raw=rich_log.write(folder / "raw"), history=T)
    store = Store.open(prepare(data, folder / "data"))
    plan = Plan.of(din.Config(), toys.EMBEDDING, head=shared_bottom.Config((8,), (4,)), seed=3)
    sizes = {t.name: store.rows(t.name) for t in store.schema.tables}
    model = serving_model(store.schema, sizes, plan, store.numbers(), store.vectors())
    e: Any = SimpleNamespace(data=data, seed=0)
    return SimpleNamespace(folder=folder, store=store, e=e, model=model)


@pytest.fixture(scope="module")
def other(job):
    """The log's rows in another order of ids: some users, items and slots are new."""
    logs = {name: table.to_pydict() for name, table in rich_log.tables().items()}
    for name in ("shown", "done"):
        logs[name]["who"] = [f"r{(int(u[1:]) * 7) % 31}" for u in logs[name]["who"]]
        logs[name]["sku"] = [str((int(k) * 3) % 47) for k in logs[name]["sku"]]
    logs["shown"]["rank"] = [str(7 - int(k)) for k in logs["shown"]["rank"]]
    tables = {name: pa.table(columns) for name, columns in logs.items()}
    raw = rich_log.write(job.folder / "other", tables)
    (job.folder / "other" / "vectors.parquet").unlink()  # the model has them
    return evaluate.of_model(job.e, job.store, raw, job.folder / "data")


@pytest.fixture(scope="module")
def found(job, other):
    """The model on the other log's test rows."""
    return evaluate.evaluate(job.model, job.e, job.store, other, "test", "the log L")


@pytest.fixture(scope="module")
def own(job):
    """Its metrics on its own test rows."""
    return evaluate.evaluate(job.model, job.e, job.store, job.store, "test", "x").metrics


def test_another_log_has_the_models_ids_as_the_exports_look_up_gives_them(job, other):
    """The export looks raw values up in the vocabulary's files, preparation joins them in SQL."""
    front = Front(job.store, T)
    for split in ("train", "test"):
        reader = Reader(other, split, batch_size=40, history=T, shuffle=False, block_users=1)
        batch = reader.batch(0, 0)
        raw = requests(front, other, split, 40)
        sent = {k: tf.constant(raw[k], i.dtype) for k, i in front.inputs.items()}
        size = tf.constant(40)
        found = front.present(sent, size) | front.histories(sent, size)
        assert {"user", "item", "slot", "tags", "history_item", "history_event"} <= set(found)
        for key, values in found.items():
            np.testing.assert_array_equal(values, batch[key], key)
        assert (batch["user"] == 1).any()
        assert (batch["user"] > 1).any()
    alone = Store.open(prepare(rich_log.Log(raw=job.e.data.raw), job.folder / "data"))
    assert other.manifest["vocabulary"] == alone.manifest["vocabulary"]
    assert other.manifest["vocabulary_of"] == job.store.path.name


def test_the_share_of_unknown_rows_is_that_of_raw_ids(job, other, found):
    known = job.store.vocabulary_path("user").read_text().split("\n")
    users = pq.read_table(other.path / "dims" / "user.parquet").column("user").to_pylist()
    data = other.read("test", other.groups("test"))
    rows = [users[k] for k in np.repeat(data.users, data.counts)]
    expected = np.mean([user not in known for user in rows])
    assert 0 < expected < 1
    assert found.unknown["user"] == pytest.approx(expected, abs=1e-4)
    segment = found.metrics["segments"]["user"]
    assert segment["unknown"]["rows"] == round(expected * len(rows))


def test_the_runs_own_log_gives_the_same_metrics_by_either_store(job, own):
    same = evaluate.of_model(job.e, job.store, job.e.data.raw, job.folder / "data")
    assert same.path != job.store.path
    assert evaluate.evaluate(job.model, job.e, job.store, same, "test", "x").metrics == own


def test_the_page_names_its_rows_and_the_run_stays_as_it_is(other, found, own, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text("{}")
    page = evaluate.write(found, run, own)
    assert page.parent == run / "evaluations" / f"{other.path.name}-test"
    text, data = page.read_text(), json.loads((page.parent / "evaluation.json").read_text())
    assert "the test split of the log L" in text
    assert f"| user | {found.unknown['user']:.2%} |" in text
    assert f"| click | this test | {other.counts('test')['rows']:,} |" in text
    assert f"{found.metrics['auc']:.4f}" in text
    assert f"| click | the run's test | {own['rows']:,} |" in text
    assert data["evaluated"]["unknown_share"] == found.unknown
    assert data["labels"] == found.metrics["labels"]
    pictures = {"reliability.png", "segments.png", "segments.md"}
    assert pictures <= {p.name for p in page.parent.iterdir()}
    assert (run / "metrics.json").read_text() == "{}"
    assert sorted(p.name for p in run.iterdir()) == ["evaluations", "metrics.json"]


def test_a_short_table_is_printed_and_where_everything_is(found, tmp_path):
    page = tmp_path / "evaluation.md"
    first, names, *lines, at, every = evaluate.printed(found, page)
    rows = [f"{m['rows']:,} of {k}" for k, m in found.metrics["labels"].items()]
    assert first == f"test: {', '.join(rows)} rows"
    assert names.split() == list(found.metrics["labels"])
    table = {line.split()[0]: line.split()[1:] for line in lines}
    assert list(table) == ["auc", "gauc", "logloss", "normalized_entropy", "pcoc"]
    assert table["auc"] == [f"{m['auc']:.4f}" for m in found.metrics["labels"].values()]
    assert (at.split()[-1], every.split()[-1]) == (str(page), str(page.with_name(evaluate.DATA)))


def test_training_rows_are_measured_whole(job):
    rows = Assembly(job.e, job.store).whole("train")
    assert (rows.rows, rows.unknown_rate) == (job.store.counts("train")["rows"], 0.0)
    batch = rows.batch(0, 0)
    expected = Reader(job.store, "train", batch_size=rows.rows, history=T, shuffle=False)
    np.testing.assert_array_equal(batch["user"], expected.batch(0, 0)["user"])


def test_a_split_that_is_none_and_a_log_that_is_not_there_are_refused(job):
    assert evaluate._asked("") == "test"
    with pytest.raises(InputError, match=r"unknown SPLIT 'tset': did you mean test"):
        evaluate._asked("tset")
    with pytest.raises(InputError, match="does not exist"):
        evaluate.of_model(job.e, job.store, "nowhere", job.folder / "data")
