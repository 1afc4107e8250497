"""PICO from a batch of ids to its loss, against the paper's equations."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.auxiliaries import pico
from at4ctr.backbones import din, widedeep
from at4ctr.contracts import Targets, Tower
from at4ctr.errors import InputError
from at4ctr.heads import shared_bottom, single
from at4ctr.layers.shape import Shape
from tests.model import toys
from tests.oracles import pico as oracle

CONFIG = pico.Config(units=(6, 5), beta=0.3)
HEAD = shared_bottom.Config(bottom=(9,), tower=(6, 4))
CLICKED = np.array([1, 0, 1, 1, 0, 1, 0], np.float32)
BOUGHT = np.array([1, 0, 0, 1, 0, 0, 0], np.float32)  # and clicked
KNOWN = np.array([1, 1, 1, 0, 1, 1, 1], np.float32)


def build(config=CONFIG, head=HEAD):
    model = toys.training(
        toys.serving(din.Config(), toys.TWO, head=head), {"pico": config}, toys.TWO
    )
    toys.jitter(model)
    return model, model.auxiliaries["pico"]


def seen(model, rows=7, clicked=CLICKED, bought=BOUGHT, known=KNOWN):
    """A view whose targets are those of the arguments."""
    view = toys.view(model, toys.batch(rows, schema=toys.TWO))
    labels = {"click": clicked, "conversion": bought, "click_and_conversion": bought * known}
    weights = {"click": np.ones(rows), "conversion": clicked * known, "click_and_conversion": known}
    given = ({k: tf.constant(v, tf.float32) for k, v in x.items()} for x in (labels, weights))
    return replace(view, targets=Targets(*given))


def relevance(view, task):
    one, other = (view.outputs.inputs[k].numpy() for k in ("click", "conversion"))
    return oracle.relevance(one, other, toys.layers(task.relevance))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"relation": "xor"},
        {"layer": 1, "lower": 0.2, "upper": 0.7},
        {"temperature": "fixed"},
        {"temperature": "statistical"},
        {"negatives": False},
        {"beta": 0.0},
        {"alpha": 0.0, "temperature": "fixed", "normalise": True},
    ],
    ids=str,
)
def test_the_loss_is_that_of_its_equations(changes):
    config = replace(CONFIG, **changes)
    model, task = build(config)
    view = seen(model)
    related = oracle.agreement(CLICKED, BOUGHT, config.relation)
    a, c = (view.outputs.towers[k][config.layer].numpy() for k in ("click", "conversion"))
    expected, r = 0.0, np.zeros(7)
    if config.alpha:
        r = relevance(view, task)
        expected += config.alpha * oracle.cross_entropy(related, r, KNOWN)
    if config.temperature == "fixed":
        r = np.ones(7)
    elif config.temperature == "statistical":
        r = np.full(7, (related * KNOWN).sum() / KNOWN.sum())
    if config.negatives:
        t = config.upper - (config.upper - config.lower) * r
        expected += config.beta * oracle.contrast(a, c, t, config.normalise)
    else:
        expected -= config.beta * float((a.astype(np.float64) * c).sum(1).mean())
    assert float(task.loss(view)) == pytest.approx(expected, rel=2e-5)


def test_the_contrast_has_no_gradient_to_the_relevance_network():
    model, task = build(replace(CONFIG, alpha=1e-30))
    with tf.GradientTape() as tape:
        loss = task.loss(seen(model))
    for slope in tape.gradient(loss, task.relevance.trainable_variables):
        assert float(tf.reduce_max(tf.abs(slope))) < 1e-25


def test_the_relevance_reaches_the_shared_layers():
    model, task = build(replace(CONFIG, beta=0.0))
    with tf.GradientTape() as tape:
        loss = task.loss(seen(model))
    slopes = tape.gradient(loss, model.serving.head.bottom.trainable_variables)
    assert any(tf.reduce_any(g != 0) for g in slopes)


def test_relevant_rows_have_the_low_temperature():
    _, task = build(replace(CONFIG, temperature="personal"))
    t = task.temperature(tf.constant([-50.0, 0.0, 50.0]), tf.zeros(3), tf.ones(3))
    np.testing.assert_allclose(t, [1.0, 0.525, 0.05], rtol=1e-6)


def test_a_batch_without_a_known_row_has_the_highest_temperature():
    _, task = build(replace(CONFIG, temperature="statistical"))
    np.testing.assert_array_equal(task.temperature(None, tf.ones(3), tf.zeros(3)), np.ones(3))


def test_the_composed_label_is_compared_and_an_unknown_row_does_not_count():
    """A row without a click has no conversion, so that its labels are equal."""
    model, task = build()
    arrays = toys.batch(7, schema=toys.TWO) | {
        "label_click": CLICKED,
        "label_conversion": np.where(CLICKED * KNOWN == 1, BOUGHT, -1).astype(np.float32),
    }
    related, weights = task.related(toys.view(model, arrays).targets)
    np.testing.assert_array_equal(weights, KNOWN)
    expected = oracle.agreement(CLICKED, BOUGHT) * KNOWN
    np.testing.assert_array_equal(related * weights, expected)


@pytest.mark.parametrize("clicked", [0.0, 1.0])
def test_batches_of_one_class_are_finite(clicked):
    """Without a click the conversion costs nothing, and every gradient is finite."""
    model, _ = build()
    arrays = toys.batch(7, schema=toys.TWO)
    arrays["label_click"] = np.full(7, clicked, np.float32)
    arrays["label_conversion"] = np.full(7, clicked - 1, np.float32)  # unknown, or none
    with tf.GradientTape() as tape:
        losses = model.losses_of(toys.tensors(arrays))
    assert clicked or float(losses["conversion"]) == 0.0
    assert all(np.isfinite(float(v)) for v in losses.values())
    found = tape.gradient(losses["total"], model.trainable_variables)
    assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in found if g is not None)


def test_the_export_model_has_none_of_it():
    model, task = build()
    assert not {id(v) for v in task.variables} & {id(v) for v in model.serving.variables}
    assert task.towers == ("click", "conversion")


def shape(**towers):
    return Shape.of(toys.TWO, toys.D)._replace(towers=towers)


@pytest.mark.parametrize(
    ("config", "towers", "said"),
    [
        ({}, {"click": Tower(8, (4,))}, r"^pico contrasts the towers of two labels"),
        ({"layer": 1}, {}, r"^pico\.layer is 1 and the towers .* have 1 hidden layers"),
        ({}, {"conversion": Tower(8, (5,))}, r"layer 0 has 4 units in the one and 5 in the other"),
        ({}, {"conversion": Tower(9, (4,))}, r"the input has 8 units in the one and 9"),
        ({"pair": ("click", "click")}, {}, r"pair is click,click; expected two labels that differ"),
        ({"pair": ("click", "conversions")}, {}, r"did you mean conversion"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_in_a_sentence(config, towers, said):
    one = {"click": Tower(8, (4,))}
    found = one if towers == one else {**one, "conversion": Tower(8, (4,)), **towers}
    with pytest.raises(InputError, match=said):
        pico.Config(**config).build(toys.TWO, shape(**found), 0)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"lower": 0.0}, r"lower and pico\.upper are 0\.0 and 1\.0; expected"),
        ({"lower": 2.0}, r"the lower one first"),
        ({"beta": -1.0}, r"pico\.beta is -1\.0; expected"),
        ({"relation": "xnorr"}, r"did you mean xnor"),
        ({"alpha": 0.0}, r"nothing would train the network"),
    ],
)
def test_settings_without_sense_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        pico.Config(**config)


def test_any_two_labels_in_either_order():
    towers = {"click": Tower(8, (4,)), "conversion": Tower(8, (4,))}
    made = pico.Config(pair=("conversion", "click")).build(toys.TWO, shape(**towers), 0)
    assert made.towers == ("conversion", "click")
    assert made.labels == ("click_and_conversion", "click")


def test_one_tower_is_refused_by_the_models_too():
    with pytest.raises(InputError, match="leave pico out"):
        toys.training(toys.serving(widedeep.Config(), head=single.Config()), {"pico": CONFIG})
