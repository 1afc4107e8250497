"""The learning rate of every step against the formula in plain Python."""

import math

import pytest
import tensorflow as tf

from at4ctr import optimizers, schedules
from at4ctr.errors import InputError

PEAK, STEPS = 0.02, 40


def expected(t: int, warmup: int, decay: str) -> float:
    if t < warmup:
        return PEAK * (t + 1) / warmup
    done = min(t - warmup, STEPS - warmup) / (STEPS - warmup)
    shape = {"none": 1.0, "linear": 1 - done, "cosine": math.cos(math.pi * done / 2) ** 2}
    return PEAK * shape[decay]


@pytest.mark.parametrize("decay", schedules.DECAYS)
@pytest.mark.parametrize("warmup", [0, 1, 7, 39])
def test_every_step_has_the_rate_of_the_formula(warmup, decay):
    made = schedules.rate(PEAK, STEPS, warmup, decay)
    if not isinstance(made, schedules.Schedule):
        assert (made, warmup, decay) == (PEAK, 0, "none")
        return
    found = [float(made(tf.constant(t, tf.int64))) for t in range(STEPS + 5)]
    rates = [expected(t, warmup, decay) for t in range(STEPS + 5)]
    assert found == pytest.approx(rates, rel=1e-5, abs=1e-9)
    assert max(found) == pytest.approx(PEAK)
    made.begin_at(1_000)
    later = [float(made(tf.constant(1_000 + t, tf.int64))) for t in range(STEPS)]
    assert later == found[:STEPS]


def test_linear_decay_has_the_bits_of_keras():
    made = schedules.Schedule(PEAK, STEPS, 0, "linear")
    keras = tf.keras.optimizers.schedules.PolynomialDecay(PEAK, STEPS, end_learning_rate=0.0)
    for t in range(STEPS + 2):
        assert float(made(tf.constant(t, tf.int64))) == float(keras(tf.constant(t, tf.int64)))


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_a_traced_optimizer_takes_each_steps_rate(name):
    made = optimizers.build(name, schedules.rate(PEAK, STEPS, 3, "cosine"))
    variable = tf.Variable([1.0, 2.0])
    made.build([variable])
    step = tf.function(lambda: made.apply_gradients([(tf.constant([1.0, -1.0]), variable)]))
    rates = []
    for _ in range(6):
        step()
        rates.append(float(made.learning_rate))
    assert rates == pytest.approx([expected(t, 3, "cosine") for t in range(6)], rel=1e-5)


@pytest.mark.parametrize("warmup", [STEPS, STEPS + 1])
def test_a_warm_up_that_does_not_end_is_refused(warmup):
    with pytest.raises(InputError, match=rf"fit\.warmup_steps is {warmup} .* have 40 steps"):
        schedules.rate(PEAK, STEPS, warmup, "none")


def test_an_unknown_decay_is_refused():
    with pytest.raises(InputError, match=r"fit\.decay 'step'"):
        schedules.rate(PEAK, STEPS, 0, "step")  # type: ignore[arg-type]
