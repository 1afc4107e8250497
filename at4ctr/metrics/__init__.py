"""Exact metrics on numpy arrays: `(labels, predictions)` in, one Python float out, never NaN."""

from at4ctr.metrics.probability import (
    Bins,
    bin_means,
    expected_calibration_error,
    logloss,
    logloss_half,
    normalized_entropy,
    pcoc,
)
from at4ctr.metrics.ranking import auc, gauc
from at4ctr.metrics.report import by_group, report

__all__ = [
    "Bins",
    "auc",
    "bin_means",
    "by_group",
    "expected_calibration_error",
    "gauc",
    "logloss",
    "logloss_half",
    "normalized_entropy",
    "pcoc",
    "report",
]
