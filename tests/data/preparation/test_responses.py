"""Labels, numbers, weights and vectors in a store, against plain Python over the raw rows."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from at4ctr.data.dataset import SPLITS, Options, Source, holdout
from at4ctr.data.engines.duck import Engine
from at4ctr.data.nights.increment import demand_possible
from at4ctr.data.preparation import columns
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Label, Number, Schema, Table
from tests.data import rich_log, toy_log


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rich")
    config = rich_log.Log(raw=rich_log.write(folder / "raw"))
    return Store.open(prepare(config, folder / "data"), config.schema(), config.preparation())


NEVER = ((10**12, 0), "")


def number(text):
    """A number as float32 holds it; None where it is missing."""
    return None if text in ("", "nan") else float(np.float32(float(text)))


def expected_rows():
    """Split -> every row as (user, item, slot, click, conversion, weight, rate, age, price, tags,
    weights of tags)."""
    logs = rich_log.tables()
    goods = {g["sku"]: g for g in logs["catalogue"].to_pylist()}
    shown = logs["shown"].to_pylist()
    first = {}
    for place, row in enumerate(shown):
        if row["age"]:
            key = (int(row["at"]), place)
            first[row["who"]] = min(first.get(row["who"], NEVER), (key, row["age"]))
    times = [int(row["at"]) for row in shown]
    test = round(max(times) - 0.25 * (max(times) - min(times)))
    validation = round(test - 0.1 * (max(times) - min(times)))
    found: dict[str, Counter] = {split: Counter() for split in SPLITS}
    for row in shown:
        at, good = int(row["at"]), goods[row["sku"]]
        split = "test" if at >= test else "validation" if at >= validation else "train"
        (since, _), age = first.get(row["who"], NEVER)
        known = since < at or (since == at and row["age"])
        bought = row["bought"] if row["clicked"] == "1" else ""
        tags = tuple(good["tags"].split("|"))[:2] if good["tags"] else ()
        scores = tuple(map(float, good["scores"].split("|")))[:2] if tags else ()
        found[split][
            row["who"], row["sku"], row["rank"], int(row["clicked"]), int(bought or -1),
            float(row["weight"]), number(row["rate"]), number(age) if known else None,
            number(good["price"]), tags, scores,
        ] += 1  # fmt: skip
    return found


def batches(store, split, **settings):
    settings = {
        "batch_size": 64,
        "history": 3,
        "shuffle": False,
        "drop_remainder": False,
    } | settings
    reader = Reader(store, split, **settings)
    return [reader.batch(0, k) for k in range(reader.steps(0))]


def test_every_behaviour_is_as_old_as_the_log_says(store):
    """Of each row, the ages of the latest three behaviours that are older than the row."""
    logs = rich_log.tables()
    done = [(r["who"], int(r["at"])) for r in logs["done"].to_pylist()]
    expected = Counter()
    for row in logs["shown"].to_pylist():
        ages = sorted(
            (int(row["at"]) - t for who, t in done if who == row["who"] and t < int(row["at"])),
            reverse=True,
        )
        expected[row["who"], row["sku"], tuple(ages[-3:])] += 1
    dims = {t: pq.read_table(store.path / "dims" / f"{t}.parquet").column(t).to_pylist()
            for t in ("user", "item")}  # fmt: skip
    found = Counter()
    for split in SPLITS:
        for batch in batches(store, split):
            for k, length in enumerate(batch["history_length"]):
                ages = batch["history_seconds_ago"][k].tolist()
                assert not any(ages[length:])
                who = dims["user"][batch["user_index"][k]]
                found[who, str(dims["item"][batch["item_index"][k]]), tuple(ages[:length])] += 1
    assert found == expected


def test_every_row_is_what_the_log_says(store):
    raw = {n: ["", "?", *store.vocabulary_path(n).read_text().splitlines()]
           for n in ("tag", "slot")}  # fmt: skip
    dims = {t: pq.read_table(store.path / "dims" / f"{t}.parquet").column(t).to_pylist()
            for t in ("user", "item")}  # fmt: skip
    expected = expected_rows()
    for split in SPLITS:
        found = Counter()
        for batch in batches(store, split):
            for k in range(len(batch["item"])):
                row = {n: values[k].tolist() for n, values in batch.items()}
                real = [t for t in range(2) if row["tags"][t]]
                assert not any(row["weights_tags"][t] for t in range(2) if t not in real)
                floats = [None if np.isnan(row[n]) else row[n] for n in ("rate", "age", "price")]
                found[
                    dims["user"][row["user_index"]], str(dims["item"][row["item_index"]]),
                    raw["slot"][row["slot"]], row["label_click"], row["label_conversion"],
                    row["weight"], *floats, tuple(raw["tag"][row["tags"][t]] for t in real),
                    tuple(row["weights_tags"][t] for t in real),
                ] += 1  # fmt: skip
        if split == "train":  # where every tag and slot is known
            assert found == expected[split]
        assert {(r[:2], *r[3:9], r[10]) for r in found} == {
            (r[:2], *r[3:9], r[10]) for r in expected[split]
        }
        assert found.total() == expected[split].total() == store.counts(split)["rows"]
        counts = store.counts(split)["labels"]
        for label, place in (("click", 3), ("conversion", 4)):
            values = [r[place] for r in expected[split].elements()]
            known = [v for v in values if v >= 0]
            assert counts[label] == {"known": len(known), "positives": sum(known)}


def test_numbers_are_measured_on_training_rows(store):
    rows = list(expected_rows()["train"].elements())
    found = store.numbers()
    assert list(found) == ["age", "price", "rate"]
    for name, place in (("rate", 6), ("age", 7), ("price", 8)):
        values = np.array([r[place] for r in rows if r[place] is not None])
        quantiles = np.quantile(values, np.arange(257) / 256)
        np.testing.assert_allclose(found[name].quantiles, quantiles, rtol=1e-12)
        assert found[name].whole == (name == "age")
        np.testing.assert_allclose(found[name].largest, np.quantile(abs(values), 0.999))


def test_vectors_are_aligned_to_model_ids(store):
    rows = store.vectors()["item"]
    raws = [int(raw) for raw in store.vocabulary_path("item").read_text().split()]
    assert rows.dtype == np.float32
    assert rows.shape == (store.rows("item"), rich_log.WIDTH)
    assert not rows[0].any()
    np.testing.assert_array_equal(rows[2:], [[k, 2 * k, 1] for k in raws])
    np.testing.assert_allclose(rows[1], rows[2:].mean(axis=0), rtol=1e-6)


def test_other_vectors_are_another_store(tmp_path):
    config = rich_log.Log(raw=rich_log.write(tmp_path / "raw"))
    first = prepare(config, tmp_path / "data")
    pq.write_table(rich_log.vectors(range(90)), tmp_path / "raw" / "vectors.parquet")
    assert prepare(config, tmp_path / "data") != first


def test_a_kept_row_keeps_all_its_labels(store):
    def rows(w):
        names = ("user_index", "item_index", "slot", "label_click", "label_conversion", "rate")
        return Counter(
            tuple(map(str, row))
            for batch in batches(store, "train", negative_rate=w)
            for row in zip(*(batch[n].tolist() for n in names), strict=True)
        )

    kept = {w: rows(w) for w in (0.1, 0.4, 1.0)}
    assert kept[0.1] < kept[0.4] < kept[1.0]
    clicked = Counter({row: n for row, n in kept[1.0].items() if row[3] == "1.0"})
    assert clicked <= kept[0.1]
    negatives = kept[1.0].total() - clicked.total()
    share = (kept[0.4].total() - clicked.total()) / negatives
    assert abs(share - 0.4) < 4 * np.sqrt(0.24 / negatives)


def refused(config, root, says):
    with pytest.raises(InputError, match=says) as caught:
        prepare(config, root)
    assert "\n" not in str(caught.value)


SHOWN = rich_log.Log().impressions()
GOODS = rich_log.Log().items()


def shown(**said):
    return replace(SHOWN, columns={**SHOWN.columns, **said})


@pytest.mark.parametrize(("method", "rows", "says"), [
    ("impressions", shown(rate="who"), r"shown.csv line 2 has 'r\d+' as 'rate' \(who\); expected a "
     r"finite number; declare texts as Feature\('rate', 'context', 'rate'\) of Table\('rate', "),
    ("impressions", shown(rate="'-inf'"), r"line 2 has '-inf' as 'rate'.*expected a finite number"),
    ("impressions", shown(rate="'1e39'"), r"line 2 has '1e39' as 'rate'.*expected a finite number"),
    ("impressions", shown(slot="'1.5'"), r"has '1.5' as 'slot'.*expected a whole number.*; declare "
     r"a quantity as Number\('slot', group\) in Schema.numbers"),
    ("impressions", replace(SHOWN, weight="'-1'"), r"line 2 has '-1' as 'weight'.*finite weight"),
    ("impressions", replace(SHOWN, weight="'nan'"), r"line 2 has 'nan' as 'weight'.*finite weight"),
    ("impressions", replace(SHOWN, weight="'inf'"), r"line 2 has 'inf' as 'weight'.*finite weight"),
    ("impressions", replace(SHOWN, weight="''"), r"line 2 has '' as 'weight'.*finite weight"),
    ("impressions", replace(SHOWN, weight="'0'"), r"the weights of all \d+ training rows are 0"),
    ("impressions", replace(SHOWN, weight=""), r"impressions\(\) has no weight, and the schema is"),
    ("impressions", replace(SHOWN, labels={"click": "clicked", "conversion": "2"}),
     r"line 2 has '2' as 'label_conversion' \(2\); expected 0, 1, true or false, or nothing"),
    ("impressions", replace(SHOWN, labels={"click": "''", "conversion": "bought"}),
     r"line 2 has '' as 'label_click' \(''\); expected 0, 1, true or false;"),
    ("impressions", replace(SHOWN, labels={"click": "clicked", "conversion": "1"}),
     r"the row of impressions with user 'r\d+', item \d+ and timestamp \d+ has 1 as "
     r"'label_conversion'; expected 0 or NULL where label_click is not 1"),
    ("impressions", replace(SHOWN, labels={"click": "clicked", "conversion": "clicked"}),
     r"the train split has \d+ rows with a known label 'conversion', all positives; expected both"),
    ("impressions", replace(SHOWN, labels={"click": "clicked", "conversion": "''"}),
     r"has 0 rows with a known label 'conversion', none known; expected both classes"),
    ("impressions", replace(SHOWN, labels={"click": "clicked"}), r"has no label 'conversion'"),
    ("impressions", replace(SHOWN, labels={**SHOWN.labels, "like": "1"}), r"unknown label in"),
    ("items", replace(GOODS, columns={**GOODS.columns, "weights_tags": "['1']"}),
     r"catalogue.csv line \d+ has '\[1\]' as 'weights_tags'.*as many finite weights"),
    ("items", replace(GOODS, columns={**GOODS.columns,
     "weights_tags": "string_split(replace(scores, '1', '-1'), '|')"}),
     r"catalogue.csv line \d+ has '.*-1.*' as 'weights_tags'.*finite weights of at least 0"),
    ("items", replace(GOODS, columns={**GOODS.columns, "tags": "['', 'wool']",
     "weights_tags": "['3', '']"}),  # either has one value, but not of one place
     r"as 'weights_tags'.*no missing one among others"),
])  # fmt: skip
def test_what_no_row_may_hold_is_refused(tmp_path, monkeypatch, method, rows, says):
    monkeypatch.setattr(rich_log.Log, method, lambda _: rows)
    refused(rich_log.Log(raw=rich_log.write(tmp_path / "raw")), tmp_path / "data", says)


def test_quantities_as_texts_and_rates_without_a_correction_are_refused(tmp_path, monkeypatch):
    logs = rich_log.tables()
    logs["done"] = logs["done"].set_column(2, "event", pa.array([0.5] * logs["done"].num_rows))
    raw = toy_log.write(tmp_path / "raw", "parquet", logs)
    pq.write_table(rich_log.vectors(), tmp_path / "raw" / "vectors.parquet")
    says = (r"behaviours\(\) reads 'event' \(event\) of type DOUBLE from .*done.parquet, and the "
            r"feature 'event' is of a table of texts; .*as Number\('event', group\)")  # fmt: skip
    refused(rich_log.Log(raw=raw), tmp_path / "data", says)
    schema = rich_log.Log().schema()
    apart = replace(schema, labels=(*schema.labels, Label("like")))
    monkeypatch.setattr(rich_log.Log, "schema", lambda _: apart)
    says = r"negative_rate is 0.5 and label 'like' is not known within 'click' alone; expected"
    refused(rich_log.Log(raw=raw, negative_rate=0.5), tmp_path / "data", says)


def odd(values, place=5):
    """Vectors with one row's values changed."""
    made = rich_log.vectors().to_pydict()
    made["vector"][place] = values
    return pa.table(made)


@pytest.mark.parametrize(("rows", "says"), [
    (rich_log.vectors(range(30)), r"vectors.parquet lacks 10 of the 40 ids of table 'item', such"),
    (odd([1.0, 2.0]), "has a vector of width 2 at id 5; expected one width, 3 as at its first row"),
    (odd([1.0, float("nan"), 2.0]), "has nan in the vector of id 5; expected finite numbers"),
    (odd([1.0, float("inf"), 2.0]), "has inf in the vector of id 5; expected finite numbers"),
    (odd(None), "has no vector of id 5; expected one of each id"),
    (rich_log.vectors([*range(40), 7]), "has id 7 twice; expected each id once"),
    (rich_log.vectors().rename_columns(["sku", "vector"]), "has columns sku, vector; expected"),
    (pa.table({"id": range(40), "vector": [1.0] * 40}), "has column vector of type double"),
    (pa.table({"id": ["a"] * 40, "vector": [[1.0]] * 40}), "has ids of type string; expected int"),
])  # fmt: skip
def test_vectors_that_do_not_fit_are_refused(tmp_path, rows, says):
    config = rich_log.Log(raw=rich_log.write(tmp_path / "raw", rows=rows))
    refused(config, tmp_path / "data", says)


def test_missing_vectors_are_refused(tmp_path):
    config = rich_log.Log(raw=rich_log.write(tmp_path / "raw"))
    (tmp_path / "raw" / "vectors.parquet").unlink()
    refused(config, tmp_path / "data", "vectors.parquet of table 'item' is missing; expected")


def test_nights_of_numbers_are_refused(monkeypatch):
    monkeypatch.setattr(rich_log.Log, "demand_daily", lambda _: None)
    with pytest.raises(InputError, match="the schema has number 'age'; expected a nightly model"):
        demand_possible(rich_log.Log())


SCHEMA = Schema(
    tables=(Table("user"), Table("item"), Table("tag", "string")),
    features=(Feature("user", "profile", "user"), Feature("item", "item", "item"),
              Feature("tags", "item", "tag", length=2, weighted=True)),
    history=("item",),
    labels=(Label("click", sampled=True), Label("conversion", within="click")),
    numbers=(Number("price", "item"),),
    weighted=True,
)  # fmt: skip
LOG = {"user": [1, 2, 3], "item": [4, 5, 6], "tags": [["a"], None, ["a", "b"]],
       "weights_tags": [[1.0], None, [0.5, 0.0]], "price": [1.5, None, float("nan")],
       "timestamp": [7, 8, 9], "ord": [0, 1, 2]}  # fmt: skip
IMPRESSIONS = LOG | {"label_click": [0, 1, 1], "label_conversion": [0, 1, None],
                     "weight": [0.0, 1.0, 2.0]}  # fmt: skip


@dataclass(frozen=True)
class Given(Options):
    """A dataset whose relations a test makes."""

    drawn: bool = False

    def schema(self):
        return replace(SCHEMA, weighted=False) if self.drawn else SCHEMA

    def acquire(self):
        return Source(())

    def load(self, engine, source):
        del engine, source

    def split(self):
        return holdout()


def checked(folder, **changes):
    with Engine(folder) as engine:
        engine.register("log", pa.table(LOG))
        if changes.pop("shown", True):
            engine.register("impressions", pa.table(IMPRESSIONS | changes))
        columns.check_and_cast(engine, Given(drawn=not engine.columns("impressions")))
        return engine.arrow("SELECT * FROM impressions ORDER BY ord").to_pydict()


def test_a_label_is_known_within_another_alone(tmp_path):
    found = checked(tmp_path)
    assert found["label_click"] == [0, 1, 1]
    assert found["label_conversion"] == [None, 1, None]
    assert found["price"] == [1.5, None, None]


@pytest.mark.parametrize(("changes", "says"), [
    ({"label_click": [0, 2, 1]}, "user 2, item 5 and timestamp 8 has 2 as 'label_click'; expected 0"
     " or 1, as the first label is known"),
    ({"label_click": [None, 1, 1]}, "timestamp 7 has nothing as 'label_click'"),
    ({"label_conversion": [None, 0.5, 1]}, "has 0.5 as 'label_conversion'; expected 0, 1, NULL"),
    ({"label_conversion": [1, 1, 1]}, "has 1 as 'label_conversion'; expected 0 or NULL where"),
    ({"weight": [-1.0, 1.0, 1.0]}, "has -1.0 as 'weight'; expected a finite weight of at least 0"),
    ({"weight": [1.0, float("nan"), 1.0]}, "has nan as 'weight'; expected a finite weight"),
    ({"weight": [1.0, float("inf"), 1.0]}, "has inf as 'weight'; expected a finite weight"),
    ({"weight": [1.0, None, 1.0]}, "has nothing as 'weight'; expected a finite weight"),
    ({"price": [float("-inf"), 1.0, 1.0]}, "has -inf as 'price'; expected a finite number"),
    ({"price": ["1", "2", "3"]}, r"has column 'price' of type VARCHAR, and 'price' is a number; "
     r"expected numbers; declare texts as Feature\('price', 'item', 'price'\) of Table\('price'"),
    ({"item": [4.0, 5.5, 6.0]}, r"has column 'item' of type DOUBLE, and feature 'item' is of table "
     r"'item'; expected whole numbers, which are ids; declare a quantity as Number\('item'"),
    ({"weights_tags": [[1.0], None, [0.5]]}, "expected as many finite weights of at least 0 as"),
    ({"weights_tags": [None, None, [1.0, 1.0]]}, "has nothing as 'weights_tags'; expected as many"),
    ({"weights_tags": [[-1.0], None, [1.0, 1.0]]}, r"has \[-1.0\] as 'weights_tags'"),
    ({"shown": False}, "has labels click and conversion, and the log has no impressions; expected "
     "one label"),
])  # fmt: skip
def test_relations_that_hold_what_they_must_not_are_refused(tmp_path, changes, says):
    with pytest.raises(InputError, match=says) as caught:
        checked(tmp_path, **changes)
    assert "\n" not in str(caught.value)
