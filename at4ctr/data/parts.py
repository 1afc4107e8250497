"""Writes the store's parts, one row a user with its sequences as lists, and counts the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.dataset import SPLITS
from at4ctr.data.duck import Engine
from at4ctr.data.steps import code, u31
from at4ctr.schema import UNKNOWN, Schema

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
    """What the parts hold, for the manifest."""

    parts: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    positives: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    unknown: dict[str, dict[str, int]] = field(default_factory=lambda: {s: {} for s in SPLITS})


@dataclass(frozen=True)
class Writer:
    """Writes parts.

    ids: model ids of every feature by dims row, as in `vocabulary.ids`.
    impressions: instances are the impressions, not behaviours and drawn negatives.
    truth: the impressions have a probability.
    """

    engine: Engine
    schema: Schema
    seed: int
    ids: Mapping[str, np.ndarray]
    impressions: bool
    truth: bool

    def write(self, folder: Path, name: str, first: int, last: int, counts: Counts) -> None:
        """Writes the users first..last as one part and adds them to the counts."""
        users = last - first + 1
        columns: dict[str, pa.Array] = {
            "user": pa.array(np.arange(first, last + 1, dtype=np.int32))
        }
        behaviours = self._arrays(self._behaviours(first, last))
        ends = _offsets(behaviours["user"] - first, users)
        columns["behaviour_item"] = _lists(ends, behaviours["item"])
        for f in self.schema.group("behaviour"):
            model = self.ids[f.name][behaviours[f.name]]
            columns[f"behaviour_{f.name}"] = _lists(ends, model)
        rows = self._arrays(self._instances(first, last))
        starts = np.searchsorted(rows["split"], np.arange(len(SPLITS) + 1))
        groups: dict[str, list[dict[str, int]]] = {}
        for number, split in enumerate(SPLITS):
            here = {n: a[starts[number] : starts[number + 1]] for n, a in rows.items()}
            ends = _offsets(here["user"] - first, users)
            columns |= {f"{split}_{n}": _lists(ends, a) for n, a in self._split(here).items()}
            groups[split] = _group_counts(ends, here["label"])
            self._add(counts, split, here)
        pq.write_table(pa.table(columns), folder / name, compression="zstd", row_group_size=GROUP,
                       use_dictionary=False, write_statistics=False)  # fmt: skip
        sizes = [min(GROUP, users - g) for g in range(0, users, GROUP)]
        counts.parts.append({
            "file": name,
            "row_groups": [
                {"users": size, **{s: groups[s][g] for s in SPLITS}} for g, size in enumerate(sizes)
            ],
        })  # fmt: skip

    def _arrays(self, sql: str) -> dict[str, np.ndarray]:
        table = self.engine.arrow(sql)
        return {n: table.column(n).to_numpy() for n in table.column_names}

    def _behaviours(self, first: int, last: int) -> str:
        features = self.schema.group("behaviour")
        codes = "".join(f', {code(f)} AS "{f.name}"' for f in features)
        return f"""SELECT "user", item{codes} FROM behaviours
            WHERE "user" BETWEEN {first} AND {last} ORDER BY "user", pos"""

    def _instances(self, first: int, last: int) -> str:
        codes = "".join(f", {code(f)}" for f in self.schema.group("context"))
        truth = ", probability" if self.truth else ""
        where = f'"user" BETWEEN {first} AND {last} AND split IS NOT NULL'
        columns = (
            f'"user", split, pos, cut, item, {u31("number", self.seed)}::INTEGER AS u31{codes}'
        )
        base = "shown" if self.impressions else "behaviours"
        label = "label::TINYINT" if self.impressions else "1::TINYINT"
        found = f"""SELECT {columns}, number, {label} AS label{truth}
            FROM (SELECT *, 0 AS number FROM {base} WHERE {where}) r"""
        if not self.impressions:
            found += f""" UNION ALL SELECT {columns}, number, 0::TINYINT AS label
                FROM negatives WHERE {where} AND item <> own"""
        return f"""SELECT * EXCLUDE (pos, number) FROM ({found}) s
            ORDER BY split, "user", pos, number"""

    def _split(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns of a split, without its name."""
        found = {n: rows[n] for n in ("cut", "item", "label", "u31")}
        for f in self.schema.group("context"):
            found[f.name] = self.ids[f.name][rows[f"c_{f.name}"]]
        return found | ({"probability": rows["probability"]} if self.truth else {})

    def _add(self, counts: Counts, split: str, rows: Mapping[str, np.ndarray]) -> None:
        counts.rows[split] += len(rows["label"])
        counts.positives[split] += int(rows["label"].sum())
        index = {"profile": rows["user"], "item": rows["item"]}
        for f in self.schema.features:
            if f.group == "behaviour":
                continue
            at = index[f.group] if f.group in index else rows[f"c_{f.name}"]
            met = (self.ids[f.name] == UNKNOWN).reshape(len(self.ids[f.name]), -1).any(axis=1)
            total = counts.unknown[split].get(f.name, 0)
            counts.unknown[split][f.name] = total + int(met[at].sum())


def _offsets(row: np.ndarray, rows: int) -> np.ndarray:
    """[rows + 1] int32: where the values of each row begin, given each value's row, ascending."""
    ends = np.zeros(rows + 1, np.int32)
    np.cumsum(np.bincount(row, minlength=rows), out=ends[1:])
    return ends


def _lists(offsets: np.ndarray, values: np.ndarray) -> pa.ListArray:
    kinds = {"i": pa.int32(), "f": pa.float64()}
    kind = pa.int8() if values.dtype == np.int8 else kinds[values.dtype.kind]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, kind))


def _group_counts(offsets: np.ndarray, labels: np.ndarray) -> list[dict[str, int]]:
    """Rows and positives of every row group."""
    edges = offsets[np.minimum(np.arange(0, len(offsets) - 1 + GROUP, GROUP), len(offsets) - 1)]
    sums = np.concatenate([[0], np.cumsum(labels, dtype=np.int64)])
    return [{"rows": int(b - a), "positives": int(sums[b] - sums[a])} for a, b in pairwise(edges)]
