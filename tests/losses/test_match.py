"""User-item match against Eq. 6 and 7 written as loops, and its properties."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.losses import user_item_match
from tests.oracles import losses as oracle

B, D = 9, 4


def batch(seed: int = 0):
    rng = np.random.default_rng(seed)
    user, item = rng.normal(size=(2, B, D)).astype(np.float32)
    labels = rng.integers(0, 2, B)
    labels[:2] = 0, 1
    user_ids, item_ids = rng.integers(0, 4, (2, B))
    return user, item, labels, user_ids, item_ids


def loss_and_gradients(user, item, labels, temperature=0.2, **ids):
    user, item = tf.constant(user), tf.constant(item)
    with tf.GradientTape() as tape:
        tape.watch([user, item])
        loss = user_item_match(user, item, tf.constant(labels), temperature, **ids)
    return float(loss), [g.numpy() for g in tape.gradient(loss, [user, item])]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("masked", ["", "user", "item", "user item"])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_the_oracle(seed, masked, temperature):
    user, item, labels, user_ids, item_ids = batch(seed)
    ids = {}
    if "user" in masked:
        ids["user_ids"] = user_ids
    if "item" in masked:
        ids["item_ids"] = item_ids
    found, _ = loss_and_gradients(user, item, labels, temperature, **ids)
    expected = oracle.user_item_match(
        user.astype(float), item.astype(float), labels, temperature, **ids
    )
    assert found == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_finite_differences(masked):
    user, item, labels, user_ids, item_ids = batch(5)
    ids = {"user_ids": user_ids, "item_ids": item_ids} if masked else {}
    _, found = loss_and_gradients(user, item, labels, **ids)
    expected = oracle.numeric_gradients(
        lambda u, v: oracle.user_item_match(u, v, labels, 0.2, **ids), [user, item]
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("masked", [False, True])
def test_users_of_requests_are_candidates_once(seed, masked):
    """Eq. 6 over all rows and Eq. 7 over the H users, as loops."""
    user, item, labels, _, item_ids = batch(seed)
    user, owner = (
        user[:4],
        np.sort(np.r_[np.arange(4), np.random.default_rng(seed).integers(0, 4, B - 4)]),
    )
    user_ids = np.array([5, 6, 5, 7])[owner]
    ids = {"user_ids": user_ids, "item_ids": item_ids} if masked else {}
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (user, item))
    expected = 0.0
    for k in np.flatnonzero(labels):
        own = owner[k]
        items = [j for j in range(B) if not masked or j == k or item_ids[j] != item_ids[k]]
        other = np.array([5, 6, 5, 7])
        users = [j for j in range(4) if not masked or j == own or other[j] != other[own]]
        aimed = u[own] @ v[k] / 0.2
        expected += np.log(np.exp(v[items] @ u[own] / 0.2).sum()) - aimed
        expected += np.log(np.exp(u[users] @ v[k] / 0.2).sum()) - aimed
    whole = owner.astype(np.int32)
    found, _ = loss_and_gradients(user, item, labels, owner=tf.constant(whole), **ids)
    assert found == pytest.approx(expected / labels.sum(), rel=2e-5)
    parts = [
        loss_and_gradients(user, item, labels, owner=tf.constant(whole), anchors=some, **ids)[0]
        for some in (np.arange(B) < 4, np.arange(B) >= 4)
    ]
    assert sum(parts) == pytest.approx(found, rel=2e-5)


def test_requests_without_a_positive_give_zero():
    user, item, *_ = batch(1)
    owner = tf.zeros([B], tf.int32)
    found, gradients = loss_and_gradients(user[:1], item, np.zeros(B), owner=owner)
    assert found == 0
    assert all((g == 0).all() for g in gradients)


def test_no_positives_gives_zero_and_zero_gradient():
    user, item, labels, user_ids, item_ids = batch()
    for ids in ({}, {"user_ids": user_ids, "item_ids": item_ids}):
        loss, gradients = loss_and_gradients(user, item, 0 * labels, **ids)
        assert loss == 0.0
        assert all((g == 0).all() for g in gradients)


def test_a_batch_of_one_gives_zero():
    user, item, *_ = batch()
    assert loss_and_gradients(user[:1], item[:1], [1])[0] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_an_empty_batch_gives_zero_and_zero_gradient(masked, names):
    ids = np.zeros(0, "U1" if names else np.int64)
    masks = {"user_ids": ids, "item_ids": ids} if masked else {}
    empty = np.zeros((0, D), np.float32)
    loss, gradients = loss_and_gradients(empty, empty, np.zeros(0, np.int64), **masks)
    assert loss == 0.0
    assert [g.shape for g in gradients] == [(0, D)] * 2


def test_the_order_and_the_scale_of_rows_do_not_matter():
    user, item, labels, user_ids, item_ids = batch(1)
    p = np.random.default_rng(2).permutation(B)
    before, gradients = loss_and_gradients(user, item, labels, user_ids=user_ids, item_ids=item_ids)
    after, permuted = loss_and_gradients(
        user[p], item[p], labels[p], user_ids=user_ids[p], item_ids=item_ids[p]
    )
    assert after == pytest.approx(before, rel=1e-5)
    np.testing.assert_allclose(permuted[0], gradients[0][p], atol=1e-5)
    scaled, _ = loss_and_gradients(
        user * 7, item * 0.01, labels, user_ids=user_ids, item_ids=item_ids
    )
    assert scaled == pytest.approx(before, rel=1e-5)


def test_exchanging_the_sides_exchanges_the_directions():
    user, item, labels, user_ids, item_ids = batch(3)
    a, _ = loss_and_gradients(user, item, labels, user_ids=user_ids, item_ids=item_ids)
    b, _ = loss_and_gradients(item, user, labels, user_ids=item_ids, item_ids=user_ids)
    assert a == pytest.approx(b, rel=1e-5)


def test_all_rows_of_one_user_and_item_leave_only_the_own_pair():
    user, item, labels, *_ = batch()
    same = np.zeros(B, np.int64)
    loss, _ = loss_and_gradients(user, item, labels, user_ids=same, item_ids=same)
    assert loss == pytest.approx(0.0, abs=1e-6)


def test_negative_rows_are_candidates_and_get_gradient():
    user, item, labels, *_ = batch()
    _, (_, item_gradient) = loss_and_gradients(user, item, labels)
    assert (np.abs(item_gradient[labels == 0]).sum(axis=1) > 0).all()


def test_zero_vectors_have_finite_gradients():
    user, item, labels, *_ = batch()
    user[1], item[3] = 0, 0
    loss, gradients = loss_and_gradients(user, item, labels)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in gradients)


def test_unknown_batch_size_and_string_ids_in_a_graph():
    user, item, labels, _, item_ids = batch()
    spec = tf.TensorSpec([None, D])

    @tf.function(
        autograph=False,
        input_signature=[
            spec,
            spec,
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None], "string"),
        ],
    )
    def traced(user, item, labels, ids):
        return user_item_match(user, item, labels, 0.2, item_ids=ids)

    names = tf.strings.as_string(item_ids)
    expected = oracle.user_item_match(user, item, labels, 0.2, item_ids=item_ids)
    assert float(traced(user, item, labels, names)) == pytest.approx(expected, rel=1e-5)
    one = oracle.user_item_match(user[:3], item[:3], labels[:3], 0.2, item_ids=item_ids[:3])
    assert float(traced(user[:3], item[:3], labels[:3], names[:3])) == pytest.approx(one, rel=1e-5)


def test_mixed_precision_changes_neither_the_result_nor_the_policy():
    user, item, labels, user_ids, item_ids = batch()
    ids = {"user_ids": user_ids, "item_ids": item_ids}
    expected, _ = loss_and_gradients(user, item, labels, **ids)
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        assert loss_and_gradients(user, item, labels, **ids)[0] == expected
        assert tf.keras.mixed_precision.global_policy().name == "mixed_float16"
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_temperature_that_cannot_divide(temperature):
    user, item, labels, *_ = batch()
    with pytest.raises(InputError, match="temperature of user_item_match"):
        user_item_match(user, item, labels, temperature)


def test_refuses_shapes_that_do_not_fit():
    user, item, labels, *_ = batch()
    with pytest.raises(InputError, match="item of user_item_match has shape"):
        user_item_match(user, item[:, :2], labels, 0.1)
    with pytest.raises(InputError, match="labels of user_item_match has shape"):
        user_item_match(user, item, labels[:, None], 0.1)
    with pytest.raises(InputError, match="ids of user_item_match has shape"):
        user_item_match(user, item, labels, 0.1, item_ids=np.zeros(3))
