"""Seconds, CPU seconds and peak memory of simulating a Taobao log, preparing it, and weighing it.

python -m benchmarks.bench_prepare [--rows 10000000] [--stages simulate,prepare,storage]
    [--folder F] [--engine duckdb]
One JSON line for each stage, which runs in a process of its own: ``simulate`` writes the CSV (48
bytes a row), ``prepare`` makes the store of it, ``storage`` measures the bytes of the training data
at each rate w of kept negatives as in AT4CTR's Table 5. With ``--folder`` the files are kept, and
those of an earlier call are used; otherwise everything is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def simulate(rows: int, engine: str) -> dict[str, Any]:
    """Simulates in the working folder, as `make data` does where there is no log."""
    del engine
    from at4ctr.data.datasets import taobao

    (path,) = taobao.Config(simulate_rows=rows).acquire().files
    return {"bytes": path.stat().st_size}


def prepare(rows: int, engine: Any) -> dict[str, Any]:
    """Prepares the simulated log; the counts of the store."""
    from at4ctr.data.datasets import taobao
    from at4ctr.data.preparation import prepare as preparation
    from at4ctr.data.store import Store

    store = Store.open(preparation.prepare(taobao.Config(simulate_rows=rows), engine=engine))
    counts = store.manifest["counts"]
    instances = sum(counts[split]["rows"] for split in ("train", "validation", "test"))
    size = sum(f.stat().st_size for f in store.path.rglob("*") if f.is_file())
    return {"engine": engine, "raw": counts["raw"], "users": counts["users"],
            "items": counts["items"], "instances": instances, "bytes": size}  # fmt: skip


def storage(rows: int, engine: Any) -> dict[str, Any]:
    """Training rows and megabytes of instances, and with behaviours, at every rate."""
    from at4ctr.analysis.storage import sizes
    from at4ctr.data.datasets import taobao
    from at4ctr.data.preparation import prepare as preparation
    from at4ctr.data.store import Store

    store = Store.open(preparation.prepare(taobao.Config(simulate_rows=rows), engine=engine))
    found = sizes(store, RATES)
    return {
        str(w): {"rows": size.rows, "instances_mb": round(size.instances / 1e6, 2),
                 "with_behaviours_mb": round((size.instances + size.behaviours) / 1e6, 2)}
        for w, size in found.items()
    }  # fmt: skip


STAGES = {"simulate": simulate, "prepare": prepare, "storage": storage}


def measured(stage: str, rows: int, engine: str, folder: str) -> dict[str, Any]:
    """A stage's results, with its seconds, CPU seconds and memory, children included."""
    os.chdir(folder)
    begin = time.perf_counter()
    said = STAGES[stage](rows, engine)
    seconds = time.perf_counter() - begin
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    cpu = sum(u.ru_utime + u.ru_stime for u in (own, children))
    return {
        "benchmark": "prepare",
        "stage": stage,
        "rows": rows,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_gb": round(max(own.ru_maxrss, children.ru_maxrss) * 1024 / 1e9, 2),
        "load": round(os.getloadavg()[0], 2),
        **said,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--folder", default="")
    parser.add_argument("--engine", default="duckdb")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.folder or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for stage in args.stages.split(","):
            spawned = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawned) as pool:
                asked = pool.submit(measured, stage, args.rows, args.engine, str(folder))
                print(json.dumps(asked.result()), flush=True)


if __name__ == "__main__":
    main()
