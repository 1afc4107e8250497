"""Pictures of a night's page: ROC curves, and trends over thirty nights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

from at4ctr.analysis import plots
from at4ctr.plural import counted
from pipelines.night.report.facts import Night, dates, gained, overall, unknown
from pipelines.night.report.scores import Scores
from pipelines.night.report.verdict import look
from pipelines.pages import roc

mpl.use("Agg")
import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

CANDIDATE, OTHER = "#0072b2", "#c1660c"
LINES = (CANDIDATE, OTHER, "#6a3d9a", "#4d4d4d", "#0b7a5f", "#a0336e")
NAN = float("nan")
TICKS = 8  # of dates, at most
FEATURES = len(LINES)  # of a panel of unknown ids


@dataclass(frozen=True)
class Series:
    """One value a night, NaN where there is none. intervals: as many, or none at all.

    first: carries the markers of the outcomes.
    """

    label: str
    values: Sequence[float]
    intervals: Sequence[tuple[float, float] | None] = ()
    color: str = CANDIDATE
    style: str = "-"
    first: bool = True


def curves(scores: Scores, path: Path, *, simulated: bool) -> None:
    """ROC of candidate and incumbent on the rows that judge the night."""
    roc.draw(scores.labels, scores.models, path,
             "ROC, test" + (" (simulated log)" if simulated else ""))  # fmt: skip


def panel(nights: Sequence[Night | None], series: Sequence[Series], path: Path, title: str,
          *, levels: Sequence[float] = (), percent: bool = False) -> bool:  # fmt: skip
    """One panel of the trend; False, and no file, where no night has a value.

    levels: values that matter, drawn across. Dates without a night are grey bands; a night without
    a value has its outcome's marker at the foot, hollow.
    """
    if all(v != v for s in series for v in s.values):
        return False
    days = [float(mdates.date2num(d)) for d in dates(list(nights))]
    figure, axis = plt.subplots(figsize=(5.2, 2.7), layout="constrained")
    for level in levels:
        axis.axhline(level, color="0.45", linewidth=1, linestyle=":")
    for one in series:
        _draw(axis, days, nights, one)
    _frame(axis, days, nights, series)
    if percent:
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    if len(series) > 1:
        axis.legend(frameon=False, fontsize=8, ncols=3, loc="best")
    plots.finish(figure, path, title)
    return True


def _draw(axis: Any, days: Sequence[float], nights: Sequence[Night | None], one: Series) -> None:
    axis.plot(days, one.values, color=one.color, linestyle=one.style, linewidth=1.3,
              label=one.label, marker="" if one.first else ".", markersize=4)  # fmt: skip
    for day, value, between in zip(days, one.values, one.intervals, strict=bool(one.intervals)):
        if between is not None and value == value:
            axis.plot((day, day), between, color=one.color, linewidth=1, alpha=0.6)
    if not one.first:
        return
    for day, night, value in zip(days, nights, one.values, strict=True):
        if night is not None and value == value:
            shown = look(night)
            axis.plot([day], [value], marker=shown.marker, color=shown.color, markersize=6,
                      linestyle="")  # fmt: skip


def _frame(axis: Any, days: Sequence[float], nights: Sequence[Night | None],
           series: Sequence[Series]) -> None:  # fmt: skip
    half = (days[-1] - days[0]) / max(2 * (len(days) - 1), 1)
    for place, (day, night) in enumerate(zip(days, nights, strict=True)):
        if night is None:
            axis.axvspan(day - half, day + half, color="0.92", zorder=0, linewidth=0)
        elif all(s.values[place] != s.values[place] for s in series):
            shown = look(night)
            foot = axis.get_xaxis_transform()
            axis.plot([day], [0.05], marker=shown.marker, color=shown.color, markersize=6,
                      fillstyle="none", linestyle="", transform=foot)  # fmt: skip
    step = (len(days) + TICKS - 1) // TICKS
    shown_days = list(days[::-step])
    axis.set_xticks(shown_days, [f"{mdates.num2date(d):%m-%d}" for d in shown_days])
    axis.set_xlim(days[0] - 0.5 - half, days[-1] + 0.5 + half)
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=8)
    axis.ticklabel_format(axis="y", useOffset=False, style="plain")


def trends(nights: Sequence[Night | None], folder: Path, *, simulated: bool) -> dict[str, str]:
    """Draws the panels that have a value: file name -> its description."""
    note = " (simulated log)" if simulated else ""
    last = nights[-1]
    loss = last.verdict.thresholds.auc_loss if last and last.verdict else None
    asked = {
        "trend_auc.png": ("AUC on each night's rows", _areas(nights), ()),
        "trend_gain.png": ("ΔAUC with 95 % intervals", _gains(nights),
                           (0.0, *([-loss] if loss is not None else []))),
        "trend_pcoc.png": ("PCOC with 95 % intervals", _ratios(nights), (1.0,)),
        "trend_rows.png": ("Rows of the log", [_series(nights, "rows", _rows)], ()),
        "trend_unknown.png": ("Ids that the parent does not know", _unknowns(nights), ()),
        "trend_seconds.png": ("Minutes of work", [_series(nights, "minutes", _minutes)], ()),
    }  # fmt: skip
    said = {}
    for name, (title, series, levels) in asked.items():
        percent = name == "trend_unknown.png"
        if series and panel(nights, series, folder / name, title + note, levels=levels,
                            percent=percent):  # fmt: skip
            said[name] = (
                f"{title}, {counted(len(nights), 'night')} to {dates(list(nights))[-1]}{note}"
            )
    return said


def _series(nights: Sequence[Night | None], label: str, of: Any) -> Series:
    return Series(label, [_float(of(n)) if n else NAN for n in nights])


def _float(value: float | None) -> float:
    return NAN if value is None else float(value)


def _areas(nights: Sequence[Night | None]) -> list[Series]:
    old = [_float(n.incumbent.get("auc")) if n else NAN for n in nights]
    return [
        _series(nights, "candidate", lambda n: n.candidate.get("auc")),
        Series("incumbent", old, color=OTHER, style="--", first=False),
    ]


def _gains(nights: Sequence[Night | None]) -> list[Series]:
    intervals = [
        next((c.interval for c in n.verdict.checks if c.name == "auc"), None)
        if n and n.verdict else None for n in nights
    ]  # fmt: skip
    return [Series("ΔAUC", [_float(gained(n)) if n else NAN for n in nights], intervals)]


def _ratios(nights: Sequence[Night | None]) -> list[Series]:
    found = [overall(n.candidate) if n else None for n in nights]
    values = [_float(n.candidate.get("pcoc")) if n else NAN for n in nights]
    return [Series("PCOC", values, [t.pcoc_interval if t else None for t in found])]


def _rows(night: Night) -> float | None:
    return float(sum(r.rows for r in night.period)) if night.period else None


def _minutes(night: Night) -> float | None:
    return night.seconds / 60 if night.seconds else None


def _unknowns(nights: Sequence[Night | None]) -> list[Series]:
    shares = [unknown(n.period[-1]) if n and n.period else {} for n in nights]
    names = list(dict.fromkeys(name for found in shares for name in found))[:FEATURES]
    return [Series(name, [found.get(name, NAN) for found in shares], color=LINES[i], first=i == 0)
            for i, name in enumerate(names)]  # fmt: skip
