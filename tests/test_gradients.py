"""The global norm and clipping against numpy, on dense gradients and on slices of rows."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr import gradients, optimizers

ROWS, WIDTH = 9, 4


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A dense gradient, and the ids and values of slices that name rows more than once."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(5, 3)).astype(np.float32)
    ids = rng.integers(0, ROWS, 12)
    return dense, ids, rng.normal(size=(12, WIDTH)).astype(np.float32)


def whole(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The slices as the dense gradient that they stand for."""
    found = np.zeros((ROWS, WIDTH))
    for row, value in zip(ids, values, strict=True):
        found[row] += value
    return found


def slices(ids: np.ndarray, values: np.ndarray) -> tf.IndexedSlices:
    return tf.IndexedSlices(tf.constant(values), tf.constant(ids), tf.constant([ROWS, WIDTH]))


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.99, 1.01, 50.0])
def test_slices_count_with_the_norm_of_their_sum_and_stay_slices(share, graph):
    dense, ids, values = drawn(0)
    summed = whole(ids, values)
    norm = np.sqrt(np.square(dense, dtype=float).sum() + np.square(summed).sum())
    assert abs(norm - np.sqrt(np.square(dense).sum() + np.square(values).sum())) > 0.2
    largest = share * norm
    clip = tf.function(gradients.clip, autograph=False) if graph else gradients.clip
    (first, second), found = clip([tf.constant(dense), slices(ids, values)], largest)
    assert float(found) == pytest.approx(norm, rel=1e-6)
    factor = min(1.0, share)
    np.testing.assert_allclose(first, dense * factor, rtol=1e-5)
    assert isinstance(second, tf.IndexedSlices)
    assert sorted(second.indices.numpy()) == sorted(set(ids))
    np.testing.assert_allclose(
        whole(second.indices.numpy(), second.values.numpy()), summed * factor, rtol=1e-5, atol=1e-6
    )
    if share > 1:
        np.testing.assert_array_equal(first, dense)


def test_ids_that_unique_gave_are_not_summed_again():
    @tf.function(autograph=False)
    def step(ids, values):
        known, _ = tf.unique(ids)
        return gradients.clip([tf.IndexedSlices(values, known, tf.constant([9, 4]))], 1.0)[1]

    graph = step.get_concrete_function(tf.constant([3, 5]), tf.ones([2, 4])).graph
    assert [op.type for op in graph.get_operations()].count("Unique") == 1
    assert float(step(tf.constant([3, 5]), tf.ones([2, 4]))) == pytest.approx(8**0.5)


@pytest.mark.parametrize("wrong", [np.inf, np.nan])
def test_a_norm_that_is_not_finite_leaves_no_half_of_a_step(wrong):
    dense, ids, values = drawn(1)
    values[3, 2] = wrong
    (first, second), norm = gradients.clip([tf.constant(dense), slices(ids, values)], 1.0)
    assert not np.isfinite(norm)
    assert np.isnan(first).all()
    assert np.isnan(second.values).all()


def test_no_gradient_at_all_is_left_as_it_is():
    (zero,), norm = gradients.clip([tf.zeros([3])], 1.0)
    np.testing.assert_array_equal(zero, np.zeros(3))
    assert float(norm) == 0


@pytest.mark.parametrize("name", optimizers.NAMES)
@pytest.mark.parametrize("scale_loss", [False, True])
def test_every_optimizer_takes_the_clipped_step(name, scale_loss):
    """In the first step Adam's moment m is (1 - β₁) g."""
    dense, ids, values = drawn(2)
    made = optimizers.build(name, 0.1, scale_loss=scale_loss)
    kernel, table = tf.Variable(tf.zeros([5, 3])), tf.Variable(tf.zeros([ROWS, WIDTH]))
    made.build([kernel, table])

    @tf.function(autograph=False)
    def step():
        pairs = [(tf.constant(dense), kernel), (slices(ids, values), table)]
        pairs, norm = gradients.clip_applied(made, pairs, 0.5)
        made.apply_gradients(pairs, skip_gradients_aggregation=True)
        return norm

    norm = float(step())
    assert norm > 0.5
    inner = getattr(made, "inner_optimizer", made)
    moments = [m.numpy() / 0.1 for m in inner._momentums]
    np.testing.assert_allclose(moments[0], dense * 0.5 / norm, rtol=1e-4)
    np.testing.assert_allclose(moments[1], whole(ids, values) * 0.5 / norm, rtol=1e-4, atol=1e-6)
    assert np.sqrt(sum(np.square(m).sum() for m in moments)) == pytest.approx(0.5, rel=1e-5)
