"""All metrics of one evaluation, by name, overall and for named groups of rows."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from at4ctr.errors import InputError
from at4ctr.metrics import _inputs
from at4ctr.metrics.probability import (
    expected_calibration_error,
    logloss,
    normalized_entropy,
    pcoc,
    sigmoid,
)
from at4ctr.metrics.ranking import Weights, auc, group_areas, ties

NAMES = (
    "rows",
    "positives",
    "auc",
    "gauc",
    "gauc_impressions",
    "ties",
    "logloss",
    "logloss_half",
    "normalized_entropy",
    "pcoc",
    "expected_calibration_error",
)
GAUC: Mapping[str, Weights] = {"gauc": "equal", "gauc_impressions": "impressions"}


def report(
    labels: npt.ArrayLike,
    logits: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
) -> dict[str, float | int]:
    """Every metric of `NAMES` that is defined on these rows, in that order; never NaN.

    `auc` and `normalized_entropy` need both classes, `pcoc` a positive row. `gauc` weighs groups
    equally, `gauc_impressions` by their rows; both need `groups` and in one of them both classes.
    What is undefined is left out.

    Args:
        labels: [N], 0 or 1.
        logits: [N], of the predicted probabilities.
        groups: [N], group ids for `gauc` (usually user ids), or None.

    Raises:
        InputError: as for `losses`.
    """
    truth, z = _inputs.scored(labels, logits)
    rows, positives, p = truth.size, int(truth.sum()), sigmoid(z)
    loss = logloss(truth, z)
    values: dict[str, float | int] = {
        "rows": rows,
        "positives": positives,
        "ties": ties(truth, z),
        "logloss": loss,
        "logloss_half": loss / 2,
        "expected_calibration_error": expected_calibration_error(truth, p),
    }
    if positives:
        values["pcoc"] = pcoc(truth, p)
    if 0 < positives < rows:
        values["auc"] = auc(truth, z)
        values["normalized_entropy"] = normalized_entropy(truth, z)
    areas = None if groups is None else group_areas(truth, z, groups)
    for name, weights in GAUC.items():
        grouped = None if areas is None else areas.mean(weights)
        if grouped is not None:
            values[name] = grouped
    return {name: values[name] for name in NAMES if name in values}


def by_group(
    labels: npt.ArrayLike,
    logits: npt.ArrayLike,
    groups: Mapping[str, npt.ArrayLike],
) -> dict[str, dict[str, float | int | None]]:
    """The `report` of each named set of rows, for instance terciles of history length.

    A metric that is undefined on a group (auc of one class; all of an empty group) is None, so
    that every group has the same names: those of `NAMES` but of `GAUC`.

    Args:
        labels: [N], 0 or 1.
        logits: [N], of the predicted probabilities.
        groups: name → boolean mask [N]; masks may overlap.

    Raises:
        InputError: as for `losses`; also for a mask that is not boolean or of another length.
    """
    truth, z = _inputs.scored(labels, logits)
    reports: dict[str, dict[str, float | int | None]] = {}
    for name, values in groups.items():
        mask = np.asarray(values)
        if mask.dtype != np.bool_ or mask.shape != truth.shape:
            raise InputError(
                f"mask of group {name!r} has type {mask.dtype} and shape {mask.shape}: "
                f"expected bool and {truth.shape}, give one flag for each row"
            )
        found = report(truth[mask], z[mask]) if mask.any() else {"rows": 0, "positives": 0}
        reports[name] = {metric: found.get(metric) for metric in NAMES if metric not in GAUC}
    return reports
