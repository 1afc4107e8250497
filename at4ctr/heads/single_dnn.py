"""Single-DNN: a network of its own for each label on shared embeddings, the single-task baseline
(Lin et al., PICO, 2022, §4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, HeadConfig, Interface, Outputs
from at4ctr.layers.towers import Logits, Networks, activation_of, parts_required


@dataclass(frozen=True)
class Config(HeadConfig):
    """units: widths of each label's network. activation: none for the backbone's own. dropout: of
    every hidden layer.
    """

    units: tuple[int, ...] = (200, 80)
    activation: Activation | None = None
    dropout: float = 0.0

    def build(
        self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> SingleDNN:
        return SingleDNN(self, experts, labels, seed)


class SingleDNN(tf.Module):
    """logit_k = w_k · [network_k(parts); direct] + b_k + wide, network_k = affine_k → dense layers.

    Labels share the backbone and its embeddings. Nothing above them is shared.
    """

    def __init__(
        self, config: Config, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> None:
        super().__init__(name="single_dnn")
        activation = activation_of(config.activation, experts)
        parts = parts_required("single_dnn", experts)
        self.networks = Networks(parts, labels, (), config.units, activation, config.dropout, seed)
        self.tower_widths = self.networks.widths
        self.logits = Logits(experts, dict.fromkeys(labels, config.units[-1]), seed)

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        first, inputs = self.networks.first(x, labels, training=training)
        towers = {k: self.networks.of[k].after(z, training=training) for k, z in first.items()}
        return self.logits(x, towers, inputs)

    def bias(self, label: str) -> tf.Variable:
        return self.logits.bias(label)
