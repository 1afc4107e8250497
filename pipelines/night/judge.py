"""The model gate of a night: candidate and incumbent on the rows after the cutoff."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from at4ctr import evaluation
from at4ctr.analysis import segments
from at4ctr.data.nights.state import difference
from at4ctr.data.store import Store
from at4ctr.durable import replaced, write_json
from at4ctr.errors import InputError
from at4ctr.evaluation import Predictions
from at4ctr.gates import model as gate
from at4ctr.gates.verdict import Check, Verdict, together
from at4ctr.schema import Schema
from pipelines import measure
from pipelines.night import learn
from pipelines.night.attempt import GATE, METRICS, PREDICTIONS
from pipelines.night.chain import Settings
from pipelines.night.parents import Parent

log = logging.getLogger("at4ctr.nightly")


def judge_night(
    settings: Settings, store: Store, ids: Path, parent: Parent | None, folder: Path
) -> Verdict:
    """Compares the models: writes ``metrics.json``, ``predictions.npz`` and ``gate.json``.

    parent: the incumbent. If its model can no longer predict, there is no incumbent: the metrics
    say why, and the gate holds. Where a calibrator is fitted, the candidate's was fitted to other
    users of this same night, and the incumbent's to those of an earlier night. So NE and PCOC
    favour the candidate by what a day's drift costs a calibrator. AUC does not, as calibration
    reverses no order.

    Each label of ``model_gate.labels``, by default each that the version answers, is judged on the
    rows where it is known. The names of the other labels' checks begin with the label, those of the
    first label's do not.
    """
    e = settings.experiment
    model = learn.finished(e, store, ids, folder)
    candidate = learn.predicted(model, e, store)
    why = "" if parent else "nothing was published before"
    incumbent = None
    if parent is not None:
        try:
            incumbent = _asked(settings, store, ids, parent)
        except InputError as error:
            why = str(error)
            log.warning("no incumbent: %s", why)
    first = next(iter(candidate))
    answered = [k for k in candidate if k in model.served or k not in model.towers]
    asked = [k for k in candidate if k in (settings.model_gate.labels or answered)]
    category = segments.Category.of(store)
    verdicts = {label: _verdict(settings, store.schema, category, candidate[label],
                                (incumbent or {}).get(label), len(asked))
                for label in asked}  # fmt: skip
    verdict = together(verdicts)
    measured = {label: measure.Measured(rows, None, {}, {}) for label, rows in candidate.items()}
    before: dict[str, dict[str, Any]] = {}
    for label, rows in candidate.items():
        if finite(rows):  # otherwise no metric is defined
            measured[label] = measure.measured(model, label, rows, store.schema, category=category)
    for label, rows in (incumbent or {}).items():
        if label in candidate and finite(rows) and rows.labels.size:
            parts = segments.report(
                rows, segments.ids(store.schema, candidate[label].ids), category
            )
            before[label] = evaluation.report(rows) | {"segments": segments.to_json(parts)}
    told = json.loads((folder / learn.TRAINED).read_text(encoding="utf-8"))
    training = {k: v for k, v in told.items() if k != "curves"}
    values: dict[str, Any] = {
        "candidate": measure.metrics_of(measured) if measured[first].metrics else None,
        "incumbent": evaluation.by_label(before) if first in before else None,
        "no_incumbent": why or None,
    }
    write_json(folder / METRICS, {**values, "training": training, "simulated": store.simulated})
    _keep(folder / PREDICTIONS, measured[first], (incumbent or {}).get(first))
    write_json(folder / GATE, verdict.to_json())
    for check in verdict.checks:
        log.info("  %s %s: %s", check.outcome, check.name, check.sentence)
    return verdict


def finite(found: Predictions) -> bool:
    return bool(np.isfinite(found.calibrated).all())


def _verdict(
    settings: Settings,
    schema: Schema,
    category: segments.Category,
    candidate: Predictions,
    incumbent: Predictions | None,
    labels: int,
) -> Verdict:
    if not candidate.labels.size:
        none = Check("rows", "hold", "no row tells the label; leave it out of model_gate.labels")
        return Verdict("HOLD", (none,), 0, 0, 0, settings.model_gate)
    masks = segments.masks(candidate, segments.ids(schema, candidate.ids), category)
    other = None if incumbent is None else _scores(incumbent)
    return gate.judge(_scores(candidate), other, settings.model_gate, segments=masks, labels=labels)


def _asked(settings: Settings, store: Store, ids: Path, parent: Parent) -> dict[str, Predictions]:
    parent.demand_servable()
    before = parent.settings().experiment.data.schema()
    what = difference(before.to_json(), settings.experiment.data.schema().to_json())
    if what:
        raise InputError(
            f"version {parent.version} has another schema ({what}); expected the same to compare "
            "on the same rows; bless the new model by hand"
        )
    asked = learn.Incumbent(parent, ids)
    return learn.predicted(asked, asked.experiment, store)


def _scores(found: Predictions) -> gate.Scores:
    return gate.Scores(found.labels, found.calibrated, found.users)


def _keep(path: Path, measured: measure.Measured, incumbent: Predictions | None) -> None:
    """Writes the data of the figures: labels, users and logits of both models, row by row."""
    found = measured.found
    columns: dict[str, Any] = {
        "labels": found.labels,
        "users": found.users,
        "lengths": found.lengths,
        "candidate": found.calibrated,
    }
    if measured.before is not None:
        columns["uncalibrated"] = measured.before
    if incumbent is not None:
        columns["incumbent"] = incumbent.calibrated
    columns |= {f"id_{name}": ids for name, ids in found.ids.items()}
    with replaced(path) as aside, aside.open("wb") as file:
        np.savez_compressed(file, **columns)
