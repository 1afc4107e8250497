"""DMR: what must hold of any weights, and every number against the literal form."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import dmr
from at4ctr.contracts import Packed
from at4ctr.errors import InputError
from at4ctr.heads import single
from at4ctr.layers.shape import recency
from at4ctr.schema import Feature, Schema, Table
from tests.model import toys
from tests.oracles import dmr as oracle
from tests.oracles import models as base

UNALIKE = Schema(toys.SCHEMA.tables, toys.SCHEMA.features, ("item", "tags"))
PART = Schema(
    tables=(Table("user"), Table("item")),
    features=(Feature("user", "profile", "user"), Feature("item", "item", "item")),
    history=("item",),
)
CASES = {
    "default": (dmr.Config(), toys.SCHEMA),
    "few_positions": (dmr.Config(positions=3), toys.SCHEMA),
    "dice": (dmr.Config(attention=(7, 3)), toys.SCHEMA),
    "unalike": (dmr.Config(), UNALIKE),
    "item_only": (dmr.Config(positions=4), PART),
}
HEADS = {"dice": single.Config(units=(9,), activation="dice")}  # single by default otherwise
LENGTHS = [0, 1, 6, 2, 5, 4, 3, 0, 6]


def unit(part) -> oracle.Unit:
    attention = part.attention
    return oracle.Unit(
        toys.double(part.positions.table),
        toys.layer(attention.project),
        toys.double(part.activation.alpha),
        [toys.layer(attention.first), *toys.layers(attention.rest)],
    )


def expected(model, schema, arrays, *, training: bool):
    """Logits [B], user vectors [B, D], per sample the prefix vectors."""
    body = model.backbone
    pooling = oracle.Pooling(
        toys.layer(body.user_to_item.project), toys.double(body.user_to_item.user_activation.alpha)
    )
    outputs = toys.double(model.embedder.tables["item/output"])
    found = [
        oracle.dmr_input(
            sample,
            base.vector(outputs, item),
            unit(body.item_to_item),
            unit(body.user_to_item),
            pooling,
            product=len(schema.history) == len(schema.group("item")),
        )
        for sample, item in zip(toys.samples(model, arrays), arrays["item"], strict=True)
    ]
    logits = toys.logits(model, [f[0] for f in found], training=training)
    return logits, np.array([f[1] for f in found]), [f[2] for f in found]


def users(model, arrays) -> np.ndarray:
    """The user vectors [B, D]."""
    x = model.embedder(toys.tensors(arrays))
    return model.backbone.user_to_item(x, recency(x), training=False)[0].numpy()


def build(config=CASES["default"][0], schema=toys.SCHEMA, **changes):
    model = toys.serving(config, schema, **changes)
    toys.jitter(model)
    return model


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_all_of_it_equals_the_oracle(name, training):
    config, schema = CASES[name]
    model = build(config, schema, **({"head": HEADS[name]} if name in HEADS else {}))
    arrays = toys.batch(9, 6, lengths=LENGTHS, schema=schema, seed=4)
    logits, vectors, states = expected(model, schema, arrays, training=training)
    found = model.forward(toys.tensors(arrays), training=training)
    encoded = found.experts["dmr"]
    np.testing.assert_allclose(found.outputs.logits["click"], logits, rtol=3e-4, atol=3e-5)
    np.testing.assert_allclose(users(model, arrays), vectors, rtol=1e-4, atol=1e-6)
    assert encoded.states.shape == [9, 6, toys.D]
    assert model.backbone.states == toys.D
    for own, prefix in zip(encoded.states.numpy(), states, strict=True):
        np.testing.assert_allclose(own[: len(prefix)], prefix, rtol=1e-4, atol=1e-6)
        assert not own[len(prefix) :].any()


@pytest.mark.parametrize("lengths", [[0], [1], [4], [0] * 5, [1] * 5])
def test_a_batch_of_one_or_without_behaviours_equals_the_oracle(lengths):
    model = build()
    arrays = toys.batch(len(lengths), 5, lengths=lengths)
    found = model(toys.tensors(arrays))["click"]
    logits, *_ = expected(model, toys.SCHEMA, arrays, training=False)
    np.testing.assert_allclose(found, logits, rtol=3e-4, atol=3e-5)


def test_a_served_score_does_not_depend_on_its_neighbours():
    model, arrays = build(), toys.batch(9, 6, lengths=LENGTHS, seed=5)
    toys.assert_each_alone(model, arrays)
    whole = model.answer(toys.tensors(arrays))["logit"].numpy()
    arrays["user"][:] = arrays["user"][2]  # duplicates are no exception
    doubled = model.answer(toys.tensors(toys.take(arrays, [2, 2, 5])))["logit"].numpy()
    np.testing.assert_allclose(doubled[:2], whole[[2, 2]], rtol=1e-4, atol=1e-5)


def test_longer_padding_with_garbage_never_matters():
    model, arrays = build(), toys.batch(9, 6, lengths=LENGTHS)
    dirty = toys.dirty(arrays)
    plain, found = (toys.encoded(model, a) for a in (arrays, dirty))
    for a, b in zip(plain.parts, found.parts, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(plain.states, found.states)


def test_no_state_has_seen_a_later_behaviour_and_the_user_is_the_last():
    model, arrays = build(), toys.batch(4, 6, lengths=[6, 6, 6, 6])
    other = {k: v.copy() for k, v in arrays.items()}
    other["history_item"][:, 4] = arrays["history_item"][:, 4] % 38 + 2
    plain, moved = (toys.encoded(model, a) for a in (arrays, other))
    np.testing.assert_array_equal(plain.states[:, :4], moved.states[:, :4])
    assert (plain.states[:, 4:].numpy() != moved.states[:, 4:].numpy()).any(-1).all()
    np.testing.assert_allclose(users(model, arrays), plain.states[:, -1], rtol=1e-5, atol=1e-6)


def test_an_empty_history_has_no_relevance():
    model, arrays = build(), toys.batch(5, 4, lengths=[0, 0, 3, 4, 1])
    x = model.embedder(toys.tensors(arrays))
    body = model.backbone
    interest, scored = body.item_to_item(x.item, x.packed, recency(x), training=False)
    assert not interest.numpy()[:2].any()
    assert not scored.numpy()[:2].any()
    assert scored.numpy()[2:].all()
    assert not users(model, arrays)[:2].any()
    matched = body(x, training=False).parts[5].numpy()
    assert not matched[:2].any()
    assert matched[2:].all()


def test_the_order_of_behaviours_matters_through_their_recency():
    model, arrays = build(), toys.batch(4, 5, lengths=[5] * 4)
    turned = {
        k: v[:, ::-1].copy() if k[:8] == "history_" and v.ndim > 1 else v for k, v in arrays.items()
    }
    plain, moved = (model(toys.tensors(a))["click"].numpy() for a in (arrays, turned))
    assert (np.abs(plain - moved) > 1e-5).all()
    for table in (
        p.positions.table for p in (model.backbone.item_to_item, model.backbone.user_to_item)
    ):
        table.assign(tf.ones_like(table))
    plain, moved = (model(toys.tensors(a))["click"].numpy() for a in (arrays, turned))
    np.testing.assert_allclose(plain, moved, rtol=1e-4, atol=1e-5)


def test_prefix_means_stay_finite_where_scores_are_far_apart():
    rows, positions = tf.constant([0, 0, 0, 1]), tf.constant([0, 1, 2, 0])
    values = tf.constant([[1.0, 2.0], [3.0, 5.0], [-1.0, 4.0], [7.0, 8.0]])
    mask = tf.constant([[True] * 3, [True, False, False]])
    scores = tf.constant([-500.0, 0.0, 20.0, -900.0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([scores, values])
        found = dmr.prefix_means(scores, Packed(values, rows, positions), mask)
    np.testing.assert_allclose(found, [[1, 2], [3, 5], [-1, 4], [7, 8]], rtol=1e-6, atol=1e-6)
    for upstream in (1.0, 1e3):
        gradients = tape.gradient(found, [scores, values], tf.fill([4, 2], upstream))
        assert all(np.isfinite(g).all() for g in gradients)
        np.testing.assert_allclose(gradients[1], np.full((4, 2), upstream), rtol=1e-5)


def test_prefix_means_are_exact_where_scores_lie_as_a_model_has_them():
    rng = np.random.default_rng(3)
    scores, values = 8.0 * rng.random(9).astype(np.float32), rng.normal(size=(9, 2))
    values = values.astype(np.float32)
    history = Packed(tf.constant(values), tf.zeros([9], tf.int32), tf.range(9))
    found = dmr.prefix_means(tf.constant(scores), history, tf.constant([[True] * 9]))
    for t in range(9):
        weights = base.softmax(scores[: t + 1].astype(np.float64))
        np.testing.assert_allclose(found[t], weights @ values[: t + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [[0] * 5, [1], [1] * 5, [5, 0, 1, 3, 5]])
def test_gradients_are_finite_and_reach_both_nets(lengths):
    model = toys.training(build(), {})
    arrays = toys.batch(len(lengths), 5, lengths=lengths)
    arrays["label_click"][:] = 0
    signs = tf.constant([-1.0, 1.0, -1.0, 1.0])  # so that both sides of the PReLU are used
    model.serving.backbone.user_to_item.project.bias.assign(signs)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = model.losses_of(toys.tensors(arrays))["total"]
    found = tape.gradient(loss, variables)
    moved = {}
    for v, g in zip(variables, found, strict=True):
        values = np.zeros(1) if g is None else tf.convert_to_tensor(g).numpy()
        assert np.isfinite(values).all(), v.name
        moved[id(v)] = values.any()
    if len(lengths) == 5 and max(lengths) > 1:
        body = model.serving.backbone  # not the trunk, where jitter may lift a whole layer above 0
        parts = [body.item_to_item, body.user_to_item, model.serving.head.trunk.affine]
        weights = [v for part in parts for v in part.trainable_variables]
        still = [(v.name, v.shape) for v in weights if not moved[id(v)]]
        assert still == []
        assert moved[id(model.serving.embedder.tables["item/output"])]


def test_only_the_sum_of_scores_starts_at_less_than_one():
    model, arrays = toys.serving(dmr.Config(positions=50)), toys.tensors(toys.batch(9, 6))
    gamma = model.head.trunk.affine.gamma.numpy()
    (scored,) = np.flatnonzero(gamma != 1)
    assert gamma[scored] == np.float32(1 / 50)
    x = model.embedder(arrays)
    _, expected = model.backbone.item_to_item(x.item, x.packed, recency(x), training=False)
    parts = tf.concat(model.backbone(x, training=False).parts, -1)
    assert parts.shape[1] == len(gamma)
    np.testing.assert_allclose(parts[:, scored], expected, rtol=1e-5)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="dmr needs a history"):
        toys.serving(dmr.Config(), toys.PLAIN)
    with pytest.raises(InputError, match=r"dmr.positions is 0"):
        dmr.Config(positions=0)
