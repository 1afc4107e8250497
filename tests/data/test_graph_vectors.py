"""Vectors of the training graph: which edges it has, and what the SVD makes of them."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from at4ctr.data import graph_vectors
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import FIRST_ID
from tests.data import toy_store


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_store.make(tmp_path_factory.mktemp("graph") / "store", users=60)


def edges(toy, splits, first=10**9) -> set[tuple[int, int]]:
    """User and item ids of the positives, and of what their rows see, row by row."""
    found = set()
    for split in splits:
        for user, row in toy.rows(split):
            seen = user["behaviour_item"][: min(row["cut"], first)]
            liked = [row["item"]] if row["label_click"] == 1 and row["cut"] < first else []
            found |= {(user["user"], item) for item in [*seen, *liked]}
    ids = {(int(toy.ids["user"][u]), int(toy.ids["item"][i])) for u, i in found}
    return {(u, i) for u, i in ids if min(u, i) >= FIRST_ID}


def test_the_graph_holds_what_training_saw_and_nothing_later(toy):
    graph = graph_vectors.training_graph(Store.open(toy.path))
    assert set(zip(*(x.tolist() for x in graph.nonzero()), strict=True)) == edges(toy, ["train"])
    assert edges(toy, ["test"]) - edges(toy, ["train"])
    assert set(graph.data) == {1.0}


def test_a_graph_of_first_behaviours_has_no_edge_of_a_later_row(toy):
    graph = graph_vectors.training_graph(Store.open(toy.path), 2)
    found = set(zip(*(x.tolist() for x in graph.nonzero()), strict=True))
    assert found == edges(toy, ["train"], 2)
    assert found < edges(toy, ["train"])


def test_products_of_vectors_are_the_best_approximation_of_their_rank(toy):
    graph = graph_vectors.training_graph(Store.open(toy.path))
    users, items = graph_vectors.graph_vectors(graph, 3)
    dense = graph.toarray()
    rows, columns = (np.maximum(dense.sum(axis), 1) for axis in (1, 0))
    scaled = dense / np.sqrt(rows)[:, None] / np.sqrt(columns)
    left, values, right = np.linalg.svd(scaled)
    best = (left[:, :3] * values[:3]) @ right[:3]
    np.testing.assert_allclose(users @ items.T, best, atol=1e-3)
    assert not users[dense.sum(1) == 0].any()
    assert not items[dense.sum(0) == 0].any()


def test_the_files_have_a_vector_of_each_raw_id(toy, tmp_path):
    store = Store.open(toy.path)
    paths = graph_vectors.write(store, tmp_path, 2)
    assert [p.name for p in paths] == ["user_vectors.parquet", "item_vectors.parquet"]
    made = graph_vectors.graph_vectors(graph_vectors.training_graph(store), 2)
    for path, name, vectors in zip(paths, ("user", "item"), made, strict=True):
        raws = pq.read_table(store.path / "dims" / f"{name}.parquet").column(name).to_pylist()
        model_id = dict(zip(raws, store.ids(name).tolist(), strict=True))
        table = pq.read_table(path)
        assert len(table) == len({i for i in model_id.values() if i >= FIRST_ID})
        for raw, vector in zip(table["id"].to_pylist(), table["vector"].to_pylist(), strict=True):
            np.testing.assert_allclose(vector, vectors[model_id[raw]], atol=1e-6)


def test_a_width_beyond_the_graph_is_refused(toy):
    graph = graph_vectors.training_graph(Store.open(toy.path))
    with pytest.raises(InputError, match="width of graph vectors is 10000; expected 1 to"):
        graph_vectors.graph_vectors(graph, 10_000)


def test_clicks_of_items_are_counted_in_training_rows(toy):
    found = Store.open(toy.path).item_clicks()
    expected = np.zeros_like(found)
    for _, row in toy.rows("train"):
        expected[toy.ids["item"][row["item"]]] += row["label_click"] == 1
    expected[:FIRST_ID] = 0
    assert expected.sum() > 0
    np.testing.assert_array_equal(found, expected)
