"""Shared-Bottom against its literal form, of one label and of two."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.contracts import Interface, Part
from at4ctr.errors import InputError
from at4ctr.heads import shared_bottom
from tests import heads
from tests.model import toys

LABELS = {"one": ("click",), "two": ("click", "conversion")}
CONFIG = shared_bottom.Config(bottom=(7, 5), tower=(4, 3))


def build(names="ab", labels=LABELS["two"], config=CONFIG):
    head = config.build(heads.interfaces(*names), labels, 1)
    toys.jitter(head)
    return head, heads.drawn(*names)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", [None, "dice"])
@pytest.mark.parametrize("names", ["a", "b", "ab"])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_it_equals_the_oracle(labels, names, activation, training):
    config = shared_bottom.Config(bottom=(7, 5), tower=(4, 3), activation=activation)
    head, x = build(names, labels, config)
    shared = heads.affine(heads.parts(x), head.bottom.affine)
    shared = toys.trunk(head.bottom, shared, training=training)
    out = head(x, training=training, labels=labels)
    assert tuple(out.logits) == tuple(out.towers) == labels
    for label in labels:
        tower = toys.trunk(head.towers.of[label], shared, training=training)
        last = np.concatenate([tower, heads.direct(x)], 1)
        logit = toys.layer(head.towers.logits.of[label].dense)
        expected = heads.linear(last, logit) + heads.wide(x)
        np.testing.assert_allclose(out.logits[label], expected, rtol=5e-5, atol=5e-6)
        np.testing.assert_allclose(out.towers[label][-1], tower, rtol=5e-5, atol=5e-6)
        widths = head.tower_widths[label]
        assert widths.layers == tuple(h.shape[1] for h in out.towers[label]) == config.tower
        if training:
            np.testing.assert_allclose(out.inputs[label], shared, rtol=5e-5, atol=5e-6)
            assert widths.input == shared.shape[1]
    if len(labels) == 2:
        a, b = (out.logits[label].numpy() for label in labels)
        assert (a != b).all()


@pytest.mark.parametrize("label", LABELS["two"])
def test_a_tower_that_is_not_asked_for_is_not_read(label):
    head, x = build()
    with tf.GradientTape() as tape:
        out = head(x, training=False, labels=(label,))
    assert list(out.logits) == [label]
    (other,) = set(LABELS["two"]) - {label}
    towers = head.towers
    unread = [*towers.of[other].trainable_variables, *towers.logits.of[other].trainable_variables]
    assert len(unread) == 8
    assert all(g is None for g in tape.gradient(out.logits[label], unread))
    both = head(x, training=False, labels=LABELS["two"])
    np.testing.assert_array_equal(out.logits[label], both.logits[label])


def test_another_label_leaves_a_towers_start():
    one, two = (CONFIG.build(heads.interfaces("a"), labels, 1) for labels in LABELS.values())
    for own, same in ((one.bottom, two.bottom), (one.towers.of["click"], two.towers.of["click"])):
        for a, b in zip(own.variables, same.variables, strict=True):
            np.testing.assert_array_equal(a, b)
    first, second = (two.towers.of[label].dense[0].kernel.numpy() for label in LABELS["two"])
    assert (first != second).any()


def test_each_label_trains_the_bottom_and_its_own_tower():
    head, x = build()
    with tf.GradientTape(persistent=True) as tape:
        out = head(x, training=True, labels=LABELS["two"])
    for label in LABELS["two"]:
        read = [*head.bottom.trainable_variables, *head.towers.of[label].trainable_variables]
        for g in tape.gradient(out.logits[label], read):
            assert np.isfinite(g).all()
            assert g.numpy().any()


def test_dropout_acts_in_training_only():
    head, x = build(config=shared_bottom.Config(bottom=(7,), tower=(4,), dropout=0.5))
    ask = {"labels": LABELS["two"]}
    a, b = (head(x, training=False, **ask).logits["click"].numpy() for _ in range(2))
    np.testing.assert_array_equal(a, b)
    a, b = (head(x, training=True, **ask).logits["click"].numpy() for _ in range(2))
    assert (a != b).any()


def test_experts_without_a_part_are_refused():
    faces = {"fm": Interface((), (Part(1),), "relu", 0)}
    with pytest.raises(InputError, match=r"head shared_bottom has no input: fm gives"):
        CONFIG.build(faces, LABELS["two"], 1)
