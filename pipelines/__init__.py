"""Entry points. The package loads TensorFlow first, with Keras 2 and without its noise."""

import os

import at4ctr  # noqa: F401  (sets the Keras version)


def _load_quietly() -> None:
    """TensorFlow's C++ prints while it loads, before any log level is heeded."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


_load_quietly()
