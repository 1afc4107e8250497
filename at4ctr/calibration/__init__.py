"""Calibrated probabilities from logits.

`sampling` corrects for negative down-sampling. After it come the maps of `fitted`, which are fitted
on rows that were not sampled: `fitting` fits and chooses them with scikit-learn, `graph` serves
them. `diagram` gives the data of a reliability diagram. Importing this package imports neither
scikit-learn nor TensorFlow.
"""

from at4ctr.calibration.diagram import Z_95, Reliability, reliability
from at4ctr.calibration.fitted import Asked, Calibrator, Isotonic, Platt
from at4ctr.calibration.sampling import correct_sampling, logit_shift

__all__ = [
    "Z_95",
    "Asked",
    "Calibrator",
    "Isotonic",
    "Platt",
    "Reliability",
    "correct_sampling",
    "logit_shift",
    "reliability",
]
