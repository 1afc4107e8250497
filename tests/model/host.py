"""One of several hosts that train together, for a process of its own with its TF_CONFIG.

python -m tests.model.host STORE FOLDER CASE,CASE [--die N] trains each case in FOLDER/<case> and
leaves <case>.<index>.json there; with --die, host 1 dies by SIGKILL before step N, and with --stop
it sends itself SIGTERM, and all end as an entry point does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import at4ctr  # noqa: F401  (before TensorFlow)
from at4ctr import cluster, fit, stopping
from at4ctr.auxiliaries import nip, uim
from at4ctr.data.store import Store
from at4ctr.heads import single
from pipelines.main import main
from tests.model import job

ROOT = Path(__file__).resolve().parents[2]
PRELU = single.Config(units=(12, 6), activation="prelu")  # no batch statistics, no dropout
NAMES = ("user_index", "item_index", "history_length")
FIT = dataclasses.replace(job.FIT, shards=2)


def tasks(*, gather: bool) -> dict[str, Any]:
    return {
        "uim": uim.Config(gather=gather, mask_duplicates=True),
        "nip": nip.Config(gather=gather, mask_duplicates=True, block=8, weight=0.1),
    }


def joined(optimizer: str) -> dict[str, Any]:
    """Tasks with gathered negatives; NIP beside one optimizer, as its graph takes long to make."""
    both = tasks(gather=True)
    return both if optimizer == "lazy_adam" else {"uim": both["uim"]}


def gathered(optimizer: Any) -> dict[str, Any]:
    """What must not depend on the number of hosts: no draws, no statistics, all negatives."""
    config = dataclasses.replace(FIT, optimizer=optimizer)
    return {"head": PRELU, "auxiliaries": joined(optimizer), "config": config}


CASES: dict[str, dict[str, Any]] = {
    "lazy_adam": gathered("lazy_adam"),
    "adam": gathered("adam"),
    "drawn": {"config": FIT, "auxiliaries": tasks(gather=False)},  # dropout and Dice, own negatives
}


def trained(
    case: str,
    store: Store,
    folder: Path,
    die: int | None = None,
    number: int = signal.SIGKILL,
) -> dict[str, Any]:
    """Trains a case under the strategy in scope: curves, weights, bits, the rows of each step."""
    made = job.trainer(store, folder, **CASES[case])
    step, rows = made._step, []

    def seen(batch: Any) -> Any:
        if made.cursor.step == die:
            os.kill(os.getpid(), number)
        parts = {n: made.strategy.experimental_local_results(batch[n]) for n in NAMES}
        rows.append(rows_of({n: np.concatenate(part) for n, part in parts.items()}))
        return step(batch)

    made._step = seen
    made.train()
    return {**outcome(made), **job.fingerprint(made), "rows": rows, "steps": made.feed.steps(0)}


def rows_of(batch: Mapping[str, np.ndarray]) -> list[list[int]]:
    """What tells the rows of a batch apart."""
    return np.stack([batch[n] for n in NAMES], 1).tolist()


def outcome(made: fit.Trainer) -> dict[str, Any]:
    curves = made.cursor.curves
    weights = {f"{i} {v.name}": v.numpy() for i, v in enumerate(made.model.variables)}
    return {
        "losses": [list(p.values())[1:] for p in curves if "total" in p],
        "auc": [p["validation click.auc"] for p in curves if "validation click.auc" in p],
        "weights": {name: value.tolist() for name, value in weights.items()},
    }


def pair(arguments: list[str], folder: Path, seconds: float = 900.0) -> list[tuple[int, str]]:
    """Runs a command on two hosts of this machine: exit status and standard error of each."""
    with socket.socket() as a, socket.socket() as b:
        for s in (a, b):
            s.bind(("localhost", 0))
        workers = [f"localhost:{s.getsockname()[1]}" for s in (a, b)]
    running: list[subprocess.Popen[str]] = []
    try:
        for index in range(2):
            task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CONFIG": json.dumps(task)}
            with (folder / f"stderr.{index}").open("w") as stderr:
                running.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *arguments],
                        cwd=folder,
                        env=environment,
                        stdout=subprocess.DEVNULL,
                        stderr=stderr,
                        text=True,
                    )
                )
        status = [process.wait(seconds) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [(s, (folder / f"stderr.{i}").read_text()) for i, s in enumerate(status)]


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases")
    parser.add_argument("--die", type=int)
    parser.add_argument("--stop", type=int)
    given = parser.parse_args()
    if given.stop is None:
        _train(given, given.die, signal.SIGKILL)
        return

    def body() -> None:
        with stopping.on_signals(), stopping.deferred():
            _train(given, given.stop, signal.SIGTERM)

    sys.argv = sys.argv[:1]
    main(body)


def _train(given: argparse.Namespace, step: int | None, number: int) -> None:
    index = cluster.hosts().rank
    with cluster.strategy().scope(), cluster.loss_explained():
        for case in given.cases.split(","):
            die = step if index else None
            found = trained(case, Store.open(given.store), given.folder / case, die, number)
            (given.folder / f"{case}.{index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    _main()
