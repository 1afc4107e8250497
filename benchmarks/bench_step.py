"""Milliseconds of a training step of any recipe, on ready batches.

python -m benchmarks.bench_step [--items 4200000] [--history 50] [--rounds 5] [--recipes din,dien]
A Taobao-shaped load: 1M users, 10,000 categories, true lengths uniform from a fifth of the history,
10 % positives. One JSON line per recipe: the median of wall time and the least CPU time (of all
threads, per step of a round) over interleaved rounds; the latter bears other work on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

import at4ctr  # noqa: F401  # isort: skip  (before TensorFlow loads)
import tensorflow as tf

from at4ctr import optimizers
from at4ctr.config import Experiment
from at4ctr.data.datasets import taobao
from at4ctr.layers.mlp import PRODUCTS, Precision, products_in
from at4ctr.model.build import serving_model, training_model
from at4ctr.model.training import TrainingModel
from at4ctr.schema import FIRST_ID
from benchmarks.random_log import CATEGORIES, SCHEMA, USERS, zipf
from configs._compose import compose

RECIPES = "din,din+uim,din+nip,din+uim+nip"


def batches(args: argparse.Namespace, count: int) -> list[dict[str, tf.Tensor]]:
    """Random batches of the load."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        size, steps = args.batch_size, args.history
        lengths = rng.integers(max(1, steps // 5), steps + 1, size).astype(np.int32)
        real = np.arange(steps) < lengths[:, None]
        item, past = (zipf(rng, args.items, shape) for shape in ((size,), (size, steps)))
        arrays = {
            "user": rng.integers(0, USERS, size).astype(np.int32) + FIRST_ID,
            "item": item + FIRST_ID,
            "category": item % CATEGORIES + FIRST_ID,
            "history_item": (past + FIRST_ID) * real,
            "history_category": (past % CATEGORIES + FIRST_ID) * real,
            "history_length": lengths,
            "label_click": (rng.random(size) < 0.1).astype(np.float32),
        }
        made.append({k: tf.constant(v.astype(v.dtype)) for k, v in arrays.items()})
    return made


def made(e: Experiment, rows: Mapping[str, int]) -> TrainingModel:
    """The model of an experiment, on the load's schema."""
    return training_model(serving_model(SCHEMA, rows, e.plan), SCHEMA, e.plan)


def stepper(recipe: str, items: int, precision: Precision = "float32") -> Any:
    """A traced training step of a recipe."""
    rows = {"user": USERS + 2, "item": items + 2, "category": CATEGORIES + 2}
    model = made(compose(recipe, taobao.Config()), rows)
    optimizer = optimizers.LazyAdam()
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function(autograph=False, reduce_retracing=True)
    def step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape() as tape, products_in(precision):
            loss = model.losses_of(batch)["total"]
        found = tape.gradient(loss, variables)
        optimizer.apply_gradients(
            [(g, v) for g, v in zip(found, variables, strict=True) if g is not None]
        )
        return loss

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=4_200_000)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--precision", choices=PRODUCTS, default="float32")
    args = parser.parse_args()
    load = batches(args, 8)
    names = args.recipes.split(",")
    steps = {name: stepper(name, args.items, args.precision) for name in names}
    times: dict[str, list[float]] = {name: [] for name in steps}
    used: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        float(step(load[0]))
    for _ in range(args.rounds):
        for name, step in steps.items():
            cpu = time.process_time()
            for batch in load:
                begin = time.perf_counter()
                float(step(batch))
                times[name].append(time.perf_counter() - begin)
            used[name].append((time.process_time() - cpu) / len(load))
    for name, seconds in times.items():
        median = statistics.median(seconds)
        figures = {"ms": round(median * 1e3, 1), "examples_per_s": round(args.batch_size / median)}
        figures["cpu_ms"] = round(min(used[name]) * 1e3, 1)
        shape = {"items": args.items, "history": args.history, "batch": args.batch_size}
        shape["precision"] = args.precision
        print(json.dumps({"step": name, **figures, **shape, "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
