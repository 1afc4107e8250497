"""Baselines of a run: rates of the training rows by plain counting, and a bootstrap's interval."""

import math
from collections import defaultdict

import numpy as np
import pytest

from at4ctr.analysis import baselines
from at4ctr.data.store import Store
from at4ctr.evaluation import Predictions
from tests.data import toy_store
from tests.gates.evening import evening


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_store.make(tmp_path_factory.mktemp("store") / "toy", users=80, rich=True)


def predictions(toy, label, within=None):
    """Of the test rows where a label is known, with random logits."""
    rows = [(u, r) for u, r in toy.rows("test") if within is None or r["label_click"] == 1]
    rows = [(u, r) for u, r in rows if r[f"label_{label}"] >= 0]
    items = np.array([toy.ids["item"][r["item"]] for _, r in rows])
    labels = np.array([r[f"label_{label}"] for _, r in rows])
    z = np.random.default_rng(1).normal(size=len(rows))
    owners = np.array([u["user"] for u, _ in rows])
    return Predictions(labels, z, owners, np.ones(len(rows)), None, ids={"item": items})


def expected(toy, label):
    """Model id -> smoothed rate in the training rows, and the rate of all."""
    counts = defaultdict(lambda: [0, 0])
    for _, row in toy.rows("train"):
        if row[f"label_{label}"] >= 0:
            for key in (None, int(toy.ids["item"][row["item"]])):
                counts[key][0] += 1
                counts[key][1] += row[f"label_{label}"]
    rate = counts[None][1] / counts[None][0]
    popular = {i: (k + 20 * rate) / (n + 20) for i, (n, k) in counts.items() if i not in (None, 1)}
    return popular, rate


@pytest.mark.parametrize("label", ["click", "conversion"])
def test_rates_are_those_of_the_training_rows(toy, label):
    found = predictions(toy, label)
    scores = baselines.scores(Store.open(toy.path), {label: found})[label]
    popular, rate = expected(toy, label)
    assert len(popular) > 10
    chosen = [popular.get(int(i), rate) for i in found.ids["item"]]
    np.testing.assert_allclose(1 / (1 + np.exp(-scores[baselines.POPULARITY])), chosen)
    np.testing.assert_allclose(1 / (1 + np.exp(-scores[baselines.CONSTANT])), rate)
    assert 1 in found.ids["item"]  # an item that training never saw


def test_a_composed_label_has_baselines_too(toy):
    found = predictions(toy, "click")
    scores = baselines.scores(Store.open(toy.path), {"click_and_conversion": found})
    clicks = [row for _, row in toy.rows("train")]
    rate = sum(r["label_click"] == 1 and r["label_conversion"] == 1 for r in clicks) / sum(
        r["label_click"] == 0 or r["label_conversion"] >= 0 for r in clicks
    )
    z = scores["click_and_conversion"][baselines.CONSTANT]
    assert z[0] == pytest.approx(math.log(rate / (1 - rate)))


def test_a_label_of_one_class_has_none(tmp_path):
    toy = toy_store.make(tmp_path / "toy", users=20)
    store = Store.open(toy.path)
    none = np.array([])
    empty = Predictions(none, none, none, none, None, ids={"item": none.astype(int)})
    assert baselines.scores(store, {"click": empty}) == {}


def test_the_difference_is_the_mean_over_rows_with_users_drawn_anew():
    labels, owner, (z, _) = evening(3, users=300)
    other = np.full(labels.size, math.log(labels.mean() / (1 - labels.mean())))
    found = Predictions(labels, z, owner, np.ones(labels.size), None)
    values = baselines.report({"click": found}, {"click": {"base rate": other}})
    said = values["click"]["base rate"]

    def lost(scores):
        return np.log1p(np.exp(np.where(labels == 1, -scores, scores)))

    moved = lost(z) - lost(other)
    assert said["change"] == pytest.approx(moved.mean())
    assert said["logloss"] == pytest.approx(lost(other).mean())
    assert said["normalized_entropy"] == pytest.approx(1)
    assert said["auc"] == 0.5
    rng = np.random.default_rng(0)
    sums, sizes = np.bincount(owner, moved), np.bincount(owner)
    drawn = rng.integers(len(sums), size=(2000, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    width = said["high"] - said["low"]
    np.testing.assert_allclose(
        (said["low"], said["high"]), np.quantile(means, (0.025, 0.975)), atol=0.15 * width
    )
