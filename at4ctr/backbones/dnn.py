"""The embeddings themselves, under the head's dense layers: the backbone of multi-task papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from at4ctr.contracts import Activation, BackboneConfig, Embedded, Encoded, Part
from at4ctr.layers.shape import Shape, history_required, mean, part


@dataclass(frozen=True)
class Config(BackboneConfig):
    """pool_history: add the mean of the user's behaviours. Off where the schema has none."""

    activation: ClassVar[Activation] = "relu"
    dense: ClassVar[bool] = True

    pool_history: bool = True

    @property
    def reads_history(self) -> bool:
        return self.pool_history

    def build(self, shape: Shape, seed: int) -> DNN:
        del seed  # every weight is the embedder's or the head's
        if self.pool_history:
            history_required("dnn with pool_history", shape, "set backbone.pool_history=false")
        return DNN(self, shape)


class DNN(tf.Module):
    """Parts: profile, context, item (, mean of the behaviours). A head's layers are the network.

    Covington et al. (RecSys 2016) average the embeddings of what a user did in the same way. PICO
    (§4.3) and CTnoCVR (§2.3) have logs without histories; their networks read the fields alone.
    """

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(name="dnn")
        self.pool = config.pool_history
        history = [shape.history] if self.pool else []
        self.parts = tuple(map(Part, [shape.profile, shape.context, shape.item, *history]))

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        del training
        pooled = (part(x, mean(x)),) if self.pool else ()
        return Encoded((part(x, x.profile), x.context, x.item, *pooled), x.history)
