"""Target attention and self-attention against their literal forms."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from at4ctr.contracts import Packed
from at4ctr.layers.attention import (
    TargetAttention,
    segment_softmax,
)
from at4ctr.layers.pairs import Pairs
from tests.model.toys import jitter, layer, layers
from tests.oracles import models as oracle

Q, J = 5, 6


def unit(seed: int = 0) -> TargetAttention:
    made = TargetAttention(Q, J, (80, 40), seed)
    jitter(made, seed)
    return made


def pack(history: np.ndarray, lengths: np.ndarray) -> Packed:
    where = np.argwhere(np.arange(history.shape[1]) < lengths[:, None]).astype(np.int32)
    values = history[where[:, 0], where[:, 1]].reshape(len(where), J)
    return Packed(
        tf.constant(values, tf.float32), tf.constant(where[:, 0]), tf.constant(where[:, 1])
    )


def literal(made: TargetAttention, query: np.ndarray, history: list[np.ndarray]) -> np.ndarray:
    stack = [layer(made.first), *layers(made.rest)]
    rows = [
        oracle.target_attention(
            q.astype(np.float64), h.astype(np.float64), layer(made.project), stack
        )
        for q, h in zip(query, history, strict=True)
    ]
    return np.array(rows)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(0, 1000))
def test_target_attention_equals_the_literal_unit(lengths, seed):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(len(lengths), Q)).astype(np.float32)
    history = rng.normal(size=(len(lengths), 7, J)).astype(np.float32)
    made, real = unit(seed), np.array(lengths)
    found = made(tf.constant(query), pack(history, real), training=False).numpy()
    expected = literal(made, query, [h[:n] for h, n in zip(history, real, strict=True)])
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 4)), min_size=1, max_size=5),
       st.booleans())  # fmt: skip
def test_rows_that_share_users_equal_rows_with_copies(users, training):
    """users: behaviours and rows of each."""
    lengths, rows = (np.array(v) for v in zip(*users, strict=True))
    rng, made = np.random.default_rng(len(users)), unit(3)
    owner = np.repeat(np.arange(len(users)), rows)
    query = tf.constant(rng.normal(size=(len(owner), Q)), tf.float32)
    history = rng.normal(size=(len(users), 7, J)).astype(np.float32)
    packed = pack(history, lengths)
    pairs = Pairs.of(tf.constant(lengths, tf.int32), tf.constant(owner, tf.int32))
    found = made(query, packed, training=training, pairs=pairs).numpy()
    expected = literal(made, query.numpy(), [history[u, : lengths[u]] for u in owner])
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    if not training:
        return
    copies = pack(history[owner], lengths[owner])
    weights, gradients = made.trainable_variables, []
    for of, shared in ((packed, pairs), (copies, None)):
        with tf.GradientTape() as tape:
            tape.watch([query, of.values])
            loss = tf.reduce_sum(made(query, of, training=True, pairs=shared) ** 3)
        gradients.append(tape.gradient(loss, [*weights, query, of.values]))
    summed = np.zeros_like(packed.values)
    np.add.at(summed, pairs.index, gradients[1].pop())
    for a, b in zip(gradients[0], [*gradients[1], summed], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_an_empty_history_gives_zero_and_a_single_behaviour_itself():
    history = np.random.default_rng(0).normal(size=(3, 4, J)).astype(np.float32)
    query = tf.ones([3, Q])
    found = unit()(query, pack(history, np.array([0, 1, 4])), training=False).numpy()
    assert not found[0].any()
    np.testing.assert_allclose(found[1], history[1, 0], rtol=1e-6)
    nobody = unit()(query, pack(history, np.array([0, 0, 0])), training=False).numpy()
    assert nobody.shape == (3, J)
    assert not nobody.any()


def test_gradients_are_finite_where_histories_are_empty():
    history = np.random.default_rng(0).normal(size=(3, 4, J)).astype(np.float32)
    made = unit()
    for lengths in ([0, 1, 4], [0, 0, 0]):
        with tf.GradientTape() as tape:
            out = made(tf.ones([3, Q]), pack(history, np.array(lengths)), training=True)
            loss = tf.reduce_sum(out**2)
        for g in tape.gradient(loss, made.trainable_variables):
            assert np.isfinite(g.numpy()).all()


def test_weights_do_not_change_with_a_constant_added_to_scores():
    rows, scores = tf.constant([0, 0, 2]), tf.constant([1.0, 3.0, -2.0])
    plain = segment_softmax(scores, rows, 3).numpy()
    np.testing.assert_allclose(segment_softmax(scores + 500.0, rows, 3), plain, rtol=1e-4)
    np.testing.assert_allclose(plain[:2].sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(plain[2], 1.0)


def test_permuting_samples_permutes_answers():
    rng = np.random.default_rng(1)
    query = rng.normal(size=(5, Q)).astype(np.float32)
    history, lengths = rng.normal(size=(5, 7, J)).astype(np.float32), np.array([3, 0, 7, 1, 4])
    made, order = unit(), rng.permutation(5)
    plain = made(tf.constant(query), pack(history, lengths), training=False).numpy()
    moved = made(tf.constant(query[order]), pack(history[order], lengths[order]), training=False)
    np.testing.assert_allclose(moved, plain[order], rtol=1e-6, atol=1e-7)
