"""DCN V2: explicit crosses of all embeddings by learned matrices (Wang et al., WWW 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from at4ctr.contracts import Activation, BackboneConfig, Embedded, Encoded, Part
from at4ctr.errors import InputError
from at4ctr.layers.fm import fields
from at4ctr.layers.mlp import Dense, product
from at4ctr.layers.shape import Shape, each, history_required, mean


@dataclass(frozen=True)
class Config(BackboneConfig):
    """layers: how many crosses. rank: r of W = U V, U [W, r], V [r, W]; none for a full W.
    pool_history: the mean of the user's behaviours is crossed too. Off where the schema has none.
    """

    activation: ClassVar[Activation] = "relu"
    dense: ClassVar[bool] = True

    layers: int = 3
    rank: int | None = None
    pool_history: bool = True

    @property
    def reads_history(self) -> bool:
        return self.pool_history

    def build(self, shape: Shape, seed: int) -> DCNV2:
        if self.pool_history:
            history_required("dcnv2 with pool_history", shape, "set backbone.pool_history=false")
        if self.layers < 1:
            raise InputError(
                f"backbone dcnv2 has {self.layers} cross layers; expected at least 1; set "
                "backbone.layers=3"
            )
        if self.rank is not None and self.rank < 1:
            raise InputError(
                f"backbone dcnv2 has crosses of rank {self.rank}; expected at least 1, or none for "
                "full matrices; set backbone.rank=none"
            )
        return DCNV2(self, shape, seed)


class DCNV2(tf.Module):
    """x_(l+1) = x_0 ⊙ (W_l x_l + b_l) + x_l (Eq. 1), x_0 all fields side by side (, mean of the
    behaviours); with a rank W_l = U_l V_l (Eq. 2). The one part is x_L [B, W].

    The head's dense layers read x_L, which is the paper's stacked structure (Fig. 1a). W, U and V
    start Glorot uniform, b starts at 0. TensorFlow Recommenders' ``Cross`` gives the same.
    That layer itself is not used. Keras names its weights after how many layers the process has
    made, so that two exports of one model would differ in bytes. Its products also ignore
    ``fit.precision``.
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="dcnv2")
        self.pool = config.pool_history
        width = shape.profile + shape.context + shape.item + (shape.history if self.pool else 0)
        self.parts = (Part(width),)
        inner = config.rank or width
        self.first = []
        if config.rank is not None:
            limit = (6.0 / (width + inner)) ** 0.5
            for i in range(config.layers):
                start = tf.random.stateless_uniform([width, inner], (seed, 100 + i), -limit, limit)
                self.first.append(tf.Variable(start, name=f"first_{i}"))
        self.last = [Dense(inner, width, (seed, i), f"last_{i}") for i in range(config.layers)]

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        del training
        vectors = fields(x, each(x, mean(x))) if self.pool else x.fields
        start = crossed = tf.reshape(vectors, [-1, self.parts[0].width])
        for i, last in enumerate(self.last):
            inner = product(crossed, self.first[i]) if self.first else crossed
            crossed = start * last(inner) + crossed
        return Encoded((crossed,), x.history)
