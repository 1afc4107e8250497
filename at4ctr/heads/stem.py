"""STEM: shared and task-specific embeddings with stop-gradient routing (Su et al., AAAI 2024), and
STEM-AL, its form for auxiliary labels (Pan et al., Ad Recommendation in a Collapsed and Entangled
World, §5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from at4ctr.contracts import Activation, HeadConfig, Interface
from at4ctr.errors import InputError, unknown
from at4ctr.layers.experts import SHARED
from at4ctr.layers.routing import Route, Routed


@dataclass(frozen=True)
class Config(HeadConfig):
    """auxiliary: labels that are learned for the sake of the others (STEM-AL); () is STEM. expert,
    tower: widths of each expert's layers and of each tower. activation: none for each backbone's
    own; never linear. dropout: of every hidden layer.
    """

    auxiliary: tuple[str, ...] = ()
    expert: tuple[int, ...] = (200,)
    tower: tuple[int, ...] = (80,)
    activation: Activation | None = None
    dropout: float = 0.0

    def build(self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int) -> STEM:
        if SHARED in labels:
            raise InputError(
                f"head stem names the shared embedding space {SHARED!r}, as a label is named; "
                "expected names that differ; rename the label"
            )
        for name, face in experts.items():
            if face.space not in (*labels, SHARED):
                raise InputError(
                    f"head stem has expert {name!r} in the embedding space {face.space!r}; "
                    f"expected the space of a label ({', '.join(labels)}) or {SHARED!r}; rename "
                    "the space, or set head=mixture"
                )
        for k in self.auxiliary:
            if k not in labels:
                raise unknown("label of head.auxiliary", k, labels)
        if set(labels) <= set(self.auxiliary):
            raise InputError(
                f"head stem has auxiliary labels alone: {', '.join(labels)}; expected a main label "
                "beside them; leave one out of head.auxiliary"
            )
        needed = [*labels, *([] if self.auxiliary else [SHARED])]
        with_parts = {face.space for face in experts.values() if face.parts}
        for space in needed:
            if space not in with_parts:
                raise InputError(
                    f"head stem has no expert with parts in the embedding space {space!r}; "
                    f"expected one or more; add spaces.{space} and an expert that reads it"
                )
        return STEM(self, experts, labels, seed)


class STEM(Routed):
    """f_k = Σ_e g_ke h_e, h_e = affine → dense layers of expert e's parts;
    g_k = softmax(affine_k([x_k; x_shared]) W_k), x_s the parts of the experts of space s;
    logit_k = w_k · [tower_k(f_k); direct] + b_k + wide.

    The space of an expert says whose it is: that of the label of its name, or of all labels
    (``shared``). Label k reads all experts, and the loss of its logit trains those of k and the
    shared ones. Those of other labels are passed on without a gradient, and so are their direct
    parts and wide terms.

    In STEM-AL (``auxiliary``) the tower of an auxiliary label reads the experts of that label
    alone, and nothing of its loss reaches another space. The tower of a main label reads all, and
    its loss trains the auxiliary experts too: Fig. 4 says that the additional embedding is updated
    by several tasks. ``tasks.<label>.serve=false`` then leaves the auxiliary tower out of the
    export; the auxiliary expert stays, because the main tower reads it. A shared space is optional.

    ``tasks.<label>.over=all`` trains a product of two probabilities: its loss reaches the spaces of
    both labels, by the logit of each.

    Deviations from STEM's public code: its gate reads x_k + x_shared, where both have one width;
    here a kernel for each takes the place of the sum, so that spaces may differ in width. The
    experts are backbones of any kind.
    """

    def __init__(
        self, config: Config, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> None:
        of: dict[str, tuple[str, ...]] = {
            space: tuple(e for e, face in experts.items() if face.space == space)
            for space in (*labels, SHARED)
        }
        main = [k for k in labels if k not in config.auxiliary]
        routes = {k: Route(of[k], (), of[k]) for k in config.auxiliary}
        for k in main:
            others = tuple(e for other in main if other != k for e in of[other])
            routes[k] = Route(tuple(experts), others, (*of[k], *of[SHARED]))
        super().__init__(
            "stem",
            experts,
            {k: routes[k] for k in labels},
            config.expert,
            config.tower,
            config.activation,
            config.dropout,
            seed,
        )
