"""Hash codes, and the vectors of similarities in a store."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from at4ctr.data.nights.increment import demand_possible
from at4ctr.data.preparation.hash_codes import SEED, hash_codes
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import Similarity
from tests.data import rich_log
from tests.oracles import pretrained as oracle

SIMILARITY = Similarity("taste", "people.parquet", "vectors.parquet")


@dataclass(frozen=True)
class Log(rich_log.Log):
    """The rich log with a similarity and HashIDs."""

    def schema(self):
        schema = super().schema()
        tables = [
            replace(t, hash_id="beside", hash_bits=12) if t.name == "item" else t
            for t in schema.tables
        ]
        return replace(schema, tables=tuple(tables), similarities=(SIMILARITY,))


def people(ids=range(15), width=rich_log.WIDTH):
    """Vectors of some users; r3 has one of zeros."""
    rng = np.random.default_rng(3)
    made = [[0.0] * width if k == 3 else rng.normal(size=width).tolist() for k in ids]
    return pa.table({"id": [f"r{k}" for k in ids], "vector": made})


def log(folder, users=None, items=None):
    path = rich_log.write(folder, rows=items)
    pq.write_table(users or people(), folder / "people.parquet")
    return Log(raw=path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("similar")
    items = rich_log.vectors().slice(0, 38)  # items 38 and 39 have none
    return Store.open(prepare(log(folder / "raw", items=items), folder / "data"))


def by_raw(table):
    return dict(zip(*(table.column(n).to_pylist() for n in ("id", "vector")), strict=True))


def test_bits_are_signs_of_projections():
    vectors = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    planes = np.random.Generator(np.random.PCG64(SEED)).standard_normal((40, 6))
    found = hash_codes(vectors, 40)
    assert found.dtype == np.int64
    for code, vector in zip(found.tolist(), vectors, strict=True):
        assert [code >> k & 1 for k in range(40)] == oracle.signs(vector, planes)
        assert code < 2**40
    np.testing.assert_array_equal(hash_codes(vectors, 7), found & 127)


def test_equal_directions_have_equal_codes_wherever_they_stand():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(70_000, 7)).astype(np.float32)
    vectors[::1000] = vectors[0]
    vectors[5] = 4 * vectors[0]
    vectors[6] = 0
    found = hash_codes(vectors, 62)
    assert set(found[::1000]) == {found[0]} == {found[5]}
    assert found[6] == -1
    assert (np.delete(found, 6) >= 0).all()
    assert len(np.unique(found[1:1000])) > 900


def test_bits_differ_as_often_as_the_angle_says():
    rng, angle = np.random.default_rng(2), np.pi / 5
    one = rng.normal(size=(2000, 8))
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    side = rng.normal(size=(2000, 8))
    side -= (side * one).sum(1, keepdims=True) * one
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    other = np.cos(angle) * one + np.sin(angle) * side
    differ = hash_codes(one, 62) ^ hash_codes(other, 62)
    share = np.mean([code.bit_count() / 62 for code in differ.tolist()])
    assert share == pytest.approx(1 / 5, abs=0.015)


def test_a_store_holds_codes_and_vectors_of_length_1_by_model_id(store):
    found, users, items = store.vectors(), by_raw(people()), by_raw(rich_log.vectors())
    assert list(found) == ["item", "taste.user", "taste.item"]
    for name, table, given in (
        ("taste.user", "user", users),
        ("taste.item", "item", {str(k): v for k, v in items.items() if k < 38}),
    ):
        raws = store.vocabulary_path(table).read_text().split()
        assert found[name].dtype == np.float32
        assert not found[name][:2].any()
        for row, raw in zip(found[name][2:], raws, strict=True):
            vector = np.array(given.get(raw, [0.0] * rich_log.WIDTH))
            length = np.linalg.norm(vector)
            np.testing.assert_allclose(row, vector / (length or 1), rtol=1e-5, atol=1e-7)
    planes = np.random.Generator(np.random.PCG64(SEED)).standard_normal((12, rich_log.WIDTH))
    assert found["item"][:2].tolist() == [-1, -1]
    for code, raw in zip(
        found["item"][2:].tolist(), store.vocabulary_path("item").read_text().split(), strict=True
    ):
        bits = oracle.signs(items[int(raw)], planes)
        assert code == (sum(b << k for k, b in enumerate(bits)) if int(raw) < 38 else -1)


def test_similarities_are_measured_on_training_rows(store):
    users, items = by_raw(people()), by_raw(rich_log.vectors())
    dims = {t: pq.read_table(store.path / "dims" / f"{t}.parquet").column(t).to_pylist()
            for t in ("user", "item")}  # fmt: skip
    reader = Reader(store, "train", batch_size=64, history=3, shuffle=False, drop_remainder=False)
    values = []
    for step in range(reader.steps(0)):
        batch = reader.batch(0, step)
        for u, i in zip(batch["user_index"], batch["item_index"], strict=True):
            user, item = dims["user"][u], dims["item"][i]
            if user in users and item < 38:
                values.append(oracle.similarity(users[user], items[item]))
    known = np.array(values)[~np.isnan(values)]
    found = store.numbers()["taste"]
    np.testing.assert_allclose(found.quantiles, np.quantile(known, np.arange(257) / 256), atol=1e-6)
    assert found.largest == pytest.approx(np.quantile(known, 0.999), abs=1e-6)
    assert not found.whole


@pytest.mark.parametrize(
    ("users", "says"),
    [
        (people(width=2), r"similarity 'taste' has vectors of width 2 in .*people.parquet and of "
         "width 3 in .*vectors.parquet; expected one width"),
        (people([90, 91]), "people.parquet lacks 20 of the 20 ids .*expected a vector of some ids"),
    ],
)  # fmt: skip
def test_vectors_that_do_not_fit_are_refused(tmp_path, users, says):
    with pytest.raises(InputError, match=says):
        prepare(log(tmp_path / "raw", users=users), tmp_path / "data")


def test_an_option_that_the_schema_does_not_follow_is_refused():
    with pytest.raises(InputError, match="similarity is True and hash_id is '', which the schema"):
        rich_log.Log(similarity=True)
    assert Log(similarity=True, hash_id="beside").preparation()["similarity"] is True


def test_nights_of_similarities_are_refused(monkeypatch):
    monkeypatch.setattr(Log, "demand_daily", lambda _: None)
    schema = Log().schema()
    bare = replace(schema, numbers=(), tables=tuple(
        replace(t, vectors="", hash_id="") for t in schema.tables))  # fmt: skip
    monkeypatch.setattr(Log, "schema", lambda _: bare)
    with pytest.raises(InputError, match="the schema has similarity 'taste'; expected a nightly"):
        demand_possible(Log())
