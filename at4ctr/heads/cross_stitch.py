"""Cross-stitch networks: a network for each label, mixed after every layer (Misra et al., CVPR
2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, HeadConfig, Interface, Outputs, Tensor
from at4ctr.errors import InputError
from at4ctr.layers.towers import Logits, Networks, activation_of, parts_required


@dataclass(frozen=True)
class Config(HeadConfig):
    """bottom: widths of shared layers below the networks; PICO (§4.4) shares the first one. units:
    widths of each label's network. keep: initial weight of a label's own units; the other labels'
    units share the rest equally. activation: none for the backbone's own. dropout: of every hidden
    layer.
    """

    bottom: tuple[int, ...] = ()
    units: tuple[int, ...] = (200, 80)
    keep: float = 0.9
    activation: Activation | None = None
    dropout: float = 0.0

    def build(
        self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> CrossStitch:
        if len(labels) < 2:
            raise InputError(
                f"head cross_stitch mixes the networks of several labels and the experiment has "
                f"{', '.join(labels)} alone; expected two labels or more; set head=single"
            )
        if not 0 <= self.keep <= 1:
            raise InputError(
                f"head cross_stitch has keep={self.keep}; expected 0 to 1, a share of the weights; "
                "set head.keep=0.9"
            )
        return CrossStitch(self, experts, labels, seed)


class CrossStitch(tf.Module):
    """h_k = Σ_j α_kj ∘ layer_j(h_j) after every hidden layer (Eq. 1); logit_k = w_k · [h_k; direct]
    + b_k + wide. α_kj has a weight for each unit, as the paper has for each channel.

    α_kk starts at ``keep`` and α_kj at (1 − keep)/(K − 1), K the number of labels. Each network
    begins with an affine layer of its own, or all stand on the shared ``bottom``.

    Deviation: the paper trains α with 100 to 1,000 times the rate of the other weights, and begins
    with networks that were trained alone. Here all weights learn together at one rate.

    Every network reads all others, so that a label that is not asked for stays in the graph; only
    its last mixture and its logit are left out.
    """

    def __init__(
        self, config: Config, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> None:
        super().__init__(name="cross_stitch")
        activation = activation_of(config.activation, experts)
        parts, units = parts_required("cross_stitch", experts), config.units
        self.labels = labels
        self.networks = Networks(
            parts, labels, config.bottom, units, activation, config.dropout, seed
        )
        count = len(labels)
        other = (1.0 - config.keep) / (count - 1)
        start = np.full((count, count), other) + np.eye(count) * (config.keep - other)
        self.stitches = [
            tf.Variable(
                tf.constant(np.repeat(start[:, :, None], u, 2), tf.float32), name=f"stitch_{i}"
            )
            for i, u in enumerate(units)
        ]
        self.tower_widths = self.networks.widths
        self.logits = Logits(experts, dict.fromkeys(labels, units[-1]), seed)

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        first, inputs = self.networks.first(x, self.labels, training=training)
        towers: dict[str, tuple[Tensor, ...]] = dict.fromkeys(self.labels, ())
        for i, stitch in enumerate(self.stitches):
            own = [
                net.finish(i, net.dense[i](towers[k][-1]) if i else first[k], training=training)
                for k, net in self.networks.of.items()
            ]
            wanted = labels if i + 1 == len(self.stitches) else self.labels
            towers = {k: (*towers[k], self._mixed(stitch, k, own)) for k in wanted}
        return self.logits(x, towers, {k: v for k, v in inputs.items() if k in labels})

    def _mixed(self, stitch: tf.Variable, label: str, layers: Sequence[Tensor]) -> Tensor:
        weights = stitch[self.labels.index(label)]
        return tf.add_n([weights[j] * h for j, h in enumerate(layers)])

    def bias(self, label: str) -> tf.Variable:
        return self.logits.bias(label)
