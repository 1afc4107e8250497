"""Both engines make the same store: behaviours with drawn negatives, and impressions.

Each preparation is some 80 statements, and Spark takes half a second or more for each, however few
the rows: these tests are slow on a busy machine. They are the only ones that run the SQL of
preparation in Spark. `make test` has drawn negatives, impressions of several labels, and attributes
that come late; `make test-slow` has the other ways through it.
"""

import hashlib
import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets import aliccp, taobao
from at4ctr.data.preparation import repetition
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.simulation import aliccp as simulation
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.conftest import slow
from tests.data import late_log, rich_log, spark_tests
from tests.data.datasets import test_aliccp
from tests.data.preparation.test_prepare import START, rows_of, written
from tests.data.toy_log import mylog_of, tables, write

pytestmark = spark_tests.NEEDED


@pytest.fixture(scope="module", autouse=True)
def session():
    yield from spark_tests.started()


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
             for t in schema.tables if not t.buckets}  # fmt: skip
    raw = {f.name: names[f.table] for g in ("behaviour", "context") for f in schema.group(g)}
    found = []
    for part in store.manifest["parts"]:
        for row in pq.read_table(store.path / "data" / part["file"]).to_pylist():
            user = {"user": dims["profile"][row.pop("user")]}
            for column, values in row.items():
                kind = column.split("_", 1)[1]
                shown = {"item": dims["item"], "user_row": dims["profile"]}.get(kind, raw.get(kind))
                user[column] = [shown[v] for v in values] if shown else values
            for split in SPLITS:
                columns = [c for c in user if c.startswith(f"{split}_")]
                said = [user.pop(c) for c in columns]
                user[split] = sorted(json.dumps(v) for v in zip(*said, strict=True))
            text = json.dumps(user, sort_keys=True).encode()
            found.append(int(hashlib.sha256(text).hexdigest(), 16))
    return sum(found) % 2**256


def assert_same(*folders):
    stores = [Store.open(path) for path in folders]
    assert stores[0].path != stores[1].path
    assert digest(stores[0]) == digest(stores[1])
    facts = (
        "counts",
        "versions",
        "vocabulary",
        "rare",
        "notes",
        "numbers",
        "summary",
        "truth",
        "options",
        "parts",
        "shortcuts",
    )
    for fact in facts:
        assert stores[0].manifest[fact] == stores[1].manifest[fact], fact
    for table in (t for t in stores[0].schema.tables if not t.buckets):
        first, second = (s.vocabulary_path(table.name).read_text() for s in stores)
        assert first == second
    for f in stores[0].schema.group("profile") + stores[0].schema.group("item"):
        assert (stores[0].ids(f.name) == stores[1].ids(f.name)).all()
    for kind in ("numbers", "weights", "vectors"):
        one, other = ({p.name: np.load(p) for p in (s.path / kind).glob("*")} for s in stores)
        assert one.keys() == other.keys()
        for file, array in one.items():
            np.testing.assert_array_equal(array, other[file])
    for w in (1.0, 0.4):
        kept = [Counter() for _ in stores]
        for store, counter in zip(stores, kept, strict=True):
            reader = Reader(store, "train", batch_size=50, history=5, negative_rate=w,
                            drop_remainder=False)  # fmt: skip
            for k in range(reader.steps(0)):
                batch = reader.batch(0, k)
                counter.update(
                    zip(batch["item"].tolist(), batch["label_click"].tolist(), strict=True)
                )
        assert kept[0] == kept[1]
        assert kept[0].total()


def test_behaviours_with_drawn_negatives(tmp_path):
    raw = written(rows_of(3, items=400), tmp_path / "log.csv")
    config = taobao.Config(raw=raw, types=True, negatives=2, user_rate=0.9, item_least=3)
    assert_same(prepare(config, tmp_path / "duck"), prepare(config, tmp_path / "spark", "spark"))


@slow
def test_negatives_that_go_with_the_history(tmp_path, monkeypatch):
    """Positives in their history and others; two rounds of weights, as Spark is slow."""
    monkeypatch.setattr(repetition, "ROUNDS", 2)
    raw = written(rows_of(3, users=12, items=60, number=400), tmp_path / "log.csv")
    config = taobao.Config(raw=raw, reject="history", min_behaviours=1)
    assert_same(prepare(config, tmp_path / "duck"), prepare(config, tmp_path / "spark", "spark"))


@slow
def test_impressions_under_paper(mylog, tmp_path):
    config = mylog(raw=write(tmp_path / "raw", "csv", tables()), protocol="paper")
    assert_same(prepare(config, tmp_path / "duck"), prepare(config, tmp_path / "spark", "spark"))


def test_labels_numbers_weights_and_vectors(tmp_path):
    config = rich_log.Log(raw=rich_log.write(tmp_path / "raw"))
    one, other = (prepare(config, tmp_path / e, e) for e in ("duckdb", "spark"))
    assert_same(one, other)


def test_attributes_that_come_late(tmp_path):
    raw = late_log.write(tmp_path / "raw", late_log.tables())
    config = late_log.Log(raw=raw)
    assert_same(prepare(config, tmp_path / "duck"), prepare(config, tmp_path / "spark", "spark"))


@slow
@pytest.mark.parametrize("draw", ["popularity", "uniform"])
def test_attributes_that_drawn_negatives_lack(tmp_path, draw):
    raw = written(rows_of(3, items=60), tmp_path / "log.csv")
    config = late_log.Gaps(raw=raw, negatives=2, draw=draw, since=START + 20)
    assert_same(prepare(config, tmp_path / "duck"), prepare(config, tmp_path / "spark", "spark"))


@slow
def test_ali_ccp(tmp_path):
    folder = tmp_path / "raw"
    log = simulation.Log(40, 200, impressions=2_500, click_rate=0.2, conversion_rate=0.3)
    simulation.write(log, folder)
    many = [("109_14", n % 997, n / 8) for n in range(3_000)]  # a group that Java repeats
    with (folder / "common_features_test.csv").open("a") as file:
        file.write(test_aliccp.common("0123456789abcdef", ("101", 77, "1.0"), *many))
    config = aliccp.Config(raw=str(folder), validation_share=0.3, longest=7)
    one, other = (prepare(config, tmp_path / e, e) for e in ("duckdb", "spark"))
    assert_same(one, other)


def test_bad_lines_of_ali_ccp_are_refused_by_number(tmp_path):
    line = test_aliccp.row(9, 1, 0, test_aliccp.KNOWN, test_aliccp.ITEM, ("206", "a", "1.0"))
    file = test_aliccp.TRAIN
    folder = test_aliccp.written(tmp_path, {file: [*test_aliccp.LOG[file], "\n", line]})
    config = aliccp.Config(raw=str(folder), unclicked=0.5)
    with pytest.raises(InputError, match="line 7 has the features '205"):
        prepare(config, tmp_path / "data", "spark")


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
