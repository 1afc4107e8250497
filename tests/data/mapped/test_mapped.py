"""A log of one's own: a schema and a mapping of columns, from CSV and from Parquet."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import configs
from at4ctr import config
from at4ctr.data.dataset import SPLITS
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Schema, Table
from tests.data.datasets.test_amazon_beauty import decoded
from tests.data.toy_log import RECIPE, forget, mylog_of, tables, write


@pytest.fixture
def mylog(tmp_path, monkeypatch):
    yield from mylog_of(tmp_path, monkeypatch)


def contents(store):
    """All that a model is told, without what names the files."""
    found = {f.name: store.ids(f.name).tolist()
             for group in ("profile", "item") for f in store.schema.group(group)}  # fmt: skip
    for split in SPLITS:
        read = store.read(split, store.groups(split))
        found |= {f"{split} {n}": a.tolist() for n, a in read.instances.items()}
        found |= {f"{split} past {n}": a.tolist() for n, a in read.behaviours.items()}
    for table in store.schema.tables:
        found[f"vocabulary {table.name}"] = store.vocabulary_path(table.name).read_text()
    return found


def test_csv_and_parquet_give_the_same_store(mylog, tmp_path):
    logs, stores = tables(), []
    for end in ("csv", "csv.gz", "tsv", "parquet"):
        folder = write(tmp_path / end, end, logs)
        stores.append(Store.open(prepare(mylog(raw=folder), tmp_path / "data" / end)))
    first, *others = map(contents, stores)
    assert all(other == first for other in others)
    assert stores[0].manifest["counts"]["users"] == 30  # who met impressions alone too
    reader = Reader(stores[0], "train", batch_size=64, history=9, drop_remainder=False)
    batches = [reader.batch(0, k) for k in range(reader.steps(0))]
    assert sum(len(b["label_click"]) for b in batches) == stores[0].counts("train")["rows"]
    assert stores[0].manifest["dataset"] == "mylog"


def test_times_with_an_offset_give_the_store_of_the_same_instants(mylog, tmp_path, monkeypatch):
    logs, local = tables(), mylog().behaviours()
    first = contents(Store.open(prepare(mylog(raw=write(tmp_path / "a", "csv", logs)), tmp_path)))
    for part, offset in (("done-1", "+08:00"), ("done-2", "")):
        ahead = np.array(logs[part]["moment"].to_pylist(), "datetime64[s]") + np.timedelta64(8, "h")
        texts = pa.array([f"{at}{offset}" for at in ahead])
        logs[part] = logs[part].set_column(4, "moment", texts)
    monkeypatch.setattr(mylog, "behaviours", lambda _: replace(local, zone="Asia/Shanghai"))
    second = prepare(mylog(raw=write(tmp_path / "b", "csv", logs)), tmp_path)
    assert contents(Store.open(second)) == first
    notes = Store.open(second).manifest["notes"]
    assert any(n.startswith("the log has ") and "2023-11-14 22:13" in n for n in notes)


def test_every_instance_is_what_the_log_says(mylog, tmp_path):
    logs = tables()
    shown = logs["shown"].to_pylist()
    done = [*logs["done-1"].to_pylist(), *logs["done-2"].to_pylist()]
    done = [b | {"at": int(np.datetime64(b["moment"], "s").astype(int))}
            for b in done if b["event"] != "scroll"]  # fmt: skip
    times = [b["at"] // 1000 for b in shown]
    test = round(max(times) - 0.25 * (max(times) - min(times)))
    validation = round(test - 0.1 * (max(times) - min(times)))
    expected = []
    for b in shown:
        at = b["at"] // 1000
        own = [d for d in done if d["who"] == b["who"] and d["at"] < at]
        past = tuple(d["sku"] for d in sorted(own, key=lambda d: d["at"]))
        split = "test" if at >= test else "validation" if at >= validation else "train"
        expected.append((split, b["who"], b["sku"], b["clicked"], past))
    folder = write(tmp_path / "raw", "parquet", logs)
    store = Store.open(prepare(mylog(raw=folder, protocol="paper"), tmp_path / "data"))
    rows = decoded(store)[["split", "user", "item", "label", "seen"]]
    assert sorted(rows.itertuples(index=False, name=None)) == sorted(expected)
    users = pq.read_table(store.path / "dims" / "user.parquet").to_pylist()
    for user in users:
        ages = [d for d in done if d["who"] == user["user"] and d["age"] is not None]
        assert user["age"] == min(ages, key=lambda d: d["at"], default={"age": None})["age"]
    items = pq.read_table(store.path / "dims" / "item.parquet").to_pylist()
    genres = [[], ["a"], ["a", "b"], ["c", "a", "b"]]
    assert all(i["genres"] == genres[i["item"] % 4] for i in items)


def test_nobody_needs_behaviours(mylog, tmp_path):
    logs = tables()
    logs["done-1"] = logs["done-1"][:3]
    del logs["done-2"]
    folder = write(tmp_path / "raw", "csv", logs)
    store = Store.open(prepare(mylog(raw=folder), tmp_path / "data"))
    assert sum(store.counts(s)["rows"] for s in SPLITS) == 600
    half = Store.open(prepare(mylog(raw=folder, user_rate=0.5), tmp_path / "data"))
    names = decoded(half).user.unique()
    assert 5 < len(names) < 25
    whole = decoded(store)
    assert len(decoded(half)) == whole.user.isin(names).sum()


def test_a_log_without_behaviours_has_no_history(mylog, tmp_path, monkeypatch):
    kept = Schema(
        tables=(Table("user", "string"), Table("item"), Table("slot")),
        features=(Feature("user", "profile", "user"), Feature("item", "item", "item"),
                  Feature("slot", "context", "slot")),
    )  # fmt: skip
    monkeypatch.setattr(mylog, "behaviours", lambda _: None)
    monkeypatch.setattr(mylog, "items", lambda _: None)
    folder = write(tmp_path / "raw", "csv", tables())
    with pytest.raises(InputError, match="no method gives the schema's feature 'age'"):
        prepare(mylog(raw=folder), tmp_path / "data")
    monkeypatch.setattr(mylog, "schema", lambda _: replace(kept, history=("item",)))
    with pytest.raises(InputError, match=r"behaviours\(\) is missing.*history=\(\)"):
        prepare(mylog(raw=folder), tmp_path / "data")
    monkeypatch.setattr(mylog, "schema", lambda _: kept)
    store = Store.open(prepare(mylog(raw=folder), tmp_path / "data"))
    assert store.manifest["counts"]["behaviours"] == 0
    assert sum(store.counts(s)["rows"] for s in SPLITS) == 600
    batch = Reader(store, "train", batch_size=8, history=5).batch(0, 0)
    assert not batch["history_length"].any()


def test_another_mapping_is_another_store(mylog, tmp_path, monkeypatch):
    folder = write(tmp_path / "raw", "csv", tables())
    first = prepare(mylog(raw=folder), tmp_path / "data")
    assert prepare(mylog(raw=folder, history=3), tmp_path / "data") == first
    rows = replace(mylog().behaviours(), where="event = 'buy'")
    monkeypatch.setattr(mylog, "behaviours", lambda _: rows)
    assert prepare(mylog(raw=folder), tmp_path / "data") != first


def test_a_recipe_file_is_a_dataset(mylog):
    made = configs.recipe("din", mylog(raw="folder"))
    assert made.data.name == "mylog"
    made = config.override(made, ["data.test_share=0.4"])
    text = json.dumps(config.to_json(made))
    assert config.from_json(json.loads(text), datasets=configs.datasets()) == made
    with pytest.raises(InputError, match=r"mylog.py has no experiment\(data\)"):
        configs.recipe("mylog", mylog())
    with pytest.raises(InputError, match="did you mean mylog"):
        configs.dataset("mylogs")


def test_a_name_is_one_dataset(mylog, tmp_path):
    del mylog
    (tmp_path / "recipes" / "taobao.py").write_text(RECIPE)
    importlib.invalidate_caches()
    try:
        with pytest.raises(InputError, match=r"'taobao' stands in .*configs/taobao.py"):
            configs.dataset("mylog")
    finally:
        forget("taobao")
