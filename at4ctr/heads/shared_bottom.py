"""Shared-Bottom (Caruana, Machine Learning 1997): one trunk, and a tower of its own per label."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, HeadConfig, Interface, Outputs
from at4ctr.errors import InputError
from at4ctr.layers.mlp import MLP, Trunk
from at4ctr.layers.towers import Logit, direct_of, parts_of, tower_of, wide_of


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
        if not any(e.parts for e in experts.values()):
            raise InputError(
                f"head shared_bottom has no layer to share: {', '.join(experts)} gives terms of a "
                "logit alone; expected a backbone with parts; choose another one, or head=single"
            )
        return SharedBottom(self, experts, labels, seed)


class SharedBottom(tf.Module):
    """h = affine → dense layers of all parts; logit_k = w_k · [tower_k(h); direct] + b_k + wide.

    A tower's seed comes from its label's name, so that another label leaves its start.
    """

    def __init__(
        self, config: Config, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> None:
        super().__init__(name="shared_bottom")
        first = next(iter(experts.values()))
        activation, dropout = config.activation or first.activation, config.dropout
        parts = [part for e in experts.values() for part in e.parts]
        direct = sum(part.width for e in experts.values() for part in e.direct)
        self.bottom = Trunk(parts, config.bottom, activation, dropout, first.seed + 10)
        self.towers, self.logits = {}, {}
        for label in labels:
            own = (seed + zlib.crc32(label.encode())) & 0x3FFFFFFF
            tower = MLP(
                self.bottom.width, config.tower, activation, seed=own, dropout=dropout, name=label
            )
            self.towers[label] = tower
            self.logits[label] = Logit(tower.width + direct, (own, 999), f"logit_{label}")
        self.tower_widths = {k: tower_of(t) for k, t in self.towers.items()}

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        shared = self.bottom.join(parts_of(x), training=training)[-1]
        direct, wide = direct_of(x), wide_of(x)
        towers = {k: self.towers[k].layers(shared, training=training) for k in labels}
        last = {k: tf.concat([h[-1], *direct], -1) for k, h in towers.items()}
        logits = {k: self.logits[k](h) + wide for k, h in last.items()}
        return Outputs(logits, towers, dict.fromkeys(labels, shared) if training else {})

    def bias(self, label: str) -> tf.Variable:
        return self.logits[label].bias
