"""One label: the trunk of the public code of DIEN, CAN and DBPMaN, and one logit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, HeadConfig, Interface, Outputs
from at4ctr.errors import InputError
from at4ctr.layers.mlp import Trunk
from at4ctr.layers.towers import Logit, direct_of, parts_of, tower_of, wide_of


@dataclass(frozen=True)
class Config(HeadConfig):
    """units, activation, dropout: of the trunk. activation: none for the backbone's own."""

    units: tuple[int, ...] = (200, 80)
    activation: Activation | None = None
    dropout: float = 0.0

    def build(self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int) -> Single:
        if len(labels) != 1:
            raise InputError(
                f"head single serves one label and the experiment has {', '.join(labels)}; "
                "set head=shared_bottom, or leave all tasks but one out"
            )
        return Single(self, experts, labels[0], seed)


class Single(tf.Module):
    """logit = w · [trunk(parts); direct] + b + wide, trunk = affine → dense layers.

    Parts, direct parts and wide terms are those of all experts. Without parts, as of an FM, there
    is no trunk.
    """

    def __init__(
        self, config: Config, experts: Mapping[str, Interface], label: str, seed: int
    ) -> None:
        super().__init__(name="single")
        self.label = label
        first = next(iter(experts.values()))
        parts = [part for e in experts.values() for part in e.parts]
        self.trunk = None
        if parts:
            activation = config.activation or first.activation
            self.trunk = Trunk(parts, config.units, activation, config.dropout, first.seed + 10)
        width = self.trunk.width if self.trunk else 0
        width += sum(part.width for e in experts.values() for part in e.direct)
        self.logit = Logit(width, (seed, 999), "logit")
        self.tower_widths = {label: tower_of(self.trunk)}

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        del labels  # it has one
        parts = parts_of(x)
        layers = self.trunk.join(parts, training=training) if self.trunk else ()
        last = [*layers[-1:], *direct_of(x)]
        logit = self.logit(tf.concat(last, -1) if last else None) + wide_of(x)
        inputs = {self.label: tf.concat(parts, -1)} if training and parts else {}
        return Outputs({self.label: logit}, {self.label: layers}, inputs)

    def bias(self, label: str) -> tf.Variable:
        assert label == self.label
        return self.logit.bias
