"""A training step on accelerators: batch sizes, layouts, tasks, precisions and numbers of devices.

python -m benchmarks.bench_gpu [--items 4200000] [--history 50] [--batch_sizes 1024,4096,16384]
    [--recipes din,din+uim,din+nip,din+uim+nip] [--steps 50] [--out benchmarks/gpu.md]
python -m benchmarks.bench_gpu --cpus 2 --items 1000 --steps 2 --batch_sizes 64 --out /tmp/cpu.md
    the same on two logical CPU devices, to try the command where there is no GPU.

The load is that of ``bench_step``, the step that of training without the reader. Each replica has
``--batch_size`` rows. The three layouts are *packed*, *dense*, and *dense, XLA*, where XLA compiles
all between the look-ups and the gradients of what they found. Figures are medians of steps that end
on the device; the first three are left out. Memory is the device's peak, where the device reports
it. The page, which names the devices, is written anew.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import at4ctr  # noqa: F401  # isort: skip  (before TensorFlow loads)
import tensorflow as tf

from at4ctr import optimizers
from at4ctr.analysis.tables import markdown
from at4ctr.data.datasets import taobao
from at4ctr.errors import InputError
from at4ctr.layers.mlp import Precision, products_in
from benchmarks.bench_step import RECIPES, batches, made
from benchmarks.random_log import CATEGORIES, USERS
from configs._compose import compose

ROOT = Path(__file__).resolve().parents[1]
LAYOUTS = ("packed", "dense", "dense, XLA")
SKIPPED = 3  # steps, of which the first traces the graph


@dataclass(frozen=True)
class Setting:
    """batch: rows of a replica. devices: replicas."""

    recipe: str
    batch: int
    layout: str = "dense"
    precision: Precision = "float32"
    devices: int = 1


def measured(setting: Setting, names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a step, examples a second, and the first device's peak in MB."""
    used = names[: setting.devices]
    strategy = tf.distribute.MirroredStrategy(used)
    _forget_peak(used[0])
    rows = {"user": USERS + 2, "item": args.items + 2, "category": CATEGORIES + 2}
    if args.cpus:
        rows["user"] = args.items + 2
    with strategy.scope():
        model = made(compose(setting.recipe, taobao.Config()), rows)
        model.dense, model.xla = setting.layout != "packed", setting.layout == LAYOUTS[2]
        scaled = setting.precision == "mixed_float16"
        optimizer = optimizers.build("lazy_adam", 1e-3, scale_loss=scaled)
        optimizer.build(model.trainable_variables)

    def replica(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        variables = model.trainable_variables
        with tf.GradientTape() as tape, products_in(setting.precision):
            local = model.losses_of(batch)["total"] / setting.devices
            goal = optimizer.get_scaled_loss(local) if scaled else local
        found = tape.gradient(goal, variables, unconnected_gradients="none")
        found = optimizer.get_unscaled_gradients(found) if scaled else found
        pairs = zip(found, variables, strict=True)
        optimizer.apply_gradients([(g, v) for g, v in pairs if g is not None])
        return local

    @tf.function(autograph=False, reduce_retracing=True)
    def step(batch: Any) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(replica, args=(batch,)), None)

    load = [_spread(strategy, batch) for batch in _load(setting, args)]
    times = []
    for k in range(SKIPPED + args.steps):
        began = time.perf_counter()
        float(step(load[k % len(load)]))
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times[SKIPPED:])
    examples = setting.batch * setting.devices / seconds
    return {"ms": 1e3 * seconds, "examples_per_s": examples, "peak_mb": _peak(used[0])}


def _load(setting: Setting, args: argparse.Namespace) -> list[dict[str, tf.Tensor]]:
    own = argparse.Namespace(**{**vars(args), "batch_size": setting.batch})
    found = batches(own, 4)
    if args.cpus:  # whose small tables have fewer users
        found = [{**b, "user": b["user"] % args.items + 2} for b in found]
    return found


def _spread(strategy: Any, batch: dict[str, tf.Tensor]) -> dict[str, Any]:
    """The batch for each replica."""
    values = strategy.experimental_distribute_values_from_function
    return {k: values(lambda _, v=v: v) for k, v in batch.items()}


def _forget_peak(name: str) -> None:
    if "GPU" in name:
        tf.config.experimental.reset_memory_stats(name)


def _peak(name: str) -> float | None:
    """MB; None of a device that does not count it."""
    if "GPU" not in name:
        return None
    return float(tf.config.experimental.get_memory_info(name)["peak"]) / 1e6


def devices(args: argparse.Namespace) -> tuple[list[str], str]:
    """Names of the devices, and what they are."""
    if args.cpus:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * args.cpus
        tf.config.set_logical_device_configuration(cpu, parts)
        return [f"CPU:{i}" for i in range(args.cpus)], f"{args.cpus} logical CPU devices"
    found = tf.config.list_physical_devices("GPU")
    if not found:
        raise InputError(
            "no GPU is visible; expected at least one; run it on a machine with GPUs, or try it "
            "with --cpus=2 --items=1000 --steps=2 --batch_sizes=64 --out=/tmp/cpu.md"
        )
    kinds = [tf.config.experimental.get_device_details(g).get("device_name", "GPU") for g in found]
    return [f"GPU:{i}" for i in range(len(found))], ", ".join(kinds)


def settings(args: argparse.Namespace, count: int) -> dict[str, list[Setting]]:
    """Table -> its rows."""
    sizes = [int(text) for text in args.batch_sizes.split(",")]
    recipes = args.recipes.split(",")
    base, first = Setting(recipes[0], sizes[0]), Setting(recipes[-1], sizes[0])
    numbers = [n for n in (1, 2, 4, 8, 16) if n <= count]
    return {
        "Batch size": [replace(base, batch=b, layout=layout) for b in sizes for layout in LAYOUTS],
        "Tasks": [replace(base, recipe=r, layout=layout) for r in recipes for layout in LAYOUTS],
        "Precision": [replace(first, precision=p) for p in get_args(Precision)],
        "Devices": [replace(first, devices=n) for n in sorted({*numbers, count})],
    }


def table(rows: Iterable[Setting], found: dict[Setting, dict[str, Any]]) -> list[str]:
    header = ("recipe", "rows of a replica", "layout", "precision", "devices", "ms a step")
    lines = []
    for s in rows:
        row = [s.recipe, f"{s.batch:,}", s.layout, s.precision, str(s.devices)]
        f = found[s]
        if "failed" in f:
            lines.append([*row, f["failed"], "", ""])
            continue
        peak = "" if f["peak_mb"] is None else f"{f['peak_mb']:,.0f}"
        lines.append([*row, f"{f['ms']:.2f}", f"{f['examples_per_s']:,.0f}", peak])
    return markdown((*header, "examples/s", "peak MB"), lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=4_200_000)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--batch_sizes", default="1024,4096,16384")
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cpus", type=int, default=0, help="logical CPU devices instead of GPUs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "gpu.md")
    args = parser.parse_args()
    try:
        names, what = devices(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    asked, found = settings(args, len(names)), dict[Setting, dict[str, Any]]()
    for setting in dict.fromkeys(s for rows in asked.values() for s in rows):
        try:
            found[setting] = measured(setting, names, args)
        except tf.errors.ResourceExhaustedError:
            found[setting] = {"failed": "out of memory"}
        print(json.dumps({**vars(setting), **found[setting]}), flush=True)
        gc.collect()
    lines = [
        f"# A training step on {what}",
        "",
        f"`python -m benchmarks.bench_gpu`, {time.strftime('%Y-%m-%d', time.gmtime())}, TensorFlow "
        f"{tf.__version__}: {args.items:,} items, histories of {args.history}, {args.steps} steps "
        "of each row, without the reader.",
    ]
    for name, rows in asked.items():
        lines += ["", f"## {name}", "", *table(rows, found)]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
