"""A log of impressions in day folders, cut from one simulated world, with a weekly pattern.

Weekends have more rows and other categories; every day has some more or fewer rows than its
weekday. Each day is ``dt=<number>/part-00000.parquet``, read by the mapping `Config`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.mapped.config import Mapped
from at4ctr.data.mapped.rows import Rows
from at4ctr.data.simulation import write as simulate
from at4ctr.data.simulation.world import DAY, START, World
from at4ctr.gates import statistics
from at4ctr.schema import Feature, Schema, Table

FILES = "part-*.parquet"
KEPT = (
    1.0,
    0.95,
    0.7,
    0.68,
    0.68,
    0.7,
    0.78,
)  # of Saturday, with which the world begins, to Friday
COLUMNS = {"user": '"user"', "item": "item", "category": "category"}


@dataclass(frozen=True)
class Config(Mapped):
    """Behaviours (no click) and impressions (no type) in the same files."""

    def schema(self):
        return Schema(
            tables=(Table("user"), Table("item"), Table("category"), Table("type", "string"),
                    Table("position", buckets=16)),
            features=(
                Feature("user", "profile", "user"),
                Feature("item", "item", "item"),
                Feature("category", "item", "category"),
                Feature("position", "context", "position"),
                Feature("type", "behaviour", "type"),
            ),
            history=("item", "category"),
        )  # fmt: skip

    def behaviours(self):
        return Rows(FILES, {**COLUMNS, "type": "type"}, "timestamp", where="click IS NULL")

    def impressions(self):
        columns = {**COLUMNS, "position": "position"}
        labels = {"click": "click"}
        return Rows(FILES, columns, "timestamp", labels=labels, where="click IS NOT NULL")


def world(days, rows, seed):
    """About `rows` behaviours a day before any are left out."""
    return World(
        users=200 * days, items=3000, categories=80, rows=rows * days, days=days, seed=seed
    )


def simulated(folder, days, rows=7000, seed=7):
    """Tables of the days, in order; as many impressions as behaviours."""
    here = world(days, rows, seed)
    simulate.write_impressions(here, folder, impressions=rows * days)
    tables = [pq.read_table(folder / f"{n}.parquet") for n in ("behaviours", "impressions")]
    tables[1] = tables[1].drop_columns(["probability"])
    whole = pa.concat_tables(tables, promote_options="default").sort_by("timestamp")
    number = (whole["timestamp"].to_numpy() - START) // DAY
    edges = np.searchsorted(number, np.arange(days + 1))
    return [thinned(whole[a:b], day, seed) for day, (a, b) in
            enumerate(pairwise(edges))]  # fmt: skip


def thinned(table, day, seed):
    """A day as its weekday has it: at weekends half of the categories are much rarer."""
    rng = np.random.default_rng([seed, day])
    keep = KEPT[day % 7] * min(1.0, np.exp(0.04 * rng.standard_normal() - 0.06))
    rarer = (table["category"].to_numpy() % 2 == 0) & (day % 7 < 2)
    return table.filter(pa.array(rng.random(table.num_rows) < keep * np.where(rarer, 0.75, 1)))


def begin(day):
    return START + day * DAY


def counted(folder, table, day, vocabulary=None, rate=1.0, parts=1):
    """The statistics of a table as day number `day`."""
    home = Path(folder) / f"dt={day}"
    home.mkdir(parents=True, exist_ok=True)
    files = []
    for part in range(parts):
        files.append(home / f"part-{part:05d}.parquet")
        pq.write_table(table, files[-1])
    base = Config(negative_rate=rate)
    found = statistics.of(base, files, begin(day), begin(day + 1), vocabulary)
    for file in files:
        file.unlink()
    return found


def known(folder, values):
    """A vocabulary folder of these raw ids by table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in values.items():
        ids = pa.array(range(2, len(raw) + 2), pa.int32())
        pq.write_table(pa.table({"raw": raw, "id": ids}), folder / f"{name}.parquet")
    return folder


def history(folder, tables):
    """The statistics of days one after another, each against the ids of the days before it."""
    found, seen = [], {}
    for day, table in enumerate(tables):
        vocabulary = known(folder / "vocabulary", seen) if seen else None
        found.append(counted(folder, table, day, vocabulary))
        for name in ("user", "item", "category", "type"):
            fresh = table[name].drop_null()
            old = [seen[name]] if name in seen else []
            seen[name] = pa.chunked_array([*old, *fresh.chunks]).unique()
    return found, known(folder / "vocabulary", seen)
