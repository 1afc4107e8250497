"""The paper's figures: lines over a swept value with error bars, and densities of cosines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from at4ctr.analysis.plots import finish
from at4ctr.analysis.relevance import Relevance

BINS = 60


class Line(NamedTuple):
    """A line of a figure: points (x, values over seeds). dashed: whether it is drawn dashed."""

    label: str
    points: Sequence[tuple[float, Sequence[float]]]
    dashed: bool = False


def rates(lines: Sequence[Line], path: Path, title: str) -> None:
    """Fig. 2: test AUC against the rate of kept negatives, ± 1 sd over seeds."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for line in lines:
        _line(axis, line)
    ticks = sorted({x for line in lines for x, _ in line.points})
    axis.set(xlabel="w, rate of kept training negatives", ylabel="test AUC", xticks=ticks)
    axis.legend(frameon=False)
    finish(figure, path, title, svg=True)


def sweep(
    lines: Sequence[Line], base: Sequence[Line], best: float | None, xlabel: str, path: Path,
    title: str,
) -> None:  # fmt: skip
    """Fig. 3 and 4: AUC against the weight of a task, on a logarithmic axis, ± 1 sd over seeds.

    base: the same lines without the task, at weight 0, drawn across. best: the chosen weight.
    """
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for number, line in enumerate(lines):
        _line(axis, line, f"C{number}")
    for number, line in enumerate(base):
        for _, values in line.points:
            color = f"C{number}"
            axis.axhline(float(np.mean(values)), color=color, linestyle=":", linewidth=1.2,
                         label=line.label)  # fmt: skip
    if best is not None:
        axis.axvline(best, color="0.75", zorder=0, label="best on validation")
    ticks = sorted({x for line in lines for x, _ in line.points})
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axis.minorticks_off()
    axis.set(xlabel=xlabel, ylabel="AUC")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    finish(figure, path, title, svg=True)


def labels(found: Mapping[str, Sequence[Line]], xlabel: str, path: Path, title: str) -> None:
    """Test AUC of each label against a swept value, a panel a label, ± 1 sd over seeds."""
    size = (4.2 * len(found), 3.6)
    figure, axes = plt.subplots(1, len(found), figsize=size, layout="constrained", squeeze=False)
    for axis, (label, lines) in zip(axes[0], found.items(), strict=True):
        for number, line in enumerate(lines):
            _line(axis, line, f"C{number}")
        ticks = sorted({x for line in lines for x, _ in line.points})
        axis.set(xlabel=xlabel, ylabel="test AUC", title=label)
        above = [x for x in ticks if x > 0]
        if ticks[0] >= 0 and above and above[-1] >= 10 * above[0]:
            axis.set_xscale("symlog", linthresh=above[0])  # with a place for 0
        axis.set_xticks(ticks, [f"{x:g}" for x in ticks], fontsize="x-small")
        axis.minorticks_off()
        if len(lines) > 1:
            axis.legend(frameon=False, fontsize="small")
    finish(figure, path, title, svg=True)


def densities(found: Sequence[tuple[str, Sequence[Relevance]]], path: Path, title: str) -> None:
    """Fig. 5: density of the cosine of user and item, with shuffled candidates dashed.

    found: label and one Relevance a seed; the seeds are pooled.
    """
    figure, axis = plt.subplots(figsize=(7, 4.4), layout="constrained")
    edges = np.linspace(-1, 1, BINS + 1)
    for number, (label, relevances) in enumerate(found):
        for dashed in (False, True):
            parts = [r.shuffled if dashed else r.paired for r in relevances]
            heights, _ = np.histogram(np.clip(np.concatenate(parts), -1, 1), edges, density=True)
            axis.stairs(
                heights, edges, color=f"C{number}", linestyle="--" if dashed else "-",
                alpha=0.6 if dashed else 1.0, linewidth=1.0 if dashed else 1.6,
                label=f"{label}{', shuffled' if dashed else ''}",
            )  # fmt: skip
    axis.set(xlabel="cosine of user and item vector, positive test samples", ylabel="density")
    axis.set_xlim(-1, 1)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    finish(figure, path, title, svg=True)


def history(
    points: Sequence[tuple[int, float, bool]], sign: int, ylabel: str, path: Path, title: str
) -> None:
    """Values of trials by number, and the best so far of those that finished.

    points: number, value, whether the trial finished. sign: 1 where higher is better, -1 where
    lower is.
    """
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for finished, marker, label in ((True, "o", "finished"), (False, "x", "pruned")):
        found = [(n, value) for n, value, whole in points if whole == finished]
        if found:
            axis.plot(*zip(*found, strict=True), marker, markersize=4, label=label)
    done = [(n, value) for n, value, whole in points if whole]
    if done:
        values = sign * np.maximum.accumulate([sign * value for _, value in done])
        axis.step([n for n, _ in done], values, where="post", linewidth=1.2, label="best so far")
    axis.set(xlabel="trial", ylabel=f"validation {ylabel}")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    finish(figure, path, title)


def shares(values: Mapping[str, float], path: Path, title: str) -> None:
    """Bars of shares by name, the largest at the top."""
    figure, axis = plt.subplots(figsize=(6, 1 + 0.4 * len(values)), layout="constrained")
    ordered = sorted(values.items(), key=lambda pair: pair[1])
    axis.barh([name for name, _ in ordered], [share for _, share in ordered], height=0.6)
    axis.set(xlabel="importance", xlim=(0, 1))
    axis.grid(axis="x", alpha=0.3)
    finish(figure, path, title)


def _line(axis: Axes, line: Line, color: str | None = None) -> None:
    points = [(x, values) for x, values in sorted(line.points) if len(values)]
    if not points:
        return
    axis.errorbar(
        [x for x, _ in points],
        [float(np.mean(values)) for _, values in points],
        yerr=[float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for _, values in points],
        color=color,
        marker="o",
        markersize=4,
        linewidth=1.4,
        capsize=3,
        linestyle="--" if line.dashed else "-",
        label=line.label,
    )
    axis.grid(alpha=0.3)
