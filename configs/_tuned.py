"""What was chosen on validation for each dataset (``make reproduce TABLE=tuning``).

A dataset that is not named here takes the papers' own settings. All recipes of one backbone share
its settings, so that a recipe and its base differ in their tasks alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from at4ctr.calibration import Asked
from at4ctr.fit import Fit
from at4ctr.layers import embedder


@dataclass(frozen=True)
class Tuned:
    """Settings of one dataset.

    fits: backbone -> overrides of every recipe on it. parts: backbone,
    auxiliary or ``head`` -> its fields.
    """

    embedding: embedder.Config = field(default_factory=embedder.Config)
    fit: Fit = field(default_factory=Fit)
    fits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calibrator: Asked = "none"


# Models without a history learn products of ids slowly, and a pass over the log costs them little.
_FIELDS = {
    "fm": ("fit.learning_rate=0.003", "fit.epochs=4"),
    "widedeep": ("fit.learning_rate=0.001", "fit.epochs=4"),
    "deepfm": ("fit.epochs=4",),
}
_TUNED: dict[str, Tuned] = {
    "amazon_beauty": Tuned(fit=Fit(epochs=3), parts={"nip": {"block": 128}}),
    "tafeng": Tuned(
        fit=Fit(epochs=1, learning_rate=0.01),
        fits=_FIELDS,
        parts={
            "nip": {"block": 128},
            "next_behaviour": {"weight": 2.0},
            "path_augmenting": {"weight": 0.01},
            "deepmcp": {"matching": 0.5},
            "cl4ctr": {"weight": 0.01},
        },
    ),
    "taobao": Tuned(parts={"nip": {"block": 128}}),
    # A small log that is soon overfitted: its best weights come within the first epoch or two.
    "trivago": Tuned(
        fit=Fit(batch_size=128, epochs=2, evaluations=5, patience=3),
        parts={"head": {"dropout": 0.2}, "nip": {"block": 128}},
        calibrator="auto",
    ),
}


def tuned(dataset: str) -> Tuned:
    """The settings of a dataset."""
    return _TUNED.get(dataset, Tuned())
