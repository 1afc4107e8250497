"""Examples per second and peak memory of a whole training, through store, reader and loop.

python -m benchmarks.bench_train [--rounds 3] [--recipe din] [--items 4200000] [--set ...]
A Taobao-shaped store, made by a process of its own: 1M users of 10 to 50 behaviours, one instance
each, 4.2M items by a bounded Zipf law, 10,000 categories, 10 % positives. Batch 1,024, LazyAdam
1e-3, one epoch; inference at batch 512. One JSON line: the medians over the rounds into which the
epoch is cut, but for a first one that warms up; and the peak of this process, before and after the
checkpoint at the end, for which TensorFlow copies the tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import at4ctr  # noqa: F401  # isort: skip  (before TensorFlow loads)
import tensorflow as tf

from at4ctr.config import Experiment, override
from at4ctr.data.datasets import taobao
from at4ctr.data.reader import Reader
from at4ctr.data.store import FORMAT, Store
from at4ctr.fit import Fit, Trainer
from at4ctr.layers import embedder
from at4ctr.schema import FIRST_ID
from benchmarks.bench_reader import GROUP, PART
from benchmarks.bench_step import CATEGORIES, SCHEMA, USERS, made, zipf
from configs._compose import compose

SERVED = 512  # rows at a time in inference


def make(path: Path, items: int, history: int) -> None:
    """Writes the store."""
    rng = np.random.default_rng(0)
    for folder in ("dims", "vocabulary", "ids", "data"):
        (path / folder).mkdir(parents=True)
    sizes = {"user": USERS, "item": items, "category": CATEGORIES}
    for name, size in sizes.items():
        np.savetxt(path / "vocabulary" / f"{name}.txt", np.arange(size), fmt="%d")
        ids = np.arange(sizes["item" if name == "category" else name], dtype=np.int32) % size
        np.save(path / "ids" / f"{name}.npy", ids + FIRST_ID)
    for name in ("user", "item"):
        pq.write_table(pa.table({name: np.arange(sizes[name])}), path / "dims" / f"{name}.parquet")
    parts = []
    for number, first in enumerate(range(0, USERS, PART)):
        users = np.arange(first, min(first + PART, USERS), dtype=np.int32)
        file = f"part-{number:05d}.parquet"
        table = _part(rng, users, items, history)
        pq.write_table(table, path / "data" / file, row_group_size=GROUP, compression="zstd")
        counts = [min(GROUP, len(users) - i) for i in range(0, len(users), GROUP)]
        groups = [{"users": n, "train": {"rows": n}} for n in counts]
        parts.append({"file": file, "row_groups": groups})
    manifest = {
        "format": FORMAT,
        "dataset": "random",
        "simulated": True,
        "truth": [],
        "numbers": {},
        "options": {},
        "schema": SCHEMA.to_json(),
        "counts": {
            "train": {
                "rows": USERS,
                "labels": {"click": {"known": USERS, "positives": USERS // 10}},
                "unknown": {},
            }
        },
        "vocabulary": {name: size + FIRST_ID for name, size in sizes.items()},
        "parts": parts,
    }
    (path / "manifest.json").write_text(json.dumps(manifest))


def _part(rng: np.random.Generator, users: np.ndarray, items: int, history: int) -> pa.Table:
    count = len(users)
    lengths = rng.integers(max(1, history // 5), history + 1, count).astype(np.int32)

    def lists(values: np.ndarray, counts: np.ndarray) -> pa.ListArray:
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, pa.array(values))

    one = np.ones(count, np.int32)
    return pa.table(
        {
            "user": pa.array(users),
            "behaviour_item": lists(zipf(rng, items, (int(lengths.sum()),)), lengths),
            "train_cut": lists(lengths, one),
            "train_item": lists(zipf(rng, items, (count,)), one),
            "train_label_click": lists((rng.random(count) < 0.1).astype(np.int8), one),
            "train_u31": lists(rng.integers(0, 2**31 - 1, count, dtype=np.int32), one),
        }
    )


def experiment(args: argparse.Namespace) -> Experiment:
    """The recipe at its defaults, whatever was tuned for a dataset."""
    tuned = compose(args.recipe, taobao.Config())
    fit = Fit(evaluations=args.rounds + 1, checkpoint_every=10**9)
    return override(replace(tuned, fit=fit, spaces={"main": embedder.Config()}), args.set)


def peak() -> float:
    """The most memory that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(
    e: Experiment, store: Store, folder: Path, history: int
) -> tuple[list[float], float, Any]:
    """Examples per second of each round, the peak before the last checkpoint is written, and the
    model that is served."""
    model = made(e, {table.name: store.rows(table.name) for table in SCHEMA.tables})
    marks, peaks = [(0, 0.0)], [0.0]

    def mark() -> dict[str, dict[str, float]]:
        marks.append((trainer.cursor.timed_steps, trainer.cursor.seconds))
        peaks.append(peak())
        return {"click": {}}

    def reader(rows: int, shard: tf.distribute.InputContext) -> Reader:
        return Reader(store, "train", batch_size=rows, history=history, context=shard)

    trainer = Trainer(model, reader, e.fit, folder, mark)
    trainer.train()
    speeds = [
        (steps - before) * e.fit.batch_size / (seconds - then)
        for (before, then), (steps, seconds) in itertools.pairwise(marks)
    ]
    return speeds[1:], peaks[-1], model.serving


def serve(serving: Any, store: Store, history: int, rounds: int, batches: int = 100) -> list[float]:
    """Examples per second of each round of inference, through the reader."""
    reader = Reader(store, "train", batch_size=SERVED, history=history, shuffle=False)
    answer, speeds = tf.function(serving.answer, reduce_retracing=True), []
    source = iter(reader.dataset(0))
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for _ in range(batches):
            answer(next(source))["probability"].numpy()
        speeds.append(batches * SERVED / (time.perf_counter() - began))
    return speeds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", default="din")
    parser.add_argument("--items", type=int, default=4_200_000)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--set", nargs="*", default=[], help="of the experiment, as in make train")
    parser.add_argument("--make", type=Path, help="only make the store, here")
    args = parser.parse_args()
    if args.make:
        make(args.make, args.items, args.history)
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        command = [sys.executable, "-m", "benchmarks.bench_train", "--make", str(path)]
        sizes = [f"--items={args.items}", f"--history={args.history}"]
        subprocess.run([*command, *sizes], check=True)
        store = Store.open(path, schema=SCHEMA)
        e = experiment(args)
        cpu = time.process_time()
        speeds, training, serving = train(e, store, Path(folder) / "run", args.history)
        cpu = time.process_time() - cpu
        whole = peak()
        served = serve(serving, store, args.history, args.rounds)
    figures = {
        "benchmark": "train",
        "recipe": args.recipe,
        "set": args.set,
        "train_examples_per_s": round(statistics.median(speeds)),
        "runs": [round(speed) for speed in speeds],
        "infer_examples_per_s": round(statistics.median(served)),
        "peak_rss_mb": round(training),
        "peak_with_checkpoint_mb": round(whole),
        "cpu_s": round(cpu, 1),
        "load": round(load, 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
