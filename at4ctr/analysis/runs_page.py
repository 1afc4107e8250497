"""The page that compares finished runs: `paired` differences in tables, and what they show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from at4ctr.analysis import paired, tables
from at4ctr.analysis.comparison import Estimate, Scores
from at4ctr.analysis.paired import Part
from at4ctr.metrics import intervals

TITLES = {"auc": "AUC", "gauc": "GAUC", "logloss": "log loss", "pcoc": "PCOC"}
TAKEN = {"train_seconds": "training, s", "examples_per_second": "examples/s", "steps": "steps",
         "best_step": "best step", "commit": "commit"}  # fmt: skip
NONE = "–"
Ps = dict[tuple[str, ...], float | None]
LEVEL, ALONE = 0.05, " by its own interval alone"


@dataclass(frozen=True)
class Run:
    """A finished run: its name on the page, snapshot and metrics, and its test scores by label."""

    name: str
    folder: Path
    snapshot: Mapping[str, Any]
    metrics: Mapping[str, Any]
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class Compared:
    """Of one label. pairs: other run -> its differences from the first; parts: by segment."""

    label: str
    rows: int
    positives: int
    values: Mapping[str, Mapping[str, float]]
    pairs: Mapping[str, Mapping[str, Estimate]]
    parts: Mapping[str, Sequence[Part]]


def page(every: Sequence[Run], found: Sequence[Compared], *, simulated: bool) -> list[str]:
    """The page in Markdown, line by line."""
    first = every[0]
    lines = ["# Runs compared on their test rows", ""]
    lines += ["Simulated log.", ""] if simulated else []
    lines += [
        f"Each run against the first one, {first.name}, on the test split of the store "
        f"{first.snapshot['store']}.",
        "",
        *tables.markdown(
            ["run", "folder", *TAKEN.values()],
            [[run.name, str(run.folder), *(_fact(run, key) for key in TAKEN)] for run in every],
        ),
        "",
    ]
    unlike = _unlike(every)
    if unlike:
        lines += ["Options that differ:", ""]
        lines += [*tables.markdown(["option", *(run.name for run in every)], unlike), ""]
    adjusted, of_parts = _adjusted(found)
    for number, one in enumerate(found):
        lines += [f"## {one.label}", "", f"{one.rows:,} rows, {one.positives:,} positives.", ""]
        rows = [[name, *(_number(v.get(m)) for m in TITLES)] for name, v in one.values.items()]
        lines += [*tables.markdown(["run", *TITLES.values()], rows), ""]
        rows = [
            [f"{name} − {first.name}", TITLES[m], *_cells(e, adjusted.get((one.label, name, m))),
             verdict(e, adjusted.get((one.label, name, m)))]
            for name, pairs in one.pairs.items() for m, e in pairs.items()
        ]  # fmt: skip
        header = ["difference", "metric", "value", "95 % interval", "p", "p (Holm)", "shown"]
        lines += [*tables.markdown(header, rows), ""]
        lines += [f"![ROC curves and segments]({picture(number, one)})", ""]
        for name, parts in one.parts.items():
            rows = [
                [f"{p.family} {p.name}{' *' if p.small else ''}", f"{p.rows:,}",
                 f"{p.positives:,}",
                 *(cell for m in paired.OF_SEGMENTS for cell in _short(
                     p.found.get(m), of_parts.get((one.label, name, p.family, p.name, m))))]
                for p in parts
            ]  # fmt: skip
            header = ["segment", "rows", "positives"]
            for metric in paired.OF_SEGMENTS:
                header += [TITLES[metric], "95 % interval", "p (Holm)"]
            lines += [f"By segment, {name} − {first.name}:", "", *tables.markdown(header, rows), ""]
    return [*lines, *_notes(len(adjusted), len(of_parts))]


def verdict(e: Estimate, adjusted: float | None) -> str:
    """What an interval shows: higher, lower, or nothing; and whether p (Holm) shows it too."""
    if e.half is None or adjusted is None or abs(e.mean) <= e.half:
        return "not shown to differ"
    return ("higher" if e.mean > 0 else "lower") + (ALONE if adjusted > LEVEL else "")


def said(every: Sequence[Run], found: Sequence[Compared]) -> Iterator[str]:
    """The verdict, a line for each pair and label."""
    adjusted, _ = _adjusted(found)
    for one in found:
        for name, pairs in one.pairs.items():
            texts = []
            for metric in ("auc", "logloss"):
                if metric in pairs:
                    e = pairs[metric]
                    p = adjusted.get((one.label, name, metric))
                    value, interval, _, holm = _cells(e, p)
                    sure = f" (95 % {interval}, Holm p {holm})" if e.half is not None else ""
                    texts.append(f"{TITLES[metric]} {value}{sure} {verdict(e, p)}")
            yield f"{one.label}, {name} − {every[0].name}: {'; '.join(texts)}"


def _adjusted(
    found: Sequence[Compared],
) -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
    """The p of all differences, adjusted for each other (Holm), and those of segments likewise."""
    whole: Ps = {(one.label, name, m): e.p for one in found
             for name, pairs in one.pairs.items() for m, e in pairs.items()}  # fmt: skip
    of_parts: Ps = {(one.label, name, p.family, p.name, m): e.p
                for one in found for name, parts in one.parts.items()
                for p in parts for m, e in p.found.items()}  # fmt: skip
    return _holm(whole), _holm(of_parts)


def _holm(ps: Ps) -> dict[tuple[str, ...], float]:
    known = {key: p for key, p in ps.items() if p is not None}
    return dict(zip(known, intervals.holm(list(known.values())), strict=True)) if known else {}


def _cells(e: Estimate, adjusted: float | None) -> list[str]:
    """Value, interval, p and adjusted p."""
    if e.half is None or e.p is None or adjusted is None:
        return [f"{e.mean:+.4f}", NONE, NONE, NONE]
    interval = f"{e.mean - e.half:+.4f} … {e.mean + e.half:+.4f}"
    return [f"{e.mean:+.4f}", interval, f"{e.p:.2g}", f"{adjusted:.2g}"]


def _short(e: Estimate | None, adjusted: float | None) -> list[str]:
    if e is None:
        return [NONE] * 3
    value, interval, _, holm = _cells(e, adjusted)
    return [value, interval, holm]


def _notes(tests: int, of_parts: int) -> list[str]:
    return [
        "Intervals and p are over draws of users, of the same rows for both runs. They hold for "
        "these two trained models. What another seed would give is not in them: `make reproduce "
        "RECIPES=… SEEDS=5` trains several.",
        "",
        f"p is of each test alone. p (Holm) is adjusted for all {tests} differences of this page, "
        f"and by segment for all {of_parts}. The intervals are not adjusted.",
        "",
        "PCOC is Σp / Σy. It is best at 1, so that a higher one may be better or worse. A lower "
        "log loss is better.",
        "",
        "\\* fewer than 30 users, positives or negatives: no interval.",
    ]


def _unlike(every: Sequence[Run]) -> list[list[str]]:
    """The options of the experiments that are not the same in all runs, a row each."""
    flat = [dict(_flat(run.snapshot["experiment"], "")) for run in every]
    names = dict.fromkeys(name for options in flat for name in options)
    rows = [[name, *(options.get(name, NONE) for options in flat)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(value, ensure_ascii=False).replace("|", "\\|")


def _fact(run: Run, key: str) -> str:
    value = run.metrics.get(key)
    if value is None or value == "":
        return NONE
    if isinstance(value, (int, float)):
        return f"{value:,.1f}" if key.endswith("seconds") else f"{value:,.0f}"
    return str(value)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def picture(number: int, one: Compared) -> str:
    """The file name of a label's picture; number: the label's place on the page."""
    return f"comparison_{one.label}.png" if number else "comparison.png"


def data(every: Sequence[Run], found: Sequence[Compared], *, simulated: bool) -> dict[str, Any]:
    """All values of the page, as JSON can hold them."""
    adjusted, of_parts = _adjusted(found)

    def plain(e: Estimate, holm: float | None) -> dict[str, float]:
        values = {"value": e.mean, "half_width": e.half, "p": e.p, "p_holm": holm}
        return {k: v for k, v in values.items() if v is not None}

    labels = {
        one.label: {
            "rows": one.rows,
            "positives": one.positives,
            "values": {name: dict(v) for name, v in one.values.items()},
            "differences": {
                name: {m: plain(e, adjusted.get((one.label, name, m))) for m, e in pairs.items()}
                for name, pairs in one.pairs.items()
            },
            "segments": {
                name: [
                    {"family": p.family, "segment": p.name, "rows": p.rows,
                     "positives": p.positives, "small": p.small}
                    | {m: plain(e, of_parts.get((one.label, name, p.family, p.name, m)))
                       for m, e in p.found.items()}
                    for p in parts
                ]
                for name, parts in one.parts.items()
            },
        }
        for one in found
    }  # fmt: skip
    folders = {run.name: str(run.folder) for run in every}
    store = every[0].snapshot["store"]
    return {"runs": folders, "store": store, "simulated": simulated, "labels": labels}
