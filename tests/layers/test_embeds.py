"""What a backbone asks of the embedder: first-order weights and an output table."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.contracts import Embeds
from at4ctr.errors import InputError
from at4ctr.layers.embedder import Embedder, touched_l2
from at4ctr.optimizers import LazyAdam
from at4ctr.schema import AGES
from tests.model import toys
from tests.oracles import models as oracle

D = toys.D
BOTH = Embeds(first_order=True, output=True)


@pytest.fixture(scope="module")
def made() -> Embedder:
    return Embedder(toys.SCHEMA, toys.ROWS, toys.EMBEDDING, seed=1)


@pytest.fixture
def asked() -> Embedder:
    """All that a backbone can ask for, every weight off its start."""
    made = Embedder(toys.SCHEMA, toys.ROWS, toys.EMBEDDING, 1, BOTH)
    toys.jitter(made)
    return made


def test_what_nobody_asks_for_has_width_zero(made):
    x = made(toys.tensors(toys.batch(5, 4)))
    assert x.linear.shape == [5, 0]
    assert x.output.shape == [5, 0]
    assert set(made.tables) == {t.name for t in toys.SCHEMA.tables}


@pytest.mark.parametrize("embeds", [Embeds(True, False), Embeds(False, True), BOTH])
def test_asking_for_more_leaves_the_vectors_as_they_start(made, embeds):
    found, arrays = Embedder(toys.SCHEMA, toys.ROWS, toys.EMBEDDING, 1, embeds), toys.batch(7, 5)
    for table in made.tables:
        np.testing.assert_array_equal(found.tables[table], made.tables[table])
    x, plain = found(toys.tensors(arrays)), made(toys.tensors(arrays))
    x, plain = (e._replace(linear=tf.zeros([]), output=tf.zeros([])) for e in (x, plain))
    for a, b in zip(tf.nest.flatten(x), tf.nest.flatten(plain), strict=True):
        np.testing.assert_array_equal(a, b)


def test_first_order_weights_are_tables_of_their_own_and_start_at_zero():
    found = Embedder(toys.SCHEMA, toys.ROWS, toys.EMBEDDING, 1, BOTH)
    linear = {name for name in found.tables if name.endswith("/linear")}
    fields = (
        "user",
        "city",
        "item",
        "category",
        "tag",
        "position",
    )  # "type" is of behaviours alone
    assert linear == {f"{name}/linear" for name in fields}
    for name in fields:
        assert found.tables[name].shape == [toys.ROWS[name], D]
        assert found.tables[f"{name}/linear"].shape == [toys.ROWS[name], 1]
        assert not found.tables[f"{name}/linear"].numpy().any()
    assert not found(toys.tensors(toys.batch())).linear.numpy().any()
    assert found.tables["item/output"].shape == [toys.ROWS["item"], D]


def test_linear_is_one_weight_per_field_and_a_mean_where_there_are_several(asked):
    arrays = toys.batch(9, 6)
    arrays["city"][0], arrays["tags"][1] = 0, 0
    x = asked(toys.tensors(arrays))
    fields = ["user", "city", "item", "category", "tags", "position"]
    tables = {name: toys.double(t) for name, t in asked.tables.items()}
    for i in range(9):
        of = {f: toys.SCHEMA.feature(f).table for f in fields}
        weights = [oracle.vector(tables[f"{of[f]}/linear"], arrays[f][i])[0] for f in fields]
        rows = [oracle.vector(tables[of[f]], arrays[f][i]) for f in fields]
        np.testing.assert_allclose(x.linear[i], weights, rtol=1e-6)
        np.testing.assert_allclose(x.fields[i], rows, rtol=1e-5, atol=1e-7)
    assert x.linear[0, 1] == 0.0  # padding, though its row is jittered
    assert x.linear[1, 4] == 0.0
    assert tables["city/linear"][0, 0] != 0.0
    assert x.history.shape[-1] == 3 * D
    assert x.extras["type"].shape[-1] == D


def test_l2_is_over_first_order_weights_and_output_rows_too(asked):
    x = asked(toys.tensors(toys.batch(5, 4)))
    parts = [x.fields, x.linear, x.output, x.history]
    expected = [(part.numpy().astype(np.float64) ** 2).sum() / 5 for part in parts]
    assert min(expected) > 0.01
    np.testing.assert_allclose(touched_l2(x, history=True), sum(expected), rtol=1e-5)


def test_gradients_reach_the_first_order_weights_of_the_sample_alone(asked):
    arrays = toys.batch(6, 4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(asked(toys.tensors(arrays)).linear)
    tables = {name: asked.tables[name] for name in ("item", "item/linear")}
    found = tape.gradient(loss, tables)
    assert found["item"] is None
    assert set(found["item/linear"].indices.numpy()) == set(arrays["item"])
    g = tf.convert_to_tensor(found["item/linear"]).numpy()
    np.testing.assert_array_equal(g[:, 0], np.bincount(arrays["item"], minlength=len(g)))


def test_a_history_does_not_move_the_first_order_weights_of_its_rows(asked):
    """By old momentum, as it would if it named their rows."""
    table, optimizer, now = asked.tables["item/linear"], LazyAdam(0.1), toys.batch(6, 4)
    start = table.numpy()
    for item in (7, 9):
        now["item"][:], now["history_item"][now["history_item"] > 0] = item, 7
        with tf.GradientTape() as tape:
            x = asked(toys.tensors(now))
            loss = tf.reduce_sum(x.linear) + tf.reduce_sum(x.packed.values)
        variables = [v for v in asked.trainable_variables if "type" not in v.name]
        gradients = tape.gradient(loss, variables)
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        optimizer.apply_gradients(pairs)
        moved = table.numpy() != start
        assert set(np.flatnonzero(moved)) == {item}
        start = table.numpy()


def test_the_output_table_is_the_candidates_and_starts_apart(asked):
    fresh = Embedder(toys.SCHEMA, toys.ROWS, toys.EMBEDDING, 1, Embeds(output=True))
    start = fresh.tables["item/output"].numpy()
    assert start.shape == fresh.tables["item"].shape
    assert 0.4 < np.abs(start).max() <= 0.5
    for table in toys.SCHEMA.tables:
        other = fresh.tables[table.name].numpy()
        rows = min(len(other), len(start))
        assert (other[:rows] != start[:rows]).all()
    arrays = toys.batch(6, 4)
    arrays["item"][0] = 0
    x = asked(toys.tensors(arrays))
    np.testing.assert_array_equal(x.output, asked.lookup("item/output", arrays["item"]))
    np.testing.assert_array_equal(
        x.output[1:], asked.tables["item/output"].numpy()[arrays["item"][1:]]
    )
    assert not x.output[0].numpy().any()


def test_gradients_of_the_output_table_are_its_own(asked):
    arrays = toys.batch(6, 4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(asked(toys.tensors(arrays)).output)
    tables = asked.tables
    found = tape.gradient(loss, {"output": tables["item/output"], "item": tables["item"]})
    assert found["item"] is None
    assert isinstance(found["output"], tf.IndexedSlices)
    assert set(found["output"].indices.numpy()) == set(arrays["item"])


def test_without_a_history_both_parts_are_there():
    made = Embedder(toys.PLAIN, toys.ROWS, toys.EMBEDDING, 1, BOTH)
    x = made(toys.tensors(toys.batch(5, schema=toys.PLAIN)))
    assert x.linear.shape == [5, 2]
    assert x.output.shape == [5, D]


def test_ages_are_those_of_real_behaviours_and_stay_out_unless_asked_for():
    schema = replace(toys.SCHEMA, times=True)
    arrays = toys.batch(6, 5)
    ages = np.arange(30, dtype=np.int32).reshape(6, 5) * 1000
    arrays[AGES] = ages
    found = Embedder(schema, toys.ROWS, toys.EMBEDDING, 1, Embeds(ages=True))
    x = found(toys.tensors(arrays))
    expected = np.concatenate([ages[i, :n] for i, n in enumerate(arrays["history_length"])])
    np.testing.assert_array_equal(x.ages, expected.astype(np.float32))
    assert Embedder(schema, toys.ROWS, toys.EMBEDDING, 1)(toys.tensors(arrays)).ages is None
    with pytest.raises(InputError, match=r"expected Schema\(times=True\)"):
        Embedder(toys.SCHEMA, toys.ROWS, toys.EMBEDDING, 1, Embeds(ages=True))
