"""Curves and intervals of a night's scores, against a bootstrap that draws users."""

from __future__ import annotations

import numpy as np
import pytest

from at4ctr import metrics
from at4ctr.gates.resampling import Ranking, draws
from at4ctr.metrics import roc
from pipelines.night.report import scores as nightly_scores
from tests.gates.evening import evening


def test_intervals_are_the_bootstraps():
    labels, owner, (logits, _) = evening(3, users=400)
    labels, owner, p = (np.repeat(v, 4) for v in (labels, owner, logits))  # rows alike
    clicked = labels == 1
    weights = np.concatenate(list(draws(400, 600, 0)), axis=1)
    areas = Ranking(clicked, p, owner, 400).areas(weights)
    losses = np.log1p(np.exp(np.where(clicked, -p, p)))
    total, clicks, lost = (np.bincount(owner, w) @ weights
                           for w in (np.ones(p.size), clicked.astype(float), losses))  # fmt: skip
    rate = clicks / total
    entropy = (lost / total) / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    for found, drawn in (
        (nightly_scores.auc_interval(labels, p, owner), areas),
        (nightly_scores.entropy_interval(labels, p, owner), entropy),
    ):
        width = found[1] - found[0]
        np.testing.assert_allclose(found, np.quantile(drawn, (0.025, 0.975)), atol=0.15 * width)
    centre = np.mean(nightly_scores.auc_interval(labels, p, owner))
    assert centre == pytest.approx(metrics.auc(labels, p), abs=1e-12)
    value = metrics.normalized_entropy(labels, p)
    assert np.mean(nightly_scores.entropy_interval(labels, p, owner)) == pytest.approx(value)


def test_the_area_under_the_curve_is_the_auc():
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.3).astype(int)
    p = rng.integers(1, 20, 300) / 20  # with ties
    x, y = roc(labels, p)
    assert np.trapezoid(y, x) == pytest.approx(metrics.auc(labels, p), abs=1e-12)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
