"""A run on one page: ``report.html`` in its folder, which needs nothing beside it.

Whether the model is better than a constant and than item popularity comes first; then curves,
metrics, segments, the log that was read, and the commands that serve or repeat the run.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from at4ctr import runs
from at4ctr.analysis.baselines import CONSTANT, POPULARITY
from at4ctr.data import summary
from at4ctr.data.dataset import SPLITS
from at4ctr.data.store import Store
from at4ctr.durable import sync
from at4ctr.metrics.intervals import FEW
from pipelines.measure import PAGE, REMEDIES
from pipelines.pages.html import (
    NONE,
    Html,
    command,
    document,
    element,
    folded,
    markup,
    picture,
    section,
    table,
)

Json = Mapping[str, Any]
METRICS = {
    "auc": "AUC",
    "bayes_auc": "AUC of the true probabilities",
    "gauc": "GAUC, by user",
    "logloss": "log loss",
    "normalized_entropy": "normalized entropy",
    "pcoc": "PCOC, predicted over seen",
    "expected_calibration_error": "ECE",
}


class Verdict(NamedTuple):
    """css: the banner's colour. words: the verdict. said: the numbers, in sentences."""

    css: str
    words: str
    said: str


def write(folder: Path, store: Store, metrics: Json) -> Path:
    """Writes the page of a run; its path. The page is old or new, never half.

    folder: with ``config.json`` and the pictures that the run drew. metrics: what its
    ``metrics.json`` will hold, whose presence says that the run is finished.
    """
    snapshot = json.loads((folder / runs.SNAPSHOT).read_text(encoding="utf-8"))
    title = f"{snapshot['recipe']} on {store.manifest['dataset']}"
    first = store.schema.labels[0].name
    found = verdict(metrics, first)
    page = document(
        f"{found.words} – {title}",
        _headline(title, folder, simulated=store.simulated),
        element("div", element("div", element("div", found.words, css="word"),
                               element("p", found.said)), css=f"banner {found.css}"),
        _warnings(metrics, store.manifest),
        _tiles(metrics),
        _baselines(metrics),
        _pictures("curves", "Curves", folder, {"curves": "Losses and validation by step"}),
        _judged(folder, store),
        _metrics(metrics, first),
        _segments(metrics, folder),
        _log(store.manifest),
        _commands(folder, metrics),
    )  # fmt: skip
    aside = folder / f".{PAGE}"
    aside.write_text(page, encoding="utf-8")
    sync(aside)
    os.replace(aside, folder / PAGE)
    return folder / PAGE


def verdict(metrics: Json, label: str) -> Verdict:
    """The verdict on a label: its log loss on the test rows against both baselines. A difference
    counts where its 95 % interval, clustered by user, excludes 0."""
    compared = metrics.get("baselines", {}).get(label)
    if not compared:
        return Verdict(
            "unfinished",
            "Not judged",
            "The test or the training rows have one class alone, so that no baseline is defined.",
        )
    constant, popular = compared[CONSTANT], compared[POPULARITY]
    said = (
        f"The log loss of {label} on {metrics['rows']:,} test rows is {metrics['logloss']:.4f}. "
        f"A constant (the base rate of training) has {_against(constant)}, "
        f"item popularity {_against(popular)}."
    )
    if constant["users"] < FEW:
        said += (
            f" Only {constant['users']} users have a test row of the rarer kind, positive or not; "
            f"below {FEW} the intervals are not to be believed."
        )
        return Verdict("unfinished", "Not judged: too few users", said)
    if constant["low"] > 0:
        return Verdict("rejected", "Worse than a constant", said)
    if constant["high"] >= 0:
        return Verdict("held", "Not shown to be better than a constant", said)
    if popular["low"] > 0:
        return Verdict("held", "Better than a constant, worse than item popularity", said)
    if popular["high"] >= 0:
        words = "Better than a constant, not shown to be better than item popularity"
        return Verdict("held", words, said)
    return Verdict("good", "Better than a constant and than item popularity", said)


def _against(other: Json) -> str:
    """How much more or less log loss a baseline has than the model, with the interval."""
    side = "more" if other["change"] < 0 else "less"
    small, large = sorted((abs(other["low"]), abs(other["high"])))
    between = f"{small:.4f} to {large:.4f}"
    if other["low"] < 0 < other["high"]:
        between = f"{other['high']:.4f} less to {-other['low']:.4f} more"
    return f"{abs(other['change']):.4f} {side} (95 %: {between})"


def _interval(other: Json) -> str:
    return f"{other['low']:+.4f} to {other['high']:+.4f}"


def _headline(title: str, folder: Path, *, simulated: bool) -> Html:
    badge = element("span", "simulated data", css="badge") if simulated else ""
    return element("h1", element("span", f"{title}: run of {folder.name}"), badge)


def _warnings(metrics: Json, manifest: Json) -> Html:
    """What the reader should look at before any number."""
    said = [metrics["too_few_steps"]] if "too_few_steps" in metrics else []
    said += manifest.get("summary", {}).get("doubts", [])
    means = metrics.get("mean_prediction", {})
    if means.get("far"):
        said.append(
            f"the mean prediction on the test rows is {means['predicted']:.4f} and their rate "
            f"{means['rate']:.4f}; {REMEDIES['test']}"
        )
    if not said:
        return Html("")
    sentences = (element("p", f"{one[:1].upper()}{one[1:]}.") for one in said)
    return element("div", element("h2", "Look at this first"), *sentences, css="next")


def _tiles(metrics: Json) -> Html:
    shown = [
        ("AUC", _number(metrics.get("auc")), ""),
        ("normalized entropy", _number(metrics.get("normalized_entropy")), "less is better"),
        ("PCOC", _number(metrics.get("pcoc")), "1 is calibrated"),
        ("test rows", f"{metrics['rows']:,}", f"{metrics['positives']:,} positives"),
        ("steps", f"{metrics['steps']:,}", f"weights of step {metrics['best_step']:,}"),
        ("seconds", f"{metrics['seconds']:,.0f}", f"{metrics['train_seconds']:,.0f} of training"),
    ]
    parts = [
        element("div", element("div", name, css="name"), element("div", value, css="value"),
                element("div", note, css="note"), css="tile")
        for name, value, note in shown
    ]  # fmt: skip
    return element("div", *parts, css="tiles")


def _baselines(metrics: Json) -> Html:
    rows: list[Sequence[str]] = []
    for label, compared in metrics.get("baselines", {}).items():
        own = metrics.get("labels", {}).get(label, metrics)
        rows.append((f"{label}: model", *_line(own), NONE, NONE))
        for name, other in compared.items():
            line = (*_line(other), f"{other['change']:+.4f}", _interval(other))
            rows.append((f"{label}: {name}", *line))
    head = ("test rows", "AUC", "log loss", "normalized entropy", "model less this", "95 %")
    note = element(
        "p", "A baseline knows the training rows alone. Item popularity is the rate of the label "
        "among an item's training rows, drawn to the base rate where they are few. The difference "
        "is of log losses: below 0 the model is better.", css="soft",
    )  # fmt: skip
    body = table(head, rows)
    return section("baselines", "Against the baselines", body, note) if body else Html("")


def _line(values: Json) -> list[str]:
    return [_number(values.get(k)) for k in ("auc", "logloss", "normalized_entropy")]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _pictures(anchor: str, title: str, folder: Path, said: Mapping[str, str]) -> Html:
    shown = [picture(folder / f"{name}.png", text) for name, text in said.items()
             if (folder / f"{name}.png").is_file()]  # fmt: skip
    if not shown:
        return Html("")
    return section(anchor, title, element("div", *shown, css="pictures"))


def _judged(folder: Path, store: Store) -> Html:
    """ROC and reliability of every label that was drawn."""
    ends = sorted(p.stem.removeprefix("reliability") for p in folder.glob("reliability*.png"))
    first = store.schema.labels[0].name
    said = {}
    for end in ends:
        label = end.removeprefix("_") or first
        said[f"roc{end}"] = f"ROC curves of the model and of item popularity: {label}, test rows"
        said[f"reliability{end}"] = (
            f"Mean label against mean probability: {label}, test rows, 95 % intervals"
        )
    return _pictures("roc", "ROC and reliability", folder, said)


def _metrics(metrics: Json, first: str) -> Html:
    tested = metrics.get("labels", {first: metrics})
    validation = metrics.get("validation", {})
    validated = validation.get("labels", {first: validation} if validation else {})
    columns = [(f"{k}, test", m) for k, m in tested.items()]
    columns += [(f"{k}, validation", m) for k, m in validated.items()]
    rows = [("rows", *(f"{m['rows']:,}" for _, m in columns))]
    rows += [(title, *(_number(m.get(name)) for _, m in columns)) for name, title in METRICS.items()
             if any(name in m for _, m in columns)]  # fmt: skip
    return section("metrics", "Metrics", table(("", *(name for name, _ in columns)), rows))


def _segments(metrics: Json, folder: Path) -> Html:
    rows = []
    for family, group in metrics.get("segments", {}).items():
        for name, t in group.items():
            if not t["rows"]:
                continue
            label = name if name == family else f"{family} {name}"
            between = t.get("pcoc_interval")
            rows.append((
                label + (" *" if t["small"] else ""), _number(t.get("pcoc")),
                f"{between[0]:.3f} to {between[1]:.3f}" if between else NONE,
                _number(t.get("ece")), f"{t['clicks']:,}", f"{t['rows']:,}", f"{t['users']:,}",
            ))  # fmt: skip
    if not rows:
        return Html("")
    head = ("segment", "PCOC", "95 %", "ECE", "positives", "rows", "users")
    note = element("p", f"* fewer than {FEW} positives or users: the intervals are not to be "
                   "believed.", css="soft")  # fmt: skip
    path = folder / "segments.png"
    image = picture(path, "PCOC by segment with 95 % intervals") if path.is_file() else ""
    return section("segments", "Segments", image, table(head, rows), note)


def _log(manifest: Json) -> Html:
    """The log that was read, and preparation's notes on it."""
    notes = element("ul", *(element("li", note) for note in manifest["notes"]))
    folds = folded("Notes of preparation", notes if manifest["notes"] else Html(""))
    files = [(f["name"], f"{f['bytes']:,}", f["sha256"][:12]) for f in manifest["inputs"]]
    inputs = folded("Files", table(("file", "bytes", "begin of SHA-256"), files, words=(0, 2)))
    if "summary" not in manifest:
        said = element("p", f"The store has no summary of the log: {summary.NOT_KEPT}.")
        return section("log", "The log that was read", said, folds, inputs)
    kind = "impressions" if manifest["summary"]["impressions"] else "positives and drawn negatives"
    return section(
        "log", "The log that was read",
        element("p", f"Rows are {kind}. Histories, times and duplicates are those of the "
                f"{'impressions' if manifest['summary']['impressions'] else 'positives'}."),
        table(("", *SPLITS), summary.splits(manifest)),
        table(("", ""), summary.facts(manifest), sentences=(1,), css="facts"),
        folds, inputs,
    )  # fmt: skip


def _commands(folder: Path, metrics: Json) -> Html:
    place = shlex.quote(str(folder))
    said: Iterator[tuple[str, str]] = iter((
        ("Serve the model by gRPC and REST (docs/serving.md):", f"make serve MODEL={place}/export"),
        ("Measure it again on the test rows:", f"make eval RUN={place}"),
        ("See what it learned (docs/analysis.md):", f"make analyse RUN={place}"),
        ("Repeat the run:",
         f".venv/bin/python -m pipelines.train --snapshot={place}/{runs.SNAPSHOT}"),
    ))  # fmt: skip
    parts = [markup(element("p", what), command(line)) for what, line in said
             if metrics["exported"] or not line.startswith("make serve")]  # fmt: skip
    return section("commands", "What to do with it", *parts)
