"""A store whose raw values and ids agree, and small models on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from at4ctr.backbones import dien, din, widedeep
from at4ctr.contracts import HeadConfig
from at4ctr.data.store import Store
from at4ctr.heads import single
from at4ctr.layers.embedder import Config as Embedding
from at4ctr.model.build import Plan, serving_model
from at4ctr.model.serving import ServingModel
from at4ctr.schema import Label, Schema
from tests.data import toy_store

T = 10
EMBEDDING = Embedding(dimension=4, scale=0.5)
SIZES = {"user": 40, "item": 30, "category": 5, "tags": 10, "type": 4, "position": 7}
PAST = ("item", "category", "tags", "type")
BACKBONES = {"din": din.Config(), "widedeep": widedeep.Config(pool_history=True)}
OTHERS = {"fields_only": widedeep.Config(), "dien": dien.Config()}  # with loops
HEAD = single.Config(units=(16, 8))


def toy(
    path: Path, *, hidden: str = "", labels: tuple[Label, ...] = toy_store.SCHEMA.labels
) -> Store:
    """The toy store with dims that its ids come from; ``hidden`` is a training-only feature.

    Vocabulary line i is the text 100 + i, an unknown raw id 7, and a city the first number whose
    hash is its id.
    """
    made = toy_store.make(path, users=40, items=30, longest=15, labels=labels)
    cities = 2 + tf.strings.to_hash_bucket_fast([str(i) for i in range(100)], 7).numpy()
    raw = {
        "user": [_raw(i) for i in made.ids["user"].tolist()],
        "city": [int(np.flatnonzero(cities == i)[0]) for i in made.ids["city"].tolist()],
        "item": [_raw(i) for i in made.ids["item"].tolist()],
        "category": [_raw(i) for i in made.ids["category"].tolist()],
        "tags": [[str(_raw(i)) if i else None for i in row] for row in made.ids["tags"].tolist()],
    }
    pq.write_table(pa.table({n: raw[n] for n in ("user", "city")}), path / "dims/user.parquet")
    pq.write_table(
        pa.table({n: raw[n] for n in ("item", "category", "tags")}), path / "dims/item.parquet"
    )
    manifest = json.loads((path / "manifest.json").read_text())
    schema = Schema.from_json(manifest["schema"])
    features = tuple(replace(f, serve=f.name != hidden) for f in schema.features)
    manifest["schema"] = replace(schema, features=features).to_json()
    (path / "manifest.json").write_text(json.dumps(manifest))
    return Store.open(path)


def _raw(model_id: int) -> int | None:
    return {0: None, 1: 7}.get(model_id, 98 + model_id)


def model(
    store: Store,
    backbone: str = "din",
    *,
    head: HeadConfig = HEAD,
    rate: float = 1.0,
    seed: int = 3,
) -> ServingModel:
    config = (BACKBONES | OTHERS)[backbone]
    return serving_model(
        store.schema,
        {t.name: store.rows(t.name) for t in store.schema.tables},
        Plan.of(config, EMBEDDING, head=head, negative_rate=rate, seed=seed),
    )


def model_id(name: str, raw: int | str) -> int:
    """The toy's vocabularies: line i is the text 100 + i."""
    if name == "city":
        if raw == -1:
            return 0
        return int(2 + tf.strings.to_hash_bucket_fast(str(raw), 7))
    if raw in (-1, ""):
        return 0
    line = int(raw) - 100
    return line + 2 if 0 <= line < SIZES[name] else 1


def several(values: list) -> list[int]:
    """Tags: the first three that are there, zero padded."""
    return ([i for i in (model_id("tags", v) for v in values) if i] + [0, 0, 0])[:3]


def ids_of(raw: dict[str, list]) -> dict[str, tf.Tensor]:
    """The model's batch of a request, one Python value after the other."""
    batch: dict[str, list] = {
        n: [model_id(n, v) for v in raw[n]] for n in ("user", "city", "item", "category")
    }
    batch["position"] = [model_id("position", v) for v in raw["position"]]
    batch["tags"] = [several(v) for v in raw["tags"]]
    batch |= {f"history_{n}": [] for n in PAST} | {"history_length": []}
    for row, items in enumerate(raw["history_item"]):
        real = [i for i, v in enumerate(items) if v != -1][-T:]
        batch["history_length"].append(len(real))
        for n in PAST:
            values = [raw[f"history_{n}"][row][i] for i in real]
            none = [0, 0, 0] if n == "tags" else 0
            ids = [several(v) if n == "tags" else model_id(n, v) for v in values]
            batch[f"history_{n}"].append(ids + [none] * (T - len(ids)))
    return {n: tf.constant(v, tf.int32) for n, v in batch.items()}


def request(rng: np.random.Generator, rows: int, length: int, padding: float = 0.3) -> dict:
    """Random raw features: known, unknown and missing ids, padding anywhere."""
    raw: dict = {n: rng.integers(95, 105 + SIZES[n], rows) for n in ("user", "item", "position")}
    raw["city"] = rng.integers(-1, 50, rows)
    raw["category"] = np.where(rng.random(rows) < 0.2, -1, rng.integers(98, 107, rows))
    raw["tags"] = tags(rng, (rows, int(rng.integers(0, 6))))
    shape = (rows, length)
    item = rng.integers(95, 135, shape)
    raw["history_item"] = np.where(rng.random(shape) < padding, -1, item)
    raw["history_category"] = rng.integers(98, 107, shape)
    raw["history_type"] = rng.integers(98, 106, shape)
    raw["history_tags"] = tags(rng, (*shape, 4))
    return raw


def tags(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.integers(98, 112, shape).astype(str).astype(object)
    return np.where(rng.random(shape) < 0.3, "", values)
