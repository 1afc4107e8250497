"""Requests made of a store have values of the log, and are answered with the ids of training."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.schema import UNKNOWN, Table
from export.lookup import Front
from export.requests import requests
from tests.data.toy_log import mylog_of, tables, write

WORDS = [" é中", 'a "b"', "x\ty", "-1", "\u2028", "it's"]  # "-1" is a text like any other
SLOTS = [-1, -2, 0, 2**62, -(2**63)]


@pytest.fixture
def mylog(tmp_path, monkeypatch):
    yield from mylog_of(tmp_path, monkeypatch)


@pytest.mark.parametrize(("buckets", "least"), [(0, 1), (7, 1), (0, 22)])
def test_training_and_serving_agree_on_every_value(mylog, tmp_path, monkeypatch, buckets, least):
    rng = np.random.default_rng(3)
    logs = tables()
    rows = len(logs["shown"])
    slots = rng.choice(SLOTS, rows)
    logs["shown"] = logs["shown"].set_column(2, "rank", pa.array(slots, pa.int64()))
    for part in ("done-1", "done-2"):
        events = rng.choice(WORDS, len(logs[part])).tolist()
        logs[part] = logs[part].set_column(2, "event", pa.array(events))
    given, own = mylog().schema(), mylog().impressions()
    hashed = {t.name: Table(t.name, t.dtype, buckets, least) for t in given.tables}
    schema = replace(given, tables=tuple(hashed.values()))
    shown = replace(own, columns=own.columns | {"slot": "rank"}, missing=("-1",))
    monkeypatch.setattr(mylog, "schema", lambda _: schema)
    monkeypatch.setattr(mylog, "impressions", lambda _: shown)
    store = Store.open(prepare(mylog(raw=write(tmp_path / "raw", "parquet", logs)), tmp_path))
    for split in ("train", "test"):
        reader = Reader(store, split, batch_size=64, history=5, shuffle=False, block_users=1)
        batch = reader.batch(0, 0)
        front, size = Front(store, 5), len(batch["label_click"])
        raw = requests(front, store, split, size)
        assert set(raw["slot"]) <= set(SLOTS)
        assert {v for row in raw["history_event"] for v in row} <= {*WORDS, ""}
        sent = {k: tf.constant(v, front.inputs[k].dtype) for k, v in raw.items()}
        served = front.present(sent, tf.constant(size))
        served |= front.histories(sent, tf.constant(size))
        assert least == 1 or (batch["item"] == UNKNOWN).mean() > 0.1
        for key, ids in served.items():
            np.testing.assert_array_equal(ids, batch[key], key)
        missing = np.array(raw["slot"]) == -1
        assert missing.any()
        assert (batch["slot"][missing] == 0).all()
        assert (batch["slot"][~missing] > 0).all()
