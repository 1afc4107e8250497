"""Shared-Bottom (Caruana, Machine Learning 1997): one trunk, and a tower of its own per label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, HeadConfig, Interface, Outputs
from at4ctr.layers.mlp import Trunk
from at4ctr.layers.towers import Towers, activation_of, parts_of, parts_required


@dataclass(frozen=True)
class Config(HeadConfig):
    """bottom, tower: widths of the shared layers and of each tower. activation: none for the
    backbone's own. dropout: of every hidden layer.
    """

    bottom: tuple[int, ...] = (200,)
    tower: tuple[int, ...] = (80,)
    activation: Activation | None = None
    dropout: float = 0.0

    def build(
        self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> SharedBottom:
        return SharedBottom(self, experts, labels, seed)


class SharedBottom(tf.Module):
    """h = affine → dense layers of all parts; logit_k = w_k · [tower_k(h); direct] + b_k + wide.

    A tower's seed comes from its label's name, so that one more label does not change its initial
    weights.
    """

    def __init__(
        self, config: Config, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> None:
        super().__init__(name="shared_bottom")
        activation, dropout = activation_of(config.activation, experts), config.dropout
        parts = parts_required("shared_bottom", experts)
        first = next(iter(experts.values()))
        self.bottom = Trunk(parts, config.bottom, activation, dropout, first.seed + 10)
        self.towers = Towers(
            experts, labels, self.bottom.width, config.tower, activation, dropout, seed
        )
        self.tower_widths = self.towers.widths

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        shared = self.bottom.join(parts_of(x), training=training)[-1]
        return self.towers(dict.fromkeys(labels, shared), x, training=training)

    def bias(self, label: str) -> tf.Variable:
        return self.towers.bias(label)
