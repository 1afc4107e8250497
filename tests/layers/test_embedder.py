"""The embedder: ids to vectors."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.layers import embedder
from at4ctr.layers.embedder import Embedder, touched_l2
from tests.model import toys
from tests.oracles import models as oracle

D = toys.D


@pytest.fixture(scope="module")
def made() -> Embedder:
    return Embedder(toys.SCHEMA, toys.ROWS, toys.EMBEDDING, seed=1)


def reference(made: Embedder, arrays: dict) -> list[oracle.Sample]:
    class Model:
        embedder = made

    return toys.samples(Model, arrays)


def test_everything_equals_looking_up_one_id_at_a_time(made):
    arrays = toys.batch(9, 6)
    x = made(toys.tensors(arrays))
    for i, sample in enumerate(reference(made, arrays)):
        for name in ("profile", "item", "context"):
            found = getattr(x, name)[i]
            np.testing.assert_allclose(found, getattr(sample, name), rtol=1e-6, atol=1e-7)
        n = len(sample.history)
        np.testing.assert_allclose(x.history[i, :n], sample.history, rtol=1e-6, atol=1e-7)
        assert not x.history[i, n:].numpy().any()
        np.testing.assert_array_equal(x.mask[i], np.arange(x.mask.shape[1]) < n)
        whole = np.concatenate([sample.profile, sample.item, sample.context]).reshape(-1, D)
        np.testing.assert_allclose(x.fields[i], whole, rtol=1e-6, atol=1e-7)
        table = toys.double(made.tables["type"])
        types = [oracle.vector(table, t) for t in arrays["history_type"][i, :n]]
        np.testing.assert_allclose(
            x.extras["type"][i, :n], np.array(types).reshape(n, D), rtol=1e-6
        )
        assert not x.extras["type"][i, n:].numpy().any()


def test_the_dense_history_is_the_packed_one(made):
    x = made(toys.tensors(toys.batch(9, 6)))
    rows, positions = x.packed.rows.numpy(), x.packed.positions.numpy()
    np.testing.assert_array_equal(x.history.numpy()[rows, positions], x.packed.values)
    assert len(rows) == x.mask.numpy().sum()
    assert (np.diff(rows) >= 0).all()


def test_static_shapes_are_known_while_a_graph_is_built(made):
    def traced(batch):
        x = made(batch)
        assert x.fields.shape[1:] == [6, D]
        assert x.history.shape[-1] == 3 * D
        assert [x.profile.shape[-1], x.item.shape[-1], x.context.shape[-1]] == [2 * D, 3 * D, D]
        assert x.packed.values.shape[-1] == 3 * D
        return x.item

    arrays = toys.tensors(toys.batch())
    signature = {k: tf.TensorSpec([None, *v.shape[1:]], v.dtype) for k, v in arrays.items()}
    tf.function(traced, autograph=False).get_concrete_function(signature)


def test_garbage_ids_and_longer_padding_never_matter(made):
    arrays = toys.batch(9, 6)
    dirty = {}
    for name, values in arrays.items():
        dirty[name] = values
        if values.ndim > 1 and name.startswith("history_"):
            longer = np.concatenate([values, np.zeros_like(values)], 1)
            real = np.arange(12) < arrays["history_length"][:, None]
            longer[~real] = 5
            dirty[name] = longer
    plain, found = made(toys.tensors(arrays)), made(toys.tensors(dirty))
    for a, b in zip(tf.nest.flatten(plain), tf.nest.flatten(found), strict=True):
        np.testing.assert_array_equal(a, b)


def table_gathers(function, batch) -> list[str]:
    """The tables that a function's graph looks up, one entry a gather."""
    graph = tf.function(function, autograph=False).get_concrete_function(toys.tensors(batch)).graph
    gathers = [op for op in graph.get_operations() if op.type in ("GatherV2", "ResourceGather")]
    return [op.name for op in gathers if op.inputs[0].dtype in (tf.resource, tf.float32)]


def test_a_table_is_gathered_once_for_the_sample_and_once_for_its_history(made):
    schema = toys.SCHEMA
    now = {f.table for g in ("profile", "item", "context") for f in schema.served(g)}
    past = {schema.feature(n).table for n in schema.history}
    extras = len(schema.served("behaviour"))
    found = table_gathers(lambda b: made(b).fields, toys.batch())
    assert len(found) == len(now) + len(past) + extras


def test_a_history_that_nobody_reads_names_no_row(made):
    arrays = toys.batch(6, 5)
    arrays["history_item"][:] = np.where(arrays["history_item"] > 0, 7, 0)
    arrays["item"][:] = 3

    @tf.function(autograph=False)
    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(made(toys.tensors(arrays)).fields ** 2)
        return tape.gradient(loss, made.tables["item"])

    assert 7 not in gradient().indices.numpy()


def test_rows_that_no_sample_uses_get_no_gradient(made):
    arrays = toys.batch(4, 3)
    with tf.GradientTape() as tape:
        x = made(toys.tensors(arrays))
        loss = tf.reduce_sum(x.fields) + tf.reduce_sum(x.packed.values)
    g = tape.gradient(loss, made.tables["item"])
    assert isinstance(g, tf.IndexedSlices)
    used = set(arrays["item"]) | {
        i
        for row, n in zip(arrays["history_item"], arrays["history_length"], strict=True)
        for i in row[:n]
    }
    assert set(g.indices.numpy()) == used


def test_padding_is_zero_and_its_row_never_learns(made):
    assert not made.lookup("item", tf.constant([[0, 0], [0, 0]])).numpy().any()
    assert toys.double(made.tables["item"])[0].any()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(made.lookup("item", tf.constant([0, 3])))
    g = tf.convert_to_tensor(tape.gradient(loss, made.tables["item"])).numpy()
    assert not g[0].any()
    np.testing.assert_array_equal(g[3], np.ones(D))


def test_a_schema_without_history_gives_width_zero():
    made = Embedder(toys.PLAIN, toys.ROWS, toys.EMBEDDING)
    x = made(toys.tensors(toys.batch(5, schema=toys.PLAIN)))
    assert x.history.shape == [5, 1, 0]
    assert x.context.shape == [5, 0]
    assert not x.mask.numpy().any()
    assert x.fields.shape == [5, 2, D]


def test_a_batch_of_no_rows_is_legal(made):
    x = made(toys.tensors(toys.take(toys.batch(), slice(0, 0))))
    assert x.fields.shape == [0, 6, D]
    assert x.item.shape == [0, 3 * D]


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (7, 3), (41, 5), (64, 18)])
def test_a_table_filled_by_slices_is_tensorflows_own_draw(rows, width, monkeypatch):
    monkeypatch.setattr(embedder, "SLICE", 60)
    for seed in ([3, 0], [2**31 - 1, 12]):
        table = tf.Variable(tf.zeros([rows, width]))
        embedder.fill_uniform(table, seed, 0.3)
        whole = tf.random.stateless_uniform([rows, width], seed, -0.3, 0.3)
        np.testing.assert_array_equal(table, whole)


def test_tables_start_within_the_scale_and_apart(made):
    user, item = toys.double(made.tables["user"]), toys.double(made.tables["item"])
    assert 0.4 < np.abs(item).max() <= 0.5
    assert (user[:9] != item[:9]).all()


def test_l2_is_over_the_touched_rows(made):
    x = made(toys.tensors(toys.batch(5, 4)))
    fields, past = (x.fields.numpy() ** 2).sum(), (x.history.numpy() ** 2).sum()
    np.testing.assert_allclose(touched_l2(x, history=True), (fields + past) / 5, rtol=1e-5)
    np.testing.assert_allclose(touched_l2(x, history=False), fields / 5, rtol=1e-5)


def test_a_table_without_columns_is_refused():
    with pytest.raises(InputError, match="dimension"):
        embedder.Config(dimension=0)
