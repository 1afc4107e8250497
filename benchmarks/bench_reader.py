"""Rows per second of the reader, through tf.data, on a random store of its own.

python -m benchmarks.bench_reader [--users 100000] [--behaviours 60] [--runs 3]
One JSON line for each history length: the medians of interleaved runs over one epoch, from the
first batch requested (so with the first block's decoding) to the last. ``rows_per_cpu_second`` is
of the CPU time of all threads, which other work on the machine changes less than wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

import at4ctr  # noqa: F401  (sets the Keras version before TensorFlow loads)
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.schema import Feature, Schema, Table
from benchmarks.random_log import PART, lists, write

SCHEMA = Schema(
    tables=(Table("user"), Table("item"), Table("category"), Table("type")),
    features=(
        Feature("user", "profile", "user"),
        Feature("item", "item", "item"),
        Feature("category", "item", "category"),
        Feature("type", "behaviour", "type"),
    ),
    history=("item", "category"),
)


def make(path: Path, users: int, behaviours: int, items: int, seed: int) -> None:
    """Writes a store with two training instances (one positive) for every behaviour but the first.

    The lengths of the users' sequences are geometric, at least 10, with the mean ``behaviours``.
    """
    rng = np.random.default_rng(seed)
    category = rng.integers(0, 5000, items, dtype=np.int32)
    sizes = {"user": users, "item": items, "category": 5000, "type": 4}
    starts = range(0, users, PART)
    ids = (np.arange(i, min(i + PART, users), dtype=np.int32) for i in starts)
    write(path, SCHEMA, sizes, category, (_part(rng, of, behaviours, items) for of in ids))


def _part(rng: np.random.Generator, users: np.ndarray, behaviours: int, items: int) -> pa.Table:
    lengths = 9 + rng.geometric(1 / (behaviours - 9), len(users))
    ends = np.cumsum(lengths)
    place = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)  # position in its sequence
    cut = np.repeat(place[place > 0], 2)
    total, rows = len(place), len(cut)

    two = 2 * (lengths - 1)
    columns = {
        "user": pa.array(users),
        "behaviour_item": lists(_popular(rng, items, total), lengths),
        "behaviour_type": lists(rng.integers(2, 6, total, dtype=np.int32), lengths),
        "train_cut": lists(cut.astype(np.int32), two),
        "train_item": lists(_popular(rng, items, rows), two),
        "train_label_click": lists(np.tile(np.array([1, 0], np.int8), rows // 2), two),
        "train_u31": lists(rng.integers(0, 2**31 - 1, rows, dtype=np.int32), two),
    }
    return pa.table(columns)


def _popular(rng: np.random.Generator, items: int, size: int) -> np.ndarray:
    return (items * rng.random(size) ** 3).astype(np.int32)


def measure(store: Store, history: int, batch_size: int, rate: float) -> tuple[float, float]:
    """Rows per second, and per second of CPU time, over one epoch."""
    reader = Reader(
        store, "train", batch_size=batch_size, history=history, negative_rate=rate, seed=1
    )
    begin, cpu, rows = time.perf_counter(), time.process_time(), 0
    for batch in reader.dataset(epoch=0):
        rows += batch[reader.label].shape[0]
    return rows / (time.perf_counter() - begin), rows / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--behaviours", type=int, default=60)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--histories", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--negative_rate", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        make(path, args.users, args.behaviours, args.items, seed=0)
        store = Store.open(path, schema=SCHEMA)
        speeds: dict[int, list[tuple[float, float]]] = {history: [] for history in args.histories}
        for _ in range(args.runs):
            for history, measured in speeds.items():
                measured.append(measure(store, history, args.batch_size, args.negative_rate))
    for history, measured in speeds.items():
        figures = {
            "benchmark": "reader",
            "history": history,
            "batch_size": args.batch_size,
            "rows": int(store.counts("train")["rows"]),
            "rows_per_second": round(statistics.median(speed for speed, _ in measured)),
            "rows_per_cpu_second": round(statistics.median(speed for _, speed in measured)),
            "runs": [round(speed) for speed, _ in measured],
            "load": round(os.getloadavg()[0], 2),
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
