"""What follows training: the calibrator of a finished model, and every metric of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from at4ctr import config, evaluation, runs
from at4ctr.analysis import plots, segments
from at4ctr.calibration import Asked, sigmoid
from at4ctr.calibration.fitting import Choice, choose
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.durable import write_json
from at4ctr.evaluation import Predictions
from at4ctr.fit import Cursor, Trainer
from at4ctr.metrics.intervals import Trust
from at4ctr.model.serving import ServingModel
from at4ctr.schema import Schema

CALIBRATOR = "calibrator.json"  # in a run's folder, where one was fitted


class Measured(NamedTuple):
    """before: [N], without the fitted calibrator; None where the model has none."""

    found: Predictions
    before: np.ndarray | None
    parts: dict[str, dict[str, Trust]]
    metrics: dict[str, Any]


def calibrate(
    asked: Asked, model: ServingModel, found: Predictions | None, folder: Path, seed: int
) -> Choice:
    """Gives the model the calibrator that the validation rows choose, and keeps it in the run.

    found: the model's predictions on validation; None where there is none.
    """
    (folder / CALIBRATOR).unlink(missing_ok=True)  # of an unfinished end
    model.calibrate({})
    if found is None:
        return choose(asked, [], [], [])
    choice = choose(asked, corrected(model, found), found.labels, found.users, seed)
    if choice.calibrator is not None:
        model.calibrate({model.served[0]: choice.calibrator})
        write_json(folder / CALIBRATOR, config.to_json(choice.calibrator))
    return choice


def recalibrate(model: ServingModel, folder: Path) -> None:
    """Gives the model the calibrator that its run kept, if any."""
    path = folder / CALIBRATOR
    if path.exists():
        found = config.from_json(json.loads(path.read_text()), str(path))
        model.calibrate({model.served[0]: found})


def corrected(model: ServingModel, found: Predictions) -> np.ndarray:
    """logit + ln w [N] float32, as the graph has it."""
    assert found.logit is not None
    return found.logit + model.shift.numpy()


def measure(model: ServingModel, test: Reader) -> Measured:
    """Predictions, and what `measured` makes of them."""
    return measured(model, evaluation.Predictor(model)(test), test.schema)


def measured(model: ServingModel, found: Predictions, schema: Schema) -> Measured:
    """Every metric, and the calibration of segments.

    The metrics have ``segments`` and, where there is a fitted calibrator, ``uncalibrated``: the
    same metrics after the sampling correction alone.
    """
    parts = segments.report(found, segments.ids(schema, found.ids))
    metrics = evaluation.report(found) | {"segments": segments.to_json(parts)}
    before = None
    if model.calibrators:
        before = sigmoid(corrected(model, found))
        values = evaluation.report(dataclasses.replace(found, probability=before))
        metrics["uncalibrated"] = {k: v for k, v in values.items() if k != "activeness"}
    return Measured(found, before, parts, metrics)


def draw(measured: Measured, folder: Path, *, simulated: bool) -> None:
    """``reliability.png``, ``segments.png`` and the table ``segments.md``."""
    found, before, parts, _ = measured
    plots.reliability(found, folder / "reliability.png", simulated=simulated, before=before)
    plots.segments(parts, folder / "segments.png", simulated=simulated)
    label = "Simulated log.\n\n" if simulated else ""
    note = "\n\\* fewer than 30 clicks or users: the intervals are not to be believed.\n"
    (folder / "segments.md").write_text(label + segments.table(parts) + note)


def facts(trainer: Trainer, cursor: Cursor, store: Store, *, exported: bool) -> dict[str, Any]:
    """What a run's metrics say beside those of its test split."""
    return {
        "examples_per_second": round(trainer.examples_per_second, 1),
        "train_seconds": round(cursor.seconds, 2),
        "exported": exported,
        "commit": runs.commit(),
        "steps": cursor.step,
        "best_step": cursor.best_step,
        "simulated": store.simulated,
        "unknown_share": _unknown(store),
    }


def _unknown(store: Store) -> dict[str, float]:
    """Share of test rows whose feature was never seen in training, where any was not."""
    counts = store.counts("test")
    return {k: round(v / counts["rows"], 4) for k, v in counts["unknown"].items() if v}


def summary(metrics: dict[str, Any], folder: Path) -> str:
    """The result in a few lines."""
    lines = [f"test{' (simulated log)' if metrics['simulated'] else ''}: {metrics['rows']:,} rows"]
    names = ("auc", "bayes_auc", "gauc", "logloss", "normalized_entropy", "pcoc")
    lines += [f"  {n:20s} {metrics[n]:.4f}" for n in names if n in metrics]
    exports = sorted((folder / "export").glob("[0-9]*"), key=lambda p: int(p.name))
    lines += [f"model: {export}" for export in exports[-1:]]
    return "\n".join([*lines, f"run:   {folder}"])
