"""MMoE: shared experts, and a gate of its own for each label (Ma et al., KDD 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, HeadConfig, Interface, Outputs
from at4ctr.errors import InputError
from at4ctr.layers.experts import SHARED, Experts, Gate, mixture
from at4ctr.layers.mlp import Affine
from at4ctr.layers.towers import Towers, activation_of, parts_of, parts_required, seed_of


@dataclass(frozen=True)
class Config(HeadConfig):
    """experts: how many; the default is PICO's (§4.4). expert, tower: widths of each expert and of
    each tower. activation: none for the backbone's own. dropout: of every hidden layer.
    """

    experts: int = 3
    expert: tuple[int, ...] = (200,)
    tower: tuple[int, ...] = (80,)
    activation: Activation | None = None
    dropout: float = 0.0

    def build(self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int) -> MMoE:
        if self.experts < 1:
            raise InputError(
                f"head mmoe has {self.experts} experts; expected at least 1; set head.experts=3"
            )
        return MMoE(self, experts, labels, seed)


class MMoE(tf.Module):
    """f_k = Σ_e g_ke E_e(x), g_k = softmax(x W_k), x = affine(parts) (Eq. 5 to 7);
    logit_k = w_k · [tower_k(f_k); direct] + b_k + wide.

    One affine layer serves all experts and gates. One for each would add nothing, since the kernel
    that follows can scale its inputs itself. All experts and gates are one product.
    """

    def __init__(
        self, config: Config, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> None:
        super().__init__(name="mmoe")
        activation, dropout = activation_of(config.activation, experts), config.dropout
        parts = parts_required("mmoe", experts)
        width = sum(part.width for part in parts)
        self.affine = Affine.of(parts)
        self.experts = Experts(
            {SHARED: config.experts}, width, config.expert, activation, dropout, seed
        )
        self.gates = {
            k: Gate(width, config.experts, seed_of(seed, f"gate of {k}"), f"gate_{k}")
            for k in labels
        }
        names = tuple(f"{SHARED} {i + 1}" for i in range(config.experts))
        self.expert_names = dict.fromkeys(labels, names)
        self.towers = Towers(
            experts, labels, config.expert[-1], config.tower, activation, dropout, seed
        )
        self.tower_widths = self.towers.widths

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        found, gates = self.experts.from_parts(
            parts_of(x),
            self.affine,
            [SHARED],
            {k: self.gates[k] for k in labels},
            training=training,
        )
        inputs = {k: mixture(g, [found[SHARED]]) for k, g in gates.items()}
        return self.towers(inputs, x, training=training, gates=gates)

    def bias(self, label: str) -> tf.Variable:
        return self.towers.bias(label)
