"""Mixed precision: products in a low type, all else in float32, and training as before."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from at4ctr import optimizers
from at4ctr.auxiliaries import nip, uim
from at4ctr.backbones import din
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.fit import Fit
from at4ctr.heads import single
from at4ctr.layers.mlp import products_in
from tests.data import toy_store
from tests.model import job, toys

LOW = {"mixed_bfloat16": tf.bfloat16, "mixed_float16": tf.float16}
TASKS = {"uim": uim.Config(temperature=0.02), "nip": nip.Config(temperature=0.02)}
DIN = din.Config(attention=(8, 4))
HEAD = single.Config(units=(12, 6))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    path = tmp_path_factory.mktemp("store") / "toy"
    toy_store.make(path, users=60)
    return Store.open(path)


def trainer(store: Store, folder: Any, precision: Any) -> Any:
    config = replace(job.FIT, precision=precision, epochs=3)
    return job.trainer(store, folder, head=HEAD, auxiliaries=TASKS, config=config)


@pytest.fixture(scope="module")
def plain(store, tmp_path_factory) -> list[dict]:
    made = trainer(store, tmp_path_factory.mktemp("plain"), "float32")
    return [p for p in made.train().curves if "total" in p]


@pytest.mark.parametrize("precision", LOW)
def test_training_goes_as_in_float32(store, tmp_path, plain, precision):
    made = trainer(store, tmp_path, precision)
    points = [p for p in made.train().curves if "total" in p]
    assert len(points) == len(plain)
    for name in ("total", "uim", "nip"):
        found, expected = (np.array([p[name] for p in c]) for c in (points, plain))
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected, rtol=0.05)
        assert (found != expected).any()
    variables = (*made.model.variables, *made.optimizer.variables)
    assert {v.dtype for v in variables if v.dtype.is_floating} == {tf.float32}
    again = trainer(store, tmp_path, precision)
    assert again.resume()
    for one, two in zip(made.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("precision", LOW)
def test_only_products_see_the_low_type(precision):
    model = toys.training(toys.serving(DIN, head=HEAD), TASKS)

    @tf.function(autograph=False)
    def step(batch):
        with tf.GradientTape() as tape, products_in(precision):
            loss = model.losses_of(batch)["total"]
        return tape.gradient(loss, model.trainable_variables)

    graph = step.get_concrete_function(toys.tensors(toys.batch())).graph
    low = LOW[precision]
    types = {op.type for op in graph.get_operations() if low in {t.dtype for t in op.outputs}}
    assert types == {"MatMul", "Cast"}
    assert len([op for op in graph.get_operations() if op.type == "MatMul" and
                op.outputs[0].dtype == low]) >= 12  # fmt: skip


def test_what_is_served_stays_in_float32():
    model = toys.serving(DIN, head=HEAD)
    with products_in("mixed_float16"):
        model(toys.tensors(toys.batch()), training=True)
    graph = (
        tf.function(model.answer, autograph=False)
        .get_concrete_function(toys.tensors(toys.batch()))
        .graph
    )
    outputs = [t.dtype for op in graph.get_operations() for t in op.outputs]
    assert not {tf.float16, tf.bfloat16} & set(outputs)


def test_a_step_that_overflows_is_left_out_and_halves_the_scale():
    made = optimizers.build("lazy_adam", 0.1, scale_loss=True)
    table, bias = tf.Variable(tf.ones([4, 2])), tf.Variable(tf.ones([2]))
    made.build([table, bias])

    @tf.function(autograph=False)
    def step(value):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, [1, 3]) * value) + tf.reduce_sum(bias)
            loss = made.get_scaled_loss(loss)
        found = made.get_unscaled_gradients(tape.gradient(loss, [table, bias]))
        made.apply_gradients(zip(found, [table, bias], strict=True))

    scale = float(made.loss_scale)
    step(tf.constant(np.inf))
    np.testing.assert_array_equal(table, np.ones((4, 2)))
    np.testing.assert_array_equal(bias, np.ones(2))
    assert float(made.loss_scale) == scale / 2
    step(tf.constant(1.0))
    # Keras counts the step left out: the bias correction is that of step 2.
    now = 1 - 0.1 * np.sqrt(1 - 0.999**2) / (1 - 0.9**2) * 0.1 / np.sqrt(0.001)
    np.testing.assert_allclose(table, [[1, 1], [now, now], [1, 1], [now, now]], rtol=1e-4)
    np.testing.assert_allclose(bias, [now, now], rtol=1e-4)


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match="mixed_float16"):
        Fit(precision="float16")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="mixed_bfloat16"), products_in("half"):  # type: ignore
        pass
