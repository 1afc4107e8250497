"""AQCL's losses against their equations written as loops, and what a codebook may not do."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.losses import (
    codebook_learning,
    instance_contrast,
    quantisation_share,
    quantised_contrast,
    sinkhorn,
)
from tests.oracles import contrast as oracle
from tests.oracles.losses import numeric_gradients

B, T, D, K = 7, 5, 4, 2


def arrays(size: int = B, seed: int = 0):
    rng = np.random.default_rng(seed)
    z, augmented = rng.normal(size=(2, size, D)).astype(np.float32)
    return z, augmented, rng.normal(size=(T, D)).astype(np.float32), rng.random(size)


@pytest.mark.parametrize("size", [0, 1, B])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_both_equal_the_equations(size, temperature):
    z, augmented, codebook, alpha = arrays(size)
    found = instance_contrast(z, augmented, temperature)
    expected = oracle.instance(z, augmented, temperature)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    found = quantised_contrast(z, augmented, codebook, alpha, K, temperature, 0.3)
    expected = oracle.quantised(z, augmented, codebook, alpha, K, temperature, 0.3)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    assigned = np.arange(size) % T
    found = codebook_learning(z, codebook, assigned, temperature)
    expected = oracle.codebook(z, codebook, assigned, temperature)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_gradients_are_those_of_the_equations_and_of_eq_5_alone_at_the_codebook():
    z, augmented, codebook, alpha = arrays()
    points = [tf.constant(x) for x in (z, augmented, codebook)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(points)
        contrast = quantised_contrast(points[0], points[1], points[2], alpha, K, 0.2, 0.3)
        learning = codebook_learning(points[0], points[2], np.arange(B) % T, 0.3)
    found = tape.gradient(contrast, points)
    expected = numeric_gradients(
        lambda a, b: oracle.quantised(a, b, codebook, alpha, K, 0.2, 0.3), [z, augmented]
    )
    for a, b in zip(found[:2], expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert found[2] is None
    of_z, _, of_codebook = tape.gradient(learning, points)
    assert of_z is None
    (wanted,) = numeric_gradients(
        lambda q: oracle.codebook(z, q, np.arange(B) % T, 0.3), [codebook]
    )
    np.testing.assert_allclose(of_codebook, wanted, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 40])  # fewer and more than the codewords
def test_sinkhorn_reaches_both_marginals_and_is_the_scaled_kernel(rows):
    scores = np.random.default_rng(rows).uniform(-1, 1, (rows, T)).astype(np.float32)
    plan = sinkhorn(scores, 0.5, 40).numpy()
    np.testing.assert_allclose(plan.sum(1), 1 / rows, atol=1e-6)
    np.testing.assert_allclose(plan.sum(0), 1 / T, atol=1e-6)
    for iterations in (1, 3):
        found = sinkhorn(scores, 0.2, iterations).numpy()
        np.testing.assert_allclose(found, oracle.transport(scores, 0.2, iterations), atol=1e-6)
        assert found.sum() == pytest.approx(1, abs=1e-6)


def test_sinkhorn_has_no_gradient_and_no_overflow():
    scores = tf.constant(np.random.default_rng(1).uniform(-1, 1, (9, T)), tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        plan = sinkhorn(scores, 0.001, 3)
    assert np.isfinite(plan.numpy()).all()
    assert tape.gradient(plan, scores) is None


@pytest.mark.parametrize("dtype", [tf.float16, tf.float32])
@pytest.mark.parametrize("size", [1, B])
def test_finite_at_a_small_temperature_and_for_equal_and_opposite_rows(size, dtype):
    z, _, codebook, alpha = arrays(size)
    zero = [np.zeros_like(z)] if dtype == tf.float32 else []  # 1e4 / τ is no float16
    for rows in (z, np.ones_like(z) * 100, *zero):
        points = [tf.constant(x, dtype) for x in (rows, -rows, codebook)]
        with tf.GradientTape() as tape:
            tape.watch(points)
            loss = quantised_contrast(points[0], points[1], points[2], alpha, K, 0.02, 0.02)
            loss += instance_contrast(points[0], points[1], 0.02)
            scores = tf.linalg.matmul(points[0], points[2], transpose_b=True)
            assigned = tf.argmax(sinkhorn(scores, 0.05, 3), 1)
            loss += codebook_learning(points[0], points[2], assigned, 0.02)
        assert np.isfinite(float(loss))
        for g in tape.gradient(loss, points):
            assert np.isfinite(g.numpy().astype(np.float32)).all()


def test_the_share_is_1_without_behaviours_and_falls_with_their_number():
    behaviours = np.array([0, 1, 4, 90, 10**6])
    for w1, w2 in ((1.0, 1.0), (0.3, 2.0), (5.0, 0.5)):
        found = quantisation_share(behaviours, 6.5, w1, w2).numpy()
        np.testing.assert_allclose(found, oracle.share(behaviours, 6.5, w1, w2), rtol=1e-5)
        assert found[0] == 1
        assert (np.diff(found) <= 0).all()
        assert found[1] > found[2]
    np.testing.assert_array_equal(quantisation_share(np.array([0, 0]), 0.0, 1.0, 1.0), [1, 1])


def test_what_cannot_be_computed_is_refused():
    z, augmented, codebook, alpha = arrays()
    for nearest in (0, T + 1):
        with pytest.raises(InputError, match=f"nearest of quantised_contrast is {nearest}"):
            quantised_contrast(z, augmented, codebook, alpha, nearest, 0.1, 0.1)
    with pytest.raises(InputError, match="alpha of quantised_contrast has shape"):
        quantised_contrast(z, augmented, codebook, alpha[:2], K, 0.1, 0.1)
    with pytest.raises(InputError, match="z_augmented of instance_contrast has shape"):
        instance_contrast(z, augmented[:2], 0.1)
    with pytest.raises(InputError, match="temperature of instance_contrast"):
        instance_contrast(z, augmented, 0.0)
    with pytest.raises(InputError, match="epsilon of sinkhorn is 0"):
        sinkhorn(z, 0.0, 3)
    with pytest.raises(InputError, match="iterations of sinkhorn is 0"):
        sinkhorn(z, 0.05, 0)
