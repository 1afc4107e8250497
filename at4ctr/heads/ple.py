"""PLE: experts of each label beside shared ones, in levels (Tang et al., RecSys 2020). One level is
CGC, the head of CTnoCVR (§2.3, Eq. 3 to 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, HeadConfig, Interface, Outputs, Tensor
from at4ctr.errors import InputError
from at4ctr.layers.experts import SHARED, Experts, Gate, mixture
from at4ctr.layers.mlp import Affine
from at4ctr.layers.towers import Towers, activation_of, parts_of, parts_required, seed_of


@dataclass(frozen=True)
class Config(HeadConfig):
    """own, shared: experts of each label and shared ones, by level from the lowest. The defaults
    are CGC with three experts for two labels, as many as PICO has (§4.4). expert, tower: widths of
    each expert and of each tower. activation: none for the backbone's own. dropout: of every hidden
    layer.
    """

    own: tuple[int, ...] = (1,)
    shared: tuple[int, ...] = (1,)
    expert: tuple[int, ...] = (200,)
    tower: tuple[int, ...] = (80,)
    activation: Activation | None = None
    dropout: float = 0.0

    def build(self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int) -> PLE:
        if not self.own or len(self.own) != len(self.shared):
            raise InputError(
                f"head ple has own={self.own} and shared={self.shared}; expected a number for each "
                "level in both, and one level or more; set head.own=1,1 head.shared=1,1"
            )
        if min(self.own) < 0 or min(self.shared) < 1:
            raise InputError(
                f"head ple has own={self.own} and shared={self.shared}; expected at least 0 and 1 "
                "experts in each level; set head.own=1 head.shared=1"
            )
        if SHARED in labels:
            raise InputError(
                f"head ple names its shared experts {SHARED!r}, as a label is named; expected "
                "names that differ; rename the label"
            )
        return PLE(self, experts, labels, seed)


class PLE(tf.Module):
    """x_k^0 = x_s^0 = affine(parts); in level l = 1 … L
    x_k^l = Σ_e g_ke E_e over the experts of label k and the shared ones, g_k = softmax(x_k^(l−1)
    W_k^l). Below the last level there is also x_s^l, likewise over all experts, with a gate on
    x_s^(l−1).
    The experts of k read x_k^(l−1), the shared ones x_s^(l−1).
    logit_k = w_k · [tower_k(x_k^L); direct] + b_k + wide.

    One affine layer serves all experts and gates. One for each would add nothing, since the kernel
    that follows can scale its inputs itself. The experts and gates of the first level are one
    product, and so are the experts of any other level.

    With one level nothing is computed of a label that is not asked for. With several the shared
    gates read the experts of all labels, so that those stay in the graph.
    """

    def __init__(
        self, config: Config, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> None:
        super().__init__(name="ple")
        activation, dropout = activation_of(config.activation, experts), config.dropout
        parts = parts_required("ple", experts)
        width = sum(part.width for part in parts)
        self.affine, self.labels = Affine.of(parts), labels
        self.levels: list[Experts] = []
        self.gates: list[dict[str, Gate]] = []
        for i, (own, shared) in enumerate(zip(config.own, config.shared, strict=True)):
            counts = {**dict.fromkeys(labels, own), SHARED: shared}
            level_seed = seed_of(seed, f"level {i}")
            self.levels.append(
                Experts(counts, width, config.expert, activation, dropout, level_seed)
            )
            reads = dict.fromkeys(labels, own + shared)
            if i + 1 < len(config.own):
                reads[SHARED] = sum(counts.values())
            self.gates.append(
                {
                    k: Gate(width, n, seed_of(level_seed, f"gate of {k}"), f"gate_{k}")
                    for k, n in reads.items()
                }
            )
            width = config.expert[-1]
        self.expert_names = {
            k: (
                *(f"{k} {i + 1}" for i in range(config.own[-1])),
                *(f"{SHARED} {i + 1}" for i in range(config.shared[-1])),
            )
            for k in labels
        }
        self.towers = Towers(experts, labels, width, config.tower, activation, dropout, seed)
        self.tower_widths = self.towers.widths

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        inputs: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        for i, (level, gates) in enumerate(zip(self.levels, self.gates, strict=True)):
            last = i + 1 == len(self.levels)
            asked = labels if last else self.labels
            groups = [k for k in (*asked, SHARED) if k in level.of]
            wanted = asked if last else (*asked, SHARED)
            if not i:
                chosen = {k: gates[k] for k in wanted}
                found, weights = level.from_parts(
                    parts_of(x), self.affine, groups, chosen, training=training
                )
            else:
                found = level({k: inputs[k] for k in groups}, training=training)
                weights = {k: gates[k](inputs[k]) for k in wanted}
            inputs = {k: mixture(weights[k], _read(k, found)) for k in wanted}
        return self.towers(inputs, x, training=training, gates=weights)

    def bias(self, label: str) -> tf.Variable:
        return self.towers.bias(label)


def _read(label: str, experts: Mapping[str, Tensor]) -> list[Tensor]:
    """What a gate weighs: the label's own experts, then the shared ones; the shared gate all."""
    return [x for k, x in experts.items() if label == SHARED or k in (label, SHARED)]
