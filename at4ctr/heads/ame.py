"""AME: gates route labels among embedding spaces of different widths (Pan et al., Ad Recommendation
in a Collapsed and Entangled World, §5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from at4ctr.contracts import Interface
from at4ctr.errors import InputError
from at4ctr.heads import mixture


@dataclass(frozen=True)
class Config(mixture.Config):
    """The fields of ``mixture``."""

    def build(self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int) -> AME:
        widths = sorted({face.dimension for face in experts.values()})
        if len(widths) < 2:
            raise InputError(
                f"head ame has embedding spaces of dimension {widths[0]} alone; expected two "
                "dimensions or more, as equal spaces are not told apart; set "
                "spaces.<name>.dimension, or head=mixture"
            )
        return AME("ame", self, experts, labels, seed)


class AME(mixture.Mixture):
    """The head ``mixture`` over experts whose embedding spaces differ in dimension (§5.1, Fig. 4).

    The number of spaces does not depend on the number of labels; the paper has spaces of 16, 32 and
    64 dimensions for 32 towers. A label with few positives is expected to give the narrow spaces
    more weight; a run's ``gates`` show the weights.
    """
