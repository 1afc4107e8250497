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
from at4ctr.gates.verdict import NUMBERS, Verdict
from pipelines import measure
from pipelines.night import learn
from pipelines.night.attempt import GATE, METRICS, PREDICTIONS
from pipelines.night.chain import Settings
from pipelines.night.parents import Parent

log = logging.getLogger("at4ctr.nightly")


def judged(
    settings: Settings, store: Store, ids: Path, parent: Parent | None, folder: Path
) -> Verdict:
    """Writes ``metrics.json``, ``predictions.npz`` and ``gate.json``.

    parent: the incumbent. One whose model cannot be asked any more is no incumbent, and the metrics
    say why; the gate then holds. A fitted calibrator of the candidate's knows other users of this
    very evening, the incumbent's those of an evening before: NE and PCOC favour the candidate by
    what a day's drift costs a calibrator; AUC does not, as calibration reverses no order.
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
    known = segments.ids(store.schema, candidate.ids)
    masks = segments.masks(candidate, known)
    other = None if incumbent is None else _scores(incumbent)
    verdict = gate.judge(_scores(candidate), other, settings.model_gate, segments=masks)
    sound = {check.name for check in verdict.checks if check.outcome == "pass"}
    measured = measure.Measured(candidate, None, {}, {})
    if NUMBERS in sound:  # no metric is defined for a logit that is not finite
        measured = measure.measured(model, candidate, store.schema)
    told = json.loads((folder / learn.TRAINED).read_text(encoding="utf-8"))
    training = {k: v for k, v in told.items() if k != "curves"}
    values: dict[str, Any] = {"candidate": measured.metrics or None, "incumbent": None}
    values["no_incumbent"] = why or None
    if incumbent is not None and "incumbent" in sound:
        parts = segments.to_json(segments.report(incumbent, known))
        values["incumbent"] = evaluation.report(incumbent) | {"segments": parts}
    write_json(folder / METRICS, {**values, "training": training, "simulated": store.simulated})
    _keep(folder / PREDICTIONS, measured, incumbent)
    write_json(folder / GATE, verdict.to_json())
    for check in verdict.checks:
        log.info("  %s %s: %s", check.outcome, check.name, check.sentence)
    return verdict


def _asked(settings: Settings, store: Store, ids: Path, parent: Parent) -> Predictions:
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
    """What pictures are drawn of: labels, users and logits of both models, row by row."""
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
