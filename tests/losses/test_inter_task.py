"""PICO's contrast of two towers, against the literal form of its equations."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.losses import inter_task_contrast
from at4ctr.losses.inter_task import inter_task_product
from tests.oracles import losses, pico


def drawn(rows=7, width=5, seed=0):
    rng = np.random.default_rng(seed)
    a, c = rng.normal(size=(2, rows, width)).astype(np.float32)
    return a, c, rng.uniform(0.05, 1.0, rows).astype(np.float32)


@pytest.mark.parametrize("normalise", [False, True])
def test_it_is_equation_11_with_the_temperature_of_the_anchor(normalise):
    a, c, t = drawn()
    found = inter_task_contrast(a, c, t, normalise=normalise)
    assert found.dtype == tf.float32
    assert float(found) == pytest.approx(pico.contrast(a, c, t, normalise), rel=1e-5)
    other_way = inter_task_contrast(c, a, t, normalise=normalise)
    assert float(other_way) != pytest.approx(float(found), rel=1e-3)


def test_gradients_match_central_differences():
    a, c, t = drawn(4, 3)
    points = [tf.constant(x) for x in (a, c, t)]
    with tf.GradientTape() as tape:
        tape.watch(points)
        loss = inter_task_contrast(*points)
    expected = losses.numeric_gradients(pico.contrast, [a, c, t])
    for found, wanted in zip(tape.gradient(loss, points), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-4)


def test_equal_rows_cost_ln_b_whatever_the_temperature():
    for rows in (1, 8, 64):
        a, c, t = (np.repeat(x, rows, 0) for x in drawn(1))
        assert float(inter_task_contrast(a, c, t)) == pytest.approx(np.log(rows), abs=1e-5)


def test_k_copies_of_a_batch_cost_ln_k_more():
    """The loss is a mean; its candidates alone grow with the batch."""
    a, c, t = drawn(16)
    once = float(inter_task_contrast(a, c, t))
    for k in (2, 8):
        found = float(inter_task_contrast(np.tile(a, (k, 1)), np.tile(c, (k, 1)), np.tile(t, k)))
        assert found == pytest.approx(once + np.log(k), rel=1e-5)
        product = float(inter_task_product(np.tile(a, (k, 1)), np.tile(c, (k, 1))))
        assert product == pytest.approx(float(inter_task_product(a, c)), rel=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e2, 6e4])
def test_float16_at_the_lowest_temperature_is_finite(size):
    rng = np.random.default_rng(1)
    a, c = (tf.constant(size * rng.uniform(-1, 1, (32, 64)), tf.float16) for _ in range(2))
    t = tf.fill([32], tf.constant(0.05, tf.float16))
    for normalise in (False, True):
        with tf.GradientTape() as tape:
            tape.watch([a, c])
            loss = inter_task_contrast(a, c, t, normalise)
        assert loss.dtype == tf.float32
        assert np.isfinite(float(loss))
        if size == 1.0 or normalise:
            assert all(np.isfinite(g).all() for g in tape.gradient(loss, [a, c]))


def test_a_batch_without_rows_costs_nothing():
    empty = tf.zeros([0, 4])
    assert float(inter_task_contrast(empty, empty, tf.zeros([0]))) == 0.0
    assert float(inter_task_product(empty, empty)) == 0.0


def test_the_product_is_the_mean_of_each_rows_own():
    a, c, _ = drawn()
    own = (a.astype(np.float64) * c).sum(1)
    assert float(inter_task_product(a, c)) == pytest.approx(-own.mean(), rel=1e-5)
    cosines = own / np.linalg.norm(a, axis=1) / np.linalg.norm(c, axis=1)
    assert float(inter_task_product(a, c, True)) == pytest.approx(-cosines.mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (([3], [3], [3]), "anchors of inter_task_contrast has shape"),
        (([3, 2], [3, 4], [3]), "candidates of inter_task_contrast has shape"),
        (([3, 2], [3, 2], [1]), "temperature of inter_task_contrast has shape"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(shapes, said):
    with pytest.raises(InputError, match=said):
        inter_task_contrast(*(tf.ones(shape) for shape in shapes))
