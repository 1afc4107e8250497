"""Parts that all peers' scripts share: options, rows, clock and JSON line.

It needs numpy alone. `benchmarks.random_log` says what the rows are; `bench_peers` writes them.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SIZES = ("users", "items", "categories", "history", "batch", "steps", "warmup")


def parse(library: str, *flags: str) -> argparse.Namespace:
    """The options of a peer's script; ``flags`` are its own switches."""
    p = argparse.ArgumentParser(library)
    p.add_argument("--rows", type=Path, required=True, help="a folder of arrays")
    for name in SIZES:
        p.add_argument(f"--{name}", type=int, required=True)
    p.add_argument("--dimension", type=int, default=18)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--optim", choices=("dense", "sparse"), default="dense")
    p.add_argument("--loop", choices=("library", "raw"), default="library")
    for flag in flags:
        p.add_argument(f"--{flag}", action="store_true")
    return p.parse_args()


def rows(a: argparse.Namespace) -> dict[str, np.ndarray]:
    """The first rows of the load, as many as the steps read, by ``random_log.by_row``'s names."""
    count = (a.steps + a.warmup) * a.batch
    found = {p.stem: np.load(p, mmap_mode="r")[:count].copy() for p in a.rows.glob("*.npy")}
    assert found
    assert all(len(v) == count for v in found.values()), f"fewer than {count} rows"
    return found


class Clock:
    """``tick`` after every step; ``rate`` is examples/s without the warm-up's steps."""

    def __init__(self, a: argparse.Namespace) -> None:
        self.warmup, self.batch, self.times = a.warmup, a.batch, []  # type: int, int, list[float]

    def tick(self, *_: Any) -> None:
        self.times.append(time.perf_counter())

    def rate(self) -> float:
        timed = self.times[self.warmup - 1 :]
        return round((len(timed) - 1) * self.batch / (timed[-1] - timed[0]), 1)


def report(clock: Clock, versions: Mapping[str, str]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    figures = {"train_examples_per_s": clock.rate(), "peak_mb": peak, "versions": versions}
    print(json.dumps(figures), flush=True)
