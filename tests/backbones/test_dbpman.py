"""DBPMaN from a batch of ids to its logit, histories shorter than a path and longer than all."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from at4ctr.backbones import dbpman
from at4ctr.errors import InputError
from at4ctr.layers.paths import Paths, recent
from at4ctr.schema import Feature, Schema, Table
from tests.model import toys
from tests.oracles import dbpman as oracle

LENGTHS = [0, 1, 9, 10, 14, 15, 16, 20, 40, 100]
CONFIGS = {
    "default": dbpman.Config(),
    "follow": dbpman.Config(follow_score=True),
    "small": dbpman.Config(
        length=4, stride=3, paths=3, top=2, enhancing=(6,), router=(5, 7), attention=(8,)
    ),
}
UNLIKE = Schema(
    tables=tuple(Table(n) for n in ("user", "item", "category")),
    features=(
        Feature("user", "profile", "user"),
        Feature("item", "item", "item"),
        Feature("category", "item", "category"),
    ),
    history=("item",),
)


def build(config=CONFIGS["default"], schema=toys.SCHEMA):
    model = toys.serving(config, schema)
    toys.jitter(model)
    return model


def batch(lengths=LENGTHS, schema=toys.SCHEMA, seed=2):
    return toys.batch(len(lengths), max(*lengths, 1), lengths=lengths, schema=schema, seed=seed)


def weights(body) -> oracle.Model:
    def module(m):
        return oracle.Module(
            [toys.layer(m.first), *toys.layers(m.rest)], toys.layers(m.router), m.top
        )

    def unit(a):
        return oracle.Attention(toys.layer(a.project), [toys.layer(a.first), *toys.layers(a.rest)])

    c = body.config
    return oracle.Model(
        toys.D,
        c.length,
        c.stride,
        c.paths,
        module(body.past),
        module(body.current),
        unit(body.over_paths),
        unit(body.over_clicks),
        c.follow_score,
        body.product,
    )


def expected_logits(model, arrays, *, training: bool) -> np.ndarray:
    body = weights(model.backbone)
    deep = [oracle.inputs(s, body) for s in toys.samples(model, arrays)]
    return toys.logits(model, deep, training=training)


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    length=st.integers(1, 12),
    stride=st.integers(1, 7),
    paths=st.integers(1, 9),
)
def test_paths_are_where_the_literal_loop_finds_them(lengths, length, stride, paths):
    found = Paths.of(tf.constant(lengths, tf.int32), length, stride, paths)
    rows, numbers, index, follows, begin = [], [], [], [], 0
    for i, size in enumerate(lengths):
        at = oracle.ends(size, length, stride, paths)
        np.testing.assert_array_equal(found.mask[i], np.arange(paths) < len(at))
        for p, k in enumerate(at):
            rows.append(i)
            numbers.append(p)
            follows.append(begin + k)
            index.append(list(range(begin + k - length, begin + k)))
        begin += size
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.numbers, numbers)
    np.testing.assert_array_equal(found.follows, follows)
    np.testing.assert_array_equal(found.index, np.array(index).reshape(-1, length))


def test_the_current_path_ends_with_the_latest_behaviour():
    index, real = recent(tf.constant([2, 0, 5]), 4)
    np.testing.assert_array_equal(real, [[0, 0, 1, 1], [0] * 4, [1] * 4])
    np.testing.assert_array_equal(index, [[0, 0, 0, 1], [0] * 4, [3, 4, 5, 6]])


def test_a_hundred_behaviours_have_eighteen_paths_and_fifteen_one():
    model = build()
    extras = toys.encoded(model, batch()).extras
    counts = extras["path_mask"].numpy().sum(1)
    np.testing.assert_array_equal(counts, [0, 0, 0, 0, 0, 1, 1, 2, 6, 18])
    assert set(extras) == set(model.backbone.gives)
    assert extras["paths"].shape == [counts.sum(), 10 * toys.D]
    norms = np.linalg.norm(extras["paths"].numpy().reshape(-1, 10, toys.D), axis=-1)
    np.testing.assert_array_equal((norms > 0).sum(1), 5)
    np.testing.assert_allclose(norms[norms > 0], 1.0, rtol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("training", [False, True])
def test_logits_equal_the_oracle(name, training):
    model, arrays = build(CONFIGS[name]), batch()
    expected = expected_logits(model, arrays, training=training)
    found = model(toys.tensors(arrays), training=training)["click"]
    np.testing.assert_allclose(found, expected, rtol=5e-4, atol=5e-5)


def test_a_history_unlike_the_candidate_equals_the_oracle():
    model, arrays = build(CONFIGS["follow"], UNLIKE), batch(schema=UNLIKE)
    assert not model.backbone.product
    found = model(toys.tensors(arrays))["click"]
    expected = expected_logits(model, arrays, training=False)
    np.testing.assert_allclose(found, expected, rtol=5e-4, atol=5e-5)


def test_only_histories_with_a_path_know_the_past_module():
    model, arrays = build(), batch()
    plain = model(toys.tensors(arrays))["click"].numpy()
    for part in (model.backbone.past, model.backbone.over_paths):
        toys.jitter(part, seed=9)
    moved = model(toys.tensors(arrays))["click"].numpy() != plain
    np.testing.assert_array_equal(moved, [size >= 15 for size in LENGTHS])


def test_the_path_score_changes_histories_with_a_path_alone():
    plain, follow = build(), build(CONFIGS["follow"])
    arrays = toys.tensors(batch())
    moved = plain(arrays)["click"].numpy() != follow(arrays)["click"].numpy()
    np.testing.assert_array_equal(moved, [size >= 15 for size in LENGTHS])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_served_score_does_not_depend_on_its_neighbours(name):
    toys.assert_each_alone(build(CONFIGS[name]), batch())


def test_serving_uses_population_statistics_that_no_training_pass_moves():
    model, arrays = build(), toys.tensors(batch())
    before = model.answer(arrays)["logit"].numpy()
    model(arrays, training=True)
    np.testing.assert_array_equal(model.answer(arrays)["logit"], before)
    for dice in model.head.trunk.activations:
        dice.mean.assign_add(tf.ones_like(dice.mean))
    assert (model.answer(arrays)["logit"].numpy() != before).any()


def test_longer_padding_with_garbage_never_matters():
    arrays = batch([0, 1, 9, 14, 15, 20])
    dirty = toys.dirty(arrays, 7)
    model = build()
    plain, found = (model(toys.tensors(a))["click"].numpy() for a in (arrays, dirty))
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("lengths", [LENGTHS, [0, 0, 0], [14, 9], [0], [30], [20, 20]])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_finite(name, lengths):
    model = build(CONFIGS[name])
    for arrays in (batch(lengths), toys.take(batch(lengths), [len(lengths) - 1] * 4)):
        with tf.GradientTape() as tape:  # the second time one row over and over
            loss = tf.reduce_sum(model(toys.tensors(arrays), training=True)["click"] ** 2)
        for g in tape.gradient(loss, model.trainable_variables):
            assert g is None or np.isfinite(tf.convert_to_tensor(g).numpy()).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_every_part(name):
    model = build(CONFIGS[name])
    body, tables = model.backbone, model.embedder.tables
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(toys.tensors(batch()), training=True)["click"] ** 2)
    parts = {
        "past": body.past,
        "current": body.current,
        "past_router": body.past.router,
        "current_router": body.current.router,
        "over_paths": body.over_paths,
        "over_clicks": body.over_clicks,
        "affine": model.head.trunk.affine,
    }
    found = tape.gradient(loss, {k: p.trainable_variables for k, p in parts.items()} | tables)
    for part, gradients in found.items():
        if part == "type":  # a further behaviour feature, which DBPMaN does not read
            continue
        values = [tf.convert_to_tensor(g).numpy() for g in tf.nest.flatten(gradients)]
        assert any(v.any() for v in values), part
    kernels = [d.kernel for p in (body.past, body.current) for d in p.router.dense]
    kernels += [p.first.kernel for p in (body.past, body.current, body.over_paths)]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(toys.tensors(batch()), training=True)["click"] ** 2)
    assert all(g.numpy().any() for g in tape.gradient(loss, kernels))


def test_an_empty_history_has_no_shares_and_no_current_path():
    body = build().backbone
    real = tf.constant([[False] * 10, [False] * 9 + [True]])
    keys = tf.ones([2, 10, toys.D]) * tf.cast(real, tf.float32)[..., None]
    weighed = body.current.weigh(tf.ones([2, toys.D]), keys, training=False)
    found = body.current(weighed, real, training=False)
    np.testing.assert_array_equal(found.shares[..., 0].numpy(), np.eye(2, 10, 8) * [[0], [1]])
    assert not found.path.numpy()[0].any()
    assert found.path.numpy()[1].any()


def test_no_gradient_reaches_a_path_through_its_query():
    module = build().backbone.past
    query, keys = tf.ones([3, toys.D]), tf.ones([3, 10, toys.D])
    with tf.GradientTape() as tape:
        tape.watch([query, keys])
        found = module(module.weigh(query, keys, training=True), training=True).path
    of_query, of_keys = tape.gradient(found, [query, keys])
    assert of_query is None
    assert of_keys.numpy().any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"length": 0}, "dbpman.length"),
        ({"stride": 0}, "dbpman.stride"),
        ({"paths": 0}, "dbpman.paths"),
        ({"top": 11}, "dbpman.top"),
        ({"enhancing": ()}, "dbpman.enhancing"),
        ({"router": (0,)}, "dbpman.router"),
    ],
)
def test_settings_without_sense_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        dbpman.Config(**changes)


def test_a_schema_without_history_is_refused():
    with pytest.raises(InputError, match="dbpman needs a history"):
        toys.serving(dbpman.Config(), toys.PLAIN)
