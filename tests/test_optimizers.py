"""LazyAdam against Adam written out in numpy, and against Keras."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from at4ctr import optimizers
from at4ctr.contracts import TABLE
from at4ctr.errors import InputError
from at4ctr.optimizers import LazyAdam
from at4ctr.schedules import rate
from tests.oracles import adam as oracle

ROWS, WIDTH, STEPS = 6, 3, 25


def start() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


def gradients(seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(ROWS, WIDTH)).astype(np.float32) for _ in range(STEPS)]


def sparse(gradient: np.ndarray, rows: list[int]) -> tf.IndexedSlices:
    return tf.IndexedSlices(
        tf.constant(gradient[rows]), tf.constant(rows), tf.constant([ROWS, WIDTH])
    )


def lazy() -> LazyAdam:
    return LazyAdam(oracle.RATE)


def run(optimizer, steps: list[tuple[np.ndarray, list[int]]], graph: bool = False) -> tf.Variable:
    variable = tf.Variable(start())
    optimizer.build([variable])

    def step(g, ids):
        slices = tf.IndexedSlices(g, ids, tf.constant([ROWS, WIDTH]))
        optimizer.apply_gradients([(slices, variable)])

    if graph:
        step = tf.function(step, reduce_retracing=True, autograph=False)
    for g, rows in steps:
        step(tf.constant(g[np.array(rows, int)]), tf.constant(rows, tf.int32))
    return variable


@pytest.mark.parametrize("graph", [False, True])
def test_rows_named_in_every_step_take_adams_steps(graph):
    steps = [(g, list(range(ROWS))) for g in gradients()]
    expected = oracle.Adam(start())
    for g, _ in steps:
        expected.step(g)
    found = run(lazy(), steps, graph)
    np.testing.assert_allclose(found, expected.theta, rtol=2e-5, atol=1e-6)
    keras = tf.keras.optimizers.Adam(oracle.RATE, epsilon=1e-8, jit_compile=False)
    np.testing.assert_allclose(run(keras, steps, graph), found, rtol=2e-5, atol=1e-6)


def test_rows_named_now_and_then_keep_everything_in_between():
    rng, optimizer, variable = np.random.default_rng(3), lazy(), tf.Variable(start())
    optimizer.build([variable])
    expected = oracle.Adam(start())
    for g in gradients():
        rows = sorted(rng.choice(ROWS, rng.integers(1, 4), replace=False).tolist())
        others = [i for i in range(ROWS) if i not in rows]
        state = [variable, optimizer._momentums[0], optimizer._velocities[0]]
        before = [v.numpy()[others] for v in state]
        optimizer.apply_gradients([(sparse(g, rows), variable)])
        expected.step(g, rows)
        for kept, now in zip(before, state, strict=True):
            np.testing.assert_array_equal(kept, now.numpy()[others])
        assert (variable.numpy()[rows] != start()[rows]).all()
    np.testing.assert_allclose(variable, expected.theta, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(optimizer._momentums[0], expected.m, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(optimizer._velocities[0], expected.v, rtol=1e-5, atol=1e-6)


def test_the_bias_correction_is_the_global_steps():
    """A row first named in step 10 moves by less than one named in step 1."""
    one = np.ones((ROWS, WIDTH), np.float32)
    found = run(lazy(), [(one, [0])] * 9 + [(one, [0, 1])]).numpy()
    expected = oracle.Adam(start())
    for step in range(10):
        expected.step(one, [0] if step < 9 else [0, 1])
    np.testing.assert_allclose(found[1], expected.theta[1], rtol=1e-6)
    first = run(lazy(), [(one, [1])]).numpy()
    assert abs(found[1] - start()[1]).max() < abs(first[1] - start()[1]).max()


@pytest.mark.parametrize("graph", [False, True])
def test_duplicate_ids_are_summed(graph):
    g = gradients()[0]
    rows = [2, 4, 2, 2]
    summed = np.zeros_like(g)
    np.add.at(summed, rows, g[rows])
    found = run(lazy(), [(g, rows)] * 4, graph)
    np.testing.assert_allclose(found, run(lazy(), [(summed, [2, 4])] * 4, graph), rtol=1e-6)


def test_ids_that_unique_gave_are_not_summed_again():
    ids, weight = tf.constant([2, 4, 2, 0, 2]), tf.constant(gradients()[0][:5])
    tables = [tf.Variable(start()), tf.Variable(start())]

    for once, table in zip((True, False), tables, strict=True):
        optimizer = lazy()
        optimizer.build([table])

        @tf.function(autograph=False)
        def step(once=once, table=table, optimizer=optimizer):
            with tf.GradientTape() as tape:
                distinct, index = tf.unique(ids)
                found = tf.gather(tf.gather(table, distinct), index)
                loss = tf.reduce_sum((found if once else tf.gather(table, ids)) * weight)
            optimizer.apply_gradients([(tape.gradient(loss, table), table)])

        operations = step.get_concrete_function().graph.get_operations()
        # The model's own, and the optimizer's where the model's is not what was looked up.
        assert [op.type for op in operations].count("Unique") == 2 - once
        for _ in range(3):
            step()
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-6)
    assert (tables[0].numpy()[[0, 2, 4]] != start()[[0, 2, 4]]).all()


def test_dense_gradients_take_adams_steps():
    variable, optimizer, expected = tf.Variable(start()), lazy(), oracle.Adam(start())
    for g in gradients():
        optimizer.apply_gradients([(tf.constant(g), variable)])
        expected.step(g)
    np.testing.assert_allclose(variable, expected.theta, rtol=2e-5, atol=1e-6)


def test_no_ids_at_all_change_nothing():
    found = run(lazy(), [(gradients()[0], [])])
    np.testing.assert_array_equal(found, start())


def test_a_zero_gradient_leaves_a_row_that_never_learned():
    found = run(lazy(), [(np.zeros((ROWS, WIDTH), np.float32), [0, 1])] * 3)
    np.testing.assert_array_equal(found, start())


def test_adam_decays_every_row():
    steps = [(gradients()[0], [0, 1])] + [(g, [0]) for g in gradients()[1:]]
    made = optimizers.build("adam", oracle.RATE)
    found, expected = run(made, steps), oracle.Adam(start())
    for g, rows in steps:
        expected.step(np.where(np.isin(np.arange(ROWS), rows)[:, None], g, 0.0))
    np.testing.assert_allclose(found, expected.theta, rtol=2e-5, atol=1e-6)
    lazily = run(optimizers.build("lazy_adam", oracle.RATE), steps)
    assert (found.numpy()[1] != lazily.numpy()[1]).all()
    np.testing.assert_array_equal(found.numpy()[2:], start()[2:])


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_rows_take_the_steps_of_rowwise_adagrad(graph, dense):
    made = optimizers.build("rowwise_adagrad", oracle.RATE, table_rate=0.05)
    table, bias = tf.Variable(start(), name=TABLE + "item"), tf.Variable(start(), name="kernel")
    expected, of_bias = oracle.RowwiseAdagrad(start(), 0.05), oracle.Adam(start())
    made.build([table, bias])
    assert sorted(tuple(v.shape) for v in made.variables if v.shape.rank) == sorted(
        [(ROWS,), (1,), (ROWS, WIDTH), (ROWS, WIDTH)]
    )

    def step(g, ids):
        slices = tf.IndexedSlices(tf.gather(g, ids), ids, tf.constant([ROWS, WIDTH]))
        of_table = tf.convert_to_tensor(slices) if dense else slices
        made.apply_gradients([(of_table, table), (g, bias)])

    if graph:
        step = tf.function(step, autograph=False)
    rng = np.random.default_rng(3)
    for g in gradients():
        rows = rng.choice(ROWS, 4, replace=False)
        step(tf.constant(g), tf.constant(rows, tf.int32))
        expected.step(g, rows)
        of_bias.step(g)
    np.testing.assert_allclose(table, expected.theta, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(bias, of_bias.theta, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", ["lazy_adam", "rowwise_adagrad"])
def test_tables_have_a_rate_of_their_own_that_decays_alike(name, dense):
    moved = {}
    for ratio in (1.0, 4.0):
        made = optimizers.build(name, rate(0.1, 2, 0, "linear"), table_rate=0.1 * ratio)
        table, kernel = (tf.Variable(start(), name=n) for n in (TABLE + "item", "kernel"))
        for _ in range(2):
            g = sparse(gradients()[0], [1, 2])
            g = tf.convert_to_tensor(g) if dense else g
            made.apply_gradients([(g, table), (tf.constant(gradients()[0]), kernel)])
        moved[ratio] = table.numpy() - start(), kernel.numpy() - start()
    np.testing.assert_allclose(moved[4.0][0], 4 * moved[1.0][0], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(moved[4.0][1], moved[1.0][1])


def test_adam_has_one_rate():
    with pytest.raises(InputError, match=r"fit\.table_rate is 0\.1 and fit\.optimizer is adam"):
        optimizers.build("adam", 0.01, table_rate=0.1)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(InputError, match="lazy_adam, rowwise_adagrad, adam"):
        optimizers.build("sgd", 0.1)


MIRRORED = """
import json
import at4ctr, numpy as np, tensorflow as tf
from at4ctr.optimizers import LazyAdam
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
g = tf.constant(np.random.default_rng(0).normal(size=(6, 3)), tf.float32)
start = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
ids = tf.constant([1, 3, 3, 5, 1, 6])
answers = []
for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        table, bias, optimizer = tf.Variable(start), tf.Variable(start[0]), LazyAdam(0.01)
        optimizer.build([table, bias])
    count = len(devices)
    def replica():
        me = tf.distribute.get_replica_context().replica_id_in_sync_group
        part = slice(me * 6 // count, (me + 1) * 6 // count)
        mine = tf.range(6)[me * 6 // count : (me + 1) * 6 // count]
        slices = tf.IndexedSlices(tf.gather(g, mine), tf.gather(ids, mine), tf.constant([8, 3]))
        dense = tf.reduce_sum(tf.gather(g, mine), 0)
        optimizer.apply_gradients([(slices, table), (dense, bias)])
    step = tf.function(lambda: strategy.run(replica), autograph=False)
    for _ in range(5):
        step()
    copies = [c.numpy() for c in strategy.experimental_local_results(table)]
    assert all((c == copies[0]).all() for c in copies)
    answers.append([copies[0].tolist(), bias.numpy().tolist()])
print(json.dumps({"start": start.tolist(), "answers": answers}))
"""


def test_two_replicas_take_the_step_of_one():
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for one, two in zip(*found["answers"], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)
    table = np.array(found["answers"][1][0])
    np.testing.assert_array_equal(table[[0, 2, 4, 7]], np.array(found["start"])[[0, 2, 4, 7]])
    assert (table[[1, 3, 5, 6]] != np.array(found["start"])[[1, 3, 5, 6]]).all()


def test_linear_decay_ends_at_zero():
    made = optimizers.build("lazy_adam", rate(0.4, 4, 0, "linear"))
    variable = tf.Variable([1.0])
    moves = []
    for _ in range(5):
        before = float(variable[0])
        made.apply_gradients([(tf.constant([1.0]), variable)])
        moves.append(before - float(variable[0]))
    np.testing.assert_allclose(moves, [0.4, 0.3, 0.2, 0.1, 0.0], rtol=1e-4, atol=1e-6)
