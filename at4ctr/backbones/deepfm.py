"""DeepFM (Guo et al., IJCAI 2017), sized as in the public code of DIEN, CAN and DBPMaN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from at4ctr.contracts import Activation, BackboneConfig, Embedded, Embeds, Encoded, Part
from at4ctr.layers.fm import terms
from at4ctr.layers.shape import Shape, each, history_required, part, total


@dataclass(frozen=True)
class Config(BackboneConfig):
    """pool_history: add the summed history to the FM and to the network; off by default, as AT4CTR
    compares this model.
    """

    activation: ClassVar[Activation] = "prelu"
    dense: ClassVar[bool] = True
    pool_history: bool = False
    embeds: ClassVar[Embeds] = Embeds(first_order=True)

    @property
    def reads_history(self) -> bool:
        return self.pool_history

    def build(self, shape: Shape, seed: int) -> DeepFM:
        del seed  # every weight is the embedder's or the head's
        if self.pool_history:
            history_required("deepfm with pool_history", shape, "set backbone.pool_history=false")
        return DeepFM(self, shape)


class DeepFM(tf.Module):
    """logit = y_FM + y_DNN over the same embeddings (Eq. 1 and 2).

    Parts: profile, context, item (, Σh), of which the head makes y_DNN. y_FM is ``wide``.

    Deviations from CAN's public code, whose last layer is one dense unit over [y_DNN, second order,
    Σw]: the two logits are added, as the paper has it; and the user and the context are fields of
    the FM as well, where CAN leaves the user out. From the paper: one affine layer before the
    trunk, PReLU for ReLU (both CAN's).
    """

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(name="deepfm")
        self.pool = config.pool_history
        history = [shape.history] if self.pool else []
        self.parts = tuple(map(Part, [shape.profile, shape.context, shape.item, *history]))

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        del training
        deep, pooled = [part(x, x.profile), x.context, x.item], None
        if self.pool:
            pooled = total(x)
            deep.append(part(x, pooled))
        wide = terms(x, None if pooled is None else each(x, pooled))
        return Encoded(tuple(deep), x.history, wide=wide)
