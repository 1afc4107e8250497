"""Exported models: written, verified, published, scored and served."""

import os as _os

# TensorFlow then loads a small part of Keras 2 instead of all of Keras 3, which takes longer than
# loading an exported model does. An exported model needs neither.
_os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
