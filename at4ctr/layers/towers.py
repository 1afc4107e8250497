"""What heads share: the parts of all experts, and the last layer of a tower."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from at4ctr.contracts import Encoded, Tensor, Tower
from at4ctr.layers.mlp import MLP, Dense, Trunk


def parts_of(x: Mapping[str, Encoded]) -> list[Tensor]:
    """The parts of every expert, in order."""
    return [part for e in x.values() for part in e.parts]


def direct_of(x: Mapping[str, Encoded]) -> list[Tensor]:
    """What the last linear layer reads beside a tower, of every expert in order."""
    return [part for e in x.values() for part in e.direct]


def wide_of(x: Mapping[str, Encoded]) -> Tensor | float:
    """The sum of the experts' terms that no head weighs. [B]."""
    total: Tensor | float = 0.0
    for e in x.values():
        total = e.wide if isinstance(total, float) and total == 0.0 else total + e.wide
    return total


def tower_of(layers: MLP | None) -> Tower:
    """The widths of a tower; of none, of a head without hidden layers."""
    if layers is None:
        return Tower(0, ())
    width = layers.input if isinstance(layers, Trunk) else layers.dense[0].kernel.shape[0]
    return Tower(width, layers.units)


class Logit(tf.Module):
    """logit = w · h + b; of no input, b alone.

    oneDNN aborts the process on a dense layer over no input at all.
    """

    def __init__(self, width: int, seed: tuple[int, int], name: str) -> None:
        super().__init__(name=name)
        self.dense = Dense(width, 1, seed, name) if width else None
        self.bias = self.dense.bias if self.dense else tf.Variable(0.0, name="bias")

    def __call__(self, hidden: Tensor | None) -> Tensor:
        """hidden [B, width] -> [B]; None where the width is 0 -> a scalar."""
        return self.bias if self.dense is None else tf.squeeze(self.dense(hidden), -1)
