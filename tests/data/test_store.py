"""Opening a store: what it answers, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from at4ctr.data.store import FORMAT, Store
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Schema, Table
from tests.data import toy_store

OPTIONS = {"min_behaviours": 1, "protocol": "strict"}


@pytest.fixture
def toy(tmp_path):
    return toy_store.make(tmp_path / "store", truth=True)


def edit(toy, **changes) -> None:
    file = toy.path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_answers_what_the_manifest_and_the_files_hold(toy):
    store = Store.open(toy.path, toy_store.SCHEMA, OPTIONS)
    assert store.schema == toy_store.SCHEMA
    assert store.simulated
    assert store.truth == ("click",)
    assert store.rows("item") == 52
    assert store.rows("city") == 9
    assert store.counts("train")["rows"] == len(toy.rows("train"))
    path = store.vocabulary_path("item")
    assert len(path.read_text().splitlines()) == store.rows("item") - 2
    for name, ids in toy.ids.items():
        assert np.array_equal(store.ids(name), ids)
        assert store.ids(name).dtype == np.int32


def test_raw_ids_are_the_vocabularys_lines_and_hashed_ids_have_none(toy):
    store = Store.open(toy.path)
    assert store.raw_ids("category") == {i + 2: str(100 + i) for i in range(5)}
    assert store.raw_ids("category", {1, 4, 99}) == {4: "102"}
    assert store.raw_ids("city") == {}


def test_the_mean_number_of_behaviours_is_that_of_the_training_rows(toy):
    cuts = [row["cut"] for _, row in toy.rows("train")]
    assert Store.open(toy.path).mean_behaviours() == pytest.approx(np.mean(cuts), rel=1e-12)


def test_ids_are_mapped_not_loaded(toy):
    array = Store.open(toy.path).ids("item")
    assert not array.flags.writeable
    assert isinstance(array.base, np.memmap)


def test_ids_are_read_by_one_thread_at_a_time(toy, monkeypatch):
    """tf.data's threads ask together, and Python 3.11 cannot parse two headers at once (its
    ast.literal_eval, which numpy calls, then now and again raises SystemError)."""
    load, reading, most = np.load, [], []

    def slow(*arguments: Any, **named: Any) -> np.ndarray:
        reading.append(1)
        most.append(len(reading))
        time.sleep(0.002)
        reading.pop()
        return load(*arguments, **named)

    monkeypatch.setattr(np, "load", slow)
    names = ["user", "city", "item", "category"]
    stores = [Store.open(toy.path) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda store: [store.ids(name) for name in names], stores):
            for name, array in zip(names, found, strict=True):
                np.testing.assert_array_equal(array, toy.ids[name])
    assert len(most) == 32
    assert max(most) == 1


def test_decodes_users_in_store_order(toy):
    store = Store.open(toy.path)
    for split in toy_store.SPLITS:
        groups = store.groups(split)
        assert len(groups) > len(store.manifest["parts"]) > 1
        assert [g.rows for g in groups] != sorted(g.rows for g in groups)
        users = store.read(split, groups[::-1], truth=True)  # any order asked for: store order
        assert users.users.tolist() == [u["user"] for u in toy.users]
        assert users.counts.tolist() == [len(u[split]) for u in toy.users]
        for name in ("item", "type"):
            written = [i for u in toy.users for i in u[f"behaviour_{name}"]]
            assert users.behaviours[name].tolist() == written
        assert np.diff(users.offsets).tolist() == [len(u["behaviour_item"]) for u in toy.users]
        for name in ("cut", "item", "label_click", "u31", "position", "truth_click"):
            assert users.instances[name].tolist() == [row[name] for _, row in toy.rows(split)]


def test_refuses_a_store_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="does not exist; prepare"):
        Store.open(tmp_path / "nowhere")


def test_refuses_an_unfinished_preparation(toy):
    (toy.path / "manifest.json").unlink()
    with pytest.raises(InputError, match="did not finish; delete the folder"):
        Store.open(toy.path)


@pytest.mark.parametrize("text", ["", "[]", '{"dataset": "toy"}', '{"format": 1, '])
def test_refuses_a_damaged_manifest(toy, text):
    (toy.path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="is not a manifest"):
        Store.open(toy.path)


def test_refuses_another_format(toy):
    edit(toy, format=FORMAT + 1)
    with pytest.raises(InputError, match=f"has format {FORMAT + 1}; expected {FORMAT};"):
        Store.open(toy.path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"history": ("item",)},
            r"'history' is \['item', 'category', 'tags'\]; expected \['item'\]",
        ),
        ({"features": toy_store.SCHEMA.features[:-1]}, "feature 'type' is .*; expected 'nothing'"),
        (
            {"tables": (*toy_store.SCHEMA.tables[:1], Table("city"), *toy_store.SCHEMA.tables[2:])},
            "table 'city': 'buckets' is 7; expected 0",
        ),
        (
            {"features": (*toy_store.SCHEMA.features, Feature("hour", "context", "position"))},
            "feature 'hour' is 'nothing'; expected {",
        ),
        (
            {"features": toy_store.SCHEMA.features[::-1]},
            "schema 'order of features' is .*'user', 'city'.*; expected .*'type', 'position'",
        ),
    ],
)
def test_another_schema_is_named_field_by_field(toy, changed, message):
    schema = dataclasses.replace(toy_store.SCHEMA, **changed)
    with pytest.raises(InputError, match=message):
        Store.open(toy.path, schema)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (OPTIONS | {"protocol": "paper"}, "option 'protocol' is 'strict'; expected 'paper'"),
        (OPTIONS | {"negatives": 4}, "option 'negatives' is 'nothing'; expected 4"),
        ({"protocol": "strict"}, "option 'min_behaviours' is 1; expected 'nothing'"),
    ],
)
def test_other_options_are_named(toy, options, message):
    with pytest.raises(InputError, match=message):
        Store.open(toy.path, options=options)


@pytest.mark.parametrize(
    "name",
    ["dims/item.parquet", "ids/tags.npy", "vocabulary/item.txt", "data/part-00001.parquet"],
)
def test_a_missing_file_is_named(toy, name):
    (toy.path / name).unlink()
    with pytest.raises(InputError, match=f"file {name} is missing; delete the store"):
        Store.open(toy.path)


def test_refuses_values_that_the_format_cannot_hold(toy):
    features = [
        dataclasses.replace(f, length=2) if f.name == "position" else f
        for f in toy_store.SCHEMA.features
    ]
    schema = Schema(toy_store.SCHEMA.tables, tuple(features), toy_store.SCHEMA.history)
    edit(toy, schema=schema.to_json())
    with pytest.raises(InputError, match="context feature 'position' has length 2"):
        Store.open(toy.path)


def test_misspelt_names_are_answered_with_the_known_ones(toy):
    store = Store.open(toy.path)
    misspelt: Any = "trian"
    for call in (store.ids, store.rows, store.vocabulary_path):
        with pytest.raises(InputError, match="did you mean item"):
            call("itme")
    for answer in (store.counts, store.groups):
        with pytest.raises(InputError, match="did you mean train"):
            answer(misspelt)
    with pytest.raises(InputError, match="'city' is hashed"):
        store.vocabulary_path("city")


def test_a_truncated_part_is_named(toy):
    store = Store.open(toy.path)
    part = toy.path / "data" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"part-00000.parquet cannot be read"):
        store.read("train", store.groups("train"))


def test_a_cut_past_the_sequence_is_refused(tmp_path, monkeypatch):
    make_user = toy_store._user

    def leaky(*args):
        user = make_user(*args)
        for row in user["train"]:
            row["cut"] = len(user["behaviour_item"]) + 1
        return user

    monkeypatch.setattr(toy_store, "_user", leaky)
    store = Store.open(toy_store.make(tmp_path / "store").path)
    with pytest.raises(InputError, match="train_cut lies outside its user's sequence"):
        store.read("train", store.groups("train"))
