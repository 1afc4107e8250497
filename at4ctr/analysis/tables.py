"""Comparisons over seeds as Markdown: mean ± sd, paired differences, what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

NONE = "–"
METRICS = {
    "auc": "AUC",
    "gauc": "GAUC",
    "logloss": "log loss",
    "logloss_half": "½ log loss",
    "normalized_entropy": "NE",
    "pcoc": "PCOC",
    "validation.auc": "validation AUC",
    "seconds": "s a run",
}
PAPER = ("auc", "logloss_half")  # what the paper's tables print, in this order


@dataclass(frozen=True)
class Row:
    """One row of a comparison.

    runs: seed -> the metrics of its finished run. base: label of the row it is compared with.
    paper: the paper's AUC and half log loss.
    """

    label: str
    runs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    base: str | None = None
    paper: tuple[float, float] | None = None

    def values(self, metric: str) -> dict[int, float]:
        """Seed -> the metric, ``validation.auc`` being ``auc`` of ``validation``."""
        found: dict[int, float] = {}
        for seed, run in self.runs.items():
            value: Any = run
            for name in metric.split("."):
                value = value.get(name) if isinstance(value, Mapping) else None
            if value is not None:
                found[seed] = float(value)
        return found

    def mean(self, metric: str) -> float | None:
        """The mean over seeds; None where no run has the metric."""
        values = list(self.values(metric).values())
        return float(np.mean(values)) if values else None


class Difference(NamedTuple):
    """A mean over pairs, the half width of its 95 % interval, and p of the two-sided t test."""

    pairs: int
    mean: float
    half: float | None
    p: float | None


def paired(ours: Sequence[float], base: Sequence[float]) -> Difference | None:
    """Student's paired t test; interval and p are None where it has none (one pair, no spread)."""
    d = np.subtract(ours, base)
    n = len(d)
    if not n:
        return None
    spread = float(d.std(ddof=1)) if n > 1 else 0.0
    if not spread > 1e-12 * float(np.abs(d).max()):  # equal but for rounding: t has no meaning
        return Difference(n, float(d.mean()), None, None)
    half = float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
    return Difference(n, float(d.mean()), half, float(stats.ttest_rel(ours, base).pvalue))


def difference(row: Row, base: Row, metric: str) -> Difference | None:
    """Of the seeds that both rows have; None where there is none."""
    ours, theirs = row.values(metric), base.values(metric)
    seeds = sorted(ours.keys() & theirs.keys())
    return paired([ours[s] for s in seeds], [theirs[s] for s in seeds])


def spread(values: Iterable[float], digits: int = 4) -> str:
    """``mean ± sd`` (n − 1), the mean alone of one value, a dash of none."""
    found = list(values)
    if not found:
        return NONE
    mean = f"{np.mean(found):.{digits}f}"
    return f"{mean} ± {np.std(found, ddof=1):.{digits}f}" if len(found) > 1 else mean


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def results(rows: Sequence[Row], seeds: int) -> list[str]:
    """Every metric of every row, the paper's beside those that it prints; the runs are counted."""
    paper = any(row.paper for row in rows)
    header = ["method", "runs"]
    for metric, title in METRICS.items():
        header += [title, f"paper's {title}"] if paper and metric in PAPER else [title]
    lines = []
    for row in rows:
        cells = [row.label, count(len(row.runs), seeds)]
        for metric in METRICS:
            cells.append(spread(row.values(metric).values(), 0 if metric == "seconds" else 4))
            if paper and metric in PAPER:
                printed = row.paper[PAPER.index(metric)] if row.paper else None
                cells.append(NONE if printed is None else f"{printed:.4f}")
        lines.append(cells)
    return markdown(header, lines)


def count(runs: int, seeds: int) -> str:
    """How many runs there are, said of how many where some are missing."""
    return str(runs) if runs == seeds else f"**{runs} of {seeds}**"


def printed(row: Row) -> dict[str, float]:
    """What the paper prints of a row, by metric."""
    return {} if row.paper is None else dict(zip(PAPER, row.paper, strict=True))


def best(rows: Sequence[Row], metric: str = "auc") -> Row | None:
    """The row of the highest mean; the first of equals, None where no row has a run."""
    found = [(mean, row) for row in rows if (mean := row.mean(metric)) is not None]
    return max(found, key=lambda pair: pair[0])[1] if found else None
