"""AutoHERI: a label's network reads the layers of the network before it, by structure weights that
learn on validation rows (Wei et al., CIKM 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, HeadConfig, Interface, Outputs, Tensor
from at4ctr.errors import InputError
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
    """bottom: widths of shared layers below the networks; PICO (§4.4) shares the first one. units:
    widths of each label's network. every: training steps for one step of the structure weights.
    rate: Adam's learning rate for the structure weights. activation: none for the backbone's own.
    dropout: of every hidden layer.
    """

    searches: ClassVar[bool] = True

    bottom: tuple[int, ...] = ()
    units: tuple[int, ...] = (200, 80)
    every: int = 10
    rate: float = 0.01
    activation: Activation | None = None
    dropout: float = 0.0

    def build(
        self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> AutoHERI:
        if self.every < 1:
            raise InputError(
                f"head autoheri has every={self.every}; expected at least 1 training step; set "
                "head.every=10"
            )
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise InputError(
                f"head autoheri has rate={self.rate}; expected a finite one above 0; set "
                "head.rate=0.01"
            )
        return AutoHERI(self, experts, labels, seed)


class AutoHERI(tf.Module):
    """Layer l of the network of label t reads its own layer below and every layer j of the network
    of label t − 1: h_t^l = act(W_l [h_t^(l−1); σ(a_1l) h_(t−1)^1; …; σ(a_Ll) h_(t−1)^L] + b_l),
    L the number of layers; logit_t = w_t · [h_t^L; direct] + b_t + wide.

    σ(a_jl) is the probability that the edge from j to l exists. The network computes with the
    probability itself, that is with the edge's expectation. Labels follow each other in the
    schema's order, as click and conversion do. Labels before a requested one are computed too, and
    none after the last requested one. The first label's network reads no other, and with one label
    there is no structure weight.

    ``searched`` holds a [L, L] of every label but the first, from 0. They learn on validation rows
    (`contracts.Searched`), by the first-order rule of DARTS (Liu et al., ICLR 2019, ξ = 0), while
    all other weights learn on training rows. In the export they are constants.

    This follows the paper's public summary, which leaves some points open, so there may be
    deviations: every pair of layers is an edge; an edge's layer is concatenated with the reading
    layer's own input; and the edges keep their probabilities, where a search that ends in a
    discrete network would round them and train anew. The networks are trained with the tasks of the
    experiment; the paper's
    entire-space loss is ``tasks.<label>.over=all``.
    """

    def __init__(
        self, config: Config, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> None:
        super().__init__(name="autoheri")
        activation, units = activation_of(config.activation, experts), config.units
        parts = parts_required("autoheri", experts)
        self.labels, self.every, self.rate = labels, config.every, config.rate
        self.networks = Networks(
            parts, labels, config.bottom, units, activation, config.dropout, seed
        )
        self.edges = {
            label: Edges(units, seed_of(seed, f"edges to {label}")) for label in labels[1:]
        }
        self.tower_widths = self.networks.widths
        self.logits = Logits(experts, dict.fromkeys(labels, units[-1]), seed)

    @property
    def searched(self) -> tuple[tf.Variable, ...]:
        """The structure weights."""
        return tuple(edges.structure for edges in self.edges.values())

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        needed = up_to(self.labels, labels)
        first, inputs = self.networks.first(x, needed, training=training)
        start = needed[0]
        found = {start: self.networks.of[start].after(first[start], training=training)}
        for before, k in pairwise(needed):
            read = self.edges[k](found[before])
            found[k] = _integrated(self.networks.of[k], first[k], read, training=training)
        return self.logits(
            x, {k: found[k] for k in labels}, {k: v for k, v in inputs.items() if k in labels}
        )

    def bias(self, label: str) -> tf.Variable:
        return self.logits.bias(label)


class Edges(tf.Module):
    """Σ_j σ(a_jl) h_j M_jl for each layer l: what it reads of the layers h_j of another network.

    M_jl are the rows for h_j of layer l's kernel.
    """

    def __init__(self, units: tuple[int, ...], seed: int) -> None:
        super().__init__(name="edges")
        count, width = len(units), sum(units)
        self.structure = tf.Variable(tf.zeros([count, count]), trainable=False, name="structure")
        self.kernels = []
        for i, unit in enumerate(units):
            limit = (6.0 / (width + unit)) ** 0.5
            start = tf.random.stateless_uniform([width, unit], (seed, i), -limit, limit)
            self.kernels.append(tf.Variable(start, name=f"kernel_{i}"))

    def __call__(self, layers: tuple[Tensor, ...]) -> list[Tensor]:
        """[B, U_j] of each layer j -> [B, U_l] for each layer l."""
        chances = tf.sigmoid(self.structure)
        return [
            product(tf.concat([chances[j, i] * h for j, h in enumerate(layers)], -1), kernel)
            for i, kernel in enumerate(self.kernels)
        ]


def _integrated(
    network: MLP, first: Tensor, read: list[Tensor], *, training: bool
) -> tuple[Tensor, ...]:
    """The layers of a network that adds ``read`` to each layer's product.

    first: product and bias of its first layer.
    """
    found: list[Tensor] = []
    for i, more in enumerate(read):
        z = network.dense[i](found[-1]) if i else first
        found.append(network.finish(i, z + more, training=training))
    return tuple(found)
