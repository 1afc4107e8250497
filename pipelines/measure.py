"""What follows training: the calibrator of a finished model, and every metric of it."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from at4ctr import config, evaluation, runs
from at4ctr.analysis import plots, segments
from at4ctr.calibration import Asked
from at4ctr.calibration.fitting import Choice, choose
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.durable import write_json
from at4ctr.evaluation import Predictions
from at4ctr.fit import Cursor, Trainer
from at4ctr.metrics.intervals import FAR, Trust
from at4ctr.model.serving import ServingModel
from at4ctr.schema import Schema

log = logging.getLogger("at4ctr.measure")

CALIBRATOR = "calibrator.json"  # in a run's folder, where one was fitted
AUC_LOST = 1e-3  # by a calibrator's ties, from which on it is worth a warning
REMEDIES = {
    "training": "train longer (fit.epochs) or at a smaller fit.learning_rate, or fit a calibrator "
    "(calibrator=platt)",
    "validation": "fit a calibrator (calibrator=platt); where the training rows are near their "
    "rate, the model overfits or the rate drifts: stop earlier (fit.patience) or train on later "
    "rows",
    "test": "the click rate may have drifted after the training rows, which only training on later "
    "rows mends; where the validation rows are far from their rate too, fit a calibrator "
    "(calibrator=platt)",
}


class Measured(NamedTuple):
    """before: logits [N] without the fitted calibrator; None where the model has none."""

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
    assert found.shifted is not None
    choice = choose(asked, found.shifted, found.labels, found.users, seed)
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


def mean_of_sample(sample: Predictions) -> dict[str, Any]:
    """Rows and mean prediction of a sample of the training rows, without the fitted calibrator,
    which knows later rows; logs a warning where it is far from the click rate."""
    values = evaluation.report(uncalibrated(sample))
    found = {name: values[name] for name in ("rows", "mean_prediction")}
    warn_if_far("training", found)
    return found


def warn_if_far(split: str, metrics: Mapping[str, Any]) -> None:
    """Logs a warning where a split's mean prediction is far from its click rate."""
    mean = metrics["mean_prediction"]
    if mean["far"]:
        ratio = (
            "{ratio:.2f} times it (95 %: {low:.2f} to {high:.2f})".format(**mean)
            if "ratio" in mean
            else "more than chance explains"
        )
        log.warning(
            "the mean prediction of %s %s rows is %.4f and their click rate %.4f: it is %s; "
            "expected at most %.0f %% more or less; %s",
            f"{metrics['rows']:,}", split, mean["predicted"], mean["rate"], ratio, 100 * FAR,
            REMEDIES[split],
        )  # fmt: skip


def uncalibrated(found: Predictions) -> Predictions:
    """The same rows after the sampling correction alone."""
    assert found.shifted is not None
    return dataclasses.replace(found, calibrated=found.shifted)


def measure(model: ServingModel, test: Reader) -> Measured:
    """Predictions, and what `measured` makes of them."""
    return measured(model, evaluation.Predictor(model)(test), test.schema)


def measured(model: ServingModel, found: Predictions, schema: Schema) -> Measured:
    """Every metric, and the calibration of segments.

    The metrics have ``segments`` and, where there is a fitted calibrator, ``uncalibrated``: the
    same metrics after the sampling correction alone. A mean prediction far from the click rate is
    logged as a warning, and so is an AUC that the calibrator lowers by ties.
    """
    parts = segments.report(found, segments.ids(schema, found.ids))
    metrics = evaluation.report(found) | {"segments": segments.to_json(parts)}
    before = None
    if model.calibrators:
        before = found.shifted
        values = evaluation.report(uncalibrated(found))
        metrics["uncalibrated"] = {k: v for k, v in values.items() if k != "activeness"}
        _warn_of_ties(metrics)
    warn_if_far("test", metrics)
    return Measured(found, before, parts, metrics)


def _warn_of_ties(metrics: Mapping[str, Any]) -> None:
    before = metrics["uncalibrated"]
    if before.get("auc", 0.0) - metrics.get("auc", 0.0) > AUC_LOST:
        log.warning(
            "the fitted calibrator ties %.1f %% of the test rows with a row of the other class, "
            "%.1f %% without it, and lowers the AUC from %.4f to %.4f; expected a loss of at most "
            "%g; set calibrator=platt, which keeps the order",
            100 * metrics["ties"], 100 * before["ties"], before["auc"], metrics["auc"], AUC_LOST,
        )  # fmt: skip


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
