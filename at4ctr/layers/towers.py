"""What heads share: the parts of all experts, towers, and the logits at their ends."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, Interface, Outputs, Part, Tensor, Tower
from at4ctr.errors import InputError
from at4ctr.layers.mlp import MLP, Dense, Trunk


def parts_required(head: str, experts: Mapping[str, Interface]) -> list[Part]:
    """The declared parts of every expert, in order; InputError where there is none."""
    found = [part for e in experts.values() for part in e.parts]
    if not found:
        raise InputError(
            f"head {head} has no input: {', '.join(experts)} gives terms of a logit alone; "
            "expected a backbone with parts; choose another one, or head=single"
        )
    return found


def activation_of(chosen: Activation | None, experts: Mapping[str, Interface]) -> Activation:
    """A head's own choice; where there is none, that of the first expert's backbone."""
    return chosen or next(iter(experts.values())).activation


def seed_of(seed: int, name: str) -> int:
    """A seed by name, so that one more label changes no other label's initial weights."""
    return (seed + zlib.crc32(name.encode())) & 0x3FFFFFFF


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
    """The widths of a tower; 0 and no layers for None, in a head without hidden layers."""
    if layers is None:
        return Tower(0, ())
    width = layers.input if isinstance(layers, Trunk) else layers.dense[0].kernel.shape[0]
    return Tower(width, layers.units)


def up_to(labels: tuple[str, ...], asked: tuple[str, ...]) -> tuple[str, ...]:
    """Every label up to the last one that is asked for."""
    return labels[: max(map(labels.index, asked)) + 1]


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


class Logits(tf.Module):
    """logit_k = w_k · [h_k; direct] + b_k + wide, h_k the last layer of label k's tower.

    widths: label -> the width of h_k.
    """

    def __init__(
        self, experts: Mapping[str, Interface], widths: Mapping[str, int], seed: int
    ) -> None:
        super().__init__(name="logits")
        direct = sum(part.width for e in experts.values() for part in e.direct)
        self.of = {
            label: Logit(width + direct, (seed_of(seed, label), 999), f"logit_{label}")
            for label, width in widths.items()
        }

    def __call__(
        self,
        x: Mapping[str, Encoded],
        towers: Mapping[str, tuple[Tensor, ...]],
        inputs: Mapping[str, Tensor] = MappingProxyType({}),
        gates: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Outputs:
        """towers, inputs, gates: of ``Outputs``; a logit for each label of ``towers``."""
        direct, wide = direct_of(x), wide_of(x)
        last = {k: tf.concat([h[-1], *direct], -1) for k, h in towers.items()}
        return Outputs({k: self.of[k](h) + wide for k, h in last.items()}, towers, inputs, gates)

    def bias(self, label: str) -> tf.Variable:
        """The constant of a label's logit."""
        return self.of[label].bias


class Towers(tf.Module):
    """An MLP for each label, and its logit: logit_k = w_k · [MLP_k(x_k); direct] + b_k + wide.

    width: of every x_k. units: of every MLP. A tower's seed comes from its label's name.
    """

    def __init__(
        self,
        experts: Mapping[str, Interface],
        labels: Iterable[str],
        width: int,
        units: tuple[int, ...],
        activation: Activation,
        dropout: float,
        seed: int,
    ) -> None:
        super().__init__(name="towers")
        self.of = {
            label: MLP(
                width, units, activation, seed=seed_of(seed, label), dropout=dropout, name=label
            )
            for label in labels
        }
        self.logits = Logits(experts, {k: t.width for k, t in self.of.items()}, seed)
        self.widths = {k: tower_of(t) for k, t in self.of.items()}

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        x: Mapping[str, Encoded],
        *,
        training: bool,
        gates: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Outputs:
        """inputs: label -> [B, width] for each label whose logit is wanted."""
        towers = {k: self.of[k].layers(h, training=training) for k, h in inputs.items()}
        return self.logits(x, towers, inputs if training else {}, gates)

    def bias(self, label: str) -> tf.Variable:
        """The constant of a label's logit."""
        return self.logits.bias(label)


class Networks(tf.Module):
    """A network of its own for each label over the parts of all experts.

    Each one begins with an affine layer of its own, as the trunk of the head ``single`` does. With
    ``bottom`` they read shared layers instead, and these have the only affine layer.
    """

    def __init__(
        self,
        parts: list[Part],
        labels: Iterable[str],
        bottom: tuple[int, ...],
        units: tuple[int, ...],
        activation: Activation,
        dropout: float,
        seed: int,
    ) -> None:
        super().__init__(name="networks")
        self.bottom = None
        if bottom:
            self.bottom = Trunk(parts, bottom, activation, dropout, seed_of(seed, "bottom layers"))
        self.of: dict[str, MLP] = {}
        for label in labels:
            own = seed_of(seed, label)
            if self.bottom is None:
                self.of[label] = Trunk(parts, units, activation, dropout, own)
            else:
                self.of[label] = MLP(
                    self.bottom.width, units, activation, seed=own, dropout=dropout, name=label
                )
        self.widths = {k: tower_of(net) for k, net in self.of.items()}

    def first(
        self, x: Mapping[str, Encoded], labels: Iterable[str], *, training: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Two values by label: the product and bias of its network's first layer [B, U]; and what
        the network reads, in training alone."""
        parts = parts_of(x)
        if self.bottom is not None:
            shared = self.bottom.join(parts, training=training)[-1]
            first = {k: self.of[k].dense[0](shared) for k in labels}
        else:
            shared = tf.concat(parts, -1) if training else None
            first = {}
            for k in labels:
                net = self.of[k]
                assert isinstance(net, Trunk)
                first[k] = net.first(parts)
        return first, dict.fromkeys(labels, shared) if training else {}
