"""DIEN from a batch of ids to its logit, against the literal model."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import dien
from at4ctr.errors import InputError
from at4ctr.layers.gru import FORMS, Form
from tests.model import toys
from tests.oracles import dien as oracle

LENGTHS = [None, [0] * 9, [1] * 9, [6] * 9]


def build(form: Form = "code", **changes):
    model = toys.serving(dien.Config(form=form, **changes))
    toys.jitter(model)
    return model


def cell(made):
    return toys.layer(made.gates), toys.layer(made.candidate)


def expected_logits(model, arrays, form: str, *, training: bool) -> np.ndarray:
    body = model.backbone
    unit = body.attention
    stack = [toys.layer(unit.first), *toys.layers(unit.rest)]
    attention = (toys.layer(unit.project), toys.double(body.query.alpha), stack)
    inputs = [
        oracle.trunk_input(s, cell(body.gru), attention, cell(body.evolution), form)
        for s in toys.samples(model, arrays)
    ]
    return toys.logits(model, inputs, training=training)


@pytest.mark.parametrize("lengths", LENGTHS, ids=["mixed", "empty", "one", "full"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_logits_equal_the_oracle(form, training, lengths):
    model = build(form)
    arrays = toys.batch(9, 6, seed=4, lengths=lengths)
    expected = expected_logits(model, arrays, form, training=training)
    found = model(toys.tensors(arrays), training=training)["click"]
    np.testing.assert_allclose(found, expected, rtol=3e-4, atol=3e-5)


def test_states_are_those_of_the_gru_and_zero_where_padded():
    model, arrays = build(), toys.batch(9, 6)
    states = toys.encoded(model, arrays, training=True).states.numpy()
    for i, s in enumerate(toys.samples(model, arrays)):
        n = len(s.history)
        expected = oracle.gru(s.history, *cell(model.backbone.gru))
        np.testing.assert_allclose(states[i, :n], expected, rtol=1e-4, atol=1e-6)
        assert not states[i, n:].any()


@pytest.mark.parametrize("form", FORMS)
def test_a_served_score_does_not_depend_on_its_neighbours(form):
    toys.assert_each_alone(build(form), toys.batch(9, 6, seed=5))


def test_longer_padding_with_garbage_never_matters():
    arrays = toys.batch(9, 6)
    dirty = toys.dirty(arrays)
    for training in (False, True):
        found = [build()(toys.tensors(a), training=training)["click"] for a in (arrays, dirty)]
        np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_the_order_of_behaviours_matters():
    model, arrays = build(), toys.batch(9, 6, lengths=[6] * 9)
    past = {n: v[:, ::-1] for n, v in arrays.items() if n.startswith("history_") and v.ndim > 1}
    found = [model(toys.tensors(a))["click"].numpy() for a in (arrays, {**arrays, **past})]
    assert (np.abs(found[0] - found[1]) > 1e-4).all()


@pytest.mark.parametrize("size", [1, 9])
@pytest.mark.parametrize("lengths", LENGTHS, ids=["mixed", "empty", "one", "full"])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_finite_and_reach_both_recurrences(form, lengths, size):
    serving = build(form)
    model = toys.training(serving, {})
    arrays = toys.batch(9, 6, lengths=lengths)
    arrays = toys.take(arrays, slice(2, 2 + size) if size == 1 else slice(None))
    arrays["label_click"][:] = 0
    body, variables = serving.backbone, serving.backbone.trainable_variables
    with tf.GradientTape() as tape:
        loss = model.losses_of(toys.tensors(arrays))["total"]
    found = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, variables)]
    assert all(np.isfinite(g).all() for g in found)
    if lengths is None and size == 9:
        unit = [body.attention.project.kernel, body.attention.first.kernel]
        for v in (*body.gru.variables, *body.evolution.variables, *unit):
            (at,) = (k for k, w in enumerate(variables) if w is v)
            assert found[at].any(), v.shape


def test_a_saved_model_answers_alike(tmp_path):
    model, arrays = build(), toys.tensors(toys.batch(9, 6))
    shapes = {n: [None, *(d if d == 3 else None for d in v.shape[1:])] for n, v in arrays.items()}
    specs = {n: tf.TensorSpec(shapes[n], v.dtype, n) for n, v in arrays.items()}
    served = tf.Module()
    served.weights = list(model.variables)
    function = tf.function(model.answer, autograph=False).get_concrete_function(specs)
    tf.saved_model.save(served, str(tmp_path), signatures={"serving_default": function})
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    for lengths in LENGTHS:
        batch = toys.tensors(toys.batch(9, 6, lengths=lengths))
        np.testing.assert_allclose(
            loaded(**batch)["logit"], model.answer(batch)["logit"], rtol=1e-5, atol=1e-6
        )


def test_a_misspelt_form_and_a_missing_history_are_refused():
    with pytest.raises(InputError, match=r"unknown backbone\.form 'papr': did you mean paper"):
        dien.Config(form="papr")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="dien needs a history"):
        toys.serving(dien.Config(), toys.PLAIN)
