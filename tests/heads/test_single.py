"""The head of one label."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.contracts import Encoded, Interface
from at4ctr.errors import InputError
from at4ctr.heads import single
from tests import heads
from tests.model import toys


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", [None, "dice", "relu"])
@pytest.mark.parametrize("names", ["a", "b", "ab"])
def test_it_is_a_trunk_and_one_linear_layer(names, activation, training):
    config = single.Config(units=(5, 3), activation=activation)
    head: Any = config.build(heads.interfaces(*names), ("click",), 1)
    x = heads.drawn(*names)
    np.testing.assert_array_equal(
        head.trunk.affine.gamma,
        [part.scale for n in names for part in heads.PARTS[n] for _ in range(part.width)],
    )
    toys.jitter(head)
    deep = heads.affine(heads.parts(x), head.trunk.affine)
    deep = toys.trunk(head.trunk, deep, training=training)
    last = np.concatenate([deep, heads.direct(x)], 1)
    out = head(x, training=training, labels=("click",))
    expected = heads.linear(last, toys.layer(head.logit.dense)) + heads.wide(x)
    np.testing.assert_allclose(out.logits["click"], expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(out.towers["click"][-1], deep, rtol=2e-5, atol=2e-6)
    assert head.tower_widths["click"] == (heads.parts(x).shape[1], head.trunk.units)
    assert list(out.inputs) == ["click"] * training


def test_without_parts_it_is_a_bias():
    face = Interface((), (), "relu", 3)
    head = single.Config().build({"fm": face}, ("click",), 1)
    assert [v.shape for v in head.variables] == [()]
    head.bias("click").assign(0.25)
    wide = tf.constant([1.0, -2.0])
    out = head(
        {"fm": Encoded((), tf.zeros([2, 1, 1]), wide=wide)}, training=True, labels=("click",)
    )
    np.testing.assert_array_equal(out.logits["click"], [1.25, -1.75])
    assert out.towers["click"] == ()
    assert not out.inputs
    assert head.tower_widths["click"] == (0, ())


def test_it_serves_one_label():
    said = r"head single serves one label and the experiment has click, conversion; .*shared_bottom"
    with pytest.raises(InputError, match=said):
        single.Config().build(heads.interfaces("a"), ("click", "conversion"), 1)
