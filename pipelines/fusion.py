"""The fused score of CTnoCVR (`tasks.score`): its weight s is chosen on validation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from at4ctr import tasks
from at4ctr.calibration.fitting import Choice
from at4ctr.durable import write_json
from at4ctr.evaluation import Predictions
from at4ctr.metrics import ranking
from at4ctr.model.serving import ServingModel
from pipelines import measure

SCORE = "score.json"  # in a run's folder, where a weight above 0 was chosen
WEIGHTS = (0.0, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.02, 0.03, 0.04, 0.05)


def choose(
    model: ServingModel,
    found: Mapping[str, Predictions],
    choices: Mapping[str, Choice],
    folder: Path,
) -> dict[str, float]:
    """Gives the model the weight s whose score ranks the conversions of the validation rows best by
    AUC, and keeps it in the run. s is above 0 only where that is better than 0.

    The grid has 0, the values that Zhang et al. (SIGIR 2022, §3.2) sweep, and the two values of
    their code.

    found: the model's predictions on validation; {} where there are none. choices: the calibrators
    that the same rows have chosen meanwhile.

    Returns s -> AUC; {} where the model learns no derived label, or where the AUC is not defined.
    """
    (folder / SCORE).unlink(missing_ok=True)  # of an unfinished end
    model.score_weight, curve, served = 0.0, dict[float, float](), dict(found)
    for label, choice in choices.items():
        if choice.calibrator is not None and label in found:
            logits = choice.calibrator.logits(measure.uncalibrated(found[label]).calibrated)
            served[label] = dataclasses.replace(found[label], calibrated=logits)
    for weight in WEIGHTS:
        scored = predictions(model, served, weight)
        if scored is not None and 0 < scored.labels.sum() < scored.labels.size:
            curve[weight] = ranking.auc(scored.labels, scored.calibrated)
    if curve:
        model.score_weight = max(curve, key=curve.__getitem__)  # the least of equally good ones
    if model.score_weight:
        write_json(folder / SCORE, {"weight": model.score_weight})
    return {f"{weight:g}": auc for weight, auc in curve.items()}


def restore(model: ServingModel, folder: Path) -> None:
    """Gives the model the weight that its run kept, if any."""
    path = folder / SCORE
    if path.exists():
        model.score_weight = float(json.loads(path.read_text())["weight"])


def predictions(
    model: ServingModel, found: Mapping[str, Predictions], weight: float
) -> Predictions | None:
    """The rows where the conversion is known, with the score in place of the logit. None where the
    model learns no derived label or the conversion has no predictions."""
    if not model.fused or model.fused[0] not in found:
        return None
    rows, rest = (found[name] for name in model.fused)
    assert rows.rows is not None
    assert rest.rows is not None
    here = np.searchsorted(rest.rows, rows.rows)  # it is known wherever the conversion is
    value = tasks.score(rows.probability, rest.probability[here], weight)
    return dataclasses.replace(rows, calibrated=value)


def metrics(model: ServingModel, found: Mapping[str, Predictions]) -> dict[str, Any]:
    """``score``: the label that it ranks, its weight s, and AUC and GAUC on the rows where that
    label is known; {} of a model without a derived label."""
    scored = predictions(model, found, model.score_weight)
    if scored is None:
        return {}
    values: dict[str, Any] = {"label": model.fused[0], "weight": model.score_weight}
    if 0 < scored.labels.sum() < scored.labels.size:
        values["auc"] = ranking.auc(scored.labels, scored.calibrated)
        areas = ranking.group_areas(scored.labels, scored.calibrated, scored.users)
        values["gauc"] = areas.mean("equal")
    return {"score": {k: v for k, v in values.items() if v is not None}}
