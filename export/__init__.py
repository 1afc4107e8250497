"""What is exported, verified, published and served."""

import os as _os

# TensorFlow then loads a small part of Keras 2 instead of all of Keras 3, which takes longer than
# loading a version. No version asks for either.
_os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
