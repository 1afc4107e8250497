"""A small random store, written by the format's description alone, and what it holds."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.dataset import Split
from at4ctr.data.store import FORMAT
from at4ctr.schema import Feature, Label, Number, Schema, Table

TOP = 2**31 - 1
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SCHEMA = Schema(
    tables=(
        Table("user"),
        Table("city", buckets=7),
        Table("item"),
        Table("category"),
        Table("tag", dtype="string"),
        Table("type"),
        Table("position"),
    ),
    features=(
        Feature("user", "profile", "user"),
        Feature("city", "profile", "city"),
        Feature("item", "item", "item"),
        Feature("category", "item", "category"),
        Feature("tags", "item", "tag", length=3),
        Feature("position", "context", "position"),
        Feature("type", "behaviour", "type"),
    ),
    history=("item", "category", "tags"),
)
RICH = replace(  # all that a row may hold
    SCHEMA,
    features=tuple(replace(f, weighted=True) if f.name == "tags" else f for f in SCHEMA.features),
    history=("item", "category"),
    labels=(Label("click", sampled=True), Label("conversion", within="click")),
    numbers=(
        Number("income", "profile"),
        Number("price", "item"),
        Number("rate", "context"),
    ),
    weighted=True,
    times=True,
)


@dataclass(frozen=True)
class Toy:
    """The path and, in plain Python, every user's sequences and instances."""

    path: Path
    users: list[dict]
    ids: dict[str, np.ndarray]
    numbers: dict[str, np.ndarray]
    weights: np.ndarray  # of tags

    def rows(self, split: str) -> list[tuple[dict, dict]]:
        """(user, instance) of every row of a split, in store order."""
        return [(user, row) for user in self.users for row in user[split]]


def make(
    path: Path,
    users: int = 60,
    seed: int = 0,
    *,
    group: int = 8,
    parts: int = 3,
    items: int = 50,
    longest: int = 20,
    instances: int = 6,
    truth: bool = False,
    ordered: bool = False,
    rich: bool = False,
    labels: tuple[Label, ...] = (),
    page: int = 1,
) -> Toy:
    """Writes a store: user 0 has 40 times the longest history, every fifth user no instance.

    ordered: behaviour i of a user is on item i, and every item is known to the model.
    rich: with a second label, numbers, times, a weight of each row and weights of tags.
    labels: click, or click and conversion, in place of those of the schema.
    page: so many rows of a user, one after the other, have the same cut.
    """
    rng = np.random.default_rng(seed)
    ids = {
        "user": rng.integers(1, users + 2, users),
        "city": rng.integers(2, 9, users),
        "item": np.where(rng.random(items) < 0.2, 1, np.arange(2, items + 2)),
        "category": rng.integers(2, 7, items),
        "tags": rng.integers(2, 12, (items, 3)) * (rng.random((items, 3)) < 0.7),
    }
    ids = {name: array.astype(np.int32) for name, array in ids.items()}
    order = rng.permutation(users)
    if ordered:
        ids["item"] = np.arange(2, items + 2, dtype=np.int32)
    made = [_user(rng, int(u), items, longest, instances) for u in order]
    for rows in (user[split] for user in made for split in SPLITS):
        for i, row in enumerate(rows):
            row["cut"] = rows[i - i % page]["cut"]
    for user in made if ordered else []:
        user["behaviour_item"] = list(range(len(user["behaviour_item"])))
    more = np.random.default_rng(seed + 1)
    numbers = {"income": _number(more, users), "price": _number(more, items)}
    weights = np.where(ids["tags"] > 0, more.random((items, 3)), 0).astype(np.float32)
    schema = RICH if rich else SCHEMA
    _write(path, made, ids, group, parts, truth, replace(schema, labels=labels or schema.labels))
    if rich:
        for kind in ("numbers", "weights"):
            (path / kind).mkdir()
        for name, array in numbers.items():
            np.save(path / "numbers" / f"{name}.npy", array)
        np.save(path / "weights" / "tags.npy", weights)
    return Toy(path, made, ids, numbers, weights)


def _number(rng: np.random.Generator, size: int) -> np.ndarray:
    values = rng.normal(size=size).astype(np.float32)
    return np.where(rng.random(size) < 0.2, np.float32(np.nan), values)


def _user(rng: np.random.Generator, user: int, items: int, longest: int, instances: int) -> dict:
    length = 40 * longest if user == 0 else int(rng.integers(1, longest + 1))
    made: dict = {
        "user": user,
        "behaviour_item": rng.integers(0, items, length).tolist(),
        "behaviour_type": rng.integers(2, 6, length).tolist(),
    }
    for split, most in zip(SPLITS, (instances, 2, 2), strict=True):
        count = 0 if user % 5 == 4 else int(rng.integers(0, most + 1))
        made[split] = [
            {
                "cut": int(rng.integers(0, length + 1)),
                "item": int(rng.integers(0, items)),
                "label": int(rng.random() < 0.4),
                "u31": int(rng.integers(0, TOP)),
                "position": int(rng.integers(2, 9)),
                "truth_click": float(rng.random()),
            }
            for _ in range(count)
        ]
    gaps = np.random.default_rng(user).integers(0, 90_000, length)
    seconds = made["behaviour_timestamp"] = (1_700_000_000 + np.cumsum(gaps)).tolist()
    for row in (row for split in SPLITS for row in made[split]):  # functions of the row's name
        more = np.random.default_rng(int(row["truth_click"] * 2**50))
        row["label_click"] = row["label"]
        row["label_conversion"] = int(more.integers(-1, 2)) if row["label"] else -1
        row["rate"] = float(np.float32(more.random()))
        row["weight"] = float(np.float32(more.random()))
        row["truth_conversion"] = float(more.random())
        latest = seconds[row["cut"] - 1] if row["cut"] else 1_690_000_000
        row["timestamp"] = latest + int(more.integers(0, 3_000_000))
    return made


def _write(
    path: Path,
    users: list[dict],
    ids: dict[str, np.ndarray],
    group: int,
    parts: int,
    truth: bool,
    schema: Schema,
) -> None:
    for folder in ("dims", "vocabulary", "ids", "data"):
        (path / folder).mkdir(parents=True)
    for name, array in ids.items():
        np.save(path / "ids" / f"{name}.npy", array)
    pq.write_table(pa.table({"user": np.arange(len(ids["user"]))}), path / "dims/user.parquet")
    pq.write_table(pa.table({"item": np.arange(len(ids["item"]))}), path / "dims/item.parquet")
    sizes = {"user": len(users), "item": len(ids["item"]), "category": 5, "tag": 10, "type": 4}
    sizes["position"] = 7
    for name, size in sizes.items():
        lines = "".join(f"{100 + i}\n" for i in range(size))
        (path / "vocabulary" / f"{name}.txt").write_text(lines)
    (path / "values").mkdir()
    for name, most in (("type", 6), ("position", 9)):
        values = {"id": range(2, most), "raw": range(100, 98 + most)}
        pq.write_table(pa.table({k: list(v) for k, v in values.items()}),
                       path / "values" / f"{name}.parquet")  # fmt: skip
    share = -(-len(users) // parts)
    written = [
        _part(path, number, users[number * share : (number + 1) * share], group, truth, schema)
        for number in range(parts)
    ]
    manifest = {
        "format": FORMAT,
        "dataset": "toy",
        "simulated": True,
        "truth": [label.name for label in schema.labels] if truth else [],
        "numbers": {
            n.name: {"quantiles": [], "whole": True, "largest": 0.0} for n in schema.numbers
        },
        "options": {"min_behaviours": 1, "protocol": "strict"},
        "schema": schema.to_json(),
        "inputs": [],
        "counts": {"users": len(users)}
        | {s: {**_tally(users, s, schema), "unknown": {"user": 0}} for s in SPLITS},
        "versions": {"user": 0, "item": 0},
        "vocabulary": {name: size + 2 for name, size in sizes.items()} | {"city": 9},
        "parts": written,
        "notes": [],
        "seconds": 0.0,
    }
    (path / "manifest.json").write_text(json.dumps(manifest))


def _tally(users: list[dict], split: str, schema: Schema) -> dict:
    found = {}
    for label in schema.labels:
        values = [row[label.column] for user in users for row in user[split]]
        known = [value for value in values if value >= 0]
        found[label.name] = {"known": len(known), "positives": sum(known)}
    return {"rows": sum(len(user[split]) for user in users), "labels": found}


def _part(
    path: Path, number: int, users: list[dict], group: int, truth: bool, schema: Schema
) -> dict:
    numbers = pa.list_(pa.int32())
    columns = {"user": pa.array([u["user"] for u in users], pa.int32())}
    for name in ("behaviour_item", "behaviour_type"):
        columns[name] = pa.array([u[name] for u in users], numbers)
    if schema.times:
        seconds = [u["behaviour_timestamp"] for u in users]
        columns["behaviour_timestamp"] = pa.array(seconds, pa.list_(pa.int64()))
    kinds = {"cut": numbers, "item": numbers, "u31": numbers, "position": numbers}
    for label in schema.labels:
        kinds[label.column] = pa.list_(pa.int8())
        kinds |= {f"truth_{label.name}": pa.list_(pa.float64())} if truth else {}
    kinds |= dict.fromkeys(("rate", "weight"), pa.list_(pa.float32())) if schema.weighted else {}
    kinds |= {"timestamp": pa.list_(pa.int64())} if schema.times else {}
    for split in SPLITS:
        for name, kind in kinds.items():
            values = [[row[name] for row in u[split]] for u in users]
            columns[f"{split}_{name}"] = pa.array(values, kind)
    file = f"part-{number:05d}.parquet"
    pq.write_table(
        pa.table(columns), path / "data" / file, row_group_size=group, compression="zstd"
    )
    cuts = [users[i : i + group] for i in range(0, len(users), group)]
    groups = [
        {"users": len(c)} | {s: {"rows": sum(len(u[s]) for u in c)} for s in SPLITS} for c in cuts
    ]
    return {"file": f"data/{file}", "row_groups": groups}
