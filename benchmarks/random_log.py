"""The random Taobao-shaped log that training is measured on, and the stores of random logs.

It has 1M users, 4.2M items by a bounded Zipf law with the popular ones anywhere among the ids, and
10,000 categories. The true lengths of histories are uniform from a fifth of their room. One seed
gives one log. It loads no TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.store import FORMAT
from at4ctr.schema import FIRST_ID, Feature, Schema, Table

USERS, ITEMS, CATEGORIES, HISTORY = 1_000_000, 4_200_000, 10_000, 50
POSITIVES = 0.1
GROUP = 1024  # users of a row group
PART = 32 * GROUP
SCHEMA = Schema(
    tables=(Table("user"), Table("item"), Table("category")),
    features=(
        Feature("user", "profile", "user"),
        Feature("item", "item", "item"),
        Feature("category", "item", "category"),
    ),
    history=("item", "category"),
)


class Sizes(NamedTuple):
    """history: the room for behaviours. rows: of the log."""

    users: int = USERS
    items: int = ITEMS
    categories: int = CATEGORIES
    history: int = HISTORY
    rows: int = USERS


class Log(NamedTuple):
    """R requests, each of another user, and their N rows. Ids count from 0.

    user, length: [R]. past: [R, T], of which the first ``length`` are real. owner: [N] the request
    of each row, never decreasing. item: [N]. label: [N] of 0 and 1.
    """

    user: np.ndarray
    length: np.ndarray
    past: np.ndarray
    owner: np.ndarray
    item: np.ndarray
    label: np.ndarray


def zipf(rng: np.random.Generator, items: int, shape: tuple[int, ...]) -> np.ndarray:
    """Items from 0 by a bounded Zipf law of exponent 1.05, the popular ones anywhere."""
    power = -0.05
    rank = (1 + rng.random(shape) * (items**power - 1)) ** (1 / power)
    return (rank.astype(np.int64) * 2_654_435_761 % items).astype(np.int32)


def drawn(sizes: Sizes, request: int, seed: int = 0) -> Log:
    """A log whose requests have ``request`` rows each, but for the last one, which is cut.

    A request of two rows is a positive and a negative. Otherwise a tenth of the rows is positive.
    """
    rng, count = np.random.default_rng(seed), -(-sizes.rows // request)
    owner = np.arange(sizes.rows, dtype=np.int32) // request
    label = rng.random(sizes.rows) < POSITIVES
    if request == 2:
        label = np.arange(sizes.rows) % 2 == 0
    return Log(
        rng.choice(sizes.users, count, replace=False).astype(np.int32),
        rng.integers(max(1, sizes.history // 5), sizes.history + 1, count).astype(np.int32),
        zipf(rng, sizes.items, (count, sizes.history)),
        owner,
        zipf(rng, sizes.items, (sizes.rows,)),
        label.astype(np.int8),
    )


def by_row(log: Log, categories: int) -> dict[str, np.ndarray]:
    """The log as libraries read it: ids from 1, padding 0, and a copy of its history in each row.

    ``user``, ``item``, ``category`` and ``length`` are [N], ``history_item`` and
    ``history_category`` [N, T], all int32; ``label`` is [N] float32.
    """
    real = np.arange(log.past.shape[1]) < log.length[:, None]
    past, kinds = (np.where(real, ids + 1, 0) for ids in (log.past, log.past % categories))
    return {
        "user": log.user[log.owner] + 1,
        "item": log.item + 1,
        "category": log.item % categories + 1,
        "history_item": past[log.owner],
        "history_category": kinds[log.owner],
        "length": log.length[log.owner],
        "label": log.label.astype(np.float32),
    }


def write_store(path: Path, log: Log, sizes: Sizes) -> None:
    """The log as a store that `Reader` reads."""
    ends = np.searchsorted(log.owner, np.arange(len(log.user) + 1))
    rng = np.random.default_rng(1)  # of sampling, which no benchmark of training does

    def tables() -> Iterable[pa.Table]:
        for first in range(0, len(log.user), PART):
            users = slice(first, min(first + PART, len(log.user)))
            rows = slice(ends[users.start], ends[users.stop])
            counts = np.diff(ends[users.start : users.stop + 1])
            length = log.length[users]
            past = log.past[users][np.arange(log.past.shape[1]) < length[:, None]]
            u31 = rng.integers(0, 2**31 - 1, counts.sum(), dtype=np.int32)
            yield pa.table(
                {
                    "user": log.user[users],
                    "behaviour_item": lists(past, length),
                    "train_cut": lists(np.repeat(length, counts), counts),
                    "train_item": lists(log.item[rows], counts),
                    "train_label_click": lists(log.label[rows], counts),
                    "train_u31": lists(u31, counts),
                }
            )

    names = {"user": sizes.users, "item": sizes.items, "category": sizes.categories}
    of_item = np.arange(sizes.items, dtype=np.int32) % sizes.categories
    write(path, SCHEMA, names, of_item, tables())


def lists(values: np.ndarray, counts: np.ndarray) -> pa.ListArray:
    """A column of lists, so many values each."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values))


def write(
    path: Path,
    schema: Schema,
    sizes: Mapping[str, int],
    category: np.ndarray,
    parts: Iterable[pa.Table],
) -> None:
    """Writes a store of training rows with the label ``click``.

    sizes: table -> its ids. category: of each item, from 0.
    """
    for folder in ("dims", "vocabulary", "ids", "values", "data"):
        (path / folder).mkdir(parents=True)
    for name, size in sizes.items():
        (path / "vocabulary" / f"{name}.txt").write_text("".join(f"{i}\n" for i in range(size)))
    for name in ("user", "item"):
        ids = np.arange(sizes[name], dtype=np.int32)
        pq.write_table(pa.table({name: ids}), path / "dims" / f"{name}.parquet")
        np.save(path / "ids" / f"{name}.npy", ids + FIRST_ID)
    np.save(path / "ids" / "category.npy", category + FIRST_ID)
    for feature in schema.group("behaviour"):
        ids = np.arange(sizes[feature.table], dtype=np.int32)
        values = pa.table({"id": ids + FIRST_ID, "raw": ids})
        pq.write_table(values, path / "values" / f"{feature.name}.parquet")
    made, rows, positives = [], 0, 0
    for number, table in enumerate(parts):
        file = f"part-{number:05d}.parquet"
        pq.write_table(table, path / "data" / file, row_group_size=GROUP, compression="zstd")
        counts = np.diff(table.column("train_cut").chunk(0).offsets.to_numpy())
        groups = [counts[i : i + GROUP] for i in range(0, len(counts), GROUP)]
        groups = [{"users": len(g), "train": {"rows": int(g.sum())}} for g in groups]
        made.append({"file": file, "row_groups": groups})
        rows += int(counts.sum())
        positives += int(table.column("train_label_click").chunk(0).flatten().to_numpy().sum())
    manifest = {
        "format": FORMAT,
        "dataset": "random",
        "simulated": True,
        "truth": [],
        "numbers": {},
        "options": {},
        "versions": {"user": 0, "item": 0},
        "schema": schema.to_json(),
        "counts": {
            "train": {
                "rows": rows,
                "labels": {"click": {"known": rows, "positives": positives}},
                "unknown": {},
            }
        },
        "vocabulary": {name: size + FIRST_ID for name, size in sizes.items()},
        "parts": made,
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
