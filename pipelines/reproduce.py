"""Compares recipes on a dataset over seeds: one queue that survives a kill and reuses runs.

Writes ``docs/results/<dataset>/comparison.md``: mean ± sd of every recipe, and the difference of
each ``*_at4ctr`` recipe to its own baseline, paired by seed.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from scipy import stats

from at4ctr import runs
from at4ctr.errors import InputError
from pipelines import train
from pipelines.main import main

RECIPES = "widedeep,widedeep_at4ctr,din,din_at4ctr"
flags.DEFINE_list("recipes", RECIPES, "what to compare")
flags.DEFINE_integer("seeds", 5, "runs of each recipe", lower_bound=2)
flags.DEFINE_string("out", "docs/results", "where the report goes")

ENDING = "_at4ctr"
METRICS = ("auc", "gauc", "logloss", "logloss_half", "pcoc")


def finished(recipe: str, snapshot: dict[str, Any]) -> dict[str, Any] | None:
    """The metrics of a finished run of this very snapshot."""
    name = f"{snapshot['experiment']['data']['type'].split(':')[0].rsplit('.', 1)[-1]}-{recipe}"
    for path in sorted((train.RUNS / name).glob("*Z"), reverse=True):
        metrics = path / runs.METRICS
        if metrics.exists() and json.loads((path / runs.SNAPSHOT).read_text()) == snapshot:
            found: dict[str, Any] = json.loads(metrics.read_text())
            return found
    return None


def collect(recipe: str) -> list[dict[str, Any]]:
    """Metrics of a recipe by seed: finished runs are reused, the others run in processes."""
    f = flags.FLAGS
    store = train.open_store(train.options(f.dataset, f.raw, f.set))
    found = []
    for seed in range(f.seeds):
        chosen = f"{f.set} seed={seed}".strip()
        e = train.experiment(f.dataset, recipe, f.raw, chosen)
        snapshot = json.loads(json.dumps(train.snapshot_of(e, recipe, store)))
        metrics = finished(recipe, snapshot)
        if metrics is None:
            arguments = {"dataset": f.dataset, "config": recipe, "raw": f.raw, "set": chosen}
            command = [sys.executable, "-m", "pipelines.train"]
            command += [f"--{k}={v}" for k, v in arguments.items()]
            if subprocess.run(command, check=False).returncode:
                raise InputError(f"{recipe} with seed {seed} failed; its lines above say why")
            metrics = finished(recipe, snapshot)
        if metrics is None:
            raise InputError(f"{recipe} with seed {seed} left no metrics; run the command again")
        found.append(metrics)
    return found


def paired(ours: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Mean difference, half width of its 95 % interval, and p of the two-sided paired t test."""
    d = np.subtract(ours, base)
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))
    return float(d.mean()), float(half), float(stats.ttest_rel(ours, base).pvalue)


def table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Markdown: mean ± sd of every metric, and the paired differences."""
    lines = [
        "| recipe | " + " | ".join(METRICS) + " |",
        "|---" * (len(METRICS) + 1) + "|",
    ]
    for recipe, runs_of in found.items():
        cells = [
            f"{np.mean(v):.4f} ± {np.std(v, ddof=1):.4f}"
            for v in ([r[m] for r in runs_of] for m in METRICS)
        ]
        lines.append(f"| {recipe} | " + " | ".join(cells) + " |")
    lines += ["", "| difference | metric | mean | 95 % interval | p |", "|---|---|---|---|---|"]
    for recipe in found:
        base = recipe.removesuffix(ENDING)
        if recipe == base or base not in found:
            continue
        for m in ("auc", "gauc", "logloss"):
            mean, half, p = paired([r[m] for r in found[recipe]], [r[m] for r in found[base]])
            interval = f"{mean - half:+.4f} … {mean + half:+.4f}"
            lines.append(f"| {recipe} − {base} | {m} | {mean:+.4f} | {interval} | {p:.2g} |")
    return lines


def _main() -> None:
    f = flags.FLAGS
    for recipe in f.recipes:  # a misspelt one is refused before anything runs
        train.experiment(f.dataset, recipe, f.raw, f.set)
    found = {recipe: collect(recipe) for recipe in f.recipes}
    one = next(iter(found.values()))[0]
    label = " (simulated log)" if one["simulated"] else ""
    recipes = ",".join(f.recipes)
    changed = (("RECIPES", recipes * (recipes != RECIPES)), ("SET", f.set), ("RAW", f.raw and "…"))
    given = "".join(f' {k}="{v}"' for k, v in changed if v)
    lines = [
        f"# {f.dataset}{label}: {', '.join(f.recipes)}",
        "",
        f"`make reproduce DATASET={f.dataset} SEEDS={f.seeds}{given}`",
        "",
        f"{f.seeds} seeds, test split of {one['rows']:,} rows ({one['positives']:,} positive); "
        "mean ± standard deviation over seeds; differences are paired by seed.",
        "",
        *table(found),
    ]
    path = Path(f.out) / f.dataset / "comparison.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    print(path)


if __name__ == "__main__":
    main(_main)
