"""The head of one task."""

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Encoded
from at4ctr.heads import single
from tests.model import toys
from tests.oracles import models as oracle


def test_it_is_one_linear_layer():
    head = single.Config().build(5, 1)
    toys.jitter(head)
    hidden = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    x = Encoded(tf.constant(hidden), tf.zeros([4, 1]), tf.zeros([4, 1, 1]))
    out = head(x, training=True)
    expected = oracle.dense(hidden.astype(np.float64), toys.layer(head.logit))[:, 0]
    np.testing.assert_allclose(out.logits["click"], expected, rtol=1e-5)
    np.testing.assert_array_equal(out.towers["click"], hidden)
