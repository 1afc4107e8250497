"""What a run says of its mean predictions, and of what a calibrator's ties cost."""

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from at4ctr import evaluation
from at4ctr.calibration import graph
from at4ctr.calibration.fitted import Isotonic, Platt
from at4ctr.evaluation import Predictions
from pipelines import measure
from tests.gates.evening import evening, logit
from tests.model import toys


def predictions(shift=0.0):
    labels, owner, (z, _) = evening(3, users=200)
    return Predictions(labels, z + shift, owner, np.ones(labels.size), None, z + shift)


@pytest.mark.parametrize("split", ["training", "validation", "test"])
@pytest.mark.parametrize(("shift", "ratio"), [(0.0, None), (-3.0, 0.078), (1.0, 1.74)])
def test_a_mean_prediction_far_from_the_rate_is_a_warning_with_a_remedy(
    caplog, split, shift, ratio
):
    found = predictions(shift)
    with caplog.at_level(logging.WARNING, "at4ctr"):
        measure.warn_if_far(split, "order", evaluation.report(found))
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == (ratio is not None)
    for text in said:
        assert f"rows is {found.probability.mean():.4f}" in text
        assert f"order rate {found.labels.mean():.4f}" in text
        assert "click" not in text
        assert f"it is {found.probability.sum() / found.labels.sum():.2f} times it" in text
        assert found.probability.sum() / found.labels.sum() == pytest.approx(ratio, rel=0.15)
        assert measure.REMEDIES[split] in text
        assert "\n" not in text


def test_rows_without_a_click_are_a_warning_too(caplog):
    found = predictions()
    none = Predictions(0 * found.labels, found.calibrated, found.users, found.lengths, None)
    with caplog.at_level(logging.WARNING, "at4ctr"):
        measure.warn_if_far("test", "click", evaluation.report(none))
    assert "more than chance explains" in caplog.text


def test_the_training_sample_is_judged_without_the_calibrator(caplog):
    """A calibrator knows the rate of later rows."""
    found = predictions()
    later = Predictions(
        found.labels, found.calibrated - 3, found.users, found.lengths, None, found.shifted
    )
    with caplog.at_level(logging.WARNING, "at4ctr"):
        values = measure.means_of_sample({"click": later})
    assert not caplog.records
    assert values["rows"] == found.labels.size
    assert values["mean_prediction"]["predicted"] == pytest.approx(found.probability.mean())


@pytest.mark.parametrize(
    ("own", "advice"),
    [
        (Isotonic((0.1, 0.9), (0.1, 0.9)), "set calibrator=platt, which keeps the order"),
        (Platt(1.0, 0.0), "set calibrator=none"),
        (None, "set calibrator=none"),
    ],
)
def test_auc_that_calibration_costs_is_a_warning(own, advice, caplog):
    """The advice is never what is set already."""
    found = predictions()
    steps = logit(np.clip(np.round(found.probability, 1), 0.05, 0.95))
    tied = Predictions(found.labels, steps, found.users, found.lengths, None, found.shifted)
    metrics = evaluation.report(tied)
    metrics["uncalibrated"] = evaluation.report(measure.uncalibrated(tied))
    with caplog.at_level(logging.WARNING, "at4ctr"):
        measure._warn_of_lost_auc("click", metrics, own and graph.served(own))
    assert metrics["ties"] > 0.9 > 0.1 > metrics["uncalibrated"]["ties"]
    (said,) = (r.getMessage() for r in caplog.records)
    assert said.endswith(advice)
    begins = "calibrating its parts lowers the AUC of click on the test rows from 0."
    assert said.startswith(begins) == (own is None)
    caplog.clear()
    measure._warn_of_lost_auc("click", {**metrics, "auc": metrics["uncalibrated"]["auc"]}, None)
    assert not caplog.records


@pytest.mark.parametrize("fitted", [{}, {"click": "platt"}])
def test_what_was_before_the_calibrator_is_after_the_sampling_correction(fitted):
    found = predictions()
    later = Predictions(
        found.labels, found.calibrated - 1, found.users, found.lengths, None, found.shifted
    )
    model: Any = SimpleNamespace(calibrators=fitted)
    made = measure.measured(model, "click", later, toys.SCHEMA)
    if not fitted:
        assert made.before is None
        return
    np.testing.assert_array_equal(made.before, found.shifted)
    assert made.metrics["uncalibrated"]["logloss"] < made.metrics["logloss"]
