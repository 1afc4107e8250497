"""Next-item prediction against Eq. 9 and 10 written as loops, and its properties."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from at4ctr.errors import InputError
from at4ctr.losses import next_item_prediction
from at4ctr.losses.next_item import LARGEST_PLAIN_LOGIT
from tests.oracles import losses as oracle

B, T, D = 7, 5, 3
LENGTHS = np.array([5, 0, 1, 2, 4, 5, 3])
SMALL, PLAIN = 0.02, 0.1  # temperatures on either side of the two ways of taking the softmax


def batch(seed: int = 0):
    rng = np.random.default_rng(seed)
    states, history = rng.normal(size=(2, B, T, D)).astype(np.float32)
    mask = np.arange(T) < LENGTHS[:, None]
    return states, history, mask, rng.integers(0, 4, (B, T))


def dense_loss(states, history, mask, temperature, item_ids=None, block=None):
    """The loss of [B, T, d] arrays: their real rows, packed."""
    mask = tf.convert_to_tensor(mask)
    states, history = (tf.boolean_mask(x, mask) for x in (states, history))
    ids = None if item_ids is None else tf.boolean_mask(item_ids, mask)
    lengths = tf.reduce_sum(tf.cast(mask, tf.int32), 1)
    return next_item_prediction(states, history, lengths, temperature, item_ids=ids, block=block)


@tf.function(autograph=False, reduce_retracing=True)
def _graph(states, history, mask, ids, temperature, block):
    with tf.GradientTape() as tape:
        tape.watch([states, history])
        loss = dense_loss(states, history, mask, temperature, item_ids=ids, block=block)
    return loss, tape.gradient(loss, [states, history])


def loss_and_gradients(states, history, mask, temperature=PLAIN, ids=None, block=None):
    ids = None if ids is None else tf.constant(ids)
    loss, gradients = _graph(
        tf.constant(states), tf.constant(history), tf.constant(mask), ids, temperature, block
    )
    return float(loss), [g.numpy() for g in gradients]


def test_the_two_temperatures_take_different_paths():
    assert 1 / PLAIN < LARGEST_PLAIN_LOGIT < 1 / SMALL


@pytest.mark.parametrize("block", [None, 4, 5, 7, 50])
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("temperature", [SMALL, PLAIN, 1.0])
def test_equals_the_oracle(block, with_ids, temperature):
    states, history, mask, ids = batch(1)
    ids = ids if with_ids else None
    found, _ = loss_and_gradients(states, history, mask, temperature, ids, block)
    expected = oracle.next_item_prediction(
        states.astype(float), history.astype(float), mask, temperature, ids, block
    )
    assert expected > 0
    assert found == pytest.approx(expected, rel=2e-5)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 4)),
    seed=st.integers(0, 2**16),
    with_ids=st.booleans(),
)
def test_equals_the_oracle_for_any_lengths(shape, seed, with_ids):
    rng = np.random.default_rng(seed)
    states, history = rng.normal(size=(2, *shape, D)).astype(np.float32)
    mask = np.arange(shape[1]) < rng.integers(0, shape[1] + 1, (shape[0], 1))
    ids = rng.integers(0, 3, shape) if with_ids else None
    found = dense_loss(states, history, mask, 0.3, item_ids=ids)
    expected = oracle.next_item_prediction(
        states.astype(float), history.astype(float), mask, 0.3, ids
    )
    assert float(found) == pytest.approx(expected, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("temperature", "with_ids", "block"),
    [(PLAIN, False, None), (PLAIN, True, None), (PLAIN, True, 4), (SMALL, True, None)],
)
def test_gradients_equal_finite_differences(temperature, with_ids, block):
    states, history, mask, ids = batch(2)
    ids = ids if with_ids else None
    _, found = loss_and_gradients(states, history, mask, temperature, ids, block)
    expected = oracle.numeric_gradients(
        lambda s, h: oracle.next_item_prediction(s, h, mask, temperature, ids, block),
        [states, history],
    )
    for a, b in zip(found, expected, strict=True):
        assert np.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_upstream_gradient_is_a_factor():
    states, history, mask, _ = batch()
    states = tf.constant(states)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(states)
        loss = dense_loss(states, history, mask, PLAIN)
        weighted = 3.0 * loss
    once, thrice = tape.gradient(loss, states), tape.gradient(weighted, states)
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("with_ids", [False, True])
def test_both_paths_agree_where_both_are_valid(monkeypatch, with_ids):
    states, history, mask, ids = batch(3)
    ids = tf.constant(ids) if with_ids else None
    results = []
    for limit in (LARGEST_PLAIN_LOGIT, 0.0):
        monkeypatch.setattr("at4ctr.losses.next_item.LARGEST_PLAIN_LOGIT", limit)
        variable = tf.constant(states)
        with tf.GradientTape() as tape:
            tape.watch(variable)
            loss = dense_loss(variable, history, mask, 0.03, item_ids=ids)
        results.append((loss, tape.gradient(loss, variable)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("filling", [0.0, 1e30, np.nan])
def test_padding_never_matters_and_gets_no_gradient(filling):
    states, history, mask, ids = batch(4)
    before, gradients = loss_and_gradients(states, history, mask, ids=ids)
    states[~mask], history[~mask], ids[~mask] = filling, filling, 1
    after, filled = loss_and_gradients(states, history, mask, ids=ids)
    assert after == before
    for a, b in zip(gradients, filled, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (b[~mask] == 0).all()


def test_the_order_of_the_batch_does_not_matter():
    states, history, mask, ids = batch(5)
    p = np.random.default_rng(0).permutation(B)
    before, gradients = loss_and_gradients(states, history, mask, ids=ids)
    after, permuted = loss_and_gradients(states[p], history[p], mask[p], ids=ids[p])
    assert after == pytest.approx(before, rel=1e-5)
    np.testing.assert_allclose(permuted[1], gradients[1][p], atol=1e-5)


def test_appending_padding_changes_nothing():
    states, history, mask, _ = batch(6)
    before, _ = loss_and_gradients(states, history, mask)
    states, history = (np.concatenate([x, x[:1]]) for x in (states, history))
    mask = np.concatenate([mask, np.zeros_like(mask[:1])])
    assert loss_and_gradients(states, history, mask)[0] == pytest.approx(before, rel=1e-6)
    states, history = (np.pad(x, [(0, 0), (0, 3), (0, 0)]) for x in (states, history))
    mask = np.pad(mask, [(0, 0), (0, 3)])
    assert loss_and_gradients(states, history, mask)[0] == pytest.approx(before, rel=1e-6)


def test_a_block_of_the_whole_batch_is_no_block():
    states, history, mask, ids = batch(7)
    whole = loss_and_gradients(states, history, mask, ids=ids)
    block = loss_and_gradients(states, history, mask, ids=ids, block=B)
    assert whole[0] == block[0]
    np.testing.assert_array_equal(whole[1][0], block[1][0])


@pytest.mark.parametrize("batch_size", [0, 1, B])
@pytest.mark.parametrize("length", [1, 2, T])
def test_nothing_to_compare_gives_zero_and_zero_gradient(batch_size, length):
    states, history, mask, ids = (x[:batch_size, :length] for x in batch())
    if batch_size > 1 and length > 1:
        mask = np.zeros_like(mask)
    for given_ids in (None, ids):
        loss, gradients = loss_and_gradients(states, history, mask, ids=given_ids)
        assert loss == 0.0
        assert all((g == 0).all() for g in gradients)


def test_identical_items_leave_only_the_own_pair():
    states, history, mask, ids = batch()
    loss, _ = loss_and_gradients(states, history, mask, ids=0 * ids)
    assert loss == pytest.approx(0.0, abs=1e-5)


def test_exact_copies_of_one_row_give_twice_the_log_of_their_number():
    states, history, *_ = batch()
    states, history = (np.repeat(x[:1], 8, axis=0) for x in (states, history))
    loss, _ = loss_and_gradients(states, history, np.ones((8, T), bool))
    assert loss == pytest.approx(2 * np.log(8), rel=1e-5)


@pytest.mark.parametrize("temperature", [SMALL, PLAIN])
def test_zero_vectors_have_finite_gradients(temperature):
    states, history, mask, ids = batch(8)
    states[0], history[5, 2] = 0, 0
    loss, gradients = loss_and_gradients(states, history, mask, temperature, ids)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("temperature", [1e-3, 1 / LARGEST_PLAIN_LOGIT])
def test_finite_where_every_cosine_is_extreme(temperature):
    states = np.ones((64, 2, D), np.float32) * np.where(np.arange(64) % 2, 1, -1)[:, None, None]
    history = -states
    loss, gradients = loss_and_gradients(states, history, np.ones((64, 2), bool), temperature)
    assert loss == pytest.approx(2 * (2 / temperature + np.log(32)), rel=1e-5)
    assert all(np.isfinite(g).all() for g in gradients)


def test_unknown_batch_size_and_length_in_a_graph_with_string_ids():
    states, history, mask, ids = batch(9)
    spec = tf.TensorSpec([None, None, D])

    @tf.function(
        autograph=False,
        input_signature=[
            spec,
            spec,
            tf.TensorSpec([None, None], tf.bool),
            tf.TensorSpec([None, None], tf.string),
        ],
    )
    def traced(states, history, mask, ids):
        with tf.GradientTape() as tape:
            tape.watch(states)
            loss = dense_loss(states, history, mask, PLAIN, item_ids=ids)
        return loss, tape.gradient(loss, states)

    for n, t in ((B, T), (3, 4), (1, T), (B, 1), (0, 0)):
        s, h, m, i = states[:n, :t], history[:n, :t], mask[:n, :t], ids[:n, :t]
        loss, gradient = traced(s, h, m, tf.strings.as_string(i))
        expected = oracle.next_item_prediction(s, h, m, PLAIN, i)
        assert float(loss) == pytest.approx(expected, rel=2e-5)
        assert gradient.shape == s.shape


def test_float16_input_is_computed_in_float32():
    states, history, mask, _ = batch()
    states, history = states.astype(np.float16), history.astype(np.float16)
    loss, gradients = loss_and_gradients(states, history, mask)
    expected = oracle.next_item_prediction(states.astype(float), history.astype(float), mask, PLAIN)
    assert loss == pytest.approx(expected, rel=2e-5)
    assert gradients[0].dtype == np.float16


def test_refuses_bad_options_and_shapes():
    states, history = np.ones((2, 5, D), np.float32)
    lengths, ids = np.array([2, 3]), np.arange(5)
    with pytest.raises(InputError, match="temperature of next_item_prediction"):
        next_item_prediction(states, history, lengths, 0.0)
    with pytest.raises(InputError, match="block of next_item_prediction is 1"):
        next_item_prediction(states, history, lengths, PLAIN, block=1)
    with pytest.raises(InputError, match="behaviours of next_item_prediction has shape"):
        next_item_prediction(states, history[:, :2], lengths, PLAIN)
    with pytest.raises(InputError, match="lengths of next_item_prediction has shape"):
        next_item_prediction(states, history, lengths[None], PLAIN)
    with pytest.raises(InputError, match="item_ids of next_item_prediction has shape"):
        next_item_prediction(states, history, lengths, PLAIN, item_ids=ids[1:])
