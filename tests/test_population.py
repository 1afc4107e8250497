"""Population statistics: those of the weights at hand, over the batches that the feed gives."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from at4ctr import population
from at4ctr.backbones import din
from at4ctr.data.store import Store
from at4ctr.heads import single
from at4ctr.layers.mlp import Dice
from at4ctr.layers.population import Sums, batch_moments, collecting_sums, moments
from tests.data import toy_store
from tests.model import host, job, toys
from tests.oracles import models as oracle


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    path = tmp_path_factory.mktemp("store") / "toy"
    toy_store.make(path, users=60)
    return Store.open(path)


def expected(trainer, batches) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of the inputs of every Dice layer of a DIN, in its order."""
    model = trainer.model.serving
    body, inputs = model.backbone, {}
    unit, trunk = body.attention, model.head.trunk
    stack = [toys.layer(unit.first), *toys.layers(unit.rest)]
    for arrays in batches:
        samples = toys.samples(model, arrays)
        x = np.array([oracle.din_input(s, toys.layer(unit.project), stack) for s in samples])
        x = x * toys.double(trunk.affine.gamma) + toys.double(trunk.affine.beta)
        for i, (dense, dice) in enumerate(zip(trunk.dense, trunk.activations, strict=True)):
            x = oracle.dense(x, toys.layer(dense))
            inputs.setdefault(i, []).append(x)
            x = oracle.dice(x, x.mean(0), x.var(0), toys.double(dice.alpha))
    whole = [np.concatenate(parts) for parts in inputs.values()]
    return [(x.mean(0), x.var(0)) for x in whole]


@pytest.mark.parametrize("rows", [50, 10**6])
def test_statistics_equal_the_oracle_over_the_same_batches(store, tmp_path, monkeypatch, rows):
    """Without dropout, whatever they were before; a second estimate has the same bits."""
    monkeypatch.setattr(population, "ROWS", rows)
    made = job.trainer(store, tmp_path, validate=None, auxiliaries={})
    toys.jitter(made.model.serving)
    reader = made.feed._readers[0]
    steps = reader.steps(0) if rows > 50 else 4
    made.population.estimate()
    wanted = expected(made, [reader.batch(0, k) for k in range(steps)])
    found = [(d.mean.numpy(), d.variance.numpy()) for d in made.population.layers]
    for (mean, variance), (m, v) in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mean, m, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(variance, v, rtol=1e-4)
    made.population.estimate()
    for (mean, variance), layer in zip(found, made.population.layers, strict=True):
        np.testing.assert_array_equal(layer.mean, mean)
        np.testing.assert_array_equal(layer.variance, variance)


def test_a_variance_far_below_the_mean_survives():
    """In float32, Σx²/n − mean² would be negative or 0 here."""
    x = (1e4 + np.random.default_rng(0).normal(0, 0.5, (512, 3))).astype(np.float32)
    layer = Dice(3, "dice")
    with collecting_sums() as found:
        batch_moments(layer, tf.constant(x))
        batch_moments(layer, tf.constant(x[:0]))
    wide = x.astype(np.float64)
    whole = Sums(layer, *(a + b for a, b in zip(found[0][1:], found[1][1:], strict=True)))
    for value, wanted in zip(moments(whole), (wide.mean(0), wide.var(0)), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4)
    assert all(np.isfinite(v.numpy()).all() for v in moments(found[1]))


def test_a_layer_that_is_called_twice_has_the_rows_of_both_calls(store, tmp_path):
    made = job.trainer(store, tmp_path, validate=None, auxiliaries={})
    first = made.population.layers[0]
    part = [tf.zeros([1]), tf.zeros([2]), tf.zeros([2])]
    made.population._traced = [Sums(first, *part), Sums(first, *part)]
    values = np.array([3, 1, 2, 10, 20, 4, 5, 6, 70, 80], np.float64)
    (sums,) = made.population._by_layer(values).values()
    assert [v.numpy().tolist() for v in sums[1:]] == [[7], [6, 8], [80, 100]]


def test_a_model_without_such_layers_reads_nothing(store, tmp_path):
    made = job.trainer(store, tmp_path, head=host.PRELU, validate=None, auxiliaries={})
    made.population.feed = None  # type: ignore[assignment]
    made.population.estimate()
    assert made.population.layers == []


def test_training_steps_leave_the_statistics(store, tmp_path):
    made = job.trainer(store, tmp_path, validate=None, auxiliaries={})
    batches = made.feed(0, 0)
    for _ in range(3):
        made._step(next(batches))
    for layer in made.population.layers:
        np.testing.assert_array_equal(layer.mean, np.zeros(layer.mean.shape))
        np.testing.assert_array_equal(layer.variance, np.ones(layer.mean.shape))


@pytest.mark.parametrize("validate", [None, "store"])
def test_mean_predictions_follow_the_rate_after_few_steps(tmp_path, validate):
    """Labels are random and the learning rate is large: moving averages would lag the weights."""
    toy_store.make(tmp_path / "toy", users=400, instances=12)
    store = Store.open(tmp_path / "toy")
    fit = dataclasses.replace(job.FIT, epochs=1, learning_rate=0.02, batch_size=32, evaluations=1)
    made = job.trainer(
        store,
        tmp_path / "run",
        backbone=din.Config(attention=(8, 4)),
        head=single.Config(units=(12, 6)),
        auxiliaries={},
        config=fit,
        negative_rate=1.0,
        validate=validate,
    )
    made.train()
    model, rows = made.model.serving, made.feed._readers[0]
    served, of_batches = [], []
    labels = [rows.batch(0, k)["label_click"] for k in range(rows.steps(0))]
    for k in range(rows.steps(0)):
        arrays = toys.tensors(rows.batch(0, k))
        served.append(model(arrays)["click"].numpy())
        of_batches.append(model(arrays, training=True)["click"].numpy())
    mean, batch = (oracle.sigmoid(np.concatenate(z)).mean() for z in (served, of_batches))
    assert mean == pytest.approx(batch, rel=0.03)
    assert mean == pytest.approx(np.concatenate(labels).mean(), rel=0.1)
