"""Both engines make the same store: behaviours with drawn negatives, and impressions."""

import hashlib
import json
import os
import shutil
import sys
from collections import Counter

import pyarrow.parquet as pq
import pytest

from at4ctr.data import aliccp, taobao
from at4ctr.data.dataset import SPLITS
from at4ctr.data.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.data import test_aliccp as ali
from tests.data.test_prepare import START, rows_of, written
from tests.data.toy_log import mylog_of, tables, write

pytest.importorskip("pyspark", reason="pyspark is not installed: make setup-spark")
pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17")
SETTINGS = {  # of tiny data on a busy machine
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.files.maxPartitionBytes": "20000",  # a log of several blocks
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


@pytest.fixture(scope="module", autouse=True)
def session():
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # of the executors
    builder = SparkSession.builder.master("local[2]")
    for key, value in SETTINGS.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    yield spark
    spark.stop()


@pytest.fixture
def mylog(tmp_path, monkeypatch):
    yield from mylog_of(tmp_path, monkeypatch)


def digest(store):
    """A hash of all users' rows in raw values that their order does not change."""
    schema = store.schema
    dims = {
        g: pq.read_table(store.path / "dims" / f"{t}.parquet").to_pylist()
        for g, t in (("profile", "user"), ("item", "item"))
    }
    names = {t.name: ["", "?", *store.vocabulary_path(t.name).read_text().splitlines()]
             for t in schema.tables}  # fmt: skip
    raw = {f.name: names[f.table] for g in ("behaviour", "context") for f in schema.group(g)}
    found = []
    for part in store.manifest["parts"]:
        for row in pq.read_table(store.path / "data" / part["file"]).to_pylist():
            user = {"user": dims["profile"][row.pop("user")]}
            for column, values in row.items():
                kind = column.split("_", 1)[1]
                shown = dims["item"] if kind == "item" else raw.get(kind)
                user[column] = [shown[v] for v in values] if shown else values
            for split in SPLITS:
                columns = [c for c in user if c.startswith(f"{split}_")]
                said = [user.pop(c) for c in columns]
                user[split] = sorted(json.dumps(v) for v in zip(*said, strict=True))
            text = json.dumps(user, sort_keys=True).encode()
            found.append(int(hashlib.sha256(text).hexdigest(), 16))
    return sum(found) % 2**256


def assert_same(one, other):
    stores = [Store.open(path) for path in (one, other)]
    assert stores[0].path != stores[1].path
    assert digest(stores[0]) == digest(stores[1])
    for fact in ("counts", "vocabulary", "notes", "options", "parts"):
        assert stores[0].manifest[fact] == stores[1].manifest[fact], fact
    for table in stores[0].schema.tables:
        first, second = (s.vocabulary_path(table.name).read_text() for s in stores)
        assert first == second
    for f in stores[0].schema.group("profile") + stores[0].schema.group("item"):
        assert (stores[0].ids(f.name) == stores[1].ids(f.name)).all()
    for w in (1.0, 0.4):
        kept = [Counter() for _ in stores]
        for store, counter in zip(stores, kept, strict=True):
            reader = Reader(store, "train", batch_size=50, history=5, negative_rate=w,
                            drop_remainder=False)  # fmt: skip
            for k in range(reader.steps(0)):
                batch = reader.batch(0, k)
                counter.update(zip(batch["item"].tolist(), batch["label"].tolist(), strict=True))
        assert kept[0] == kept[1]
        assert kept[0].total()


def test_behaviours_with_drawn_negatives(tmp_path):
    raw = written(rows_of(3, items=400), tmp_path / "log.csv")
    config = taobao.Config(raw=raw, types=True, negatives=2, user_rate=0.9)
    assert_same(prepare(config, tmp_path / "duck"), prepare(config, tmp_path / "spark", "spark"))


def test_impressions_under_paper(mylog, tmp_path):
    config = mylog(raw=write(tmp_path / "raw", "csv", tables()), protocol="paper")
    assert_same(prepare(config, tmp_path / "duck"), prepare(config, tmp_path / "spark", "spark"))


@pytest.mark.parametrize(("line", "words"), [
    ("1,2,x,pv,1511539200", r"line 1203 has 'x' in column 'category'; expected a whole number"),
    ("1,2,3,pv", r"line 1203 has 4 column\(s\); expected 5"),
    ("1,2,3,click,1511539200", r"line 1203 has behaviour type 'click'"),
])  # fmt: skip
def test_bad_lines_are_refused_by_number(tmp_path, line, words):
    lines = [f"{k % 4 + 1},{k % 23 + 1},{k % 5},pv,{START + k}" for k in range(1200)]
    lines = [*lines[:700], "", *lines[700:], "", line, *lines]
    (tmp_path / "log.csv").write_text("".join(f"{x}\n" for x in lines))
    with pytest.raises(InputError, match=words):
        prepare(taobao.Config(raw=str(tmp_path / "log.csv")), tmp_path / "data", "spark")
    assert not list((tmp_path / "data").rglob("*.parquet"))


def test_ali_ccp_is_read_alike(tmp_path):
    many = [("109_14", n % 997, n / 8) for n in range(3_000)]  # a group that Java repeats
    name = "common_features_test.csv"
    folder = ali.written(tmp_path, {name: [ali.common(ali.KNOWN, ("101", 77, "1.0"), *many)]})
    config = aliccp.Config(raw=str(folder), unclicked=0.5, longest=7)
    one, other = (ali.loaded(config, tmp_path / e, e) for e in ("duckdb", "spark"))
    assert one == other
    ali.equal(one[0], ali.literal(folder, 7))


@pytest.mark.parametrize(("line", "words"), [
    (ali.row(9, 1, 0, ali.KNOWN, ali.ITEM, ("206", "a", "1.0")), "line 7 has the features '205"),
    (ali.row(9, 1, 0, ali.KNOWN, ali.ITEM, number=2), "line 7 has 1 features; expected 2"),
    (ali.row(9, 1, 0, "gone", ali.ITEM), "'gone', which .* lacks those of 1 lines in all"),
])  # fmt: skip
def test_bad_lines_of_ali_ccp_are_refused_by_number(tmp_path, line, words):
    folder = ali.written(tmp_path, {ali.TRAIN: [*ali.LOG[ali.TRAIN], "\n", line]})
    with pytest.raises(InputError, match=words):
        ali.loaded(aliccp.Config(raw=str(folder), unclicked=0.5), tmp_path / "scratch", "spark")
