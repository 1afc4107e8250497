"""CL4CTR from a batch of ids to its three losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from at4ctr.auxiliaries import cl4ctr
from at4ctr.backbones import widedeep
from at4ctr.errors import InputError
from at4ctr.layers.views import dropout
from at4ctr.losses.field_contrast import field_alignment, field_uniformity
from tests.model import toys
from tests.oracles import cl4ctr as oracle

CONFIG = cl4ctr.Config(beta=0.3, layers=2, hidden=7)
STILL = replace(CONFIG, mask=0.0, dropout=0.0)


def build(config: cl4ctr.Config, schema: Any = toys.SCHEMA) -> tuple[Any, Any]:
    model = toys.training(toys.serving(widedeep.Config(), schema), {"cl4ctr": config}, schema)
    toys.jitter(model)
    return model, model.auxiliaries["cl4ctr"]


def fields_of(model: Any, arrays: Any, *, use_history: bool) -> np.ndarray:
    """[B, F, D] by the oracle's own lookup."""
    found = []
    for s in toys.samples(model.serving, arrays):
        parts = [s.profile, s.item, s.context]
        if use_history:
            parts.append(s.history.mean(0) if len(s.history) else np.zeros(s.history.shape[1]))
        found.append(np.concatenate(parts).reshape(-1, toys.D))
    return np.array(found)


def norm(layer: Any) -> oracle.Layer:
    return toys.double(layer.gamma), toys.double(layer.beta)


def weights(layer: Any) -> oracle.EncoderWeights:
    return oracle.EncoderWeights(
        query_key_value=toys.layer(layer.inward),
        outward=toys.layer(layer.outward),
        up=toys.layer(layer.up),
        down=toys.layer(layer.down),
        norms=(norm(layer.norms[0]), norm(layer.norms[1])),
    )


def masks(task: Any, shape: tuple[int, ...], state: tf.Tensor) -> tuple[np.ndarray, list]:
    """The masks that the task drew from this state of its generator, in its order."""
    size, count, width = shape
    task.draws.generator.state.assign(state)

    def drawn(shape: list[int], rate: float) -> np.ndarray:
        ones = tf.ones([2 * size * int(np.prod(shape[:-1])), shape[-1]])
        if rate:
            ones = dropout(ones, rate, task.draws.seed())
        return ones.numpy().astype(np.float64).reshape(2 * size, *shape)

    first = drawn([count, width], task.config.mask).reshape(2, *shape)
    layers = []
    for _ in task.encoder:
        widths = (count, width, task.config.hidden, width)
        four = [drawn([count, w], task.config.dropout) for w in widths]
        layers.append([oracle.EncoderMasks(*(m[i] for m in four)) for i in range(2 * size)])
    return first, layers


def compare(config: cl4ctr.Config, arrays: Any, schema: Any = toys.SCHEMA) -> float:
    """The loss, after it was found equal to the oracle's."""
    model, task = build(config, schema)
    fields = fields_of(model, arrays, use_history=config.use_history)
    state = tf.identity(task.draws.generator.state)
    found = float(task.loss(toys.view(model, arrays)))
    views = toys.layer(task.views[0]), toys.layer(task.views[1])
    first, layers = masks(task, fields.shape, state)
    expected = oracle.contrastive(
        fields, [weights(layer) for layer in task.encoder], views, first, layers
    )
    expected += config.beta * (oracle.alignment(fields) + oracle.uniformity(fields))
    assert found == pytest.approx(expected, rel=1e-4)
    return found


@pytest.mark.parametrize(
    "config",
    [
        STILL,
        CONFIG,
        replace(CONFIG, beta=0.0, layers=1),
        replace(CONFIG, use_history=False),
        replace(CONFIG, mask=0.2, dropout=0.0),
        cl4ctr.Config(),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_oracle(config: cl4ctr.Config, seed: int) -> None:
    assert compare(config, toys.batch(7, 6, seed=seed)) > 0


def cases() -> dict[str, dict[str, np.ndarray]]:
    made = {
        "one": toys.batch(1, 5, lengths=[3]),
        "one_new_user": toys.batch(1, 5, lengths=[0]),
        "no_positives": toys.batch(7, 5),
        "new_users": toys.batch(6, 5, lengths=[0] * 6),
        "one_user": toys.batch(7, 5),
        "one_row": toys.take(toys.batch(7, 5), [2] * 5),
        "no_tags": toys.batch(7, 5),
    }
    made["no_positives"]["label_click"][:], made["one_user"]["user"][:] = 0, 5
    made["no_tags"]["tags"][:] = 0
    return made


@pytest.mark.parametrize("name", cases())
def test_equals_the_oracle_and_is_finite_on_every_legal_batch(name: str) -> None:
    arrays = cases()[name]
    compare(CONFIG, arrays)
    model, task = build(CONFIG)
    tables, own = gradients(model, task, arrays)
    assert all(np.isfinite(g).all() for g in [*tables.values(), *own])


def gradients(model: Any, task: Any, arrays: Any) -> tuple[dict, list]:
    with tf.GradientTape() as tape:
        loss = task.loss(toys.view(model, arrays))
    found = tape.gradient(loss, [model.serving.embedder.tables, task.trainable_variables])
    dense = {n: tf.convert_to_tensor(g).numpy() for n, g in found[0].items() if g is not None}
    return dense, [g.numpy() for g in found[1]]


def test_a_schema_without_history_works_without_use_history() -> None:
    arrays = toys.batch(6, schema=toys.PLAIN)
    assert compare(replace(CONFIG, use_history=False), arrays, toys.PLAIN) > 0
    with pytest.raises(InputError, match="cl4ctr with use_history needs a history") as caught:
        build(CONFIG, toys.PLAIN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("use_history", [False, True])
def test_gradients_reach_every_table_and_weight(use_history: bool) -> None:
    model, task = build(replace(CONFIG, use_history=use_history))
    arrays = toys.batch(9, 5)
    tables, own = gradients(model, task, arrays)
    moved = {name for name, g in tables.items() if g.any()}
    assert moved == {"user", "city", "item", "category", "tag", "position"}
    past = np.setdiff1d(arrays["history_item"], [0, *arrays["item"]])
    assert tables["item"][past].any() == use_history
    assert all(g.any() for g in own)


def test_padding_never_changes_the_loss() -> None:
    arrays = toys.batch(8, 5, lengths=[5, 0, 1, 3, 4, 4, 2, 5])
    dirty = toys.dirty(arrays)
    losses = []
    for batch in (arrays, dirty):
        model, task = build(CONFIG)
        losses.append(float(task.loss(toys.view(model, batch))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_samples_do_not_mix() -> None:
    """The released code's flattening makes a sample's contrast depend on its neighbours."""
    model, task = build(replace(STILL, beta=0.0))
    arrays = toys.batch(6, 5)
    parts = [
        float(task.loss(toys.view(model, toys.take(arrays, rows))))
        for rows in ([0, 1, 2], [3, 4, 5], [0, 3, 1, 4, 2, 5])
    ]
    assert parts[2] == pytest.approx((parts[0] + parts[1]) / 2, rel=1e-5)


def test_equal_views_differ_only_through_the_two_projections() -> None:
    model, task = build(replace(STILL, beta=0.0))
    arrays = toys.batch(6, 5)
    assert float(task.loss(toys.view(model, arrays))) > 0
    for to, of in zip(task.views[1].variables, task.views[0].variables, strict=True):
        to.assign(of)
    assert float(task.loss(toys.view(model, arrays))) == pytest.approx(0.0, abs=1e-9)
    task.config = replace(CONFIG, beta=0.0)
    assert float(task.loss(toys.view(model, arrays))) > 1e-3


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_dropout_keeps_the_expectation_and_draws_elements_apart(rate: float) -> None:
    shape = [199, 211]  # an odd number of elements
    first, again, other = (
        dropout(tf.ones(shape), rate, tf.constant(seed)).numpy()
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(first, again)
    kept = first > 0
    np.testing.assert_allclose(first[kept], 1 / (1 - rate), rtol=2e-4)
    assert kept.mean() == pytest.approx(1 - rate, abs=0.01)
    assert first.mean() == pytest.approx(1.0, abs=0.03 / (1 - rate))
    both = (1 - rate) ** 2
    for pair in (kept & (other > 0), kept[:, 1:] & kept[:, :-1], kept[1:] & kept[:-1]):
        assert pair.mean() == pytest.approx(both, abs=0.015)


def test_every_step_draws_anew_and_a_checkpointed_state_repeats() -> None:
    model, task = build(CONFIG)
    view, state = toys.view(model, toys.batch(6, 5)), tf.identity(task.draws.generator.state)
    graph = tf.function(lambda: task.loss(view), autograph=False)
    losses = [float(graph()), float(graph())]
    assert losses[0] != losses[1]
    task.draws.generator.state.assign(state)
    assert [float(graph()), float(graph())] == losses
    task.draws.generator.state.assign(state)
    assert float(task.loss(view)) == pytest.approx(losses[0], rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**20))
def test_alignment_and_uniformity_equal_the_sums_over_pairs(
    size: int, count: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    fields = rng.normal(rng.normal(), 1, (size, count, width)).astype(np.float32)
    fields[rng.random((size, count)) < 0.2] = 0
    found = [float(f(tf.constant(fields))) for f in (field_alignment, field_uniformity)]
    exact = fields.astype(np.float64)
    expected = [oracle.alignment(exact), oracle.uniformity(exact)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found[0] >= 0
    assert 0 <= found[1] <= 1 + 1e-6


def test_alignment_and_uniformity_at_their_ends() -> None:
    same = tf.tile(tf.constant([[[1.0, 2.0], [3.0, -1.0]]]), [4, 1, 1])
    assert float(field_alignment(same)) == 0.0
    assert float(field_alignment(same[:1])) == 0.0
    assert float(field_uniformity(tf.ones([3, 4, 2]))) == pytest.approx(1.0)
    assert float(field_uniformity(tf.eye(4)[None])) == pytest.approx(1 / 4)  # self pairs alone
    assert float(field_uniformity(tf.constant([[[1.0], [-2.0]]]))) == 0.0
    for loss in (field_alignment, field_uniformity):
        with pytest.raises(InputError, match=r"fields of field_\w+ has shape"):
            loss(tf.ones([3, 4]))


def test_the_standardising_gradient_equals_the_chain_rules() -> None:
    layer = cl4ctr.LayerNorm(5, "norm")
    toys.jitter(layer)
    x = tf.random.stateless_normal([6, 5], [1, 2]) * 3.0
    x = tf.concat([x, tf.zeros([1, 5])], 0)
    pull = tf.random.stateless_normal([7, 5], [3, 4])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        plain = (x - mean) / tf.sqrt(variance + 1e-5) * layer.gamma + layer.beta
        found = layer(x)
        sums = [tf.reduce_sum(y * pull) for y in (found, plain)]
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)
    one, two = (tape.gradient(s, x) for s in sums)
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value"),
    [("mask", 1.0), ("dropout", -0.1), ("layers", 0), ("hidden", 0), ("beta", float("nan"))],
)
def test_bad_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"cl4ctr\.{field} is"):
        replace(CONFIG, **{field: value})  # type: ignore[arg-type]
