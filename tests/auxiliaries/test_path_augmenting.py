"""The path-augmenting loss from a batch of ids, against literal loops and its properties."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.auxiliaries import path_augmenting as subject
from at4ctr.backbones import dbpman, din
from at4ctr.errors import InputError
from at4ctr.schema import UNKNOWN, Feature, Schema, Table
from tests.backbones.test_dbpman import CONFIGS, LENGTHS, UNLIKE, batch, weights
from tests.model import toys
from tests.oracles import dbpman as oracle

LITERAL = subject.Config(block=None)


def build(config=LITERAL, backbone=CONFIGS["default"], schema=toys.SCHEMA):
    model = toys.training(toys.serving(backbone, schema), {"task": config}, schema)
    toys.jitter(model)
    return model, model.auxiliaries["task"]


def draws(task, count: int, length: int) -> list[np.ndarray]:
    """What the next two views will hide."""
    state = tf.identity(task.draws.generator.state)
    found = [task.hidden(tf.constant([count, length])).numpy() for _ in range(2)]
    task.draws.generator.reset(state)
    return found


def anonymous(model, arrays) -> list[np.ndarray]:
    """Histories whose items are all the unknown one."""
    ids = arrays["history_item"]
    changed = {**arrays, "history_item": np.where(ids > 0, UNKNOWN, 0).astype(np.int32)}
    return [s.history for s in toys.samples(model.serving, changed)]


def expected(model, arrays, hidden: list[np.ndarray], config) -> float:
    body = weights(model.serving.backbone)
    samples, others = toys.samples(model.serving, arrays), anonymous(model, arrays)
    views = []
    for drawn in hidden:
        begin, view = 0, []
        for s, other in zip(samples, others, strict=True):
            view.append(oracle.path_parts(s, body, other, list(drawn[begin:])))
            begin += len(view[-1])
        assert begin == len(drawn)
        views.append(view)
    return oracle.path_augmenting(views[0], views[1], config.temperature, config.block)


def paths(model, arrays) -> int:
    c = model.serving.backbone.config
    return sum(len(oracle.ends(n, c.length, c.stride, c.paths)) for n in arrays["history_length"])


@pytest.mark.parametrize("schema", [toys.SCHEMA, UNLIKE], ids=["alike", "unlike"])
@pytest.mark.parametrize("name", ["default", "small"])
@pytest.mark.parametrize("block", [None, 2, 4])
def test_the_loss_equals_the_oracle(name, block, schema):
    config = subject.Config(block=block, temperature=3.0, rate=0.4)
    model, task = build(config, CONFIGS[name], schema)
    arrays = batch([*LENGTHS, 33, 15, 21], schema)
    hidden = draws(task, paths(model, arrays), model.serving.backbone.config.length)
    found = float(task.loss(toys.view(model, arrays)))
    wanted = expected(model, arrays, hidden, config)
    assert wanted > 0.01
    np.testing.assert_allclose(found, wanted, rtol=2e-3)


def test_an_item_id_that_is_not_the_first_of_the_history_is_the_one_hidden():
    schema = Schema(
        tables=tuple(Table(n) for n in ("user", "item", "category")),
        features=(
            Feature("user", "profile", "user"),
            Feature("item", "item", "item"),
            Feature("category", "item", "category"),
        ),
        history=("category", "item"),
    )
    model, task = build(schema=schema)
    arrays = batch([20, 33, 15, 21], schema)
    hidden = draws(task, paths(model, arrays), 10)
    found = float(task.loss(toys.view(model, arrays)))
    np.testing.assert_allclose(found, expected(model, arrays, hidden, LITERAL), rtol=2e-3)


def test_the_gradient_is_that_of_the_oracle():
    """Along a random direction of the tables; queries move nothing but which behaviours stay."""
    config = replace(LITERAL, temperature=3.0, rate=0.4)
    model, task = build(config)
    arrays = batch([20, 33, 15, 21])
    hidden = draws(task, paths(model, arrays), 10)
    variables = [model.serving.embedder.tables[n] for n in ("item", "category", "tag")]
    with tf.GradientTape() as tape:
        loss = task.loss(toys.view(model, arrays))
    found = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, variables)]
    rng = np.random.default_rng(0)
    steps = [rng.normal(size=v.shape).astype(np.float32) for v in variables]
    slope = sum(float((g * s).sum()) for g, s in zip(found, steps, strict=True))
    values, starts = [], [v.numpy() for v in variables]
    for sign in (1, -1):
        for v, start, s in zip(variables, starts, steps, strict=True):
            v.assign(start + sign * 1e-4 * s)
        values.append(expected(model, arrays, hidden, config))
    np.testing.assert_allclose(slope, (values[0] - values[1]) / 2e-4, rtol=0.02)
    assert abs(slope) > 1e-2


def test_only_vectors_are_trained_by_it():
    """A z of length 1 has neither the size of a weight nor the router's share in it: where the
    same behaviours are kept, the module's weights do not move the loss at all."""
    model, task = build()
    past = model.serving.backbone.past
    with tf.GradientTape() as tape:
        loss = task.loss(toys.view(model, batch()))
    assert all(g is None for g in tape.gradient(loss, model.serving.backbone.trainable_variables))
    state = tf.identity(task.draws.generator.state)
    plain = float(task.loss(toys.view(model, batch())))
    last = past.router.dense[-1]  # its logits scaled: the same order, other shares
    for moved, factor in ([past.first.kernel], 1 + 1e-4), ([last.kernel, last.bias], 1.5):
        for weight in moved:
            weight.assign(weight * factor)
        task.draws.generator.reset(state)
        assert float(task.loss(toys.view(model, batch()))) == pytest.approx(plain, rel=1e-5)


def gradients(model, arrays):
    with tf.GradientTape() as tape:
        loss = model.auxiliaries["task"].loss(toys.view(model, arrays))
    found = tape.gradient(loss, model.trainable_variables)
    return float(loss), [tf.convert_to_tensor(g).numpy() for g in found if g is not None]


@pytest.mark.parametrize("block", [None, 2, 256])
@pytest.mark.parametrize("lengths", [[0, 0, 0], [14, 9, 1], [0], [40], [3, 40, 9]])
def test_fewer_than_two_samples_with_a_path_cost_nothing(lengths, block):
    model, _ = build(subject.Config(block=block))
    loss, found = gradients(model, batch(lengths))
    assert loss == 0.0
    assert not any(g.any() for g in found)


@pytest.mark.parametrize("block", [None, 2, 3, 256])
@pytest.mark.parametrize("lengths", [[40, 15], [100] * 5, [15] * 7, LENGTHS])
def test_gradients_are_finite_and_reach_the_tables(lengths, block):
    model, _ = build(subject.Config(block=block, temperature=50.0))
    arrays = batch(lengths)
    arrays["label_click"][:] = 0
    loss, found = gradients(model, arrays)
    assert loss > 0
    assert all(np.isfinite(g).all() for g in found)
    assert any(g.any() for g in found)


@pytest.mark.parametrize(("block", "size"), [(None, 6), (3, 3), (2, 2), (4, 3)])
def test_views_of_one_user_over_and_over_are_a_blind_guess(block, size):
    model, _ = build(subject.Config(block=block, rate=0.0))
    arrays = toys.take(batch([25]), [0] * 6)
    loss, _ = gradients(model, arrays)
    assert loss == pytest.approx(np.log(size), rel=1e-5)


def test_nothing_hidden_asks_nothing_of_the_unknown_item():
    arrays = batch([20, 33, 15, 21])
    for ids in ("item", "history_item"):
        arrays[ids][arrays[ids] == UNKNOWN] = 5
    for rate, asked in ((0.0, False), (0.3, True)):
        model, task = build(replace(LITERAL, rate=rate))
        table = model.serving.embedder.tables["item"]
        with tf.GradientTape() as tape:
            loss = task.loss(toys.view(model, arrays))
        found = tf.convert_to_tensor(tape.gradient(loss, table)).numpy()
        assert found[UNKNOWN].any() == asked


def test_queries_keep_their_items_where_everything_is_hidden():
    model, task = build(replace(LITERAL, rate=1.0))
    rng = np.random.default_rng(1)
    for v in model.serving.backbone.past.trainable_variables:  # so that queries decide what stays
        v.assign(rng.normal(0.0, 0.7, v.shape))
    arrays = batch([20, 33, 15, 21])
    found = float(task.loss(toys.view(model, arrays)))
    hidden = [np.ones([paths(model, arrays), 10], bool)] * 2
    np.testing.assert_allclose(found, expected(model, arrays, hidden, LITERAL), rtol=2e-3)
    arrays["history_item"] = np.where(arrays["history_item"] > 0, 7, 0).astype(np.int32)
    assert float(task.loss(toys.view(model, arrays))) != pytest.approx(found, rel=1e-6)


def test_views_are_drawn_anew_and_resume_with_their_state():
    model, task = build()
    arrays = batch()
    state = tf.identity(task.draws.generator.state)
    first, second = (float(task.loss(toys.view(model, arrays))) for _ in range(2))
    task.draws.generator.reset(state)
    again = float(task.loss(toys.view(model, arrays)))
    assert first != second
    assert again == first
    one, two = draws(task, 5000, 10)
    assert (one != two).any()
    assert one.mean() == pytest.approx(0.2, abs=0.01)


def test_padding_with_garbage_never_matters():
    arrays = batch([0, 1, 9, 14, 15, 20, 33])
    dirty = toys.dirty(arrays, 7)
    values = []
    for a in (arrays, dirty):
        model, task = build()
        values.append(float(task.loss(toys.view(model, a))))
    assert values[0] == values[1]


def test_its_passes_use_the_batch_and_leave_population_statistics_alone():
    model, task = build()
    layers = model.serving.head.trunk.activations
    before = [(a.mean.numpy(), a.variance.numpy()) for a in layers]
    task.loss(toys.view(model, batch()))
    for (mean, variance), layer in zip(before, layers, strict=True):
        np.testing.assert_array_equal(layer.mean, mean)
        np.testing.assert_array_equal(layer.variance, variance)


def test_it_works_in_a_graph():
    model, _ = build(subject.Config(block=3))
    step = tf.function(model.losses_of, reduce_retracing=True, autograph=False)
    for lengths in ([20, 33, 15, 21], LENGTHS, [0, 0, 0]):
        assert np.isfinite(float(step(toys.tensors(batch(lengths)))["total"]))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match=r"needs paths, .* of the backbone, which din does not"):
        build(backbone=din.Config())
    schema = replace(UNLIKE, history=("category",))
    with pytest.raises(InputError, match="hides item ids of the history"):
        build(backbone=dbpman.Config(), schema=schema)
    for changes in ({"temperature": 0.0}, {"rate": 1.5}, {"block": 1}):
        with pytest.raises(InputError, match=next(iter(changes))):
            subject.Config(**changes)
