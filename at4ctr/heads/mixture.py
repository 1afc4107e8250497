"""Heterogeneous experts with multi-embedding: a gate of each label weighs the outputs of backbones
in several embedding spaces (Pan et al., Ad Recommendation in a Collapsed and Entangled World,
§4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from at4ctr.contracts import Activation, HeadConfig, Interface
from at4ctr.layers.routing import Route, Routed


@dataclass(frozen=True)
class Config(HeadConfig):
    """weights: ``gate``, or ``mean`` for equal weights, as the public code merges its tables.
    expert, tower: widths of each expert's layers and of each tower. activation: none for each
    backbone's own; never linear. dropout: of every hidden layer.
    """

    weights: Literal["gate", "mean"] = "gate"
    expert: tuple[int, ...] = (200,)
    tower: tuple[int, ...] = (80,)
    activation: Activation | None = None
    dropout: float = 0.0

    def build(
        self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> Mixture:
        return Mixture("mixture", self, experts, labels, seed)


class Mixture(Routed):
    """f_k = Σ_e g_ke h_e over all experts (Fig. 1), h_e = affine → dense layers of e's parts;
    g_k = softmax(affine_k(x) W_k), x the parts of all experts, or g_ke = 1/E;
    logit_k = w_k · [tower_k(f_k); direct] + b_k + wide.

    Each expert has non-linear layers of its own before the sum: without them several tables would
    equal one (§4.2). With one label this is the multi-embedding paradigm, with several ME-MMoE.
    The paper does not say what the gate reads; here it is what MMoE's gates read.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        experts: Mapping[str, Interface],
        labels: tuple[str, ...],
        seed: int,
    ) -> None:
        every = tuple(experts)
        super().__init__(
            name,
            experts,
            dict.fromkeys(labels, Route(every, (), every)),
            config.expert,
            config.tower,
            config.activation,
            config.dropout,
            seed,
            gated=config.weights == "gate",
        )
