"""ICL and AQCL from a batch of ids to their losses, against the paper's equations."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.auxiliaries import aqcl, icl
from at4ctr.backbones import dbpman, deepfm, din, fm
from at4ctr.errors import InputError
from at4ctr.heads import single
from at4ctr.layers.embedder import Config as Space
from at4ctr.model.build import ExpertConfig, Plan, serving_model, training_model
from tests.layers.test_views import shorter
from tests.model import toys
from tests.oracles import contrast as oracle
from tests.oracles import models
from tests.oracles.losses import numeric_gradients

T, K, MEAN = 6, 2, 3.5
UNITS = (7, 6, 5)
ICL = icl.Config(mask=0.4, dropout=0.0, units=UNITS, temperature=0.2)
AQCL = aqcl.Config(
    weight=0.05, mask=0.4, dropout=0.0, units=UNITS, temperature=0.2, codewords=T, nearest=K,
    cluster_temperature=0.3, codebook_temperature=0.4, epsilon=0.1, w1=0.7, w2=1.5,
)  # fmt: skip
ARRAYS = toys.batch(14, 20, lengths=[0, 1, 20, 20, 3, 7, 12, 4, 4, 9, 0, 2, 15, 6])


def build(config, backbone=None):
    serving = toys.serving(backbone or din.Config())
    plan = Plan({}, single.Config(), {"main": toys.EMBEDDING}, auxiliaries={"task": config}, seed=3)
    model = training_model(serving, toys.SCHEMA, plan, lambda: MEAN)
    toys.jitter(model)
    return model, model.auxiliaries["task"]


def kept(task, arrays):
    """Which behaviours the next view keeps; the task's generator is set back."""
    before = tf.identity(task.views.draws.generator.state)
    count = arrays["history_length"].sum()
    drawn = tf.random.stateless_uniform([count], task.views.draws.seed()).numpy()
    task.views.draws.generator.state.assign(before)
    return drawn >= task.views.config.mask


def projected(model, task, arrays):
    """The oracle's g(h) of a batch, h the last layer of the tower in a pass of its own."""
    hidden = toys.view(model, arrays).outputs.towers["click"]
    if hidden:
        x = toys.double(hidden[-1])
    else:
        means = [
            np.concatenate([s.profile, s.item, s.context, models.mean_pool(s.history)])
            for s in toys.samples(model.serving, arrays)
        ]
        x = np.array(means)
    for i, layer in enumerate(toys.layers(task.views.projector)):
        x = models.dense(x, layer)
        x = x if i == len(UNITS) - 1 else np.where(x > 0, x, 0.01 * x)
    return x


@pytest.mark.parametrize("backbone", [din.Config(), dbpman.Config(), fm.Config()])
def test_icl_is_eq_2_on_the_tower_of_a_log_with_fewer_behaviours(backbone):
    model, task = build(ICL, backbone)
    thin = shorter(ARRAYS, kept(task, ARRAYS))
    assert 0 < thin["history_length"].sum() < ARRAYS["history_length"].sum()
    found = float(task.loss(toys.view(model, ARRAYS)))
    z, augmented = (projected(model, task, arrays) for arrays in (ARRAYS, thin))
    assert found == pytest.approx(oracle.instance(z, augmented, 0.2), rel=2e-4)


def test_aqcl_is_eq_3_with_the_shares_of_eq_6_and_shows_its_codebook():
    model, task = build(AQCL)
    thin = shorter(ARRAYS, kept(task, ARRAYS))
    arrays = {**ARRAYS, "behaviours": 3 * ARRAYS["history_length"]}  # more than the model sees
    found = task.loss(toys.view(model, arrays))
    z, augmented = (projected(model, task, a) for a in (arrays, thin))
    codebook = toys.double(task.codebook)
    alpha = oracle.share(arrays["behaviours"], MEAN, 0.7, 1.5)
    loss = oracle.quantised(z, augmented, codebook, alpha, K, 0.2, 0.3)
    assert float(found.loss) == pytest.approx(loss, rel=2e-4)
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, codebook)]
    scores = units[0] @ units[1].T
    assigned = oracle.transport(scores, 0.1, 3).argmax(1)
    shares = np.bincount(scores.argmax(1), minlength=T) / len(z)
    expected = {
        "codebook": oracle.codebook(z, codebook, assigned, 0.4),
        "usage": len(set(assigned)) / T,
        "entropy": -sum(s * np.log(s) for s in shares if s) / np.log(T),
    }
    assert {k: float(v) for k, v in found.monitors.items()} == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_the_codebook_s_gradient_is_that_of_eq_5_whatever_the_weight(weight):
    model, task = build(replace(AQCL, weight=weight))
    with tf.GradientTape() as tape:
        losses = model.losses_of(toys.tensors(ARRAYS))
    assert {"task", "task_codebook", "task_usage", "task_entropy"} < set(losses)
    total = float(losses["click"] + weight * losses["task"])
    assert float(losses["total"]) == pytest.approx(total, rel=1e-6)
    found = tape.gradient(losses["total"], task.codebook)
    z, codebook = projected(model, task, ARRAYS), toys.double(task.codebook)
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, codebook)]
    assigned = oracle.transport(units[0] @ units[1].T, 0.1, 3).argmax(1)
    (expected,) = numeric_gradients(lambda q: oracle.codebook(z, q, assigned, 0.4), [codebook])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    along = tf.reduce_sum(found * task.codebook, 1)
    np.testing.assert_allclose(along, 0, atol=1e-6)  # so that a codeword does not shrink


def test_only_the_contrast_reaches_the_model():
    """Another assignment leaves every gradient but the codebook's."""
    gradients = []
    for iterations in (1, 50):
        model, task = build(replace(AQCL, iterations=iterations, epsilon=1.0))
        with tf.GradientTape() as tape:
            loss = task.loss(toys.view(model, ARRAYS)).loss
        weights = [model.serving.head.trunk.dense[0].kernel, *task.views.trainable_variables]
        gradients.append(tape.gradient(loss, weights))
    for one, other in zip(*gradients, strict=True):
        assert one.numpy().any()
        np.testing.assert_array_equal(one, other)


def test_a_collapsed_codebook_is_seen():
    model, task = build(AQCL)
    task.codebook.assign(projected(model, task, ARRAYS)[:T])  # each nearest to a row of its own
    healthy = task.loss(toys.view(model, ARRAYS)).monitors
    task.codebook.assign(tf.ones_like(task.codebook))
    found = task.loss(toys.view(model, ARRAYS)).monitors
    assert float(found["usage"]) == pytest.approx(1 / T)
    assert float(healthy["usage"]) > 1 / T
    assert float(found["entropy"]) == 0 < float(healthy["entropy"])
    assert float(found["codebook"]) == pytest.approx(np.log(T), rel=1e-5)


@pytest.mark.parametrize("config", [ICL, AQCL])
def test_padding_never_changes_a_loss(config):
    config = replace(config, dropout=0.3)
    values = []
    for arrays in (ARRAYS, toys.dirty(ARRAYS)):
        model, task = build(config)
        values.append(float(getattr(made := task.loss(toys.view(model, arrays)), "loss", made)))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_without_augmentation_both_views_are_one():
    model, task = build(replace(ICL, mask=0.0))
    z, augmented = task.views(toys.view(model, ARRAYS))
    np.testing.assert_array_equal(z, augmented)


def test_experts_of_several_spaces_see_the_same_behaviours():
    experts = {"din": ExpertConfig(din.Config()), "deepfm": ExpertConfig(deepfm.Config(True), "b")}
    spaces = {"main": toys.EMBEDDING, "b": Space(dimension=5, scale=0.5)}
    plan = Plan(experts, single.Config(), spaces, auxiliaries={"icl": ICL}, seed=3)
    model = training_model(serving_model(toys.SCHEMA, toys.ROWS, plan), toys.SCHEMA, plan)
    task: Any = model.auxiliaries["icl"]
    found = task.views.augmented(toys.view(model, ARRAYS))
    for name in ("rows", "positions"):
        one, other = (getattr(x.packed, name) for x in found.values())
        np.testing.assert_array_equal(one, other)
    thin = shorter(ARRAYS, kept(task, ARRAYS))
    loss = float(task.loss(toys.view(model, ARRAYS)))
    z, augmented = (projected(model, task, arrays) for arrays in (ARRAYS, thin))
    assert loss == pytest.approx(oracle.instance(z, augmented, 0.2), rel=2e-4)


def test_what_makes_no_sense_is_refused():
    AQCL.demand_rows(T)
    with pytest.raises(InputError, match=r"codewords is 6 .* 5 rows .*set .*codewords=5"):
        AQCL.demand_rows(T - 1)
    with pytest.raises(InputError, match=r"aqcl.nearest is 7; expected 1 to aqcl.codewords=6"):
        replace(AQCL, nearest=7)
    for name, value in (("w1", 0.0), ("epsilon", float("nan")), ("iterations", 0), ("mask", 1.0)):
        with pytest.raises(InputError, match=f"aqcl.{name} is {value}"):
            aqcl.Config(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"icl.dropout is -0.1"):
        replace(ICL, dropout=-0.1)
