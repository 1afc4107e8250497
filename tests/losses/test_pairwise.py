"""The pairwise ranking loss, against all pairs one by one."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.losses import pairwise, pairwise_ranking
from tests.oracles import losses as oracle

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=41) * 3, (RNG.random(41) < 0.3).astype(int)


def graded(logits, labels):
    logits = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = pairwise_ranking(logits, tf.constant(labels))
    return float(loss), tape.gradient(loss, logits).numpy()


@pytest.mark.parametrize("tile", [2**20, 100, 1])
def test_value_and_gradient_are_those_of_all_pairs(monkeypatch, tile):
    monkeypatch.setattr(pairwise, "TILE", tile)
    loss, gradient = graded(LOGITS, LABELS)
    assert loss == pytest.approx(oracle.pairwise_ranking(LOGITS, LABELS), rel=1e-5)
    (expected,) = oracle.numeric_gradients(lambda z: oracle.pairwise_ranking(z, LABELS), [LOGITS])
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert gradient.sum() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_one_class_or_none_gives_zero_without_a_gradient(labels):
    loss, gradient = graded(np.arange(float(len(labels))), np.array(labels, int))
    assert loss == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(len(labels)))


def test_float16_logits_of_any_size_are_finite_in_a_graph():
    largest = float(np.finfo(np.float16).max)
    logits = tf.constant([largest, -largest, -largest, largest] * 500, tf.float16)
    labels = tf.constant([1, 1, 0, 0] * 500)
    loss = tf.function(pairwise_ranking, autograph=False)(logits, labels)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx((0 + 2 * np.log(2) + 2 * largest) / 4, rel=1e-5)


def test_refuses_shapes_that_would_broadcast():
    with pytest.raises(InputError, match="labels of pairwise_ranking has shape"):
        pairwise_ranking(tf.zeros([3]), tf.zeros([4]))
    with pytest.raises(InputError, match="logits of pairwise_ranking has shape"):
        pairwise_ranking(tf.zeros([3, 1]), tf.zeros([3, 1]))
