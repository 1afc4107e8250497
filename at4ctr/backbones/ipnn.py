"""IPNN: the product-based network of inner products (Qu et al., ICDM 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Activation, BackboneConfig, Embedded, Encoded, Part
from at4ctr.layers.fm import fields
from at4ctr.layers.shape import Shape, each, history_required, mean, part


@dataclass(frozen=True)
class Config(BackboneConfig):
    """pool_history: each feature of the mean of the user's behaviours is one more field. Off where
    the schema has none.
    """

    activation: ClassVar[Activation] = "relu"
    dense: ClassVar[bool] = True

    pool_history: bool = True

    @property
    def reads_history(self) -> bool:
        return self.pool_history

    def build(self, shape: Shape, seed: int) -> IPNN:
        del seed  # every weight is the embedder's or the head's
        if self.pool_history:
            history_required("ipnn with pool_history", shape, "set backbone.pool_history=false")
        return IPNN(self, shape)


class IPNN(tf.Module):
    """Parts: profile, context, item (, mean of the behaviours), and ⟨f_i, f_j⟩ of all pairs i < j
    of the F fields, F (F − 1) / 2 values (Eq. 6 and 7).

    The head's first dense layer is the product layer: its kernel holds W_z on the fields (Eq. 2)
    and W_p on the products (Eq. 3), and its bias is b₁. Deviations: the paper's matrix of products
    is symmetric, so that one of p_ij and p_ji is enough, and the squares p_ii are left out, as in
    public code. W_p has full rank: there are few fields.
    """

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(name="ipnn")
        self.pool = config.pool_history
        widths = [shape.profile, shape.context, shape.item]
        widths += [shape.history] if self.pool else []
        count = sum(widths) // shape.dimension
        first, second = np.triu_indices(count, 1)
        self.pairs = first * count + second
        self.parts = tuple(map(Part, [*widths, len(self.pairs)]))

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        del training
        parts, vectors = [part(x, x.profile), x.context, x.item], x.fields
        if self.pool:
            pooled = mean(x)
            parts.append(part(x, pooled))
            vectors = fields(x, each(x, pooled))
        products = tf.linalg.matmul(vectors, vectors, transpose_b=True)
        flat = tf.reshape(products, [-1, vectors.shape[1] ** 2])
        return Encoded((*parts, tf.gather(flat, self.pairs, axis=1)), x.history)
