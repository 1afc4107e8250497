"""Predictions over a split, and every metric of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from at4ctr import metrics, tasks
from at4ctr.data.reader import Reader
from at4ctr.metrics.intervals import mean_prediction
from at4ctr.metrics.probability import sigmoid
from at4ctr.schema import BEHAVIOURS

BATCH = 4096  # rows at a time; predictions do not depend on it
ACTIVENESS_GROUPS = ("low", "middle", "high")
ACTIVENESS = (0.6, 0.9)  # AQCL §3.2: about 60 % non-active, 30 % slightly, 10 % highly active


@dataclass(frozen=True)
class Predictions:
    """Predictions of one label: one row per instance of a split where it is known, in store order.

    calibrated: logit of the served probability, float64, of which all metrics are computed.
    truth: the label's true probability, where the log is simulated with it.
    shifted: logit after the sampling correction alone, which a calibrator is fitted to.
    ids: model ids of the user and of the item features of one value, by name.
    rows: their positions in the split, increasing.
    gate: [E] the mean weight of each expert over all rows, where the head has experts.
    lengths: how many behaviours the model sees. behaviours: how many the user had before the row,
    with those that ``data.history`` leaves out; None where they are not known.
    """

    labels: np.ndarray
    calibrated: np.ndarray
    users: np.ndarray
    lengths: np.ndarray
    truth: np.ndarray | None
    shifted: np.ndarray | None = None
    ids: Mapping[str, np.ndarray] = field(default_factory=dict)
    rows: np.ndarray | None = None
    gate: np.ndarray | None = None
    behaviours: np.ndarray | None = None

    @property
    def activeness(self) -> dict[str, np.ndarray]:
        """`activeness` by ``behaviours``, or by ``lengths`` where they are not known."""
        return activeness(self.lengths if self.behaviours is None else self.behaviours)

    @property
    def probability(self) -> np.ndarray:
        """[N] float64: the served probability before it is rounded to float32."""
        return sigmoid(self.calibrated)


class Scored(Protocol):
    """A model with the ``scores`` of a `ServingModel`."""

    def scores(self, batch: Mapping[str, tf.Tensor]) -> dict[str, dict[str, tf.Tensor]]: ...


class Predictor:
    """Runs a serving model over readers; traced once for all batches of the same features."""

    def __init__(self, model: Scored) -> None:
        self.model = model
        self._traced: dict[frozenset[str], Any] = {}

    def _scores(self, batch: Mapping[str, tf.Tensor]) -> dict[str, dict[str, tf.Tensor]]:
        names = frozenset(batch)
        if names not in self._traced:
            specs = {k: tf.TensorSpec([None, *v.shape[1:]], v.dtype) for k, v in batch.items()}
            traced = tf.function(lambda b: self.model.scores(b), autograph=False)
            self._traced[names] = traced.get_concrete_function(specs)
        found: dict[str, dict[str, tf.Tensor]] = self._traced[names](batch)
        return found

    def __call__(self, reader: Reader, batches: int | None = None) -> dict[str, Predictions]:
        """Label -> predictions of each served label in the schema's order, each followed by its
        composed label (``click_and_conversion``) and, where it is learned, the derived one
        (``click_without_conversion``).

        batches: how many of epoch 0 are read, from the first on.
        """
        schema = reader.schema
        kept: dict[str, list[np.ndarray]] = {}
        gates: dict[str, np.ndarray] = {}  # sums over rows
        now = [f for f in schema.group("item") if f.length is None]
        ids = [f.name for f in (schema.user_id, *now) if f.length is None]
        for batch in reader.dataset(0).take(-1 if batches is None else batches):
            found = {
                name: batch[name] for name in ("user_index", "history_length", BEHAVIOURS, *ids)
            }
            found |= {k: v for k, v in batch.items() if k.startswith(("label_", "truth_"))}
            scores = self._scores(batch)
            for label, weights in scores.pop("gates", {}).items():
                total = weights.numpy().sum(0, dtype=np.float64)
                gates[label] = gates.get(label, 0.0) + total
            for kind, values in scores.items():
                found |= {f"{kind} {label}": z for label, z in values.items()}
            for name, value in found.items():
                kept.setdefault(name, []).append(value.numpy())
        whole = {name: np.concatenate(parts) for name, parts in kept.items()}
        responses = tasks.responses(schema.labels, {x.name: whole[x.column] for x in schema.labels})
        given = {x.name: whole[f"truth_{x.name}"] for x in schema.labels
                 if f"truth_{x.name}" in whole}  # fmt: skip
        simulated = [x for x in schema.labels if {x.name, x.within or x.name} <= set(given)]
        truths = tasks.responses(simulated, given)
        every: dict[str, Predictions] = {}
        for label, truth in responses.items():
            if f"shifted {label}" not in whole:
                continue  # a label that is not served
            known = truth >= 0
            rows = np.flatnonzero(known)
            every[label] = Predictions(
                truth[rows],
                whole[f"calibrated {label}"][rows],
                whole["user_index"][rows],
                whole["history_length"][rows],
                truths[label][rows] if label in truths else None,
                whole[f"shifted {label}"][rows],
                {name: whole[name][rows] for name in ids},
                rows,
                gates[label] / len(truth) if label in gates else None,
                whole[BEHAVIOURS][rows],
            )
        return every


def activeness(behaviours: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of rows by how many behaviours came before: low up to the 60 % quantile, high above the
    90 % quantile."""
    low, high = np.quantile(behaviours, ACTIVENESS)
    masks = (behaviours <= low, (behaviours > low) & (behaviours <= high), behaviours > high)
    return dict(zip(ACTIVENESS_GROUPS, masks, strict=True))


def reports(found: Mapping[str, Predictions]) -> dict[str, Any]:
    """The report of the first label and, where there are several, ``labels``: name -> report."""
    return by_label({label: report(predictions) for label, predictions in found.items()})


def by_label(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics as a run keeps them: the first label's and, of several, ``labels``: name -> its."""
    first = dict(next(iter(values.values())))
    return first | ({"labels": {k: dict(v) for k, v in values.items()}} if len(values) > 1 else {})


def report(found: Predictions) -> dict[str, Any]:
    """Every metric of a label (GAUC by user), ``mean_prediction`` against its rate, the metrics per
    activeness group, and ``bayes_auc``, the AUC of the true probabilities, where they are known.

    Without any row: ``rows`` and ``positives`` alone."""
    if not found.labels.size:
        return {"rows": 0, "positives": 0}
    values: dict[str, Any] = dict(
        metrics.report(found.labels, found.calibrated, groups=found.users)
    )
    means = mean_prediction(found.labels, found.probability, found.users)
    values["mean_prediction"] = means.to_json()
    if found.truth is not None and 0 < values["positives"] < values["rows"]:
        values["bayes_auc"] = metrics.auc(found.labels, found.truth)
    values["activeness"] = by_group(found, found.activeness)
    return values


def by_group(found: Predictions, masks: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The metrics of each group of rows [N], without those that are undefined in it."""
    groups = metrics.by_group(found.labels, found.calibrated, masks)
    return {n: {k: v for k, v in group.items() if v is not None} for n, group in groups.items()}
