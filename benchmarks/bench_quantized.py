"""A run exported with float32, half float and int8 tables: size, latency, and what changes.

python -m benchmarks.bench_quantized [--run runs/latest] [--rounds 5] [--size 512] [--calls 60]
    [--out benchmarks/served.md]

The run's best weights are exported three times. Latency is that of ``candidates`` in a TensorFlow
session, one user with ``--size`` items, the three kinds taking turns call by call. AUC and the
changes of a probability are over the whole test split. The table replaces the part ``quantized``
of the page.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

import at4ctr  # noqa: F401  # isort: skip  (before TensorFlow loads)

from at4ctr import evaluation, runs
from at4ctr.errors import InputError
from at4ctr.evaluation import Predictions
from at4ctr.model.quantized import Config, Kind, quantized
from at4ctr.model.serving import ServingModel
from benchmarks import pages
from benchmarks.bench_export import Call, Version, asked, interleaved
from export import saved_model
from export.lookup import Front
from pipelines.assembly import Assembly
from pipelines.train import load_snapshot, open_store

KINDS: tuple[Kind, ...] = get_args(Kind)
ROOT = Path(__file__).resolve().parents[1]


def measured(run: Path, rounds: int, size: int, calls: int) -> tuple[str, list[dict[str, Any]]]:
    """The recipe's name, and the figures of each kind."""
    e, recipe, name = load_snapshot(run / runs.SNAPSHOT)
    store = open_store(e.data, name)
    made = Assembly(e, store)
    model = made.restored(run)
    front = Front(store, e.data.history, past=model.reads_history, ages=model.reads_ages)
    one, _ = asked(front, store, size)
    with tempfile.TemporaryDirectory() as scratch:
        folders: dict[str, Path] = {}
        for kind in KINDS:
            options = Config(quantize=kind, largest_change=1.0)
            target = Path(scratch) / kind
            folders[kind] = saved_model.save(
                model, store, target, history=e.data.history, facts={}, options=options
            )
        taken = {k: Version(f).call("candidates", one) for k, f in folders.items()}
        times = [latency(taken, calls) for _ in range(rounds)]
        found: list[dict[str, Any]] = [{"kind": k, **bytes_of(folders[k])} for k in KINDS]
    rows = {kind: predicted(made, model, kind) for kind in KINDS}
    for facts in found:
        kind = facts["kind"]
        facts["p50"] = [turn[kind] for turn in times]
        facts |= compared(rows["none"], rows[kind])
    return f"{recipe} on {store.manifest['dataset']}", found


def latency(calls: Mapping[str, Call], count: int) -> dict[str, float]:
    """Kind -> the median of a round, in milliseconds."""
    return {name: facts["p50"] for name, facts in interleaved(calls, count).items()}


def bytes_of(version: Path) -> dict[str, int]:
    """Of the whole folder, and of its weights."""
    whole = sum(p.stat().st_size for p in version.rglob("*") if p.is_file())
    return {"bytes": whole, "weights": sum(p.stat().st_size for p in version.glob("variables/*"))}


def predicted(made: Assembly, model: ServingModel, kind: Kind) -> Predictions:
    """Of the first label, on the test split."""
    with quantized(model, kind):
        return next(iter(evaluation.Predictor(model)(made.reader("test")).values()))


def compared(plain: Predictions, coarse: Predictions) -> dict[str, float]:
    """AUC, and how far the probabilities lie from those of float32 tables."""
    change = np.abs(plain.probability - coarse.probability)
    before, after = (evaluation.report(p)["auc"] for p in (plain, coarse))
    return {
        "auc": after,
        "auc_change": after - before,
        "largest": float(change.max()),
        "mean": float(change.mean()),
        "rows": len(change),
    }


def table(what: str, found: list[dict[str, Any]], command: str, loads: tuple[float, float]) -> str:
    """Markdown."""
    size, rounds = found[0]["rows"], len(found[0]["p50"])
    lines = [
        f"`{command}`, {time.strftime('%Y-%m-%d', time.gmtime())}: {what}, {rounds} interleaved "
        f"rounds on {os.cpu_count()} cores (load {loads[0]:.1f} at the "
        f"beginning, {loads[1]:.1f} at the end). Changes are over {size:,} test rows.",
        "",
        "| `export.quantize` | folder, MB | weights, MB | p50, ms: median of rounds (range) "
        "| AUC | ΔAUC | largest change of a probability | mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for f in found:
        times = f"{statistics.median(f['p50']):.2f} ({min(f['p50']):.2f} to {max(f['p50']):.2f})"
        sizes = f"{f['bytes'] / 1e6:.2f} | {f['weights'] / 1e6:.2f}"
        moved = f"{f['auc_change']:+.6f} | {f['largest']:.2g} | {f['mean']:.2g}"
        lines.append(f"| {f['kind']} | {sizes} | {times} | {f['auc']:.6f} | {moved} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/latest"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, help="candidates of a request")
    parser.add_argument("--calls", type=int, default=60, help="of each kind in a round")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "served.md")
    args = parser.parse_args()
    begin = os.getloadavg()[0]
    try:
        what, found = measured(args.run, args.rounds, args.size, args.calls)
        command = f"python -m benchmarks.bench_quantized --rounds {args.rounds}"
        command += f" --size {args.size} --calls {args.calls}"
        made = table(what, found, command, (begin, os.getloadavg()[0]))
        print(made)
        pages.rewrite(args.out, "quantized", made)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
