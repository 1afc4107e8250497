"""What the losses demand of their inputs, checked on static shapes while the graph is built."""

import math

import tensorflow as tf

from at4ctr.errors import InputError

# On the squared norm: vectors shorter than 1e-4 are shrunk, so that the gradient at the zero
# vector is finite and at most 1e4 times the upstream gradient.
SQUARED_NORM_FLOOR = 1e-8


def unit(vectors: tf.Tensor) -> tf.Tensor:
    """x / √max(|x|², 1e-8) along the last axis, in float32; products of these are cosines."""
    return tf.math.l2_normalize(tf.cast(vectors, tf.float32), axis=-1, epsilon=SQUARED_NORM_FLOOR)


def check_temperature(loss: str, temperature: float) -> None:
    """Raises InputError for a temperature that is not a positive number."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(
            f"temperature of {loss} is {temperature}: expected a positive number, 0.1 is usual"
        )


def check_shape(loss: str, name: str, tensor: tf.Tensor, expected: tf.TensorShape) -> None:
    """Raises InputError for another static shape, which might broadcast instead of failing."""
    if not tensor.shape.is_compatible_with(expected):
        raise InputError(
            f"{name} of {loss} has shape {tensor.shape}: expected {expected}, "
            "reshape it or check which tensor was passed"
        )
