"""The FLOPs and bytes of a training step, beside the speed of this machine.

python -m benchmarks.counts [--items 4200000] [--batch_size 1024] [--history 50]
Counts DIN's forward and backward pass and those of UIM and NIP (2 FLOPs a multiplication and
addition; a backward product costs two forward ones), with true lengths uniform from a fifth of the
history; then the bytes of tables that a step reads and writes. Measures two floors, one GEMM of the
attention's size and rows gathered from and scattered to a table of that many items, and one step of
DIN. Tables in Markdown.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np

import at4ctr  # noqa: F401  # isort: skip  (before TensorFlow loads)
import tensorflow as tf

from at4ctr.auxiliaries import nip, uim
from at4ctr.backbones import din
from at4ctr.heads import single
from benchmarks.bench_step import batches, stepper
from benchmarks.random_log import CATEGORIES, zipf

D = 18  # of an embedding
WIDTH = 2 * D  # of a behaviour, and of a candidate: item and category


def lengths(args: argparse.Namespace) -> np.ndarray:
    """Every true length that the load has, equally often."""
    return np.arange(max(1, args.history // 5), args.history + 1)


def forward(args: argparse.Namespace) -> dict[str, float]:
    """Forward FLOPs of a batch by part; their sum over a backbone or task is a third of a step."""
    size, n = args.batch_size, lengths(args).astype(np.float64)
    rows = size * n.mean()
    units, trunk = din.Config().attention, single.Config().units
    inputs = D + 4 * WIDTH  # profile, candidate, sum, attention, candidate × sum
    first, *rest = [*units, 1]
    heads, tasks = uim.Config(), nip.Config()
    block = tasks.block or size
    attend = rows * WIDTH * WIDTH + size * (n**2).mean() * WIDTH  # X W, and times Xᵀ
    alive = [(n > k + 1).mean() * size for k in range(args.history - 1)]
    terms = sum(alive)
    return {
        "din: attention, first layer, W₁[q; k; q−k; q⊙k] as printed": 2 * rows * 4 * WIDTH * first,
        "din: attention, first layer, of [k; q⊙k]": 2 * rows * 2 * WIDTH * first,
        "din: attention, other layers": 2
        * rows
        * sum(a * b for a, b in zip([first, *rest], rest, strict=False)),
        "din: trunk": 2 * size * sum(a * b for a, b in zip((inputs, *trunk), trunk, strict=False)),
        "uim: self-attention": 2 * attend,
        "uim: heads": 2 * size * (heads.hidden * (D + 2 * WIDTH) + 2 * heads.hidden * heads.width),
        "uim: logits of 10 % positives, both ways": 4 * 0.1 * size * size * heads.width,
        "nip: self-attention": 2 * (attend + size * (n**2).mean() * WIDTH + rows * WIDTH * WIDTH),
        "nip: logits, the whole batch": 2 * WIDTH * sum(a * a for a in alive),
        f"nip: logits, blocks of {min(block, 128)}": 2 * WIDTH * terms * min(block, 128),
    }


def moved(args: argparse.Namespace) -> tuple[int, int]:
    """Distinct table rows of a batch, and the bytes that a step must move for them: θ read twice
    (forward and update) and written once, m and v read and written."""
    rng, size = np.random.default_rng(0), args.batch_size
    count = int(size * lengths(args).mean()) + size
    items = zipf(rng, args.items, (count,))
    rows = len(np.unique(items)) + len(np.unique(items % CATEGORIES)) + size
    return rows, rows * D * 4 * 7


def quickest(call: Callable[[], object], runs: int = 12) -> tuple[float, float]:
    """Least wall seconds of a call, and least CPU seconds of all threads."""
    call()
    wall, cpu = [], []
    for _ in range(runs):
        began, used = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    return min(wall), min(cpu)


def gemm(args: argparse.Namespace) -> float:
    """FLOPs per CPU second of the attention's first product."""
    rows, first = int(args.batch_size * lengths(args).mean()), din.Config().attention[0]
    a, b = tf.random.normal([rows, 2 * WIDTH]), tf.random.normal([2 * WIDTH, first])
    return 2.0 * rows * 2 * WIDTH * first / quickest(lambda: tf.linalg.matmul(a, b))[1]


def random_rows(args: argparse.Namespace) -> float:
    """Bytes per CPU second of random rows, gathered and scattered."""
    table = tf.Variable(tf.zeros([args.items, D]))
    rng = np.random.default_rng(1)
    ids = [tf.constant(rng.integers(0, args.items, 20_000, dtype=np.int32)) for _ in range(16)]
    turn = iter(ids * 4)

    @tf.function(autograph=False, reduce_retracing=True)
    def once(rows: tf.Tensor) -> None:
        table.scatter_update(tf.IndexedSlices(tf.gather(table, rows) + 1.0, rows))

    seconds = quickest(lambda: once(next(turn)), runs=32)[1]
    return 2 * 20_000 * D * 4 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=4_200_000)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=1024)
    args = parser.parse_args()
    counted = forward(args)
    print("| part | MFLOP, forward | a step |\n|---|---|---|")
    for name, flops in counted.items():
        print(f"| {name} | {flops / 1e6:.0f} | {3 * flops / 1e6:.0f} |")
    backbone = sum(v for k, v in counted.items() if k.startswith("din") and "printed" not in k)
    for task, left_out in (("uim", "none"), ("nip", "blocks of"), ("nip", "the whole")):
        parts = [v for k, v in counted.items() if k.startswith(task) and left_out not in k]
        of = {"none": "", "blocks of": ", the whole batch", "the whole": ", blocks"}[left_out]
        print(f"\n{task}{of}: {sum(parts) / backbone:.2f} of din's FLOPs")
    speed, bandwidth, (rows, size) = gemm(args), random_rows(args), moved(args)
    load, steps = batches(args, 4), stepper("din", args.items)
    turn = iter(load * 8)
    wall, cpu = quickest(lambda: float(steps(next(turn))))
    print("\n| floor, CPU ms of all threads | |\n|---|---|")
    print(f"| {3 * backbone / 1e9:.2f} GFLOP at {speed / 1e9:.0f} GFLOP/s "
          f"| {3e3 * backbone / speed:.1f} |")  # fmt: skip
    print(f"| {rows:,} table rows, {size / 1e6:.1f} MB at {bandwidth / 1e9:.2f} GB/s "
          f"| {1e3 * size / bandwidth:.1f} |")  # fmt: skip
    print(f"| the step of din (wall {1e3 * wall:.1f} ms) | {1e3 * cpu:.1f} |")
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
