"""Examples per second and peak memory of a whole training, through store, reader and loop.

python -m benchmarks.bench_train [--rounds 3] [--recipe din] [--items 4200000] [--request 1]
    [--set data.grouping=requests fit.optimizer=rowwise_adagrad]
The log is that of ``random_log``, with ``--request`` rows a request. A process of its own makes the
store, unless ``--store`` names one. One epoch is trained at the recipe's defaults, which are
batches of 1,024 and LazyAdam at 1e-3; inference takes 512 rows at a time. One JSON line has the
medians over the rounds into which the epoch is cut, but for a first one that warms up. It also has
the peak of this process, before and after the checkpoint at the end, for which TensorFlow copies
the tables.
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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pipelines  # noqa: F401  # isort: skip  (its loader of TensorFlow)
import tensorflow as tf

from at4ctr.config import Experiment, override
from at4ctr.data.datasets import taobao
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.fit import Fit, Trainer
from at4ctr.layers import embedder
from benchmarks.bench_step import made
from benchmarks.random_log import SCHEMA, Sizes, drawn, write_store
from configs._compose import compose

SERVED = 512  # rows at a time in inference


def experiment(args: argparse.Namespace) -> Experiment:
    """The recipe at its defaults, whatever was tuned for a dataset."""
    tuned = compose(args.recipe, taobao.Config(history=args.history))
    fit = Fit(evaluations=args.rounds + 1, checkpoint_every=10**9)
    return override(replace(tuned, fit=fit, spaces={"main": embedder.Config()}), args.set)


def made_store(path: Path, sizes: Sizes, request: int) -> Path:
    """The store of a random log, made by a process of its own so that its memory is not counted."""
    command = [sys.executable, "-m", "benchmarks.bench_train", "--make", str(path)]
    words = [f"--{name}={size}" for name, size in sizes._asdict().items()]
    subprocess.run([*command, *words, f"--request={request}"], check=True)
    return path


def peak() -> float:
    """The most memory that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def trainer_of(
    e: Experiment, store: Store, folder: Path, mark: Callable[[], dict[str, dict[str, float]]]
) -> Trainer:
    """A trainer of a new model on the train rows of a store. mark: called at each evaluation."""
    model = made(e, {table.name: store.rows(table.name) for table in SCHEMA.tables})

    def reader(rows: int, shard: tf.distribute.InputContext) -> Reader:
        return Reader(
            store,
            "train",
            batch_size=rows,
            history=e.data.history,
            context=shard,
            grouping=e.data.grouping,
        )

    return Trainer(model, reader, e.fit, folder, mark)


def train(e: Experiment, store: Store, folder: Path) -> tuple[list[float], float, Any]:
    """Examples per second of each round, the peak before the last checkpoint is written, and the
    model that is served."""
    marks, peaks = [(0, 0.0)], [0.0]

    def mark() -> dict[str, dict[str, float]]:
        marks.append((trainer.cursor.timed_steps, trainer.cursor.seconds))
        peaks.append(peak())
        return {"click": {}}

    trainer = trainer_of(e, store, folder, mark)
    trainer.train()
    speeds = [
        (steps - before) * e.fit.batch_size / (seconds - then)
        for (before, then), (steps, seconds) in itertools.pairwise(marks)
    ]
    return speeds[1:], peaks[-1], trainer.model.serving


def serve(serving: Any, store: Store, history: int, rounds: int, batches: int) -> list[float]:
    """Examples per second of each round of inference, through the reader."""
    reader = Reader(store, "train", batch_size=SERVED, history=history, shuffle=False)
    answer, speeds = tf.function(serving.answer, reduce_retracing=True, autograph=False), []
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
    for name, size in Sizes()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--request", type=int, default=1, help="rows of a request")
    parser.add_argument("--served", type=int, default=100, help="batches of a round of inference")
    parser.add_argument("--set", nargs="*", default=[], help="of the experiment, as in make train")
    parser.add_argument("--store", type=Path, help="of a random log, instead of a new one")
    parser.add_argument("--make", type=Path, help="only make the store, here")
    args = parser.parse_args()
    sizes = Sizes(*(getattr(args, name) for name in Sizes._fields))
    if args.make:
        write_store(args.make, drawn(sizes, args.request), sizes)
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        path = args.store or made_store(Path(folder) / "store", sizes, args.request)
        store = Store.open(path, schema=SCHEMA)
        e = experiment(args)
        cpu = time.process_time()
        speeds, training, serving = train(e, store, Path(folder) / "run")
        cpu = time.process_time() - cpu
        whole = peak()
        figures = {
            "benchmark": "train",
            "recipe": args.recipe,
            "set": args.set,
            "train_examples_per_s": round(statistics.median(speeds)),
            "runs": [round(speed) for speed in speeds],
            "peak_rss_mb": round(training),
            "peak_with_checkpoint_mb": round(whole),
            "cpu_s": round(cpu, 1),
            "load": round(load, 2),
        }
        if args.served:
            served = serve(serving, store, args.history, args.rounds, args.served)
            figures["infer_examples_per_s"] = round(statistics.median(served))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
