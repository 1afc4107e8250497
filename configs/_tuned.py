"""What was chosen on validation for each dataset, for every recipe alike.

``docs/results/`` says how. A dataset that is not named here takes the papers' own settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from at4ctr.fit import Fit
from at4ctr.layers import embedder


@dataclass(frozen=True)
class Tuned:
    """Settings of one dataset; uim, nip: λ (Eq. 12). block: of NIP's in-batch negatives."""

    embedding: embedder.Config = field(default_factory=embedder.Config)
    fit: Fit = field(default_factory=Fit)
    dropout: float = 0.0
    uim: float = 0.1
    nip: float = 0.01
    mask_duplicates: bool = False
    block: int | None = None


_TUNED: dict[str, Tuned] = {
    "amazon_beauty": Tuned(fit=Fit(epochs=3), block=256),
    "tafeng": Tuned(fit=Fit(epochs=2), block=256),
    "taobao": Tuned(block=256),
}


def tuned(dataset: str) -> Tuned:
    """The settings of a dataset."""
    return _TUNED.get(dataset, Tuned())
