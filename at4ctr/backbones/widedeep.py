"""Wide & Deep (Cheng et al., DLRS 2016), sized as in the public code of DIEN, CAN and DBPMaN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from at4ctr.contracts import Activation, BackboneConfig, Embedded, Encoded, Part
from at4ctr.layers.shape import Shape, each, history_required, part, product, total


@dataclass(frozen=True)
class Config(BackboneConfig):
    """pool_history: add the summed history; off by default, as AT4CTR compares this model."""

    activation: ClassVar[Activation] = "prelu"
    dense: ClassVar[bool] = True

    pool_history: bool = False

    @property
    def reads_history(self) -> bool:
        return self.pool_history

    def build(self, shape: Shape, seed: int) -> WideDeep:
        del seed  # every weight is the embedder's or the head's
        if self.pool_history:
            history_required("widedeep with pool_history", shape, "set backbone.pool_history=false")
        return WideDeep(self, shape)


class WideDeep(tf.Module):
    """Parts: profile, context, item (, Σh). Direct: item (, Σh, item ⊙ Σh).

    A logit's one linear layer over the tower and the direct parts is the sum of the deep and the
    wide logit.
    """

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(name="widedeep")
        self.pool = config.pool_history
        self.product = self.pool and shape.alike
        history = [shape.history] if self.pool else []
        self.parts = tuple(map(Part, [shape.profile, shape.context, shape.item, *history]))
        direct = [shape.item, *history, *([shape.item] if self.product else [])]
        self.direct = tuple(map(Part, direct))

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        del training
        deep, direct = [part(x, x.profile), x.context, x.item], [x.item]
        if self.pool:
            pooled = total(x)
            deep.append(part(x, pooled))
            direct.append(each(x, pooled))
        if self.product:
            direct.append(product(x, part(x, pooled)))
        return Encoded(tuple(deep), x.history, direct=tuple(direct))
