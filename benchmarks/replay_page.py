"""The page of `replay_nights`: AUC and CPU seconds of nights and of cold trainings, by date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TypeAlias

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from at4ctr.analysis import plots, tables
from benchmarks import replay_models as models
from benchmarks.replay_models import KINDS, STAGES, Found, Gap, Model

Table: TypeAlias = tuple[list[str], list[list[str]]]
COMMIT = "commit.txt"  # of the first run
CLOSE = 0.002  # of two AUCs
TEXT = """# Nights against cold trainings{label}

`python -m benchmarks.replay_nights --folder runs/replay {command}` at commit {commit}:
{periods} {about}.{warning}

- *Nights* are `python -m pipelines.nightly`, date after date: each goes on from the weights, the
  optimizer and the ids of the live model, and trains on the rows since that model's cutoff.
  What the gate refuses stays refused, and the next night spans its rows.
- *Cold* trainings begin anew for each date and train on all rows before the same cutoff,
  shuffled, with the same settings. So both have seen the same behaviours, each as often; of the
  drawn negatives, each has its own. Export and publishing are left out.
- Both are judged by the same rows (checked one by one), later than any that either has seen.
- Half of all rows are drawn negatives, so PCOC has no meaning of its own here, and a model that
  has seen little has not learnt its level: {opened}.
- Settings, the same for both: `{recipe}`.{chosen}

![AUC, its differences and CPU seconds by date](replay.png)

Means of {seeds} chains of nights and of {seeds} cold trainings a date, which differ in the seed
alone, so in initial weights and in the order of the rows. *Night − cold* has a 95 % interval of the
rows that judge (users drawn anew, paired), and the standard error of the mean over seeds. *Two
cold* is how far two cold trainings of a date are apart, on average: what one night and one cold
training differ by is to be read beside it. The first night is a cold training itself. Of the
{later} after it, {inside} are within {close} of theirs; over all of them the mean of
night − cold is {mean} ± {error} (standard error over seeds).

{areas}

CPU seconds of all threads and child processes, on two cores that others used at the same time;
means over seeds:

{costs}

{time}
"""
TIME = (
    "Data and training cost a night {low:.0f} to {high:.0f} CPU seconds from the second date on; "
    "the cold training's\ngrew from {first:.0f} to {last:.0f}. Counting, judging and preparing the "
    "log took a night {before:.1f} on the second date\nand {after:.1f} on the last, for {rows:,} "
    "and {more:,} rows: a day costs a day. What grows in it is the state,\nwhich each night writes "
    "anew: {state:.1f} MB, then {bigger:.1f} MB. It goes with users and items, not with the log."
)


def write(
    folder: Path,
    dates: Sequence[date],
    seeds: int,
    told: Mapping[str, str],
    out: Path,
    *,
    simulated: bool,
) -> None:
    """Writes ``replay.md`` and its figure, of the dates that are done by every seed."""
    found = {day: by for day in dates if (by := models.done(folder, day, seeds))}
    gaps = {d: models.gap(by) for d, by in found.items()}
    label = " (simulated log)" * simulated
    out.mkdir(parents=True, exist_ok=True)
    draw(found, gaps, out / "replay.png", label)
    mean, error = overall(gaps)
    text = TEXT.format(
        **told,
        label=label,
        warning=" No figure here says anything of a real log." * simulated,
        periods=len(found),
        seeds=seeds,
        later=len(later(gaps)),
        commit=(folder / COMMIT).read_text(encoding="utf-8"),
        inside=sum(abs(g.mean) <= CLOSE for g in later(gaps)),
        close=CLOSE,
        mean=f"{mean:+.4f}",
        error=error,
        areas="\n".join(tables.markdown(*areas(found, gaps))),
        costs="\n".join(tables.markdown(*costs(found))),
        time=timing(found),
    )
    (out / "replay.md").write_text(text, encoding="utf-8")


def later(gaps: Mapping[date, Gap]) -> list[Gap]:
    """Those after the first date, whose night is a cold training itself."""
    return [g for _, g in sorted(gaps.items())[1:]]


def overall(gaps: Mapping[date, Gap]) -> tuple[float, str]:
    """The mean over later dates, and its standard error over seeds in words."""
    chains = np.mean([g.seeds for g in later(gaps)], axis=0)
    return float(np.mean(chains)), _error(chains)


def _error(values: Sequence[float] | npt.NDArray) -> str:
    if len(values) < 2:
        return tables.NONE
    return f"{np.std(values, ddof=1) / np.sqrt(len(values)):.4f}"


def areas(found: Found, gaps: Mapping[date, Gap]) -> Table:
    header = ["date", "gate", "rows of evaluation", "AUC, night", "AUC, cold",
              "night − cold", "± over seeds", "two cold"]  # fmt: skip
    lines = []
    for d, by in found.items():
        g = gaps[d]
        outcomes = " / ".join(dict.fromkeys(m.outcome for m in by["nights"]))
        lines.append([str(d), outcomes, f"{by['cold'][0].labels.size:,}",
                      *(f"{_mean(m.auc for m in by[k]):.4f}" for k in KINDS),
                      f"{g.mean:+.4f} ({g.low:+.4f} … {g.high:+.4f})",
                      _error(g.seeds), _average(g.noise, ".4f")])  # fmt: skip
    rest = later(gaps)
    noise = [x for g in rest for x in g.noise]
    lines.append(["mean of later dates", *[""] * 4, _average([g.mean for g in rest], "+.4f"),
                  overall(gaps)[1], _average(noise, ".4f")])  # fmt: skip
    distances = [abs(g.mean) for g in rest]
    lines.append(["mean distance", *[""] * 4, _average(distances, ".4f"), "", ""])
    return header, lines


def _average(values: Sequence[float], form: str) -> str:
    return format(np.mean(values), form) if len(values) else tables.NONE


def _mean(values: Iterable[float]) -> float:
    return float(np.mean([*values]))


def spent(of: Sequence[Model], parts: Sequence[str]) -> float:
    return _mean(sum(m.seconds[p] for p in parts) for m in of)


def costs(found: Found) -> Table:
    header = ["date", "night: rows", "data", "train", "gate", "export, checks, publish", "sum",
              "state, MB", "cold: rows", "data", "train", "gate", "sum"]  # fmt: skip
    lines = []
    for d, by in found.items():
        cells = [str(d)]
        for kind, parts in (("nights", [*STAGES]), ("cold", ["data", "train", "gate"])):
            each = [spent(by[kind], [part]) for part in parts]
            cells += [_rows(by[kind]), *(f"{x:.1f}" for x in (*each, sum(each)))]
            if kind == "nights":
                cells.append(f"{_megabytes(by[kind]):.1f}")
        lines.append(cells)
    return header, lines


def _rows(of: Sequence[Model]) -> str:
    return f"{round(_mean(m.trained for m in of)):,}"


def _megabytes(of: Sequence[Model]) -> float:
    return _mean(m.state for m in of) / 1e6


def timing(found: Found) -> str:
    """A sentence on what grows; "" of fewer than three dates."""
    if len(found) < 3:
        return ""
    rest = [*found.values()][1:]
    both = {k: [spent(by[k], ("data", "train")) for by in rest] for k in KINDS}
    ends = [rest[0]["nights"], rest[-1]["nights"]]
    before, after = (spent(of, ["data"]) for of in ends)
    rows, more = (round(_mean(m.trained for m in of)) for of in ends)
    return TIME.format(
        low=min(both["nights"]), high=max(both["nights"]), first=both["cold"][0],
        last=both["cold"][-1], before=before, after=after, rows=rows, more=more,
        state=_megabytes(ends[0]), bigger=_megabytes(ends[1]),
    )  # fmt: skip


def draw(found: Found, gaps: Mapping[date, Gap], path: Path, label: str) -> None:
    """AUC by date, its differences, and CPU seconds."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    names, x = [f"{d:%m-%d}" for d in found], np.arange(len(found))
    for number, (kind, name) in enumerate((("nights", "nights, one after another"),
                                           ("cold", "cold, on all data so far"))):  # fmt: skip
        style = {"color": f"C{number}", "marker": "os"[number], "markersize": 4, "linewidth": 1}
        axes[0].plot(x, [_mean(m.auc for m in by[kind]) for by in found.values()],
                     label=name, **style)  # fmt: skip
        for at, by in zip(x, found.values(), strict=True):
            axes[0].plot([at] * len(by[kind]), [m.auc for m in by[kind]], ".",
                         color=f"C{number}", alpha=0.4, markersize=4)  # fmt: skip
        both = [spent(by[kind], ("data", "train")) for by in found.values()]
        axes[2].plot(x, both, label=f"{name}: data and training", **style)
    whole = [spent(by["nights"], [*STAGES]) for by in found.values()]
    axes[2].plot(x, whole, "C0:", linewidth=1, label="a whole night, with gate and export")
    _differences(axes[1], gaps)
    axes[0].set(ylabel="AUC on the rows that follow")
    axes[1].set(ylabel="difference in AUC")
    axes[2].set(ylabel="CPU seconds", ylim=(0, None))
    low, high = axes[1].get_ylim()
    axes[1].set_ylim(low, high + 0.25 * (high - low))  # room for its legend
    for axis in axes:
        axis.set_xticks(x, names, fontsize=7.5)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    plots.finish(figure, path, f"Nights against cold trainings{label}", svg=True)


def _differences(axis: Axes, gaps: Mapping[date, Gap]) -> None:
    rest = later(gaps)
    at, means = np.arange(1, len(rest) + 1), np.array([g.mean for g in rest])
    error = np.abs(np.array([(g.low, g.high) for g in rest]).T - means)
    axis.errorbar(at, means, error, fmt="o", color="C0", markersize=4, capsize=2,
                  label="night − cold, mean and 95 % interval")  # fmt: skip
    for place, g in zip(at, rest, strict=True):
        axis.plot([place + 0.2] * len(g.seeds), g.seeds, ".", color="0.5", markersize=4,
                  label="of each seed" if place == 1 else None)  # fmt: skip
    axis.axhspan(-CLOSE, CLOSE, color="0.92", zorder=0, label=f"± {CLOSE}")
