"""Attributes of users and items are known from their own time on: against plain loops."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from at4ctr.data import days
from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets import tafeng
from at4ctr.data.mapped.rows import Rows
from at4ctr.data.nights import increment
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.simulation.world import World
from at4ctr.data.simulation.write import write_behaviours
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from export.lookup import Front
from export.requests import requests
from tests.data import day_log, late_log
from tests.data.datasets.test_tafeng import row as basket
from tests.data.datasets.test_tafeng import written
from tests.data.datasets.test_taobao import raw_rows
from tests.data.late_log import START, Gaps, Log
from tests.oracles import prepare as oracle

TEST, VALIDATION = START + 160, START + 140


class Truth:
    """What each row of a log knows, by plain loops."""

    def __init__(self, tables):
        self.shown, self.done = (tables[t].to_pylist() for t in ("shown", "done"))
        every = [*self.done, *self.shown]  # behaviours are delivered first
        self.rows = {
            "age": [(r["who"], r["at"], r["age"]) for r in every],
            "brand": [(r["sku"], r["at"], r.get("brand")) for r in self.shown],
            "tags": [(r["sku"], r["at"], r["tags"]) for r in self.done],
        }

    def of(self, row, feature, *, shown=True):
        who = row["who" if feature == "age" else "sku"]
        own = row.get(feature)
        found = oracle.attribute(self.rows[feature], who, row["at"], own=own, shown=shown)
        return tuple(found.split("|")[:2]) if feature == "tags" and found else found

    def user(self, row):
        return row["who"], self.of(row, "age")

    def item(self, row, *, shown=True):
        return row["sku"], *(self.of(row, f, shown=shown) for f in ("brand", "tags"))

    def past(self, row):
        """The behaviours that an impression sees, oldest first."""
        own = [r for r in self.done if r["who"] == row["who"] and r["at"] < row["at"]]
        return sorted(own, key=lambda r: r["at"])

    def instances(self, splits):
        return Counter(
            (splits(r["at"]), self.user(r), self.item(r), r["clicked"],
             tuple(self.item(b, shown=False) for b in self.past(r)))
            for r in self.shown if splits(r["at"])
        )  # fmt: skip


def decoded(store):
    """The store's instances as `Truth.instances` gives them."""
    users, items = (pq.read_table(store.path / "dims" / f"{g}.parquet").to_pylist()
                    for g in ("user", "item"))  # fmt: skip
    users = [(r["user"], r["age"]) for r in users]
    items = [(r["item"], r["brand"], tuple(r["tags"][:2]) if r["tags"] else None) for r in items]
    found = Counter()
    for split in SPLITS:
        read = store.read(split, store.groups(split))
        owner = np.repeat(np.arange(len(read.users)), read.counts)
        at = read.instances
        for row, begin in enumerate(read.offsets[owner]):
            past = read.behaviours["item"][begin : begin + at["cut"][row]]
            who = at["user_row"][row] if "user_row" in at else read.users[owner[row]]
            assert users[who][0] == users[read.users[owner[row]]][0]
            seen = tuple(items[k] for k in past)
            found[split, users[who], items[at["item"][row]], int(at["label_click"][row]), seen] += 1
    return found


def split_of(time):
    return "test" if time >= TEST else "validation" if time >= VALIDATION else "train"


def config_of(folder, **options):
    validation, test = (str(np.datetime64(second, "s")) for second in (VALIDATION, TEST))
    return Log(raw=str(folder), validation_from=validation, test_from=test, **options)


def stored(tmp_path, tables, **options):
    late_log.write(tmp_path / "raw", tables)
    return Store.open(prepare(config_of(tmp_path / "raw", **options), tmp_path / "data"))


@pytest.mark.parametrize("seed", [0, 1])
def test_every_row_knows_what_was_logged_by_then(tmp_path, seed):
    tables = late_log.tables(seed)
    store = stored(tmp_path, tables)
    truth = Truth(tables)
    expected = truth.instances(split_of)
    assert decoded(store) == expected
    for place, field in ((1, 1), (2, 1), (2, 2)):  # some rows know each attribute, others do not
        assert len({bool(key[place][field]) for key in expected}) == 2
    versions = store.manifest["versions"]
    assert versions["user"] > 0
    assert versions["item"] > 0
    assert store.manifest["counts"]["users"] == 15
    assert store.manifest["counts"]["items"] == 20


def test_vocabularies_hold_what_training_knows(tmp_path):
    tables = late_log.tables(2)
    store, truth = stored(tmp_path, tables), Truth(tables)
    train = [r for r in truth.shown if split_of(r["at"]) == "train"]
    last = {r["who"]: max(o["at"] for o in train if o["who"] == r["who"]) for r in train}
    done = [r for r in truth.done if r["at"] < last.get(r["who"], 0)]
    seen = [(r, True) for r in train] + [(r, False) for r in done]
    values = {
        "user": [r["who"] for r, _ in seen],
        "item": [r["sku"] for r, _ in seen],
        "age": [truth.of(r, "age", shown=s) for r, s in seen],
        "brand": [truth.of(r, "brand", shown=s) for r, s in seen],
        "tag": [tag for r, s in seen for tag in truth.of(r, "tags", shown=s) or ()],
    }
    for table, raw in values.items():
        expected = oracle.vocabulary(v for v in raw if v is not None)
        assert store.vocabulary_path(table).read_text().split() == list(map(str, expected))
    late = {f"b{k % 7}{n}" for k in range(10, 20) for n in (0, 1)}
    assert late & {r["brand"] for r in truth.shown}


def test_what_is_first_logged_in_the_test_period_is_no_training_fact(tmp_path):
    """Every user says an age and every item a brand, in the last tenth alone."""
    tables = late_log.tables(3)
    begin = START + 180
    for name, table in tables.items():
        late = [t >= begin for t in table.column("at").to_pylist()]
        for column, value in (("age", 30), ("brand", "b")):
            if column in table.column_names:
                said = pa.array([value if one else None for one in late])
                table = table.set_column(table.column_names.index(column), column, said)
        tables[name] = table
    store = stored(tmp_path, tables)
    assert store.rows("age") == store.rows("brand") == 2  # padding and unknown
    known = Counter()
    for (split, (_, age), (_, brand, _), *_), n in decoded(store).items():
        known[split, age, brand] += n
    assert {key[1:] for key in known if key[0] != "test"} == {(None, None)}
    rows = [r for r in tables["shown"].to_pylist() if r["at"] >= TEST]
    assert known["test", None, None] == sum(r["at"] < begin for r in rows)
    assert known["test", 30, "b"] == sum(r["at"] >= begin for r in rows)
    reader = Reader(store, "test", batch_size=10**4, history=5, shuffle=False, drop_remainder=False)
    ids = Counter(reader.batch(0, 0)["age"].tolist())
    assert ids == {0: known["test", None, None], 1: known["test", 30, "b"]}


def test_several_values_are_said(tmp_path, capsys):
    tables = late_log.tables(4)
    store, truth = stored(tmp_path, tables), Truth(tables)
    for feature, group in (("age", "user"), ("brand", "item")):
        values = {}
        for who, _, value in truth.rows[feature]:
            values.setdefault(who, set()).update({value} - {None})
        many = sum(len(v) > 1 for v in values.values())
        note = (f"{feature}: {many} {group}s have several values; the first is kept, from its own "
                "time on; declare it as context to keep each")  # fmt: skip
        assert many
        assert note in store.manifest["notes"]
        assert f"prepare: {note}\n" in capsys.readouterr().err or feature == "brand"
    assert not any(n.startswith("tags: ") and "several" in n for n in store.manifest["notes"])


def test_versions_are_one_user_and_one_item(tmp_path):
    """To whoever compares users or items; and an entity has a version only where rows lack one."""
    store = stored(tmp_path, late_log.tables(5))
    reader = Reader(
        store, "train", batch_size=10**4, history=5, shuffle=False, drop_remainder=False
    )
    batch = reader.batch(0, 0)
    for group, count in (("user", 15), ("item", 20)):
        index = batch[f"{group}_index"]
        names = pq.read_table(store.path / "dims" / f"{group}.parquet").column(group).to_pylist()
        assert index.max() < count
        assert set(names[:count]) == set(names)
        raw = store.vocabulary_path(group).read_text().split()
        assert [str(names[i]) for i in index] == [raw[k - 2] for k in batch[group]]
    tables = late_log.tables(5)
    full = {"age": [7] * 500, "brand": ["b"] * 500, "tags": ["t|u"] * 500}
    for name, table in tables.items():
        for column in full.keys() & set(table.column_names):
            place = table.column_names.index(column)
            table = table.set_column(place, column, pa.array(full[column]))
        tables[name] = table
    whole = stored(tmp_path / "whole", tables)
    assert whole.manifest["versions"]["user"] == 0
    part = pq.read_schema(whole.path / "data" / "part-00000.parquet")
    assert not [n for n in part.names if n.endswith("user_row")]
    assert "user_index" not in pq.read_schema(whole.path / "dims" / "user.parquet").names


def test_raw_requests_have_the_values_of_their_time(tmp_path):
    store = stored(tmp_path, late_log.tables(6))
    front = Front(store, 5)
    for split in ("train", "test"):
        reader = Reader(store, split, batch_size=64, history=5, shuffle=False, block_users=1)
        batch = reader.batch(0, 0)
        raw = requests(front, store, split, 64, longest=1)
        raw = {k: tf.constant(raw[k], i.dtype) for k, i in front.inputs.items()}
        found = front.present(raw, 64) | front.histories(raw, 64)
        for name in ("user", "age", "item", "brand", "tags", "history_brand", "history_tags"):
            assert np.array_equal(found[name], batch[name]), name
        assert len({bool(v) for v in batch["brand"]}) == 2


@pytest.mark.parametrize("timed", [False, True])
def test_a_file_of_its_own_is_a_catalogue_unless_it_has_a_time(tmp_path, monkeypatch, timed):
    tables = late_log.tables(7)
    tables["shown"] = tables["shown"].drop_columns(["brand"])
    at = START + np.random.default_rng(1).integers(late_log.SECONDS, size=40)
    brands = [f"b{k}" for k in range(40)]  # two of each item
    tables["goods"] = pa.table({"sku": np.arange(40) % 20, "brand": brands, "at": at})
    columns = {"user": "who", "item": "sku", "age": "age"}
    shown = replace(Log().impressions(), columns=columns)
    goods = Rows(files="part-goods*", time="at" if timed else "",
                 columns={"item": "sku", "brand": "brand"})  # fmt: skip
    monkeypatch.setattr(Log, "impressions", lambda _: shown)
    monkeypatch.setattr(Log, "items", lambda _: goods)
    store = stored(tmp_path, tables)
    first = {}
    for sku, brand, time in sorted(zip(np.arange(40) % 20, brands, at, strict=True),
                                   key=lambda r: r[2] if timed else 0):  # fmt: skip
        first.setdefault(int(sku), (int(time), brand))

    class Catalogued(Truth):
        def of(self, row, feature, *, shown=True):
            if feature != "brand":
                return super().of(row, feature, shown=shown)
            time, value = first[row["sku"]]
            return value if not timed or time <= row["at"] else None

    assert decoded(store) == Catalogued(tables).instances(split_of)
    assert any("brand: 20 items have several values in items();" in n
               for n in store.manifest["notes"])  # fmt: skip
    if timed:
        tables["goods"] = tables["goods"].set_column(2, "at", pa.array(["soon"] * 40))
        with pytest.raises(InputError, match="has 'soon' as 'timestamp'"):
            stored(tmp_path / "bad", tables)


def missing(store, split):
    """Label, whether the candidate lacks its category, and its item, of a split's rows."""
    rows = store.read(split, store.groups(split)).instances
    lacks = store.ids("category")[rows["item"]] == 0
    return rows["label_click"], lacks, store.items(rows["item"])


@pytest.mark.parametrize("draw", ["popularity", "uniform"])
def test_a_missing_attribute_does_not_tell_drawn_negatives(tmp_path, draw):
    log = tmp_path / "log.csv"
    write_behaviours(World(users=2500, items=4000, categories=200, rows=100_000), log)
    config = Gaps(raw=str(log), negatives=4, draw=draw)
    store = Store.open(prepare(config, tmp_path / "data"))
    assert store.manifest["versions"]["item"] > 500
    for split in ("train", "test"):
        label, lacks, item = missing(store, split)
        assert 0.1 < lacks.mean() < 0.9
        if draw == "popularity":
            assert roc_auc_score(label, lacks) == pytest.approx(0.5, abs=0.02), split
        else:  # rare items are drawn more often, and each as often without as in its rows
            rows, lacking = (np.bincount(item[label == 1], w) for w in (None, lacks[label == 1]))
            drawn = item[label == 0]
            expected = (lacking[drawn] / rows[drawn]).mean()
            assert lacks[label == 0].mean() == pytest.approx(expected, abs=0.03), split
    assert draw == "uniform" or as_of_positive(store, config, raw_rows(log)) > 0.5


def test_attributes_as_of_the_positives_time_would_tell(tmp_path):
    """The check has power: every row of this log carries its category, and draws meet new items."""
    log = tmp_path / "log.csv"
    write_behaviours(World(users=1500, items=20_000, categories=200, rows=50_000), log)
    config = Gaps(raw=str(log), negatives=4, every=1, since=0)
    store = Store.open(prepare(config, tmp_path / "data"))
    assert not missing(store, "train")[1].any()
    assert as_of_positive(store, config, raw_rows(log)) > 0.55


def as_of_positive(store, config, rows):
    """The AUC that the draws would have, were they known as of their positive's time."""
    truth = oracle.behaviours(rows)
    since, places = {}, {}
    for place, row in enumerate(rows):
        places.setdefault(row, place)  # of duplicates the first stays
    for (user, item, _, _, time), place in places.items():
        carries = place % config.every == 0 and (item % 2 or time >= config.since)
        if user in truth and carries and 1511539200 <= time <= 1512316799:
            since[item] = min(time, since.get(item, time))
    dims = {g: pq.read_table(store.path / "dims" / f"{g}.parquet").column(g).to_pylist()
            for g in ("user", "item")}  # fmt: skip
    found = store.read("train", store.groups("train"))
    owner = np.repeat(found.users, found.counts)
    at = found.instances
    lacks = [since.get(dims["item"][item], 2**40) > truth[dims["user"][user]][cut][3]
             for user, item, cut in zip(owner, at["item"], at["cut"], strict=True)]  # fmt: skip
    own = at["label_click"] == 1
    assert np.array_equal(np.array(lacks)[own], missing(store, "train")[1][own])
    return roc_auc_score(at["label_click"] == 0, lacks)


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """A log of four days, and its nights one after the other."""
    root = tmp_path_factory.mktemp("log")
    begin = day_log.BEGIN
    whole = late_log.tables(8, number=1600, begin=begin, seconds=4 * days.DAY)
    for number in range(4):
        day = (whole["shown"].column("at").to_numpy() - begin) // days.DAY, (
            whole["done"].column("at").to_numpy() - begin) // days.DAY  # fmt: skip
        folder = root / f"dt={day_log.dated(number)}"
        parts = zip(("shown", "done"), day, strict=True)
        late_log.write(folder, {t: whole[t].filter(pa.array(d == number)) for t, d in parts})
        (folder / "_SUCCESS").touch()
    made = day_log.chain(Log(history=40), root, 4, tmp_path_factory.mktemp("chain"))
    return root, Truth(whole), made


def test_no_row_of_a_night_knows_what_is_logged_later(nights):
    _, truth, made = nights
    for night in made:
        begin, cutoff, end = night.window
        ends = {"train": (begin, cutoff), "test": (cutoff, end)}

        def split(time, ends=ends):
            return next((s for s, (a, b) in ends.items() if a <= time < b), None)

        expected = truth.instances(split)
        assert trimmed(decoded(Store.open(night.store))) == trimmed(expected)
        said = {v for f in ("age", "brand") for _, t, v in truth.rows[f] if t < cutoff}
        found = day_log.vocabularies(night)
        assert set(found["age"]) | set(found["brand"]) <= said


def trimmed(counted):
    """With the candidate's attributes; of the history the items alone, the latest 40."""
    found = Counter()
    for (split, user, item, label, seen), n in counted.items():
        found[split, user, item, label, tuple(one[0] for one in seen[-40:])] += n
    return found


def test_nights_are_what_all_raw_days_at_once_give(nights, tmp_path):
    root, _, made = nights
    config = Log(history=40)
    for number, night in enumerate(made):
        found = days.find(root, [day_log.dated(n) for n in range(number + 1)])
        again = increment.build(config, found, night.window, None, tmp_path / f"whole-{number}")
        assert decoded(Store.open(again.store)) == decoded(Store.open(night.store))
        assert day_log.states(again) == day_log.states(night)
    notes = json.loads((made[-1].store / "manifest.json").read_text())["notes"]
    assert any("age: " in n and "another value than in earlier nights" in n for n in notes)


def test_a_drawn_negative_has_the_user_of_its_positive(tmp_path):
    """A customer whose age is first said on the third of six days."""
    rows = [basket(f"12/{day}/2000", f"{user:08}", f"{3 * day + user:013}",
                age="A" if day >= 3 and user % 2 else "")
            for user in range(4) for day in range(1, 7)]  # fmt: skip
    config = tafeng.Config(raw=str(written(tmp_path / "log.csv", rows)), min_behaviours=1)
    store = Store.open(prepare(config, tmp_path / "data"))
    assert store.manifest["versions"] == {"user": 2, "item": 0}
    users = pq.read_table(store.path / "dims" / "user.parquet").to_pylist()
    found = Counter()
    for split in SPLITS:
        at = store.read(split, store.groups(split)).instances
        for who, cut, label in zip(at["user_row"], at["cut"], at["label_click"], strict=True):
            user = users[who]
            day = cut + 1  # one behaviour a day
            assert user["age_group"] == ("A" if day >= 3 and int(user["user"]) % 2 else None)
            found[label] += 1
    assert found[0] == found[1] == 20
