"""What a sampled training split weighs: the kept instances, and nothing else."""

from __future__ import annotations

import math

import pyarrow.parquet as pq
import pytest

from at4ctr.analysis import storage
from at4ctr.data.store import Store
from tests.data import toy_store


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_store.make(tmp_path_factory.mktemp("toy") / "store", users=400, instances=30)


@pytest.mark.parametrize("w", [0.1, 0.5, 1.0])
def test_kept_instances_are_those_of_the_definition(toy, w):
    store = Store.open(toy.path)
    names = ["train_cut", "train_item", "train_label_click", "train_u31"]
    found = storage.sampled(store.columns(store.groups("train"), names), w, store.schema.labels)
    least = math.floor(w * (2**31 - 1))
    for user, row in zip(toy.users, found.to_pylist(), strict=True):
        kept = [r for r in user["train"] if r["label"] or r["u31"] < least]
        for name in ("cut", "item", "label_click", "u31"):
            assert row[f"train_{name}"] == [r[name] for r in kept]


def test_bytes_grow_with_the_rate_and_behaviours_do_not(toy):
    found = storage.sizes(Store.open(toy.path), (0.1, 0.5, 1.0))
    rows = [found[w].rows for w in (0.1, 0.5, 1.0)]
    assert rows[0] < rows[1] < rows[2] == len(toy.rows("train"))
    assert found[0.1].instances < found[0.5].instances < found[1.0].instances
    assert len({size.behaviours for size in found.values()}) == 1
    stored = sum(file.stat().st_size for file in (toy.path / "data").iterdir())
    assert found[1.0].instances < stored


def test_nothing_is_left_behind(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(toy.path.rglob("*"))
    storage.sizes(Store.open(toy.path), (1.0,))
    assert not list(tmp_path.iterdir())
    assert sorted(toy.path.rglob("*")) == before
    assert pq.read_metadata(next((toy.path / "data").iterdir())).num_rows
