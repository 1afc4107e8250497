"""Exact metrics on numpy arrays: `(labels, predictions)` in, one Python float out, never NaN.

Ranking metrics and log loss take logits in float64, because probabilities near 0 and 1 have ties
that logits do not have. Calibration metrics take probabilities.
"""

from at4ctr.metrics.probability import (
    Bins,
    bin_means,
    expected_calibration_error,
    logit,
    logloss,
    logloss_half,
    losses,
    normalized_entropy,
    pcoc,
    sigmoid,
)
from at4ctr.metrics.ranking import Curve, auc, gauc, roc, ties
from at4ctr.metrics.report import by_group, report

__all__ = [
    "Bins",
    "Curve",
    "auc",
    "bin_means",
    "by_group",
    "expected_calibration_error",
    "gauc",
    "logit",
    "logloss",
    "logloss_half",
    "losses",
    "normalized_entropy",
    "pcoc",
    "report",
    "roc",
    "sigmoid",
    "ties",
]
