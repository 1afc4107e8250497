"""Writes the store's parts, one row a user with its sequences as lists, and counts the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.dataset import SPLITS
from at4ctr.data.engines.base import name
from at4ctr.data.preparation.attributes import Late
from at4ctr.data.preparation.columns import truth
from at4ctr.data.preparation.sql import code, number, u31
from at4ctr.schema import NOT_KNOWN, UNKNOWN, Number, Schema

GROUP = 1024  # users in a row group
PART_USERS, PART_ROWS = 64 * GROUP, 18_000_000  # what bounds a part, and its memory


def ranges(sizes: np.ndarray) -> list[tuple[int, int]]:
    """First and last user index of every part, by how many rows each user has [U].

    Rows are behaviours and instances, negatives among them. Parts begin at multiples of `GROUP`,
    have at most `PART_USERS` users and, unless a single group has more, at most `PART_ROWS` rows.
    """
    groups = np.add.reduceat(sizes, np.arange(0, len(sizes), GROUP), dtype=np.int64)
    found, first, rows = [], 0, 0
    for group, size in enumerate(groups):
        full = (group - first) * GROUP >= PART_USERS or rows + size > PART_ROWS
        if group > first and full:
            found.append((first * GROUP, group * GROUP - 1))
            first, rows = group, 0
        rows += int(size)
    return [*found, (first * GROUP, len(sizes) - 1)]


@dataclass
class Counts:
    """What parts hold, for the manifest, by split.

    known, positives: by label. weighed: rows whose weight is above 0. unknown: by feature.
    """

    parts: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    known: dict[str, dict[str, int]] = field(default_factory=lambda: {s: {} for s in SPLITS})
    positives: dict[str, dict[str, int]] = field(default_factory=lambda: {s: {} for s in SPLITS})
    weighed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    unknown: dict[str, dict[str, int]] = field(default_factory=lambda: {s: {} for s in SPLITS})

    @classmethod
    def of(cls, parts: Iterable[Counts]) -> Counts:
        """The counts of all parts, in their order."""
        found = cls()
        for part in parts:
            found.parts += part.parts
            for split in SPLITS:
                found.rows[split] += part.rows[split]
                found.weighed[split] += part.weighed[split]
                for count in ("known", "positives", "unknown"):
                    into, more = getattr(found, count)[split], getattr(part, count)[split]
                    for key, rows in more.items():
                        into[key] = into.get(key, 0) + rows
        return found


def numbers(schema: Schema) -> list[Number]:
    """The numbers that instances hold themselves."""
    return [n for n in schema.numbers if n.group == "context"]


def behaviours(schema: Schema, late: Late) -> tuple[str, str]:
    """SQL of all behaviours, and their order in a part."""
    codes = "".join(f', {code(f)} AS "{f.name}"' for f in schema.group("behaviour"))
    codes += ', "timestamp"' if schema.times else ""
    return f'SELECT "user", {late.row("item")} AS item{codes}, pos FROM behaviours', '"user", pos'


def instances(
    schema: Schema, seed: int, late: Late, truths: Sequence[str], *, impressions: bool
) -> tuple[str, str]:
    """SQL of all instances, and their order in a part.

    truths: the labels whose true probabilities the impressions have.
    impressions: they are the impressions, not behaviours and drawn negatives.
    """
    codes = "".join(f", {code(f)}" for f in schema.group("context"))
    codes += "".join(f", {number(n)}" for n in numbers(schema))
    codes += f", {late.row('user')} AS user_row" if late.user else ""
    codes += ', "timestamp"' if schema.times else ""
    item = f"{late.row('item')} AS item"
    columns = f'"user", split, pos, cut, {item}, {u31("number", seed)}::INTEGER AS u31{codes}'
    base = "shown" if impressions else "behaviours"
    drawn = f"::TINYINT AS {name(schema.labels[0].column)}"
    labels = f"1{drawn}"
    if impressions:
        known = (name(label.column) for label in schema.labels)
        labels = ", ".join(f"coalesce({c}, {NOT_KNOWN})::TINYINT AS {c}" for c in known)
        labels += ", weight" if schema.weighted else ""
        labels += "".join(f", {name(truth(label))}" for label in truths)
    found = f"""SELECT {columns}, number, {labels}
        FROM (SELECT *, 0 AS number FROM {base} WHERE split IS NOT NULL) r"""
    if not impressions:
        found += f""" UNION ALL SELECT {columns}, number, 0{drawn}
            FROM negatives n WHERE split IS NOT NULL AND n.item <> n.own"""
    return found, 'split, "user", pos, number'


@dataclass(frozen=True)
class Writer:
    """Writes parts; picklable, so that Spark can send it to the executors.

    folder: of the parts. ranges: their first and last users.
    ids: model ids of every feature by dims row, as in `vocabulary.ids`.
    truths: the labels whose true probabilities the instances have.
    """

    folder: Path
    ranges: Sequence[tuple[int, int]]
    schema: Schema
    ids: Mapping[str, np.ndarray]
    truths: tuple[str, ...]

    def __call__(self, number: int, behaviours: pa.Table, instances: pa.Table) -> Counts:
        """Writes one part of its rows, ordered as `behaviours` and `instances` say."""
        (first, last), counts = self.ranges[number], Counts()
        users = last - first + 1
        columns: dict[str, pa.Array] = {
            "user": pa.array(np.arange(first, last + 1, dtype=np.int32))
        }
        past = _arrays(behaviours)
        ends = _offsets(past["user"] - first, users)
        columns["behaviour_item"] = _lists(ends, past["item"])
        for f in self.schema.group("behaviour"):
            columns[f"behaviour_{f.name}"] = _lists(ends, self.ids[f.name][past[f.name]])
        if self.schema.times:
            columns["behaviour_timestamp"] = _lists(ends, past["timestamp"], pa.int64())
        rows = _arrays(instances)
        starts = np.searchsorted(rows["split"], np.arange(len(SPLITS) + 1))
        groups: dict[str, list[int]] = {}
        for place, split in enumerate(SPLITS):
            here = {n: a[starts[place] : starts[place + 1]] for n, a in rows.items()}
            ends = _offsets(here["user"] - first, users)
            columns |= {f"{split}_{n}": _lists(ends, a) for n, a in self._split(here).items()}
            if self.schema.times:
                columns[f"{split}_timestamp"] = _lists(ends, here["timestamp"], pa.int64())
            groups[split] = _group_rows(ends)
            self._add(counts, split, here)
        file = f"part-{number:05d}.parquet"
        _write(pa.table(columns), self.folder / file)
        sizes = [min(GROUP, users - g) for g in range(0, users, GROUP)]
        held = [
            {"users": u} | {s: {"rows": groups[s][g]} for s in SPLITS} for g, u in enumerate(sizes)
        ]
        counts.parts.append({"file": file, "row_groups": held})
        return counts

    def _split(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns of a split, without its name."""
        labels = [label.column for label in self.schema.labels]
        found = {n: rows[n] for n in ("cut", "item", *labels, "u31", "user_row") if n in rows}
        for f in self.schema.group("context"):
            found[f.name] = self.ids[f.name][rows[f"c_{f.name}"]]
        for n in numbers(self.schema):
            found[n.name] = rows[f"n_{n.name}"].astype(np.float32)
        if self.schema.weighted:
            found["weight"] = rows["weight"].astype(np.float32)
        return found | {truth(label): rows[truth(label)] for label in self.truths}

    def _add(self, counts: Counts, split: str, rows: Mapping[str, np.ndarray]) -> None:
        counts.rows[split] = len(rows["item"])
        for label in self.schema.labels:
            values = rows[label.column]
            counts.known[split][label.name] = int((values >= 0).sum())
            counts.positives[split][label.name] = int((values > 0).sum())
        if self.schema.weighted:
            counts.weighed[split] = int((rows["weight"] > 0).sum())
        index = {"profile": rows.get("user_row", rows["user"]), "item": rows["item"]}
        for f in self.schema.features:
            if f.group == "behaviour":
                continue
            at = index[f.group] if f.group in index else rows[f"c_{f.name}"]
            met = (self.ids[f.name] == UNKNOWN).reshape(len(self.ids[f.name]), -1).any(axis=1)
            counts.unknown[split][f.name] = int(met[at].sum())


def _write(table: pa.Table, file: Path) -> None:
    """Writes a part under its name at once, as a cluster may run a task twice at a time."""
    aside = file.with_name(f".{file.name}.{uuid4().hex}")
    pq.write_table(table, aside, compression="zstd", row_group_size=GROUP, use_dictionary=False,
                   write_statistics=False)  # fmt: skip
    aside.replace(file)


def _arrays(table: pa.Table) -> dict[str, np.ndarray]:
    return {n: table.column(n).to_numpy() for n in table.column_names}


def _offsets(row: np.ndarray, rows: int) -> np.ndarray:
    """[rows + 1] int32: where the values of each row begin, given each value's row, ascending."""
    ends = np.zeros(rows + 1, np.int32)
    np.cumsum(np.bincount(row, minlength=rows), out=ends[1:])
    return ends


def _lists(
    offsets: np.ndarray, values: np.ndarray, kind: pa.DataType | None = None
) -> pa.ListArray:
    """kind: of the values; None keeps small integers and floats, and others are int32."""
    kept = (np.int8, np.float32, np.float64)
    if kind is None:
        kind = pa.from_numpy_dtype(values.dtype) if values.dtype in kept else pa.int32()
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, kind))


def _group_rows(offsets: np.ndarray) -> list[int]:
    """The rows of every row group."""
    edges = offsets[np.minimum(np.arange(0, len(offsets) - 1 + GROUP, GROUP), len(offsets) - 1)]
    return [int(b - a) for a, b in pairwise(edges)]
