"""Preparation of what the Taobao log has not: impressions, days, text ids, attributes, lists."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.dataset import SPLITS, Options, Source, holdout
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.schema import Feature, Schema, Table
from tests.oracles import prepare as oracle


@dataclass(frozen=True)
class Toy(Options):
    """A log in memory: text ids, an attribute of users, hashed lists of tags, impressions."""

    min_behaviours: int = 1
    days: bool = False
    shown: bool = True

    def schema(self):
        context = (Feature("place", "context", "place"),) if self.shown else ()
        return Schema(
            tables=(Table("user", "string"), Table("item", "string"), Table("age"),
                    Table("tag", "string", buckets=50), Table("place")),
            features=(Feature("reader", "profile", "user"), Feature("age", "profile", "age"),
                      Feature("article", "item", "item"), Feature("tags", "item", "tag", length=2),
                      *context),
            history=("article", "tags"),
        )  # fmt: skip

    def acquire(self):
        return Source((), simulated=True)

    def load(self, engine, source):  # noqa: ARG002
        rng = np.random.default_rng(3)
        number = 400
        readers, articles = rng.integers(12, size=number), rng.integers(30, size=number)
        tags = [["a", "b", "c"], [], None, ["b"]]
        columns = {
            "reader": [f"r{k}" for k in readers],
            "age": [None if k % 5 == 0 else int(k % 3) for k in readers],
            "article": [f"ä{k}" for k in articles],
            "tags": pa.array([tags[k % 4] for k in articles], pa.list_(pa.string())),
            "timestamp": rng.integers(9, size=number) * (86_400 if self.days else 1),
            "ord": np.arange(number),
        }
        engine.register("log", pa.table(columns))
        if self.shown:
            more = columns | {
                "timestamp": rng.integers(12, size=number),
                "label_click": rng.integers(2, size=number),
                "truth_click": rng.random(number),
                "place": rng.integers(3, size=number),
            }
            engine.register("impressions", pa.table(more).drop_columns(["age"]))

    def split(self):
        if self.days:
            return (
                'CASE dense_rank() OVER (PARTITION BY "user" ORDER BY "timestamp" DESC) '
                "WHEN 1 THEN 'test' WHEN 2 THEN 'validation' ELSE 'train' END"
            )
        return holdout(2, 2)

    def cut(self):
        return "earlier" if self.days else "pos"


class Capture:
    """Keeps what a dataset registers."""

    def __init__(self):
        self.tables = {}

    def register(self, name, table):
        self.tables[name] = table.to_pylist()


def toy_rows(config):
    capture = Capture()
    config.load(capture, Source(()))
    return capture.tables


def test_impressions_see_strictly_earlier_behaviours(tmp_path):
    config = Toy()
    folder = prepare(config, tmp_path)
    store = Store.open(folder)
    tables = toy_rows(config)
    users = pq.read_table(folder / "dims" / "user.parquet").to_pydict()
    items = pq.read_table(folder / "dims" / "item.parquet").to_pydict()
    places = store.vocabulary_path("place").read_text().split()
    rows = pq.read_table(folder / "data" / "part-00000.parquet").to_pylist()
    for row in rows:
        reader = users["reader"][row["user"]]
        past = [b["timestamp"] for b in tables["log"] if b["reader"] == reader]
        shown = [b for b in tables["impressions"] if b["reader"] == reader]
        shown.sort(key=lambda b: b["timestamp"])
        shown = [(b, sum(t < b["timestamp"] for t in past)) for b in shown]
        cases = {"train": shown[:-4], "validation": shown[-4:-2], "test": shown[-2:]}
        for split, case in cases.items():
            case = [(b, cut) for b, cut in case if cut >= 1]
            assert row[f"{split}_cut"] == [cut for _, cut in case]
            assert [items["article"][k] for k in row[f"{split}_item"]] == [
                b["article"] for b, _ in case
            ]
            assert row[f"{split}_label_click"] == [b["label_click"] for b, _ in case]
            assert row[f"{split}_truth_click"] == [b["truth_click"] for b, _ in case]
            names = [places[k - 2] for k in row[f"{split}_place"]]
            assert names == [str(b["place"]) for b, _ in case]
    assert store.truth
    assert store.simulated


def test_attributes_lists_and_hashes(tmp_path):
    import tensorflow as tf

    folder = prepare(Toy(), tmp_path)
    store = Store.open(folder)
    users = pq.read_table(folder / "dims" / "user.parquet").to_pydict()
    ages = store.vocabulary_path("age").read_text().split()
    ids = store.ids("age")
    assert users["user_index"][12:]  # versions of users who have impressions before their age
    for age, reader, number in list(zip(users["age"], users["reader"], ids, strict=True))[:12]:
        expected = None if int(reader[1:]) % 5 == 0 else int(reader[1:]) % 3
        assert age == expected
        assert number == (0 if age is None else ages.index(str(age)) + 2)
    items = pq.read_table(folder / "dims" / "item.parquet").to_pydict()
    rows = {t: int(tf.strings.to_hash_bucket_fast(t, 50)) + 2 for t in "abc"}
    for tags, found in zip(items["tags"], store.ids("tags").tolist(), strict=True):
        assert found == ([rows[t] for t in tags or []] + [0, 0])[:2]
    assert store.rows("tag") == 52


def test_a_day_sees_strictly_earlier_days(tmp_path):
    config = Toy(days=True, shown=False)
    folder = prepare(config, tmp_path)
    users = pq.read_table(folder / "dims" / "user.parquet").column("reader").to_pylist()
    log = [(b["reader"], b["article"], 0, "", b["timestamp"]) for b in toy_rows(config)["log"]]
    truth = oracle.behaviours(log, window=None, dedupe=False, least=1)
    expected = oracle.last_days(truth)
    for row in pq.read_table(folder / "data" / "part-00000.parquet").to_pylist():
        for split in SPLITS:
            cuts = [
                c
                for c, y in zip(row[f"{split}_cut"], row[f"{split}_label_click"], strict=True)
                if y
            ]
            assert cuts == [c for u, _, c in expected[split] if u == users[row["user"]]]


class Few(Toy):
    """One user: a behaviour before the training rows, and one between them and validation."""

    def load(self, engine, source):  # noqa: ARG002
        def table(articles, times, **more):
            size = len(articles)
            return pa.table({
                "reader": ["r"] * size, "article": articles,
                "tags": pa.array([[]] * size, pa.list_(pa.string())),
                "timestamp": times, "ord": np.arange(size), **more,
            })  # fmt: skip

        engine.register("log", table(["early", "between"], [1, 10], age=[1, 1]))
        shown = table(["shown"] * 6, [5, 5, 15, 15, 20, 20], label_click=[0, 1] * 3, place=[1] * 6)
        engine.register("impressions", shown)


def test_the_vocabulary_ends_with_what_training_rows_see(tmp_path):
    store = Store.open(prepare(Few(), tmp_path))
    assert [store.counts(s)["rows"] for s in SPLITS] == [2, 2, 2]
    assert set(store.vocabulary_path("item").read_text().split()) == {"early", "shown"}
