"""The packed recurrences against their literal forms, and their gradient against three others."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from at4ctr.contracts import Packed
from at4ctr.errors import InputError
from at4ctr.layers.gru import AUGRU, GRU, scan
from at4ctr.layers.steps import Steps
from tests.model.toys import double, jitter, layer
from tests.oracles import dien as oracle

WIDTH, J = 5, 4
LENGTHS = [[3, 0, 5, 1, 5], [0, 0], [1], [0], [6], [2, 2, 2], [0, 1, 2, 3, 4, 5, 6]]
KINDS: list[Any] = [None, "code", "paper"]


def packed(lengths: list[int], width: int = WIDTH, seed: int = 0) -> Packed:
    where = [(i, t) for i, n in enumerate(lengths) for t in range(n)]
    at = np.array(where, np.int32).reshape(-1, 2)
    values = np.random.default_rng(seed).normal(size=(len(at), width)).astype(np.float32)
    return Packed(*(tf.constant(v) for v in (values, at[:, 0], at[:, 1])))


def cell(kind: Any, seed: int = 0) -> Any:
    made = GRU(WIDTH, J, seed) if kind is None else AUGRU(WIDTH, J, kind, seed)
    jitter(made, seed)
    return made


def attention(count: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(9).random(count), tf.float32)


def run(made, history: Packed, size: int, *, training: bool) -> tuple[tf.Tensor, Steps]:
    steps = Steps.of(history, tf.constant(size))
    x, a = steps.pack(history.values), steps.pack(attention(len(history.values)))
    extra = () if isinstance(made, GRU) else (a,)
    return made(x, *extra, steps, training=training), steps


def literal(made, history: Packed, size: int) -> list[np.ndarray]:
    """States of each sample."""
    values, rows = history.values.numpy().astype(np.float64), history.rows.numpy()
    a, weights = attention(len(rows)).numpy(), (layer(made.gates), layer(made.candidate))
    if isinstance(made, GRU):
        return [oracle.gru(values[rows == i], *weights) for i in range(size)]
    return [oracle.augru(values[rows == i], a[rows == i], *weights, made.form) for i in range(size)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(0, 7), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_states_and_the_final_one_equal_the_literal_recurrence(kind, training, lengths, seed):
    made, history = cell(kind, seed), packed(lengths, seed=seed)
    states, steps = run(made, history, len(lengths), training=training)
    dense, final = steps.dense(states, tf.constant(9)).numpy(), steps.final(states).numpy()
    assert dense.shape == (len(lengths), 9, J)
    for i, expected in enumerate(literal(made, history, len(lengths))):
        n = len(expected)
        np.testing.assert_allclose(dense[i, :n], expected, rtol=1e-5, atol=1e-6)
        assert not dense[i, n:].any()
        last = expected[-1] if n else np.zeros(J)
        np.testing.assert_allclose(final[i], last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_the_order_is_time_major_and_longest_first(lengths):
    history = packed(lengths)
    steps = Steps.of(history, tf.constant(len(lengths)))
    found = list(zip(steps.positions.numpy(), steps.rows.numpy(), strict=True))
    expected = sorted(
        ((t, i) for i, n in enumerate(lengths) for t in range(n)),
        key=lambda p: (p[0], -lengths[p[1]], p[1]),
    )
    assert found == expected
    assert steps.counts.numpy().tolist() == [
        sum(n > t for n in lengths) for t in range(max(*lengths, 1, 1))
    ]
    np.testing.assert_array_equal(steps.pack(history.rows), steps.rows)


def own(made) -> list[tf.Variable]:
    return [made.gates.kernel, made.gates.bias, made.candidate.kernel, made.candidate.bias]


def gradients(made, history: Packed, size: int, *, training: bool) -> list[np.ndarray]:
    a = attention(len(history.values))
    with tf.GradientTape() as tape:
        tape.watch((history.values, a))
        steps = Steps.of(history, tf.constant(size))
        extra = () if isinstance(made, GRU) else (steps.pack(a),)
        states = made(steps.pack(history.values), *extra, steps, training=training)
        loss = tf.reduce_sum(states**3) + tf.reduce_sum(tf.sin(3.0 * steps.final(states)))
    sources = [history.values, *own(made), *([a] if extra else [])]
    return [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, sources)]


def unrolled(made, history: Packed, size: int) -> list[np.ndarray]:
    """The same gradients in float64, by a tape over one operation a position."""
    x, a = (tf.cast(v, tf.float64) for v in (history.values, attention(len(history.values))))
    weights = [tf.constant(double(v)) for v in own(made)]
    wg, bg, wc, bc = weights
    with tf.GradientTape() as tape:
        tape.watch((x, a, weights))
        loss, rows = tf.constant(0.0, tf.float64), history.rows.numpy()
        for i in range(size):
            h = tf.zeros([1, J], tf.float64)
            for k in np.flatnonzero(rows == i):
                r, u = tf.split(tf.sigmoid(tf.concat([x[k : k + 1], h], 1) @ wg + bg), 2, 1)
                c = tf.tanh(tf.concat([x[k : k + 1], r * h], 1) @ wc + bc)
                if isinstance(made, GRU):
                    h = u * h + (1 - u) * c
                elif made.form == "code":
                    h = (1 - a[k]) * u * h + (1 - (1 - a[k]) * u) * c
                else:
                    h = (1 - a[k] * u) * h + a[k] * u * c
                loss += tf.reduce_sum(h**3)
            loss += tf.reduce_sum(tf.sin(3.0 * h))
    sources = [x, *weights, *([] if isinstance(made, GRU) else [a])]
    found = tape.gradient(loss, sources, unconnected_gradients="zero")
    return [tf.convert_to_tensor(g).numpy() for g in found]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_equals_that_of_the_unrolled_recurrence(kind, lengths, training):
    made, history = cell(kind), packed(lengths)
    found = gradients(made, history, len(lengths), training=training)
    expected = unrolled(made, history, len(lengths))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_equals_numerical_differences(kind):
    lengths = [3, 0, 1, 4]
    steps = Steps.of(packed(lengths), tf.constant(len(lengths)))
    rng, total = np.random.default_rng(1), sum(lengths)
    shapes = [(total, 2 * J), (total, J), (J, 2 * J), (J, J)]
    inputs = [tf.constant(rng.normal(size=s)) for s in shapes]
    if kind is not None:
        inputs.append(tf.constant(rng.random(total)))

    def states(gates, candidate, gate_kernel, candidate_kernel, attention=None):
        kernels = (gate_kernel, candidate_kernel)
        form: Any = kind or "code"
        return scan(gates, candidate, attention, *kernels, steps, form, training=True)

    theory, numeric = tf.test.compute_gradient(states, inputs, delta=1e-5)
    for a, b in zip(theory, numeric, strict=True):
        assert np.abs(a).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_serves_every_batch_and_repeats_eager_execution(kind):
    made, traces = cell(kind), []

    @tf.function(autograph=False, reduce_retracing=True)
    def states(values, rows, positions, size):
        traces.append(1)
        with tf.GradientTape() as tape:
            tape.watch(values)
            steps = Steps.of(Packed(values, rows, positions), size)
            extra = () if kind is None else (steps.pack(tf.sigmoid(values[:, 0])),)
            found = made(steps.pack(values), *extra, steps, training=True)
            loss = tf.reduce_sum(found**2)
        return found, tf.convert_to_tensor(tape.gradient(loss, values))

    for lengths in LENGTHS:
        arguments = (*packed(lengths), tf.constant(len(lengths)))
        for a, b in zip(states(*arguments), states.python_function(*arguments), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert len(traces) - len(LENGTHS) <= 3


def test_the_forms_part_where_nothing_is_attended():
    history = packed([4])
    steps = Steps.of(history, tf.constant(1))
    none = tf.zeros([4])
    paper, code = (
        cell(form)(history.values, none, steps, training=True) for form in KINDS[1:][::-1]
    )
    assert not paper.numpy().any()
    plain = cell(None)(history.values, steps, training=True)
    np.testing.assert_allclose(code, plain, rtol=1e-6)


def test_weights_start_as_those_of_a_gru_cell():
    made, again = GRU(WIDTH, J, 3), GRU(WIDTH, J, 3)
    for a, b in zip(made.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(made.gates.bias, np.ones(2 * J))
    np.testing.assert_array_equal(made.candidate.bias, np.zeros(J))
    limit = np.sqrt(6 / (WIDTH + J + 2 * J))
    assert 0.8 * limit < np.abs(made.gates.kernel.numpy()).max() <= limit
    with pytest.raises(InputError, match="unknown form of the AUGRU 'papr': did you mean paper"):
        AUGRU(WIDTH, J, "papr", 0)  # type: ignore[arg-type]
