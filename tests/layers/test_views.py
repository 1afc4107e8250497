"""Augmented views agree with themselves, and a thinned one with a log of fewer behaviours."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.layers.embedder import Embedder
from at4ctr.layers.mlp import Draws
from at4ctr.layers.views import dropped, thinned
from tests.model import toys

SHARE = 0.4


@pytest.fixture(scope="module")
def made() -> Embedder:
    return Embedder(toys.SCHEMA, toys.ROWS, toys.EMBEDDING, seed=1)


def shorter(arrays, kept):
    """The batch of a log in which only the behaviours kept [R] exist."""
    found = {k: v.copy() for k, v in arrays.items()}
    ends = np.cumsum(arrays["history_length"])
    for b, end in enumerate(ends):
        own = kept[end - arrays["history_length"][b] : end]
        found["history_length"][b] = own.sum()
        for name in (n for n in arrays if n.startswith("history_") and n != "history_length"):
            real = arrays[name][b, : len(own)][own]
            found[name][b] = 0
            found[name][b, : len(real)] = real
    return found


def same(one, other):
    for name in ("fields", "profile", "item", "context", "history", "mask", "linear", "output"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
    for a, b in zip(one.packed, other.packed, strict=True):
        np.testing.assert_array_equal(a, b)
    for name, dense in other.extras.items():
        np.testing.assert_array_equal(one.extras[name], dense)


@pytest.mark.parametrize("lengths", [[6, 0, 1, 4, 5, 6, 3], [0] * 7])
@pytest.mark.parametrize("share", [0.0, SHARE, 1.0])
def test_a_thinned_batch_is_that_of_a_log_without_the_others(made, lengths, share):
    arrays = toys.batch(7, 6, lengths=lengths)
    kept = np.random.default_rng(1).random(sum(lengths)) < share
    x = made(toys.tensors(arrays))
    found = thinned(x._replace(ages=tf.range(float(sum(lengths)))), tf.constant(kept, tf.bool))
    same(found, made(toys.tensors(shorter(arrays, kept))))
    np.testing.assert_array_equal(found.ages, np.flatnonzero(kept))


def test_dropped_vectors_agree_wherever_they_stand(made):
    x = made(toys.tensors(toys.batch(200, 6)))
    found = dropped(x, SHARE, Draws(3))
    parts = tf.concat([found.profile, found.item, found.context], 1)
    np.testing.assert_array_equal(tf.reshape(parts, tf.shape(found.fields)), found.fields)
    where = np.stack([found.packed.rows, found.packed.positions], 1)
    np.testing.assert_array_equal(tf.gather_nd(found.history, where), found.packed.values)
    assert not tf.boolean_mask(found.history, ~found.mask).numpy().any()
    for name in ("profile", "item", "context"):
        before, after = getattr(x, name).numpy(), getattr(found, name).numpy()
        held = after != 0
        assert abs(held[before != 0].mean() - (1 - SHARE)) < 0.05
        np.testing.assert_allclose(after[held], before[held] / (1 - SHARE), rtol=1e-4)
    same(found._replace(**{n: getattr(x, n) for n in ("fields", "profile", "item", "context",
         "history", "packed", "extras")}), x)  # fmt: skip


def test_views_of_one_user_and_many_candidates_agree(made):
    arrays = toys.batch(5, 6, lengths=[4] * 5)
    of_user = {n: v[:1] if n in made.schema.of_user(arrays) else v for n, v in arrays.items()}
    x = made(toys.tensors({**of_user, "owner": np.zeros(5, np.int32)}))
    found = dropped(thinned(x, tf.constant([True, False, True, True])), SHARE, Draws(3))
    assert found.mask.shape[0] in (1, None)
    assert int(tf.reduce_sum(tf.cast(found.mask, tf.int32))) == 3
    users = tf.reshape(found.fields, [5, -1])[:, : x.profile.shape[1]]
    np.testing.assert_array_equal(users, np.repeat(found.profile, 5, 0))
