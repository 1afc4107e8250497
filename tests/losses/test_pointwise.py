"""Binary cross entropy: finite at any logit, equal to the oracle, refuses what would broadcast."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.losses import binary_cross_entropy
from tests.oracles import losses as oracle


def test_equals_the_oracle():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 2, 50), rng.normal(size=50) * 5
    found = binary_cross_entropy(tf.constant(labels), tf.constant(logits, tf.float32))
    assert float(found) == pytest.approx(oracle.binary_cross_entropy(labels, logits), rel=1e-5)


def test_symmetric_under_exchange_of_the_classes():
    rng = np.random.default_rng(1)
    labels = tf.constant(rng.integers(0, 2, 20), tf.float32)
    logits = tf.constant(rng.normal(size=20), tf.float32)
    mirrored = binary_cross_entropy(1 - labels, -logits)
    assert float(binary_cross_entropy(labels, logits)) == pytest.approx(float(mirrored), rel=1e-6)


def test_finite_at_extreme_logits_with_bounded_gradient():
    logits = tf.constant([1e4, -1e4, 1e4, -1e4])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = binary_cross_entropy(tf.constant([1, 0, 0, 1]), logits)
    assert float(loss) == pytest.approx(5e3)
    np.testing.assert_allclose(tape.gradient(loss, logits), [0, 0, 0.25, -0.25])


def test_float16_logits_are_computed_in_float32():
    loss = binary_cross_entropy(tf.constant([0] * 4000), tf.fill([4000], tf.constant(3.0, "half")))
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(np.log1p(np.exp(3.0)), rel=1e-6)


def test_empty_batch_gives_zero():
    assert float(binary_cross_entropy(tf.zeros([0]), tf.zeros([0]))) == 0.0


@pytest.mark.parametrize("shape", [[3, 1], [4]])
def test_refuses_shapes_that_do_not_match(shape):
    with pytest.raises(InputError, match=r"labels of binary_cross_entropy has shape"):
        binary_cross_entropy(tf.zeros(shape), tf.zeros([3]))
