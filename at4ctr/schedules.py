"""The learning rate of each step: linear warm-up, then constant, linear or cosine decay."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.errors import InputError, unknown

Decay = Literal["none", "linear", "cosine"]
DECAYS: tuple[Decay, ...] = get_args(Decay)


class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """The rate of step t, counted from 0, of a training of T steps with W steps of warm-up:

        r(t) = peak · min(1, (t + 1) / W) · d(p),  p = min(1, max(0, t − W) / (T − W)),

    where d(p) is 1 (``none``), 1 − p (``linear``) or (1 + cos πp) / 2 (``cosine``, Loshchilov and
    Hutter, ICLR 2017, without restarts). W = 0 is no warm-up. The first step of a warm-up has the
    rate peak / W, and step W the first that decays, still peak.

    It is a function of the optimizer's step and `begin` alone, so that a resumed training has the
    rates of an undisturbed one.
    """

    def __init__(self, peak: float, steps: int, warmup: int, decay: Decay) -> None:
        """steps: T. warmup: W, fewer than T."""
        self.peak, self.steps, self.warmup, self.decay = peak, steps, warmup, decay
        self.begin = tf.Variable(0, dtype=tf.int64, trainable=False, name="schedule_begin")

    def begin_at(self, step: int) -> None:
        """The optimizer's step that is t = 0: of a night, the last one of its parent."""
        self.begin.assign(step)

    def __call__(self, step: Tensor) -> Tensor:
        """step: the optimizer's, int64 scalar -> float32 scalar."""
        t = tf.cast(tf.cast(step, tf.int64) - self.begin, tf.float32)
        rate = tf.constant(self.peak, tf.float32)
        if self.warmup:
            rate *= tf.minimum(1.0, (t + 1.0) / self.warmup)
        if self.decay == "none":
            return rate
        decaying = self.steps - self.warmup
        p = tf.clip_by_value(t - self.warmup, 0.0, decaying) / decaying
        return rate * (1.0 - p if self.decay == "linear" else 0.5 + 0.5 * tf.cos(math.pi * p))

    def get_config(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("peak", "steps", "warmup", "decay")}


def rate(peak: float, steps: int, warmup: int, decay: Decay) -> float | Schedule:
    """The peak itself where no step has another rate.

    Raises InputError for an unknown decay, and for a warm-up that is not over before the last step.
    """
    if decay not in DECAYS:
        raise unknown("fit.decay", decay, DECAYS)
    if warmup and warmup >= steps:
        raise InputError(
            f"fit.warmup_steps is {warmup} and all epochs together have {steps} steps; expected "
            "fewer steps of warm-up than of training; lower fit.warmup_steps"
        )
    return Schedule(peak, steps, warmup, decay) if warmup or decay != "none" else peak
