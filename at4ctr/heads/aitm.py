"""AITM: each label's tower passes a vector on to the next label's tower (Xi et al., KDD 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, HeadConfig, Interface, Outputs, Tensor
from at4ctr.layers.mlp import MLP, product
from at4ctr.layers.towers import (
    Logits,
    Networks,
    activation_of,
    parts_required,
    seed_of,
    up_to,
)


@dataclass(frozen=True)
class Config(HeadConfig):
    """bottom: widths of shared layers below the towers; PICO (§4.4) shares the first one of its
    baselines. units: widths of each label's tower. activation: none for the backbone's own.
    dropout: of every hidden layer.
    """

    bottom: tuple[int, ...] = ()
    units: tuple[int, ...] = (200, 80)
    activation: Activation | None = None
    dropout: float = 0.0

    def build(self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int) -> AITM:
        return AITM(self, experts, labels, seed)


class AITM(tf.Module):
    """q_t = tower_t(parts); p_(t−1) = g_t(z_(t−1)); z_1 = q_1;
    z_t = Σ_u w_u h1(u) over u in {p_(t−1), q_t}, w = softmax_u(⟨h2(u), h3(u)⟩ / √k) (Eq. 3 to 6);
    logit_t = w_t · [z_t; direct] + b_t + wide.

    Labels follow each other in the schema's order, as click and conversion do. k is the width of
    q_t, h1, h2 and h3 are linear, and g_t is a dense layer with the head's activation. z_t is the
    last layer of the tower. Labels before a requested one are computed too, and none after the last
    requested one. With one label the head is a plain network.

    Left out: the behavioral expectation calibrator, a loss on P(later) > P(earlier) (Eq. 8). Where
    a label is known ``within`` the earlier one, its probability is the product of both and cannot
    be larger. Deviation: towers have no batch normalisation.
    """

    def __init__(
        self, config: Config, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> None:
        super().__init__(name="aitm")
        activation, dropout = activation_of(config.activation, experts), config.dropout
        parts, width = parts_required("aitm", experts), config.units[-1]
        self.labels = labels
        self.towers = Networks(
            parts, labels, config.bottom, config.units, activation, dropout, seed
        )
        self.transfers = {
            label: Transfer(width, activation, dropout, seed_of(seed, f"transfer to {label}"))
            for label in labels[1:]
        }
        self.tower_widths = {
            k: tower._replace(layers=(*tower.layers, width)) if k in self.transfers else tower
            for k, tower in self.towers.widths.items()
        }
        self.logits = Logits(experts, dict.fromkeys(labels, width), seed)

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        needed = up_to(self.labels, labels)
        first, inputs = self.towers.first(x, needed, training=training)
        found = {k: self.towers.of[k].after(z, training=training) for k, z in first.items()}
        for before, k in pairwise(needed):
            z = self.transfers[k](found[before][-1], found[k][-1], training=training)
            found[k] = (*found[k], z)
        return self.logits(
            x, {k: found[k] for k in labels}, {k: v for k, v in inputs.items() if k in labels}
        )

    def bias(self, label: str) -> tf.Variable:
        return self.logits.bias(label)


class Transfer(tf.Module):
    """z = Σ_u w_u h1(u), u the vector from the label before and the tower's own last layer."""

    def __init__(self, width: int, activation: Activation, dropout: float, seed: int) -> None:
        super().__init__(name="transfer")
        self.passed = MLP(width, (width,), activation, seed=seed, dropout=dropout, name="passed")
        limit = (3.0 / width) ** 0.5
        start = tf.random.stateless_uniform([width, 3 * width], (seed, 99), -limit, limit)
        self.kernel = tf.Variable(start, name="kernel")  # h1, h2 and h3 side by side

    def __call__(self, before: Tensor, own: Tensor, *, training: bool) -> Tensor:
        """before, own [B, k] -> [B, k]."""
        both = tf.stack([self.passed(before, training=training), own], 1)
        value, key, query = tf.split(product(both, self.kernel), 3, -1)
        scores = tf.reduce_sum(key * query, -1, keepdims=True) / own.shape[-1] ** 0.5
        return tf.reduce_sum(tf.nn.softmax(scores, 1) * value, 1)
