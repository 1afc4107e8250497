"""Activations, dropout, and stacks."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.layers.mlp import MLP, Affine, Dense, Dice, Dropout, PReLU, without_dropout
from tests.model.toys import double, jitter
from tests.oracles import models as oracle

X = np.random.default_rng(0).normal(2.0, 3.0, size=(16, 5)).astype(np.float32)


def dice() -> Dice:
    made = Dice(5, "dice")
    jitter(made)
    return made


def test_dice_reads_the_batch_in_training():
    made = dice()
    found = made(tf.constant(X), training=True).numpy()
    wide = X.astype(np.float64)
    expected = oracle.dice(wide, wide.mean(0), wide.var(0), double(made.alpha))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_dice_reads_its_statistics_in_serving_and_never_moves_them():
    made = dice()
    before = double(made.mean), double(made.variance)
    found = made(tf.constant(X), training=False).numpy()
    expected = oracle.dice(X.astype(np.float64), *before, double(made.alpha))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    made(tf.constant(X), training=True)
    np.testing.assert_array_equal(double(made.mean), before[0])
    np.testing.assert_array_equal(double(made.variance), before[1])
    alone = np.concatenate([made(tf.constant(X[i : i + 1]), training=False) for i in range(16)])
    np.testing.assert_allclose(alone, found, rtol=1e-6)


def test_dice_of_one_row_has_finite_gradients():
    made, x = dice(), tf.constant(X[:1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(made(x, training=True))
    for g in tape.gradient(loss, [x, made.alpha]):
        assert np.isfinite(g.numpy()).all()


def test_prelu_and_affine():
    prelu, affine = PReLU(5, "prelu"), Affine(5)
    jitter(prelu)
    jitter(affine)
    np.testing.assert_allclose(
        prelu(tf.constant(X), training=True), oracle.prelu(X, double(prelu.alpha)), rtol=1e-6
    )
    np.testing.assert_allclose(
        affine(tf.constant(X)), X * double(affine.gamma) + double(affine.beta), rtol=1e-5
    )


def test_dropout_is_inverted_and_off_in_serving():
    made, ones = Dropout(0.25, 7), tf.ones([400, 50])
    np.testing.assert_array_equal(made(ones, training=False), ones)
    found = made(ones, training=True).numpy()
    assert set(np.unique(found)) == {np.float32(0.0), np.float32(1 / 0.75)}
    assert abs((found == 0).mean() - 0.25) < 0.02


def test_a_second_pass_drops_nothing_and_draws_no_seed():
    made, ones = Dropout(0.5, 7), tf.ones([20, 20])
    assert made.draws is not None
    state = made.draws.generator.state.numpy()
    with without_dropout():
        np.testing.assert_array_equal(made(ones, training=True), ones)
    np.testing.assert_array_equal(made.draws.generator.state, state)
    assert (made(ones, training=True).numpy() == 0).any()


def test_dropout_draws_anew_and_repeats_from_its_saved_state():
    made, ones = Dropout(0.5, 7), tf.ones([20, 20])
    assert made.draws is not None
    state = made.draws.generator.state.numpy()
    first, second = made(ones, training=True).numpy(), made(ones, training=True).numpy()
    assert (first != second).any()
    made.draws.generator.state.assign(state)
    np.testing.assert_array_equal(made(ones, training=True), first)
    np.testing.assert_array_equal(made(ones, training=True), second)
    other = Dropout(0.5, 8)(ones, training=True).numpy()
    assert (other != first).any()


def test_dense_starts_glorot_uniform_and_repeatably():
    made = Dense(300, 100, (1, 2), "d")
    limit = np.sqrt(6 / 400)
    kernel = double(made.kernel)
    assert limit * 0.99 < np.abs(kernel).max() <= limit
    assert abs(kernel.var() / (limit**2 / 3) - 1) < 0.05
    np.testing.assert_array_equal(Dense(300, 100, (1, 2), "d").kernel, made.kernel)
    assert (Dense(300, 100, (1, 3), "d").kernel.numpy() != made.kernel.numpy()).any()


def test_layers_of_a_stack_start_apart():
    made = MLP(8, (8, 8), "linear", seed=1)
    assert (made.dense[0].kernel.numpy() != made.dense[1].kernel.numpy()).any()


@pytest.mark.parametrize(
    ("units", "dropout"), [((), 0.0), ((8, 0), 0.0), ((8,), 1.0), ((8,), -0.1)]
)
def test_a_stack_refuses_what_it_cannot_be(units, dropout):
    with pytest.raises(InputError, match=r"units|dropout"):
        MLP(4, units, "relu", seed=0, dropout=dropout)
