"""What a model must beat: one probability for all rows, and how often each item was clicked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from at4ctr import metrics, tasks
from at4ctr.data.store import GROUPS_AT_ONCE, Store, flat
from at4ctr.evaluation import Predictions
from at4ctr.metrics.intervals import Z_95, clustered_error, least_users
from at4ctr.metrics.probability import losses
from at4ctr.schema import FIRST_ID

PRIOR = 20.0  # rows at the base rate that each item begins with
CONSTANT, POPULARITY = "base rate", "item popularity"

Floats = npt.NDArray[np.float64]


def scores(store: Store, found: Mapping[str, Predictions]) -> dict[str, dict[str, Floats]]:
    """Label -> baseline -> logits [N] of the label's rows, made of the training rows alone.

    ``base rate``: r, the label's rate. ``item popularity``: of an item with k of n training rows,
    (k + 20 r) / (n + 20); r where training never saw the item.
    A label has no baseline if its training rows are all of one class, or if it has no rows.
    """
    counted = _counts(store)
    every = {}
    for label, rows in found.items():
        known, positive = counted[label]
        if not rows.labels.size or not 0 < positive.sum() < known.sum():
            continue
        rate = positive.sum() / known.sum()
        popular = (positive + PRIOR * rate) / (known + PRIOR)
        popular[:FIRST_ID] = rate
        items = rows.ids[store.schema.item_id.name]
        every[label] = {
            CONSTANT: np.full(rows.labels.size, _logit(rate)),
            POPULARITY: _logit(popular)[items],
        }
    return every


def report(
    found: Mapping[str, Predictions], others: Mapping[str, Mapping[str, Floats]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Label -> baseline -> its metrics, and ``change``: the model's log loss less the baseline's,
    with the ends ``low`` and ``high`` of its 95 % interval, clustered by user. ``users`` is
    `least_users`; with few of them the interval is too narrow."""
    return {
        label: {name: _compared(found[label], z) for name, z in of.items()}
        for label, of in others.items()
    }


def _compared(rows: Predictions, z: Floats) -> dict[str, float]:
    values = metrics.report(rows.labels, z)
    moved = losses(rows.labels, rows.calibrated) - losses(rows.labels, z)
    change, size = float(moved.mean()), moved.size
    half = Z_95 * clustered_error((moved - change) / size, rows.users)
    kept = ("auc", "logloss", "normalized_entropy")
    return {k: float(values[k]) for k in kept if k in values} | {
        "change": change, "low": change - half, "high": change + half,
        "users": least_users(rows.labels, rows.users)}  # fmt: skip


def _counts(store: Store) -> dict[str, tuple[Floats, Floats]]:
    """Label, composed ones among them -> training rows where it is known, and where it is 1, of
    each item id. One scan of the item's column and the labels'."""
    labels, ids = store.schema.labels, store.ids(store.schema.item_id.name)
    size = store.rows(store.schema.item_id.table)
    found: dict[str, tuple[Floats, Floats]] = {}
    for items, columns in _scanned(store):
        model_ids = ids[items]
        for label, y in tasks.responses(labels, columns).items():
            known, positive = found.setdefault(label, (np.zeros(size), np.zeros(size)))
            known += np.bincount(model_ids[y >= 0], minlength=size)
            positive += np.bincount(model_ids[y > 0], minlength=size)
    return found


def _scanned(store: Store) -> Iterator[tuple[npt.NDArray, dict[str, npt.NDArray]]]:
    names = {label.name: f"train_{label.column}" for label in store.schema.labels}
    groups = store.groups("train")
    for first in range(0, len(groups), GROUPS_AT_ONCE):
        table = store.columns(groups[first : first + GROUPS_AT_ONCE],
                              ["train_item", *names.values()])  # fmt: skip
        columns = {label: flat(table.column(name)) for label, name in names.items()}
        yield flat(table.column("train_item")), columns


def _logit(p: Any) -> Any:
    return np.log(p) - np.log1p(-p)
