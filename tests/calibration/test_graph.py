"""What the graph serves is the fitted map, in float32, with nothing trainable in it."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from at4ctr.backbones import widedeep
from at4ctr.calibration import Calibrator, Isotonic, Platt
from at4ctr.calibration.fitted import KNOTS
from at4ctr.calibration.graph import served
from at4ctr.metrics import sigmoid
from tests.model import toys
from tests.oracles import calibration as oracle

Z = np.array([-np.inf, -1e30, -200, -90, -30, -5, -1e-20, 0, 0.3, 5, 30, 90, 1e30, np.inf])
ANY: list[Calibrator] = [
    Platt(0.7, -0.4),
    Platt(1.0, 0.0),
    Isotonic((0.0, 1.0), (0.0, 1.0)),
    Isotonic((0.2, 0.4, 0.7), (0.1, 0.1, 0.6)),
    Isotonic(tuple(np.linspace(0.001, 0.9, KNOTS)), tuple(np.linspace(0.01, 0.8, KNOTS) ** 2)),
]


def knots(rng: np.random.Generator, count: int) -> Isotonic:
    x = np.unique((rng.random(count) ** 3).astype(np.float32)).astype(np.float64)
    return Isotonic(tuple(x), tuple(np.sort(rng.random(x.size) ** 2)))


def answer(calibrator, z) -> np.ndarray:
    return tf.function(served(calibrator), autograph=False)(tf.constant(z, tf.float32)).numpy()


@pytest.mark.parametrize("calibrator", ANY)
def test_the_graph_is_the_numpy_map(calibrator):
    z = np.linspace(-12, 8, 4001).astype(np.float32)
    np.testing.assert_allclose(answer(calibrator, z), calibrator(z), rtol=1e-5, atol=1e-9)
    ends = answer(calibrator, Z)
    assert np.isfinite(ends).all()
    np.testing.assert_allclose(ends, calibrator(Z.astype(np.float32)), rtol=1e-5, atol=1e-30)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, KNOTS))
def test_random_knots_are_interpolated_in_order(seed, count):
    rng = np.random.default_rng(seed)
    calibrator = knots(rng, max(count, 2))
    near = np.asarray(calibrator.x, np.float32)
    beside = [np.nextafter(near, np.float32(side)) for side in (-1, 2)]
    p = np.sort(np.concatenate([rng.random(300, np.float32) ** 3, near, *beside, [0, 1]]))
    p = np.clip(p, 0, 1).astype(np.float32)
    q = served(calibrator).at(tf.constant(p)).numpy()
    assert (np.diff(q) >= 0).all()
    assert q[0] == np.float32(calibrator.y[0])
    assert q[-1] == np.float32(calibrator.y[-1])
    x32, y32 = (np.asarray(v, np.float32).tolist() for v in (calibrator.x, calibrator.y))
    expected = [oracle.interpolated(x32, y32, v) for v in p.astype(np.float64)]
    np.testing.assert_allclose(q, expected, rtol=1e-6, atol=1e-7)


def test_an_identity_is_the_sigmoid():
    z = np.linspace(-10, 10, 101).astype(np.float32)
    np.testing.assert_array_equal(answer(Platt(1.0, 0.0), z), tf.sigmoid(z))
    np.testing.assert_allclose(answer(ANY[2], z), sigmoid(z), rtol=1e-6)


@pytest.mark.parametrize("calibrator", ANY)
def test_logits_in_float64_are_those_of_the_numpy_map(calibrator):
    z = np.concatenate([np.linspace(-30, 30, 601), [17.5, 17.5 + 1e-9]])
    found = served(calibrator).logits(tf.constant(z)).numpy()
    assert found.dtype == np.float64
    expected = calibrator.logits(z)
    finite = np.isfinite(expected) & (np.abs(z) < 15)  # knots are float32 in the graph
    np.testing.assert_allclose(found[finite], expected[finite], rtol=1e-5, atol=1e-6)
    if isinstance(calibrator, Platt):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
        assert found[-1] > found[-2]  # float32 would tie them


def test_a_logit_that_is_no_number_stays_one_to_be_seen():
    for calibrator in ANY:
        assert np.isnan(answer(calibrator, [np.nan])).all()
        assert answer(calibrator, np.zeros(0)).shape == (0,)


def operations(calibrator) -> tuple[list[str], list]:
    module = served(calibrator)
    traced = tf.function(module.__call__, autograph=False).get_concrete_function(
        tf.TensorSpec([None], tf.float32)
    )
    assert not module.trainable_variables
    sizes = [v.shape.as_list() for v in module.variables]
    return sorted(op.type for op in traced.graph.get_operations()), sizes


def test_graphs_of_a_kind_are_equal_whatever_was_fitted():
    rng = np.random.default_rng(0)
    assert operations(ANY[0]) == operations(ANY[1])
    assert operations(ANY[2]) == operations(ANY[4]) == operations(knots(rng, 90))


def test_the_serving_model_answers_with_it_after_the_sampling_correction():
    model = toys.serving(widedeep.Config(), negative_rate=0.1)
    toys.jitter(model)
    arrays = toys.tensors(toys.batch(40))
    trained = [v.name for v in model.trainable_variables]
    plain = {k: v.numpy() for k, v in model.answer(arrays).items()}
    for calibrator in ANY:
        model.calibrate({"click": calibrator})
        assert [v.name for v in model.trainable_variables] == trained
        found = model.answer(arrays)
        np.testing.assert_array_equal(found["logit"], plain["logit"])
        z = plain["logit"].astype(np.float64) + np.log(0.1)
        np.testing.assert_allclose(found["probability"], calibrator(z), rtol=1e-5)
        scores = {name: values["click"].numpy() for name, values in model.scores(arrays).items()}
        np.testing.assert_allclose(scores["shifted"], z, rtol=1e-7)
        np.testing.assert_allclose(sigmoid(scores["calibrated"]), calibrator(z), rtol=1e-6)
        assert {v.dtype for v in scores.values()} == {np.dtype(np.float64)}
    model.calibrate({})
    np.testing.assert_array_equal(model.answer(arrays)["probability"], plain["probability"])
