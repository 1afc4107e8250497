"""Time of a training step saved by sharing a user's work among the rows of a request, on ready
batches.

python -m benchmarks.bench_requests [--items 4200000] [--rounds 5] [--recipes din,din+uim+nip]
The load of `bench_step`, with 1, 2 (a positive and its drawn negative) and 25 rows (a page) of one
user side by side. The same rows are trained as rows, each with a copy of its user, and as requests
(``data.grouping=requests``). A round takes all loads and recipes in turn. One JSON line for each:
the least CPU time of a step (of all threads), the median of wall time, and the load of the machine
at the end. The tables of all recipes are in memory together, about 1.1 GB each at 4.2M items.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import numpy as np

import at4ctr  # noqa: F401  # isort: skip  (before TensorFlow loads)
import tensorflow as tf

from benchmarks.bench_step import batches, stepper
from benchmarks.random_log import SCHEMA

SIZES = (1, 2, 25)  # rows of a request
AT_ONCE = 4  # batches of a load


def shared(batch: dict[str, tf.Tensor], size: int) -> dict[str, tf.Tensor]:
    """The rows of a batch with the users of its first rows, so many rows each."""
    rows = batch["item"].shape[0]
    owner = np.arange(rows, dtype=np.int32) // size
    of_user = SCHEMA.of_user(batch)
    users = {k: v[: owner[-1] + 1] if k in of_user else v for k, v in batch.items()}
    return users | {"owner": tf.constant(owner)}


def repeated(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The same rows, each with a copy of its user."""
    of_user, owner = SCHEMA.of_user(batch), batch["owner"]
    whole = {k: tf.gather(v, owner) if k in of_user else v for k, v in batch.items()}
    return {k: v for k, v in whole.items() if k != "owner"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=4_200_000)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipes", default="din,din+uim,din+nip,din+uim+nip")
    args = parser.parse_args()
    plain = batches(args, AT_ONCE)
    loads: dict[tuple[int, str], list[dict[str, tf.Tensor]]] = {}
    for size in SIZES:
        requests = [shared(batch, size) for batch in plain]
        loads[size, "requests"] = requests
        loads[size, "rows"] = [repeated(batch) for batch in requests]
    steps = {recipe: stepper(recipe, args.items) for recipe in args.recipes.split(",")}
    for (recipe, (size, grouping)), times in _timed(steps, loads, args.rounds).items():
        cpu, wall = zip(*times, strict=True)
        figures = {"cpu_ms": round(min(cpu) * 1e3, 1)}
        figures["ms"] = round(statistics.median(wall) * 1e3, 1)
        where = {"requests": recipe, "rows_a_request": size, "grouping": grouping}
        print(json.dumps({**where, **figures, "load": round(os.getloadavg()[0], 1)}), flush=True)


def _timed(
    steps: dict[str, Any], loads: dict[Any, list[dict[str, tf.Tensor]]], rounds: int
) -> dict[Any, list[tuple[float, float]]]:
    """Recipe and load -> CPU and wall seconds of a step, of each round."""
    found: dict[Any, list[tuple[float, float]]] = {(r, load): [] for load in loads for r in steps}
    for recipe, load in found:
        float(steps[recipe](loads[load][0]))
    for _ in range(rounds):
        for (recipe, load), times in found.items():
            cpu, wall = time.process_time(), time.perf_counter()
            for batch in loads[load]:
                float(steps[recipe](batch))
            used = time.process_time() - cpu, time.perf_counter() - wall
            times.append((used[0] / len(loads[load]), used[1] / len(loads[load])))
    return found


if __name__ == "__main__":
    main()
