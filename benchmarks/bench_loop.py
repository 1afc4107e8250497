"""Milliseconds of a step in the training loop, beside the same step on ready batches.

python -m benchmarks.bench_loop [--rounds 3] [--steps 100] [--request 1] [--store F]
    [--set data.grouping=requests]
The log is that of ``random_log``, and the model is DIN. A round takes each of these in turn, and a
JSON line for each has the median wall and CPU time (of all threads) over the rounds:

- ``one batch``: the step on one ready batch again and again,
- ``own batches``: on ready batches of which none comes twice in a round,
- ``read``: on batches as the reader gives them; ``wait_ms`` is the loop's wait for them,
- ``reader``: the reader alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import at4ctr  # noqa: F401  # isort: skip  (before TensorFlow loads)

from at4ctr.data.store import Store
from benchmarks.bench_train import experiment, made_store, trainer_of
from benchmarks.random_log import SCHEMA, Sizes


def measured(batches: Iterator[Any], step: Callable[[Any], Any], steps: int) -> dict[str, float]:
    """Milliseconds a step, after a first one that opens what is opened once."""
    step(next(batches))
    wait, wall, cpu = 0.0, time.perf_counter(), time.process_time()
    for _ in range(steps):
        began = time.perf_counter()
        batch = next(batches)
        wait += time.perf_counter() - began
        step(batch)
    spent = {"ms": time.perf_counter() - wall, "cpu_ms": time.process_time() - cpu, "wait_ms": wait}
    return {name: 1e3 * seconds / steps for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--request", type=int, default=1, help="rows of a request")
    parser.add_argument("--set", nargs="*", default=[], help="of the experiment, as in make train")
    parser.add_argument("--store", type=Path, help="of a random log, instead of a new one")
    args = parser.parse_args()
    args.recipe, args.history = "din", Sizes().history
    with tempfile.TemporaryDirectory() as folder:
        path = args.store or made_store(Path(folder) / "store", Sizes(), args.request)
        store = Store.open(path, schema=SCHEMA)
        trainer = trainer_of(experiment(args), store, Path(folder) / "run", dict)
        steps = trainer.feed.steps(0)
        if steps <= args.steps:
            parser.error(f"--steps is {args.steps}; expected less than the store's {steps} batches")
        trainer.resume()  # makes the optimizer's slots
        first = trainer.feed(0, 0)
        ready = [next(first) for _ in range(args.steps + 1)]
        del first

        def train(batch: Any) -> None:
            trainer._step(batch).numpy()

        kinds: dict[str, tuple[Callable[[], Iterator[Any]], Callable[[Any], Any]]] = {
            "one batch": (lambda: itertools.repeat(ready[0]), train),
            "own batches": (lambda: iter(ready), train),
            "read": (lambda: trainer.feed(0, 0), train),
            "reader": (lambda: trainer.feed(0, 0), lambda _: None),
        }
        train(ready[0])  # traces
        found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
        for _ in range(args.rounds):
            for name, (batches, step) in kinds.items():
                found[name].append(measured(batches(), step, args.steps))
        for name, rounds in found.items():
            middle = {k: round(statistics.median(r[k] for r in rounds), 2) for k in rounds[0]}
            where = {"loop": name, "rows_a_request": args.request, "set": args.set}
            print(json.dumps({**where, **middle, "load": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
