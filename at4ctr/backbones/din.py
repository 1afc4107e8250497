"""DIN: deep interest network (Zhou et al., KDD 2018), sized as in the public code of DIEN, CAN and
DBPMaN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from at4ctr.contracts import BackboneConfig, Embedded, Encoded, Part
from at4ctr.layers.attention import TargetAttention
from at4ctr.layers.pairs import shared_pairs
from at4ctr.layers.shape import Shape, each, history_required, part, product, total


@dataclass(frozen=True)
class Config(BackboneConfig):
    """attention: widths of the activation unit."""

    dense: ClassVar[bool] = True

    attention: tuple[int, ...] = (80, 40)

    def build(self, shape: Shape, seed: int) -> DIN:
        history_required("din", shape, "choose a backbone without one, such as widedeep")
        return DIN(self, shape, seed)


class DIN(tf.Module):
    """Parts: profile, context, item, Σh, attention, item ⊙ Σh.

    Σh sums real behaviours only (the public code adds the padding row too).
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="din")
        self.attention = TargetAttention(shape.item, shape.history, config.attention, seed)
        self.product = shape.alike
        widths = [shape.profile, shape.context, shape.item, shape.history, shape.history]
        widths += [shape.item] if self.product else []
        self.parts = tuple(map(Part, widths))

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        pooled = part(x, total(x))
        if x.dense:
            keys, mask = each(x, x.history), each(x, x.mask)
            interest = self.attention.dense(x.item, keys, mask, training=training)
        else:
            pairs = shared_pairs(x)
            interest = self.attention(
                x.item, x.packed, training=training, one_user=x.one_user, pairs=pairs
            )
        parts = [part(x, x.profile), x.context, x.item, pooled, interest]
        if self.product:
            parts.append(product(x, pooled))
        return Encoded(tuple(parts), x.history)
