"""at4ctr: training of click-through-rate models with training-only auxiliary tasks."""

import os as _os

_os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # TFRS and tf.distribute need Keras 2
_os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # 30 MB less than its own, as fast
