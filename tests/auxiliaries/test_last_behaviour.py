"""DMR's match loss: what must hold of any weights, and its value against the literal form."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.auxiliaries import last_behaviour
from at4ctr.backbones import din, dmr
from at4ctr.errors import InputError
from at4ctr.layers.shape import Shape
from at4ctr.schema import Feature, Schema, Table
from tests.model import toys
from tests.oracles import dmr as oracle

CONFIG = last_behaviour.Config()
ITEMS = Schema(
    tables=(Table("user"), Table("item")),
    features=(Feature("user", "profile", "user"), Feature("item", "item", "item")),
    history=("item",),
)
CASES = {
    "dmr": (dmr.Config(), toys.SCHEMA),  # states of width D, an output table
    "din": (din.Config(), toys.SCHEMA),  # neither
    "din_items": (din.Config(), ITEMS),  # states of width D, no output table
}
LENGTHS = [0, 1, 6, 2, 5, 4, 3, 6, 6, 2]


def build(backbone=CASES["dmr"][0], schema=toys.SCHEMA):
    model = toys.training(toys.serving(backbone, schema), {"task": CONFIG}, schema)
    toys.jitter(model)
    return model, model.auxiliaries["task"]


def arrays_of(lengths=LENGTHS, schema=toys.SCHEMA, seed=6):
    """Known items, so that a case says itself where one is unknown."""
    arrays = toys.batch(len(lengths), 6, lengths=lengths, schema=schema, seed=seed)
    arrays["history_item"][arrays["history_item"] == 1] = 2
    return arrays


def expected(model, task, arrays) -> float:
    """From the states as they are: test_dmr.py holds those against their own oracle."""
    view = toys.view(model, arrays)
    states = view.encoded.states.numpy().astype(np.float64)
    lengths = arrays["history_length"]
    tables = toys.tables(model.serving)
    return oracle.last_behaviour(
        [s[:n] for s, n in zip(states, lengths, strict=True)],
        [ids[:n] for ids, n in zip(arrays["history_item"], lengths, strict=True)],
        tables.get("item/output", tables["item"]),
        None if task.project is None else toys.layer(task.project),
    )


def value(model, task, arrays) -> float:
    return float(task.loss(toys.view(model, arrays)))


@pytest.mark.parametrize("name", CASES)
def test_the_loss_equals_the_oracle(name):
    backbone, schema = CASES[name]
    model, task = build(backbone, schema)
    assert (task.project is None) == (name != "din")
    arrays = arrays_of(schema=schema)
    arrays["history_item"][2, 5] = arrays["history_item"][4, 4] = 7  # an item twice
    arrays["history_item"][7, 5] = 1  # an unknown one
    arrays["user"][5:7] = 3
    found = value(model, task, arrays)
    assert found > 0.1
    assert found == pytest.approx(expected(model, task, arrays), rel=2e-4)


@pytest.mark.parametrize("lengths", [[2], [6], [0] * 5, [1] * 5, [1, 0, 1, 2, 0], [0, 1, 5, 0, 0]])
def test_small_and_empty_batches_equal_the_oracle(lengths):
    model, task = build()
    arrays = arrays_of(lengths)
    arrays["label_click"][:] = 0
    assert value(model, task, arrays) == pytest.approx(
        expected(model, task, arrays), rel=2e-4, abs=1e-6
    )


def test_candidates_count_once_however_often_the_batch_has_them():
    model, task = build()
    arrays = arrays_of([4] * 8)
    arrays["history_item"][:, 3] = [5, 5, 5, 5, 5, 5, 5, 9]
    twice = {k: np.concatenate([v, v]) for k, v in arrays.items()}
    assert value(model, task, twice) == pytest.approx(value(model, task, arrays), rel=1e-5)
    arrays["history_item"][:, 3] = 5
    assert value(model, task, arrays) == pytest.approx(0.0, abs=1e-6)


def test_an_unknown_last_item_leaves_its_sample_out():
    model, task = build()
    arrays = arrays_of()
    arrays["history_item"][2, 5] = 1
    kept = toys.take(arrays, [i for i in range(10) if i != 2])
    assert value(model, task, arrays) == pytest.approx(value(model, task, kept), rel=1e-5)
    arrays["history_item"][arrays["history_item"] > 0] = 1
    assert value(model, task, arrays) == 0.0


def test_what_the_last_behaviour_is_matters_as_the_target_alone():
    """Other features of the last behaviour reach no state that the loss reads."""
    model, task = build()
    arrays = arrays_of()
    other = {k: v.copy() for k, v in arrays.items()}
    for i, n in enumerate(LENGTHS):
        if n:
            other["history_category"][i, n - 1] = arrays["history_category"][i, n - 1] % 6 + 2
    assert value(model, task, other) == pytest.approx(value(model, task, arrays), rel=1e-6)


def test_padding_never_changes_the_loss():
    model, task = build()
    arrays = arrays_of()
    dirty = toys.dirty(arrays)
    assert value(model, task, dirty) == pytest.approx(value(model, task, arrays), rel=1e-6)


def gradients(model, task, arrays):
    with tf.GradientTape() as tape:
        loss = task.loss(toys.view(model, arrays))
    variables = model.trainable_variables
    found = tape.gradient(loss, variables)
    return {
        id(v): np.zeros(1) if g is None else tf.convert_to_tensor(g).numpy()
        for v, g in zip(variables, found, strict=True)
    }


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("lengths", [[0] * 4, [1] * 4, [0, 1, 1, 0]])
def test_without_a_pair_of_behaviours_it_is_zero_with_zero_gradients(name, lengths):
    backbone, schema = CASES[name]
    model, task = build(backbone, schema)
    arrays = arrays_of(lengths, schema)
    assert value(model, task, arrays) == 0.0
    assert not any(g.any() for g in gradients(model, task, arrays).values())


def test_gradients_are_finite_and_reach_the_user_net_and_the_output_table_alone():
    model, task = build()
    found = gradients(model, task, arrays_of())
    assert all(np.isfinite(g).all() for g in found.values())
    body, tables = model.serving.backbone, model.serving.embedder.tables
    assert found[id(body.user_to_item.project.kernel)].any()
    assert found[id(body.user_to_item.positions.table)].any()
    assert {n for n, t in tables.items() if found[id(t)].any()} == {
        "item", "category", "tag", "item/output"
    }  # fmt: skip
    untouched = [
        *body.item_to_item.trainable_variables,
        *model.serving.head.trunk.trainable_variables,
    ]
    assert not any(found[id(v)].any() for v in untouched)


def test_a_few_steps_on_one_batch_bring_the_loss_down():
    model, task = build()
    arrays = arrays_of()
    first = value(model, task, arrays)
    variables = model.trainable_variables
    for _ in range(30):
        found = gradients(model, task, arrays)
        for v in variables:
            if found[id(v)].any():
                v.assign_sub(0.5 * found[id(v)])
    assert value(model, task, arrays) < 0.7 * first


def test_logits_are_float32_whatever_the_states_are():
    model, task = build()
    view = toys.view(model, arrays_of())
    half = view.encoded._replace(states=tf.cast(view.encoded.states, tf.float16))
    rough = replace(view, experts={"dmr": half})
    assert task.loss(rough).dtype == tf.float32
    assert float(task.loss(rough)) == pytest.approx(float(task.loss(view)), rel=1e-2)


def test_a_history_without_item_ids_is_refused():
    with pytest.raises(InputError, match="last_behaviour needs a history"):
        CONFIG.build(toys.PLAIN, Shape.of(toys.PLAIN, toys.D), 0)
    categories = Schema(toys.SCHEMA.tables, toys.SCHEMA.features, ("category",))
    with pytest.raises(InputError, match=r"item id .* add 'item' to Schema.history"):
        build(dmr.Config(), categories)
