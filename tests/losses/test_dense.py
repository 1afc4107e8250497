"""The losses of padded batches against Eq. 6, 7, 9 and 10 written as loops, and their gradients
against those of packed batches."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.losses import dense_next_item_prediction, dense_user_item_match, user_item_match
from tests.losses import test_match as match
from tests.losses import test_next_item as packed
from tests.oracles import losses as oracle


def with_gradients(loss, *arrays):
    points = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(points)
        value = loss(*points)
    return float(value), [tf.convert_to_tensor(g).numpy() for g in tape.gradient(value, points)]


TRACED = [(None, True), (4, True)]  # whose packed gradients are worth a graph


@pytest.mark.parametrize("block", [None, 4, 5, 50])
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("temperature", [packed.SMALL, packed.PLAIN])
def test_next_items(block, with_ids, temperature):
    states, history, mask, ids = packed.batch(1)
    traced = (block, with_ids) in TRACED and temperature == packed.PLAIN
    ids = ids if with_ids else None
    of = {"temperature": temperature, "item_ids": ids, "block": block}
    found, gradients = with_gradients(
        partial(dense_next_item_prediction, mask=tf.constant(mask), **of), states, history
    )
    arrays = (states.astype(np.float64), history.astype(np.float64), mask)
    assert found == pytest.approx(oracle.next_item_prediction(*arrays, **of), rel=2e-5)
    assert not any(own[~mask].any() for own in gradients)
    if traced:
        expected = packed.loss_and_gradients(states, history, mask, temperature, ids, block)[1]
        for own, other in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(own, other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("lengths", [[0, 1, 0], [2, 0, 1], []])
def test_without_two_terms_at_a_position_the_loss_and_its_gradients_are_zero(lengths):
    mask = np.arange(4) < np.array(lengths, int).reshape(-1, 1)
    points = np.random.default_rng(0).normal(size=(2, *mask.shape, 3)).astype(np.float32)
    for block in (None, 4):
        loss = partial(
            dense_next_item_prediction, mask=tf.constant(mask), temperature=0.1, block=block
        )
        found, gradients = with_gradients(loss, *points)
        assert found == 0.0
        assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("masked", ["", "user", "user item"])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_users_and_items(masked, temperature):
    user, item, labels, user_ids, item_ids = match.batch(2)
    named = (("user", "user_ids", user_ids), ("item", "item_ids", item_ids))
    ids = {key: values for word, key, values in named if word in masked}
    of = {"labels": tf.constant(labels), "temperature": temperature, **ids}
    found, gradients = with_gradients(partial(dense_user_item_match, **of), user, item)
    arrays = (user.astype(np.float64), item.astype(np.float64), labels, temperature)
    assert found == pytest.approx(oracle.user_item_match(*arrays, **ids), rel=2e-5)
    _, expected = with_gradients(partial(user_item_match, **of), user, item)
    for own, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=2e-4, atol=2e-6)


def test_parts_of_the_anchors_add_up_and_without_positives_the_loss_is_zero():
    user, item, labels, *_ = match.batch(3)
    half = np.arange(len(labels)) % 2 == 0
    parts = [dense_user_item_match(user, item, labels, 0.2, anchors=a) for a in (half, ~half)]
    assert float(sum(parts)) == pytest.approx(float(dense_user_item_match(user, item, labels, 0.2)))
    loss = partial(dense_user_item_match, labels=np.zeros_like(labels), temperature=0.2)
    found, gradients = with_gradients(loss, user, item)
    assert found == 0.0
    assert not any(g.any() for g in gradients)


def test_what_makes_no_sense_is_refused():
    states, history, mask, _ = packed.batch()
    with pytest.raises(InputError, match="block of next_item_prediction is 3"):
        dense_next_item_prediction(states, history, mask, 0.1, block=3)
    with pytest.raises(InputError, match="temperature of user_item_match is 0"):
        dense_user_item_match(states[0], states[0], np.ones(5), 0.0)
