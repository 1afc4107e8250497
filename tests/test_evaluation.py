"""Predictions over a split, and the report of them."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from at4ctr import evaluation, metrics
from at4ctr.backbones import din
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.evaluation import Predictions, activeness, report
from at4ctr.heads import mmoe, single
from at4ctr.metrics.report import NAMES
from pipelines import measure
from tests.data import toy_store
from tests.model import job


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> tuple[toy_store.Toy, Store]:
    path = tmp_path_factory.mktemp("store") / "toy"
    return toy_store.make(path, users=60, truth=True), Store.open(path)


@pytest.fixture(scope="module")
def model(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    made = job.trainer(toy[1], folder, backbone=din.Config(), head=single.Config(), validate=None)
    serving = made.model.serving
    for v in serving.trainable_variables:
        v.assign_add(0.1 * tf.ones_like(v))
    return serving


def reader(store: Store, size: int, truth: bool = False) -> Reader:
    return Reader(store, "test", batch_size=size, history=8, shuffle=False, truth=truth)


def test_predictions_do_not_depend_on_the_batches(toy, model):
    whole = reader(toy[1], 1000, truth=True)
    batch = {k: tf.constant(v) for k, v in whole.batch(0, 0).items()}
    expected = model.scores(batch)["calibrated"]["click"].numpy()
    served = model.answer(batch)["probability"].numpy()
    rows = toy[0].rows("test")
    for size in (1, 7, 64, 1000):
        found = evaluation.Predictor(model)(reader(toy[1], size, truth=True))["click"]
        np.testing.assert_allclose(found.calibrated, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.probability, served, rtol=1e-5)
        np.testing.assert_array_equal(found.shifted, found.calibrated)
        assert found.labels.tolist() == [row["label"] for _, row in rows]
        assert found.truth is not None
        assert found.truth.tolist() == [row["truth_click"] for _, row in rows]
        assert found.lengths.tolist() == [min(row["cut"], 8) for _, row in rows]
        assert found.users.tolist() == [user["user"] for user, _ in rows]
        assert found.calibrated.dtype == np.float64


def test_one_trace_serves_every_batch_size(toy, model):
    predict = evaluation.Predictor(model)
    for size in (3, 7, 64, 5):
        predict(reader(toy[1], size))
    assert len(predict._traced) == 1


MORE = ("mean_prediction", "activeness")


def numbers(value):
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    return [value]


def random(rows: int, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    p = rng.random(rows)
    labels = (rng.random(rows) < p).astype(np.float32)
    return Predictions(
        labels, metrics.logit(p), rng.integers(0, 9, rows), rng.integers(0, 30, rows), p
    )


def test_the_report_has_every_name_and_no_nan():
    found = report(random(2000))
    assert list(NAMES) == [n for n in found if n not in (*MORE, "bayes_auc")]
    assert found["bayes_auc"] == found["auc"]
    assert set(found["activeness"]) == {"low", "middle", "high"}
    assert sum(g["rows"] for g in found["activeness"].values()) == 2000
    assert all(math.isfinite(n) for n in numbers(found))
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("rows", [1, 5])
def test_what_is_not_defined_is_left_out(label, rows):
    made = random(rows)
    found = report(
        Predictions(np.full(rows, label), made.calibrated, made.users, made.lengths, made.truth)
    )
    assert "auc" not in found
    assert "bayes_auc" not in found
    assert found["rows"] == rows
    assert all(math.isfinite(n) for n in numbers(found))


def test_only_the_first_batches_where_so_many_are_asked_for(toy, model):
    predict = evaluation.Predictor(model)
    whole, part = predict(reader(toy[1], 7))["click"], predict(reader(toy[1], 7), 2)["click"]
    np.testing.assert_array_equal(part.calibrated, whole.calibrated[:14])
    assert predict(reader(toy[1], 7), 10**6)["click"].labels.size == whole.labels.size


def test_without_the_truth_there_is_no_bayes_auc(toy, model):
    found = evaluation.Predictor(model)(reader(toy[1], 16))["click"]
    assert found.truth is None
    assert "bayes_auc" not in report(found)


@pytest.mark.parametrize("lengths", [np.zeros(10), np.arange(10), np.repeat([1, 50], 5)])
def test_every_row_is_in_one_activeness_group(lengths):
    masks = np.stack(list(activeness(lengths).values()))
    np.testing.assert_array_equal(masks.sum(0), 1)


def test_activeness_follows_the_quantiles():
    sizes = {k: int(v.sum()) for k, v in activeness(np.arange(1000)).items()}
    assert sizes == {"low": 600, "middle": 300, "high": 100}


def test_activeness_is_by_all_behaviours_of_the_user_not_by_those_in_the_window(toy, model):
    narrow, wide = (
        evaluation.Predictor(model)(
            Reader(toy[1], "test", batch_size=16, history=size, shuffle=False)
        )["click"]
        for size in (1, 8)
    )
    assert narrow.lengths.max() == 1 < wide.lengths.max()
    np.testing.assert_array_equal(narrow.behaviours, wide.behaviours)
    for name, rows in narrow.activeness.items():
        np.testing.assert_array_equal(rows, wide.activeness[name])


def test_the_mean_gate_is_over_all_rows_of_the_split(toy, tmp_path):
    head = mmoe.Config(experts=2, expert=(4,), tower=(3,))
    made = job.trainer(toy[1], tmp_path, head=head, validate=None)
    serving = made.model.serving
    whole = reader(toy[1], 1000)
    batch = {k: tf.constant(v) for k, v in whole.batch(0, 0).items()}
    each = serving.forward(batch, training=False).outputs.gates["click"].numpy()
    for size in (7, 1000):
        found = evaluation.Predictor(serving)(reader(toy[1], size))["click"]
        assert found.gate is not None
        np.testing.assert_allclose(found.gate, each.mean(0), rtol=1e-5)
    measured = measure.measured(serving, "click", found, toy[1].schema)
    values = measure.metrics_of({"click": measured})["gates"]
    assert list(values["click"]) == ["shared 1", "shared 2"]
    assert sum(values["click"].values()) == pytest.approx(1)
    measure.draw({"click": measured}, tmp_path, simulated=True)
    assert (tmp_path / "gates.png").stat().st_size > 0
