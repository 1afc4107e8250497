"""After training: the calibrators of a finished model, its metrics, and their figures."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr import config, evaluation, runs
from at4ctr.analysis import plots, segments
from at4ctr.calibration import Asked, graph
from at4ctr.calibration.fitting import Choice, choose
from at4ctr.data.dataset import Split
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.durable import write_json
from at4ctr.evaluation import Predictions
from at4ctr.fit import Cursor, Trainer
from at4ctr.metrics.intervals import FAR, Trust
from at4ctr.model.serving import ServingModel
from at4ctr.schema import Schema
from pipelines.pages import roc

log = logging.getLogger("at4ctr.measure")

CALIBRATOR = "calibrator.json"  # in a run's folder, where one was fitted
PAGE = "report.html"  # of a run, in its folder
PREDICTIONS = "predictions.parquet"  # of the test rows, in a run's folder, where asked for
AUC_LOST = 1e-3  # by calibration, from which on it is worth a warning
REMEDIES = {
    "training": "train longer (fit.epochs) or at a smaller fit.learning_rate, or fit a calibrator "
    "(calibrator=platt)",
    "validation": "fit a calibrator (calibrator=platt); where the training rows are near their "
    "rate, the model overfits or the rate drifts: stop earlier (fit.patience) or train on later "
    "rows",
    "test": "the rate may have drifted after the training rows, which only training on later "
    "rows mends; where the validation rows are far from their rate too, fit a calibrator "
    "(calibrator=platt)",
}


class Measured(NamedTuple):
    """The results of one label. before: logits [N] without fitted calibrators; None where there are
    none. gates: expert -> its mean weight; {} of a head without experts."""

    found: Predictions
    before: np.ndarray | None
    parts: dict[str, dict[str, Trust]]
    metrics: dict[str, Any]
    gates: Mapping[str, float] = MappingProxyType({})


def calibrate(
    asked: Asked,
    model: ServingModel,
    found: Mapping[str, Predictions],
    folder: Path,
    seed: int,
) -> dict[str, Choice]:
    """Gives each served label of the model a calibrator, chosen on the validation rows, and keeps
    the calibrators in the run. A composed label has none: its probability is a product of
    calibrated ones.

    found: the model's predictions on validation; {} where there are none.
    """
    (folder / CALIBRATOR).unlink(missing_ok=True)  # of an unfinished end
    model.calibrate({})
    choices = {}
    for label in model.served:
        if label not in found:
            choices[label] = choose(asked, [], [], [], label=label)
            continue
        rows = uncalibrated(found[label])
        choices[label] = choose(asked, rows.calibrated, rows.labels, rows.users, seed, label)
    fitted = {k: c.calibrator for k, c in choices.items() if c.calibrator is not None}
    if fitted:
        model.calibrate(fitted)
        write_json(folder / CALIBRATOR, config.to_json(fitted))
    return choices


def recalibrate(model: ServingModel, folder: Path) -> None:
    """Gives the model the calibrators that its run kept, if any."""
    path = folder / CALIBRATOR
    if path.exists():
        model.calibrate(config.from_json(json.loads(path.read_text()), str(path)))


def means_of_sample(sample: Mapping[str, Predictions]) -> dict[str, Any]:
    """Rows and mean prediction of a sample of the training rows, by label, without fitted
    calibrators, which know later rows; logs a warning where one is far from the label's rate."""
    values: dict[str, dict[str, Any]] = {}
    for label, found in sample.items():
        whole = evaluation.report(uncalibrated(found))
        values[label] = {k: whole[k] for k in ("rows", "mean_prediction") if k in whole}
        warn_if_far("training", label, values[label])
    return evaluation.by_label(values)


def warn_if_far(split: str, label: str, metrics: Mapping[str, Any]) -> None:
    """Logs a warning where a split's mean prediction is far from the label's rate."""
    mean = metrics.get("mean_prediction")
    if mean and mean["far"]:
        ratio = (
            "{ratio:.2f} times it (95 %: {low:.2f} to {high:.2f})".format(**mean)
            if "ratio" in mean
            else "more than chance explains"
        )
        log.warning(
            "the mean prediction of %s %s rows is %.4f and their %s rate %.4f: it is %s; "
            "expected at most %.0f %% more or less; %s",
            f"{metrics['rows']:,}", split, mean["predicted"], label, mean["rate"], ratio,
            100 * FAR, REMEDIES[split],
        )  # fmt: skip


def warn_of_validation(found: Mapping[str, Predictions], choices: Mapping[str, Choice]) -> None:
    """Logs a warning for each label without a fitted calibrator whose mean prediction is far from
    its rate on validation."""
    for label, choice in choices.items():
        if choice.calibrator is None:
            warn_if_far("validation", label, evaluation.report(found[label]))


def uncalibrated(found: Predictions) -> Predictions:
    """The same rows after the sampling correction alone."""
    assert found.shifted is not None
    return dataclasses.replace(found, calibrated=found.shifted)


def measure(model: ServingModel, test: Reader, trained: Store | None = None) -> dict[str, Measured]:
    """Label -> its predictions, metrics and segments (`measured`).

    trained: the store that the model learned from, where the rows are of another one.
    """
    found, known = evaluation.Predictor(model)(test), trained or test.store
    clicks, category = known.item_clicks(), segments.Category.of(known)
    return {
        label: measured(model, label, rows, test.schema, clicks, test.split, category)
        for label, rows in found.items()
    }


def metrics_of(every: Mapping[str, Measured]) -> dict[str, Any]:
    """The metrics of all labels, as a run keeps them (`evaluation.by_label`), and ``gates``: label
    -> expert -> its mean weight, of a head with experts."""
    found = evaluation.by_label({label: found.metrics for label, found in every.items()})
    gates = gates_of(every)
    return found | ({"gates": gates} if gates else {})


def gates_of(every: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
    """The mean gate of each label that has one."""
    return {label: dict(found.gates) for label, found in every.items() if found.gates}


def measured(
    model: ServingModel,
    label: str,
    found: Predictions,
    schema: Schema,
    clicks: np.ndarray | None = None,
    split: Split = "test",
    category: segments.Category = segments.UNNAMED,
) -> Measured:
    """Every metric of a label, and the calibration of segments.

    clicks: of each item id in the training rows (`Store.item_clicks`). The metrics then have
    ``item_clicks``: band of clicks -> the metrics of candidates with so many. split: of the rows,
    for warnings. category: of the rows' store (`segments.Category`).

    The metrics have ``segments`` and, where there is a fitted calibrator, ``uncalibrated``: the
    same metrics after the sampling correction alone. A mean prediction far from the label's rate is
    logged as a warning, and so is an AUC that calibration lowers.
    """
    metrics = evaluation.report(found)
    gates = {}
    if found.gate is not None:
        experts = getattr(model.head, "expert_names", {})[label]
        gates = dict(zip(experts, found.gate.tolist(), strict=True))
    if not metrics["rows"]:
        return Measured(found, None, {}, metrics, gates)
    ids = segments.ids(schema, found.ids)
    if clicks is not None:
        ids["item_clicks"] = clicks[ids["item"]]
        groups = segments.bands(ids["item_clicks"], segments.CLICKS)
        metrics["item_clicks"] = evaluation.by_group(found, groups)
    parts = segments.report(found, ids, category)
    metrics["segments"] = segments.to_json(parts)
    before = None
    if model.calibrators:
        before = found.shifted
        values = evaluation.report(uncalibrated(found))
        metrics["uncalibrated"] = {k: v for k, v in values.items() if k != "activeness"}
        _warn_of_lost_auc(label, metrics, model.calibrators.get(label), split)
    warn_if_far(split if split in REMEDIES else "training", label, metrics)
    return Measured(found, before, parts, metrics, gates)


def _warn_of_lost_auc(
    label: str,
    metrics: Mapping[str, Any],
    own: graph.Logistic | graph.Piecewise | None,
    split: Split = "test",
) -> None:
    """Logs a warning where calibration lowers the AUC of a label by more than `AUC_LOST`.

    own: the label's calibrator. None: its probability is composed of those of other labels.
    """
    before = metrics["uncalibrated"]
    if before.get("auc", 0.0) - metrics.get("auc", 0.0) <= AUC_LOST:
        return
    if own is None:
        log.warning(
            "calibrating its parts lowers the AUC of %s on the %s rows from %.4f to %.4f; "
            "expected a loss of at most %g; set calibrator=none",
            label, split, before["auc"], metrics["auc"], AUC_LOST,
        )  # fmt: skip
        return
    remedy = "none" if isinstance(own, graph.Logistic) else "platt, which keeps the order"
    log.warning(
        "the fitted calibrator of %s ties %.1f %% of the %s rows with a row of the other "
        "class, %.1f %% without it, and lowers the AUC from %.4f to %.4f; expected a loss of "
        "at most %g; set calibrator=%s",
        label, 100 * metrics["ties"], split, 100 * before["ties"],
        before["auc"], metrics["auc"], AUC_LOST, remedy,
    )  # fmt: skip


def keep(every: Mapping[str, Measured], folder: Path) -> None:
    """``predictions.parquet``: label, user, response and logit of every test row, as measured.

    Rows of a label are those where it is known, in the store's order. Users count from 0.
    """
    found = [(label, rows.found) for label, rows in every.items()]
    sizes = [rows.labels.size for _, rows in found]
    names = pa.array([label for label, _ in found])
    table = pa.table(
        {
            "label": pa.DictionaryArray.from_arrays(
                np.repeat(np.arange(len(found), dtype=np.int32), sizes), names
            ),
            "user": np.concatenate([rows.users for _, rows in found]),
            "response": np.concatenate([rows.labels for _, rows in found]).astype(np.int8),
            "logit": np.concatenate([rows.calibrated for _, rows in found]),
        }
    )
    aside = folder / f".{PREDICTIONS}"
    pq.write_table(table, aside, compression="zstd")
    aside.replace(folder / PREDICTIONS)


def draw(
    every: Mapping[str, Measured],
    folder: Path,
    *,
    simulated: bool,
    split: Split = "test",
    others: Mapping[str, Mapping[str, np.ndarray]] = MappingProxyType({}),
) -> None:
    """``roc.png``, ``reliability.png``, ``segments.png`` and the table ``segments.md`` of the first
    label; of another one its name follows, as in ``reliability_conversion.png``. ``gates.png`` of a
    head with experts.

    split: named by the titles. others: label -> name -> scores [N] whose ROC curves are drawn
        beside the model's.
    """
    if gates := gates_of(every):
        plots.gates(gates, folder / "gates.png", simulated=simulated)
    for number, (label, (found, before, parts, _, _)) in enumerate(every.items()):
        if not found.labels.size:
            continue
        end = f"_{label}" if number else ""
        title = label if len(every) > 1 else ""
        plots.reliability(
            found,
            folder / f"reliability{end}.png",
            title,
            simulated=simulated,
            before=before,
            split=split,
        )
        path = folder / f"segments{end}.png"
        plots.segments(parts, path, title, simulated=simulated, split=split)
        if np.unique(found.labels).size > 1:
            scores = {"model": found.calibrated, **others.get(label, {})}
            named = f"ROC, {split}" + f", {title}" * bool(title) + " (simulated log)" * simulated
            roc.draw(found.labels, scores, folder / f"roc{end}.png", named)
        head = "Simulated log.\n\n" if simulated else ""
        note = "\n\\* fewer than 30 clicks or users: the intervals are not to be believed.\n"
        (folder / f"segments{end}.md").write_text(head + segments.table(parts) + note)


def facts(trainer: Trainer, cursor: Cursor, store: Store, *, exported: bool) -> dict[str, Any]:
    """Further entries of a run's metrics, beside those of its test split."""
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


def table(metrics: Mapping[str, Any], split: Split = "test") -> list[str]:
    """The main metrics of a split, line by line; of several labels a column each."""
    labels = metrics.get("labels", {"": metrics})
    rows = ", ".join(f"{m['rows']:,}{f' of {k}' if k else ''}" for k, m in labels.items())
    lines = [f"{split}{' (simulated log)' if metrics['simulated'] else ''}: {rows} rows"]
    widths = {k: max(6, len(k)) for k in labels}
    if len(labels) > 1:
        lines.append(" " * 22 + "".join(f" {k:>{width}s}" for k, width in widths.items()))
    for name in ("auc", "bayes_auc", "gauc", "logloss", "normalized_entropy", "pcoc"):
        cells = {k: f"{m[name]:.4f}" if name in m else "–" for k, m in labels.items()}
        if any(name in m for m in labels.values()):
            lines.append(f"  {name:20s}" + "".join(f" {v:>{widths[k]}s}" for k, v in cells.items()))
    return lines


def summary(metrics: Mapping[str, Any], folder: Path) -> str:
    """The result of a run in a few lines."""
    lines = table(metrics)
    exports = sorted((folder / "export").glob("[0-9]*"), key=lambda p: int(p.name))
    if "score" in metrics:
        lines.append("  score: s = {weight:g}".format(**metrics["score"]))
    lines += [f"model: {export}" for export in exports[-1:]]
    lines.append(f"run:   {folder}")
    page = folder / PAGE
    return "\n".join([*lines, f"page:  {page}"] if page.is_file() else lines)
