"""Figures of a run: training curves, reliability diagrams, calibration by segment, and others."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from at4ctr import calibration
from at4ctr.analysis.paired import Part
from at4ctr.evaluation import Predictions
from at4ctr.metrics.intervals import Trust
from at4ctr.metrics.probability import sigmoid
from at4ctr.metrics.ranking import Curve

mpl.rcParams["text.parse_math"] = False  # a category's name may have dollar signs

BINS = 20
TRAINING = MappingProxyType({"marker": "o", "linewidth": 1, "color": "C0", "label": "training"})
VALIDATION = MappingProxyType({"marker": "s", "color": "C1", "label": "validation"})
SAMPLE = MappingProxyType({"marker": "d", "linestyle": "--", "color": "0.45",
                           "label": "validation, sample"})  # fmt: skip


def curves(points: Sequence[dict[str, Any]], path: Path, *, simulated: bool) -> None:
    """Every loss against the step, one panel each, and the validation metrics below.

    Points of a sample of the validation rows are dashed. A panel whose values never change is left
    out.
    """
    names = list(dict.fromkeys(k for p in points for k in p if k != "step"))
    samples = {n.replace("sample ", "validation ", 1): n for n in names if n.startswith("sample ")}
    names = list(dict.fromkeys(n.replace("sample ", "validation ", 1) for n in names))
    names.sort(key=lambda n: n.startswith("validation "))  # losses first, each in its order
    losses = [n for n in names if n.startswith("validation ") and n.endswith(".logloss")]
    beside = losses[:1]  # another label's loss is over its known rows alone, and in training over B
    names = [n for n in names if n not in beside]
    names = [n for n in names if not _is_constant(points, n, samples.get(n))] or names
    figure, axes = plt.subplots(
        len(names),
        1,
        figsize=(7, 1.8 * len(names)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for name, axis in zip(names, axes[:, 0], strict=True):
        _line(axis, points, name, **(VALIDATION if name.startswith("validation ") else TRAINING))
        _line(axis, points, samples.get(name), **SAMPLE)
        axis.set_ylabel(name.replace("validation ", "validation\n").replace(".", "\n"), fontsize=8)
        axis.grid(alpha=0.3)
        if (loss := f"validation {name}.logloss") in beside:
            _line(axis, points, loss, **VALIDATION)
            _line(axis, points, samples.get(loss), **SAMPLE)
        axis.legend(frameon=False, fontsize=8)
    axes[-1, 0].set_xlabel("step")
    finish(figure, path, "Training" + (" (simulated log)" if simulated else ""))


def _is_constant(points: Sequence[dict[str, Any]], *names: str | None) -> bool:
    """Whether the curves of these names have two points or more, all of one value."""
    values = [p[n] for p in points for n in names if n in p]
    return len(values) > 1 and len(set(values)) == 1


def _line(axis: Any, points: Sequence[dict[str, Any]], name: str | None, **look: Any) -> None:
    """Draws one curve where it has a point. Markers of many points are left out."""
    pairs = [(p["step"], p[name]) for p in points if name in p]
    if pairs:
        look["marker"] = look["marker"] if len(pairs) < 30 else ""
        axis.plot(*zip(*pairs, strict=True), markersize=3, **look)


def reliability(
    found: Predictions,
    path: Path,
    label: str = "",
    *,
    simulated: bool,
    before: np.ndarray | None = None,
    split: str = "test",
) -> None:
    """Mean label against mean probability in equal-mass bins, with 95 % Wilson intervals.

    before: [N] logits without the fitted calibrator, drawn beside those with it.
    """
    shown = {"probability": found.probability}
    if before is not None:
        shown = {
            "sampling correction alone": sigmoid(before),
            "and fitted calibrator": found.probability,
        }
    figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
    top = 0.0
    for number, (name, probability) in enumerate(shown.items()):
        bins = calibration.reliability(found.labels, probability, BINS)
        top = max(top, float(bins.upper.max()), float(bins.predicted.max()))
        axis.errorbar(
            bins.predicted,
            bins.observed,
            yerr=[np.maximum(bins.observed - bins.lower, 0), bins.upper - bins.observed],
            fmt="os"[number],
            color=f"C{1 - number}" if before is not None else "C0",
            markersize=4,
            capsize=2,
            label=name,
        )
    limits = (0.0, top * 1.05)
    axis.plot(limits, limits, color="0.7", linewidth=1, zorder=0)
    axis.set(xlabel="mean predicted probability", ylabel="mean label", xlim=limits, ylim=limits)
    axis.grid(alpha=0.3)
    if before is not None:
        axis.legend(frameon=False)
    finish(figure, path, _title(f"Reliability, {split}", label, simulated=simulated))


def segments(
    found: Mapping[str, Mapping[str, Trust]],
    path: Path,
    label: str = "",
    *,
    simulated: bool,
    split: str = "test",
    width: float = 7,
) -> None:
    """PCOC of every segment with its 95 % interval across the line of 1; small ones hollow.

    width: inches. A narrow picture names each segment in a line of its own, above its interval.
    """
    rows = [(f, name, t) for f, group in found.items() for name, t in group.items()]
    narrow = width < 6
    each = 0.34 if narrow else 0.24
    figure, axis = plt.subplots(figsize=(width, 1 + each * len(rows)), layout="constrained")
    families = list(found)
    for height, (family, _, t) in enumerate(rows):
        if t.pcoc is None:
            axis.text(1, height, "no positive", fontsize=7, ha="center", va="center", color="0.5")
            continue
        lower, upper = t.pcoc_interval or (t.pcoc, t.pcoc)
        axis.errorbar(
            [t.pcoc],
            [height],
            xerr=[[t.pcoc - lower], [upper - t.pcoc]],
            fmt="o",
            color=f"C{families.index(family) % 10}",
            markerfacecolor="none" if t.small else None,
            markersize=4,
            capsize=2,
            alpha=0.5 if t.small else 1,
        )
    axis.axvline(1, color="0.6", linewidth=1, zorder=0)
    labels = [f"{name if f == name else f'{f} {name}'}  ({t.clicks:,})" for f, name, t in rows]
    if narrow:
        axis.set_yticks([])
        axis.set_ylim(len(rows) - 0.4, -0.9)
        for height, text in enumerate(labels):
            axis.text(0.01, height - 0.25, text, transform=axis.get_yaxis_transform(), fontsize=8,
                      va="bottom")  # fmt: skip
    else:
        axis.set_yticks(range(len(rows)), labels, fontsize=7)
        axis.invert_yaxis()
    sure = [x for _, _, t in rows if not t.small for x in (*(t.pcoc_interval or ()), t.pcoc) if x]
    axis.set_xlim(min([0.8, *sure]) * 0.97, max([1.2, *sure]) * 1.03)
    parts = "PCOC, predicted / observed positives", "in brackets: positives; hollow: few"
    axis.set_xlabel(("\n" if narrow else "; ").join(parts), fontsize=8 if narrow else None)
    axis.grid(alpha=0.3, axis="x")
    finish(figure, path, _title(f"Calibration by segment, {split}", label, simulated=simulated))


def paired(
    curves: Mapping[str, Curve],
    found: Mapping[str, Sequence[Part]],
    path: Path,
    label: str,
    *,
    simulated: bool,
) -> None:
    """ROC curves of runs, and beside them the differences in AUC by segment with 95 % intervals.

    curves: run -> its curve. found: pair of runs -> its differences by segment. A hollow point has
        no interval, as its segment is small.
    """
    rows = [(p.family, p.name) for p in next(iter(found.values()), ()) if "auc" in p.found]
    size = (11, max(4.5, 1.2 + 0.24 * len(rows)))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, layout="constrained")
    for name, curve in curves.items():
        left.plot(curve.negatives, curve.positives, linewidth=1.2, label=name)
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=0)
    left.set(xlabel="share of negatives above", ylabel="share of positives above", aspect="equal")
    left.legend(frameon=False, fontsize=8)
    for number, (name, parts) in enumerate(found.items()):
        shift = 0.6 * ((number + 0.5) / len(found) - 0.5)
        for part in (p for p in parts if "auc" in p.found):
            e, height = part.found["auc"], rows.index((part.family, part.name)) + shift
            half = e.half or 0.0
            right.errorbar([e.mean], [height], xerr=[half], fmt="o", color=f"C{number + 1}",
                           markersize=4, capsize=2, alpha=0.5 if part.small else 1,
                           markerfacecolor="none" if part.small else None)  # fmt: skip
        right.plot([], [], "o", color=f"C{number + 1}", markersize=4, label=name)
    right.axvline(0, color="0.6", linewidth=1, zorder=0)
    right.set_yticks(range(len(rows)), [f"{family} {name}" for family, name in rows], fontsize=7)
    right.invert_yaxis()
    right.set_xlabel("difference in AUC, 95 %; hollow: few rows")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    if rows:
        right.legend(frameon=False, fontsize=8)
    finish(figure, path, _title("Runs compared, test", label, simulated=simulated))


def gates(found: Mapping[str, Mapping[str, float]], path: Path, *, simulated: bool) -> None:
    """The mean weight of each expert for each label; blank where a label does not read it."""
    experts = list(dict.fromkeys(name for weights in found.values() for name in weights))
    values = np.array([[w.get(name, np.nan) for name in experts] for w in found.values()])
    size = (2.5 + 1.1 * len(experts), 2.8 + 0.5 * len(found))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    image = axis.imshow(values, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "white" if value > 0.6 else "black"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink)
    axis.set_xticks(range(len(experts)), experts, rotation=30, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(found)), list(found))
    axis.set(xlabel="expert", ylabel="label")
    figure.colorbar(image, label="mean weight")
    finish(figure, path, _title("Mean gates, test", "", simulated=simulated))


def correlation(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    path: Path,
    title: str,
    *,
    axes: tuple[str, str],
    unit: str,
) -> None:
    """A map of values [rows, columns], blank where NaN. axes: what columns and rows are."""
    size = (1.8 + 0.26 * len(columns), 1.6 + 0.3 * len(rows))
    figure, axis = plt.subplots(figsize=(max(size[0], 5.0), size[1]), layout="constrained")
    image = axis.imshow(values, cmap="viridis", aspect="auto", vmin=0)
    every = max(1, len(columns) // 16)
    axis.set_xticks(range(0, len(columns), every), columns[::every], fontsize=7, rotation=45)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set(xlabel=axes[0], ylabel=axes[1])
    figure.colorbar(image, label=unit)
    finish(figure, path, title)


def spectra(lines: Mapping[str, Sequence[float]], path: Path, title: str) -> None:
    """Singular values over the largest one by their number, a line a table."""
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for number, (name, values) in enumerate(lines.items()):
        shares = np.array(values) / max(values[0], np.finfo(float).tiny)
        style = ("-", "--", ":", "-.")[number // 10 % 4]
        places = np.arange(1, len(shares) + 1)
        axis.plot(places, np.maximum(shares, 1e-6), style, marker=".", linewidth=1.2, label=name)
    axis.set_yscale("log")
    axis.set(xlabel="k", ylabel="σ_k / σ_1")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=7)
    finish(figure, path, title)


def groups(
    found: Mapping[str, Mapping[str, np.ndarray]], path: Path, title: str, xlabel: str
) -> None:
    """Histograms of ranks in (0, 1], a panel a space, a line a group of pairs."""
    size = (7, 0.8 + 1.5 * len(found))
    figure, panels = plt.subplots(
        len(found), 1, figsize=size, sharex=True, squeeze=False, layout="constrained"
    )
    edges = np.linspace(0, 1, BINS + 1)
    for axis, (space, ranks) in zip(panels[:, 0], found.items(), strict=True):
        for number, (name, values) in enumerate(ranks.items()):
            if len(values):
                heights = np.histogram(values, edges)[0] / len(values)
                axis.stairs(heights, edges, color=f"C{number}", linewidth=1.4, label=name)
        axis.set_title(space, fontsize=9, loc="left")
        axis.set_ylabel("share")
        axis.grid(alpha=0.3)
    panels[0, 0].legend(frameon=False, fontsize=8)
    panels[-1, 0].set_xlabel(xlabel)
    finish(figure, path, title)


def _title(what: str, label: str, *, simulated: bool) -> str:
    return what + (f", {label}" if label else "") + (" (simulated log)" if simulated else "")


def finish(figure: Any, path: Path, title: str, *, svg: bool = False) -> None:
    """Writes a titled figure as PNG at ``path`` and, with svg, as an SVG beside it.

    The same figure gives the same bytes: ids come from a fixed salt, no date is written, and the
    SVG keeps its text as text.
    """
    figure.suptitle(textwrap.fill(title, round(11 * figure.get_figwidth())))  # letters an inch
    with mpl.rc_context({"svg.hashsalt": "at4ctr", "svg.fonttype": "none"}):
        figure.savefig(path, dpi=120)
        if svg:
            figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)
