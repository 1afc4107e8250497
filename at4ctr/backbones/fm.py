"""FM: factorization machine (Rendle, ICDM 2010) over the fields of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from at4ctr.contracts import BackboneConfig, Embedded, Embeds, Encoded
from at4ctr.layers.fm import terms
from at4ctr.layers.shape import Shape, each, history_required, total


@dataclass(frozen=True)
class Config(BackboneConfig):
    """pool_history: the summed history joins the pairs (``layers.fm.terms``); off by default, as
    AT4CTR compares this model."""

    pool_history: bool = False
    embeds: ClassVar[Embeds] = Embeds(first_order=True)
    dense: ClassVar[bool] = True

    @property
    def reads_history(self) -> bool:
        return self.pool_history

    def build(self, shape: Shape, seed: int) -> FM:
        del seed  # every weight is the embedder's or the head's
        if self.pool_history:
            history_required("fm with pool_history", shape, "set backbone.pool_history=false")
        return FM(self)


class FM(tf.Module):
    """logit = b + Σ_i w_i + Σ_{i<j} ⟨v_i, v_j⟩ (Eq. 1); i, j over profile, item and context.

    The model gives ``wide`` [B] alone and no part, so that of the head only the bias b is left.
    Weights start at 0, vectors uniform (Rendle: normal).
    """

    parts = ()

    def __init__(self, config: Config) -> None:
        super().__init__(name="fm")
        self.pool = config.pool_history

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        del training
        pooled = total(x) if self.pool else None
        wide = terms(x, None if pooled is None else each(x, pooled))
        return Encoded((), x.history, wide=wide)
