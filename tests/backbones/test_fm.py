"""FM and DeepFM: the second-order term, whole models against the oracle, and the export."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from at4ctr.auxiliaries import uim
from at4ctr.backbones import deepfm, fm
from at4ctr.errors import InputError
from at4ctr.heads import single
from at4ctr.layers.fm import second_order
from at4ctr.model.build import Plan, serving_model
from at4ctr.optimizers import LazyAdam
from export import saved_model
from tests.export import EMBEDDING, T, ids_of, request, toy
from tests.model import toys
from tests.oracles import fm as oracle

CONFIGS: dict[str, fm.Config | deepfm.Config] = {
    "fm": fm.Config(),
    "fm_pooled": fm.Config(pool_history=True),
    "deepfm": deepfm.Config(),
    "deepfm_pooled": deepfm.Config(pool_history=True),
    "deepfm_dice": deepfm.Config(pool_history=True),
}
HEADS = {
    "deepfm": single.Config(units=(9, 5)),
    "deepfm_pooled": single.Config(units=(9,)),
    "deepfm_dice": single.Config(units=(9, 5), activation="dice"),
}
BATCHES = {
    "padded": toys.batch(9, 6, seed=4),
    "no_history": toys.batch(5, 4, lengths=[0] * 5),
    "no_positives": toys.batch(5, 4) | {"label_click": np.zeros(5, np.float32)},
    "one": toys.batch(1, 3, lengths=[2]),
    "same_user": toys.batch(6, 4, seed=2) | {"user": np.full(6, 5, np.int32)},
}


def names(schema, group: str) -> list[tuple[str, str]]:
    return [(f.name, f.table) for f in schema.served(group)]


def made(name: str, schema=toys.SCHEMA):
    model = toys.serving(CONFIGS[name], schema, head=HEADS.get(name, single.Config()))
    toys.jitter(model)
    return model


def expected(model, config, arrays, *, training: bool) -> np.ndarray:
    schema, tables = model.embedder.schema, toys.tables(model)
    history = [(n, schema.feature(n).table) for n in schema.history]
    groups = [names(schema, g) for g in ("profile", "context", "item")]
    wide, deep = [], []
    for i in range(len(arrays["label_click"])):
        now = {name: values[i] for name, values in arrays.items()}
        vectors, weights = oracle.fields(now, tables, list(itertools.chain(*groups)))
        if config.pool_history:
            vectors = vectors + oracle.summed_history(now, tables, history)
        wide.append(oracle.terms(weights, vectors))
        deep.append(np.concatenate(vectors))
    if isinstance(config, fm.Config):
        return np.array(wide) + toys.double(model.head.logit.bias)
    return np.array(wide) + toys.logits(model, deep, training=training)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 7), st.integers(1, 5))
def test_the_second_order_term_is_the_sum_over_pairs(seed, size, fields, width):
    x = np.random.default_rng(seed).normal(size=(size, fields, width)).astype(np.float32)
    found = second_order(tf.constant(x)).numpy()
    pairs = [oracle.pairs(list(row.astype(np.float64))) for row in x]
    np.testing.assert_allclose(found, pairs, rtol=1e-4, atol=1e-4)
    order = np.random.default_rng(seed).permutation(fields)
    np.testing.assert_allclose(second_order(tf.constant(x[:, order])), found, rtol=1e-4, atol=1e-4)
    wider = np.concatenate([x, np.zeros((size, 1, width), np.float32)], 1)
    np.testing.assert_allclose(second_order(tf.constant(wider)), found, rtol=1e-4, atol=1e-4)


def test_a_field_alone_has_no_second_order_term():
    x = tf.constant([[[1.5, -2.0]], [[0.25, 8.0]]])
    np.testing.assert_array_equal(second_order(x), [0.0, 0.0])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_the_oracle(name, kind, training):
    model, arrays = made(name), BATCHES[kind]
    found = model(toys.tensors(arrays), training=training)["click"]
    oracles = expected(model, CONFIGS[name], arrays, training=training)
    np.testing.assert_allclose(found, oracles, rtol=3e-4, atol=3e-5)


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_finite_and_reach_the_first_order_weights(name, kind):
    model = toys.training(made(name), {}, l2=0.1)
    with tf.GradientTape() as tape:
        loss = model.losses_of(toys.tensors(BATCHES[kind]))["total"]
    tables = model.serving.embedder.tables
    found, rest = tape.gradient(loss, [tables, model.trainable_variables])
    for g in [*found.values(), *rest]:
        assert g is None or np.isfinite(tf.convert_to_tensor(g).numpy()).all()
    for table in ("user", "city", "item", "category", "tag", "position"):
        for kind in (table, f"{table}/linear"):
            g = tf.convert_to_tensor(found[kind]).numpy()
            assert g.any(), kind
            assert not g[0].any(), kind


def test_the_first_order_gradient_is_the_logit_gradient_at_each_field():
    model, arrays = made("fm_pooled"), toys.batch(6, 4)
    with tf.GradientTape() as tape:
        logits = model(toys.tensors(arrays))["click"]
    g = tf.convert_to_tensor(tape.gradient(logits, model.embedder.tables["item/linear"])).numpy()
    np.testing.assert_allclose(g[:, 0], np.bincount(arrays["item"], minlength=len(g)), rtol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_served_score_does_not_depend_on_its_neighbours(name):
    toys.assert_each_alone(made(name), toys.batch(9, 6, seed=5))


@pytest.mark.parametrize("name", ["fm_pooled", "deepfm_pooled"])
def test_padding_with_garbage_never_matters(name):
    model, arrays = made(name), toys.batch(9, 6)
    dirty = toys.dirty(arrays)
    plain, found = (model(toys.tensors(a))["click"].numpy() for a in (arrays, dirty))
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_unread_history_neither_matters_nor_names_a_row(name):
    config, arrays, other = CONFIGS[name], toys.batch(9, 6), toys.batch(9, 6, seed=8)
    model = made(name)
    assert config.reads_history is config.pool_history
    mixed = {k: other[k] if k.startswith("history") else v for k, v in arrays.items()}
    plain, found = (model(toys.tensors(a))["click"].numpy() for a in (arrays, mixed))
    training, table = toys.training(model, {}), model.embedder.tables["item"]

    @tf.function(autograph=False)
    def gradient(batch):
        with tf.GradientTape() as tape:
            loss = training.losses_of(batch)["total"]
        return tape.gradient(loss, table)

    named = set(gradient(toys.tensors(arrays)).indices.numpy())
    past = set(arrays["history_item"][arrays["history_item"] > 0])
    assert past - set(arrays["item"])
    if config.pool_history:
        assert (plain != found).any()
        assert named == past | set(arrays["item"])
    else:
        np.testing.assert_array_equal(plain, found)
        assert named == set(arrays["item"])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parts_are_what_the_trunk_reads_and_the_fm_is_wide(name):
    model, arrays = made(name), toys.batch(6, 5)
    other = {**arrays, "item": arrays["item"][::-1].copy()}
    a, b = (toys.encoded(model, x, history=True) for x in (arrays, other))
    assert (a.wide.numpy() != b.wide.numpy()).any()
    assert a.states.shape == [6, 5, 3 * toys.D]
    assert [p.shape for p in a.parts] == [[6, p.width] for p in model.backbone.parts]
    if isinstance(CONFIGS[name], fm.Config):
        assert not a.parts
        return
    samples, pool = toys.samples(model, arrays), CONFIGS[name].pool_history
    rows = [[s.profile, s.context, s.item, *([s.history.sum(0)] if pool else [])] for s in samples]
    for found, expected in zip(a.parts, zip(*rows, strict=True), strict=True):
        np.testing.assert_allclose(found, np.array(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["fm_pooled", "deepfm_pooled"])
def test_pooling_without_a_history_is_refused(name):
    with pytest.raises(InputError, match=r"fm with pool_history needs a history"):
        toys.serving(CONFIGS[name], toys.PLAIN)


def test_fm_on_two_ids_is_a_matrix_factorization_with_biases():
    model, arrays = made("fm", toys.PLAIN), toys.batch(6, schema=toys.PLAIN)
    tables = toys.tables(model)
    user, item = (tables[t][arrays[t]] for t in ("user", "item"))
    biases = sum(tables[f"{t}/linear"][arrays[t], 0] for t in ("user", "item"))
    bias = toys.double(model.head.logit.bias)
    score = bias + biases + (user * item).sum(1)
    np.testing.assert_allclose(model(toys.tensors(arrays))["click"], score, rtol=1e-5)


def test_fm_learns_beside_a_task_by_the_tables_and_the_bias_alone():
    model = toys.training(made("fm"), {"uim": uim.Config()})
    assert not model.serving.backbone.variables
    (bias,) = model.serving.head.variables
    start = bias.numpy()
    arrays, optimizer = toys.tensors(toys.batch(9, 5)), LazyAdam(0.1)
    losses = []
    for _ in range(12):
        with tf.GradientTape() as tape:
            found = model.losses_of(arrays)
        variables = model.trainable_variables
        gradients = tape.gradient(found["total"], variables)
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        optimizer.apply_gradients(pairs)
        losses.append(float(found["click"]))
    assert losses[-1] < 0.5 * losses[0]
    assert bias.numpy() != start


@pytest.mark.parametrize("name", ["fm", "deepfm_pooled"])
def test_the_export_answers_raw_ids_as_the_model_answers_its_ids(name, tmp_path):
    store = toy(tmp_path / "store")
    rows = {t.name: store.rows(t.name) for t in store.schema.tables}
    plan = Plan.of(CONFIGS[name], EMBEDDING, negative_rate=0.5, seed=3)
    model = serving_model(store.schema, rows, plan)
    toys.jitter(model)
    path = saved_model.save(model, store, tmp_path / "export", history=T, facts={})
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    raw = {k: np.asarray(v) for k, v in request(np.random.default_rng(1), 5, T).items()}
    specs = served.structured_input_signature[1]
    assert ("history_item" in specs) is model.reads_history
    found = served(**{k: tf.constant(raw[k], spec.dtype) for k, spec in specs.items()})
    answer = model.answer(ids_of({k: v.tolist() for k, v in raw.items()}))
    for key in ("probability", "logit"):
        np.testing.assert_allclose(found[key], answer[key], rtol=1e-6, atol=1e-6)
