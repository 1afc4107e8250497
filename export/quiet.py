"""Loads TensorFlow without what its C++ code prints meanwhile. A command imports this first."""

from at4ctr.quiet import quietly

with quietly():
    import tensorflow as tf

    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)
    tf.config.list_physical_devices()
