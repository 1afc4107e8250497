"""Finished runs on the same test rows, each against the first: make compare RUNS=a,b[,c]

The page runs/compare-<…>/comparison.md has AUC, GAUC, log loss and PCOC of each label, their
differences with 95 % intervals over users, the differences by segment, and what training took. A
run without predictions.parquet is predicted first. docs/analysis.md explains each value.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import flags

from at4ctr import evaluation, runs
from at4ctr.analysis import comparison, paired, plots, segments
from at4ctr.analysis.comparison import Scores
from at4ctr.analysis.runs_page import Compared, Run, data, page, picture, said
from at4ctr.durable import filled, write_json
from at4ctr.errors import InputError
from at4ctr.metrics import roc
from export.streams import ignoring_closed_pipes
from pipelines import command, measure, train
from pipelines.assembly import Assembly

PAGE, DATA = "comparison.md", "comparison.json"
CLOSE = 1e-6  # of the AUC that a run has kept and that of its predictions


class _Unscored:
    """Takes the place of a model where only the rows are needed."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels

    def scores(self, batch: Mapping[str, tf.Tensor]) -> dict[str, dict[str, tf.Tensor]]:
        zero = tf.zeros(tf.shape(batch["user_index"]), tf.float64)
        return {kind: dict.fromkeys(self.labels, zero) for kind in ("shifted", "calibrated")}


def opened(folders: Sequence[str]) -> tuple[list[Run], Assembly]:
    """The runs, and the first one's assembly.

    A run that kept no test predictions is predicted with its best weights, and keeps them.
    Raises InputError for fewer than two runs, a folder without the metrics of a test split, runs of
    several stores, and predictions that are not of the run's metrics.
    """
    places = [Path(text) for text in folders]
    if len({place.resolve() for place in places}) < max(len(places), 2):
        raise InputError(
            f"RUNS names {', '.join(folders) or 'no run'}; expected two or more different runs, "
            "joined by commas; set RUNS=a,b"
        )
    loaded = [_loaded(place) for place in places]
    first = loaded[0][0]
    for place, (snapshot, _) in zip(places, loaded, strict=True):
        if snapshot["store"] != first["store"]:
            raise InputError(
                f"{place} is a run of the store {snapshot['store']} and {places[0]} one of "
                f"{first['store']}; expected runs of one store, whose test rows are the same; "
                "train one of them anew on the other's data options"
            )
    recipes = [str(snapshot["recipe"]) for snapshot, _ in loaded]
    e, _, name = train.load_snapshot(places[0] / runs.SNAPSHOT)
    store = train.open_store(e.data, name)
    first_made = Assembly(e, store)
    found = []
    for place, recipe, (snapshot, metrics) in zip(places, recipes, loaded, strict=True):
        fresh = not (place / measure.PREDICTIONS).exists()
        if fresh:
            _say(f"predicting the test rows with {place}")
            e, _, _ = train.load_snapshot(place / runs.SNAPSHOT)
            made = Assembly(e, store)
            rows = made.predictions(made.restored(place), "test")
            measure.keep({k: measure.Measured(v, None, {}, {}) for k, v in rows.items()}, place)
        called = f"{recipe} {place.resolve().name}" if recipes.count(recipe) > 1 else recipe
        scores = comparison.read(place / measure.PREDICTIONS)
        try:
            _demand_own(place, metrics, scores, fresh=fresh)
        except InputError:
            if fresh:  # what is not the run's is not kept
                (place / measure.PREDICTIONS).unlink()
            raise
        own = Path(os.path.relpath(place.resolve()))  # runs/latest will be another one
        found.append(Run(called, own, snapshot, metrics, scores))
    return found, first_made


def compare(every: Sequence[Run], made: Assembly) -> list[Compared]:
    """Each label that all runs have predictions of.

    Raises InputError where the runs' rows are not those of the store, in its order.
    """
    labels = [k for k in every[0].scores if all(k in run.scores for run in every)]
    rows = evaluation.Predictor(_Unscored(labels))(made.reader("test"))
    clicks = made.store.item_clicks()
    found = []
    for label in labels:
        here = rows[label]
        for run in every:
            _demand_same(run, label, run.scores[label], here)
        if not here.labels.size:
            continue
        ids = segments.ids(made.store.schema, here.ids)
        ids["item_clicks"] = clicks[ids["item"]]
        families = segments.masks(here, ids, segments.Category.of(made.store))
        base, *others = [run.scores[label] for run in every]
        names = [run.name for run in every[1:]]
        _say(f"{label}: {here.labels.size:,} rows")
        found.append(Compared(
            label,
            here.labels.size,
            int(here.labels.sum()),
            {run.name: paired.values(run.scores[label]) for run in every},
            {n: paired.differences(o, base) for n, o in zip(names, others, strict=True)},
            {n: paired.parts(o, base, families) for n, o in zip(names, others, strict=True)},
        ))  # fmt: skip
    if not found:
        raise InputError(
            f"{every[0].folder} has no label with test rows that all runs serve; expected one; "
            "compare runs of the same labels"
        )
    return found


def write(every: Sequence[Run], found: Sequence[Compared], out: Path, *, simulated: bool) -> Path:
    """Writes the page, its data and a picture a label into a folder; returns the page."""
    with filled(out, PAGE) as aside:
        for number, one in enumerate(found):
            scores = {run.name: run.scores[one.label] for run in every}
            curves = {name: roc(s.responses, s.scores) for name, s in scores.items()}
            shown = {f"{n} − {every[0].name}": parts for n, parts in one.parts.items()}
            title = one.label if len(found) > 1 else ""
            plots.paired(curves, shown, aside / picture(number, one), title, simulated=simulated)
        lines = page(every, found, simulated=simulated)
        (aside / PAGE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_json(aside / DATA, data(every, found, simulated=simulated))
    return out / PAGE


def _loaded(place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A finished run's snapshot and metrics."""
    try:
        snapshot = json.loads((place / runs.SNAPSHOT).read_text(encoding="utf-8"))
        metrics = json.loads((place / runs.METRICS).read_text(encoding="utf-8"))
        whole = {"store", "recipe", "experiment"} <= snapshot.keys() and "rows" in metrics
    except (OSError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise InputError(
            f"{place} holds no {runs.METRICS} of a test split; expected a finished run; name two "
            "with RUNS=a,b, or make them with make train"
        )
    return snapshot, metrics


def _demand_own(
    place: Path, metrics: Mapping[str, Any], scores: Mapping[str, Scores], *, fresh: bool
) -> None:
    kept = metrics.get("labels", {next(iter(scores), ""): metrics})
    for label, one in scores.items():
        expected, auc = kept.get(label, {}).get("auc"), paired.values(one).get("auc")
        if expected is None or (auc is not None and abs(auc - expected) <= CLOSE):
            continue
        if fresh:
            raise InputError(
                f"{place} has weights whose AUC of {label} is {auc} here, and {runs.METRICS} says "
                f"{expected}; expected the same; the run is of other code or of another machine: "
                "train it anew, or compare it where it was trained"
            )
        raise InputError(
            f"{place / measure.PREDICTIONS} has the AUC {auc} of {label} and {runs.METRICS} "
            f"{expected}; expected the predictions of this very run; delete the former, and "
            "run the same command again"
        )


def _demand_same(run: Run, label: str, found: Scores, rows: evaluation.Predictions) -> None:
    same = len(found.users) == len(rows.users) and bool(
        (found.users == rows.users).all() and (found.responses == rows.labels).all()
    )
    if not same:
        raise InputError(
            f"{run.folder / measure.PREDICTIONS} has {len(found.users):,} rows of {label}, and the "
            f"store {run.snapshot['store']} {len(rows.users):,} or others; expected its test rows "
            "in its order; delete the file, and run the same command again"
        )


def _say(line: str) -> None:
    print(f"compare: {line}", file=sys.stderr, flush=True)


def flag_values() -> flags.FlagValues:
    """Flags of this command alone: the modules that it uses have others of these names."""
    f = flags.FlagValues()
    flags.DEFINE_list("runs", [], "folders of finished runs of one store", flag_values=f)
    flags.DEFINE_string("out", "", "folder of the page; empty: runs/compare-…", flag_values=f)
    flags.DEFINE_boolean("help", False, "this text", flag_values=f)
    return f


@ignoring_closed_pipes()
def main(arguments: Sequence[str]) -> int:
    """Compares by flags; the exit code: 0, 2 on bad input, 130 when interrupted."""
    after = "run the same command again"
    return command.run("compare", __doc__, flag_values(), arguments, _compare, after)


def _compare(f: flags.FlagValues) -> None:
    every, made = opened(f.runs)
    names = "-".join(run.folder.resolve().name for run in every)
    out = Path(f.out) if f.out else train.RUNS / f"compare-{names}"
    found = compare(every, made)
    written = write(every, found, out, simulated=made.store.simulated)
    print("\n".join([*said(every, found), str(written)]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
