"""GwPFM: a factorization machine of field parts, weighted by pairs of field groups
(Pan et al., Ad Recommendation in a Collapsed and Entangled World, §4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Activation, BackboneConfig, Embedded, Encoded, Part
from at4ctr.errors import InputError, unknown
from at4ctr.layers.fm import fields
from at4ctr.layers.shape import Shape, each, history_required, mean
from at4ctr.schema import history_name

PARTS = 2  # fields of the user and the context; fields of the candidate


@dataclass(frozen=True)
class Config(BackboneConfig):
    """groups: field groups of users and context, each one the names of its fields joined by ``+``,
    as in ``user+city,history_item``. Fields that no group names form one group for the profile, one
    for the context and one for the history. The candidate's fields are always one group.
    pool_history: each feature of the mean of the user's behaviours is one more field, named
    ``history_<feature>``. Off where the schema has none.
    """

    activation: ClassVar[Activation] = "relu"
    dense: ClassVar[bool] = True

    groups: tuple[str, ...] = ()
    pool_history: bool = True

    @property
    def reads_history(self) -> bool:
        return self.pool_history

    def build(self, shape: Shape, seed: int) -> GwPFM:
        del seed  # r starts at 1; every other weight is the embedder's or the head's
        if self.pool_history:
            history_required("gwpfm with pool_history", shape, "set backbone.pool_history=false")
        if shape.dimension % PARTS:
            raise InputError(
                f"backbone gwpfm divides each vector into {PARTS} and its embedding space has "
                f"dimension {shape.dimension}; expected a multiple of {PARTS}; set "
                f"embedding.dimension={shape.dimension + 1}"
            )
        return GwPFM(self, shape)


class GwPFM(tf.Module):
    """Φ = Σ_{i<j} (v_{i,P(j)} ⊙ v_{j,P(i)}) r_{G(i),G(j)} over all fields (Eq. 4). The one part is
    Φ [B, K].

    P(i) is the part of field i: 0 of the user, the context and the history, 1 of the candidate. The
    first K = D/2 elements of a field's vector in the embedding space are v_{i,0}, the others
    v_{i,1}. G(i) is its group. r is symmetric and starts at 1, so that training begins as an FFM of
    parts.

    The paper writes ⟨v, v⟩ under an elementwise sum. This is read as the elementwise product, which
    gives the head a vector; the vector's elements sum to the inner product. The paper's x_i is 1: a
    multi-valued field is the mean of its values' vectors, and a number its encoded vector.

    All pairs of two groups a ≠ b are one product of sums, (Σ_{i∈a} v_{i,P(b)}) ⊙ (Σ_{j∈b}
    v_{j,P(a)}), and those within a are ½ [(Σ v_{i,P(a)})² − Σ v_{i,P(a)}²]: O(F + G²) instead of
    O(F²) products for F fields in G groups.
    """

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(name="gwpfm")
        self.pool, self.width = config.pool_history, shape.dimension // PARTS
        self.parts = (Part(self.width),)
        group_of = _group_of(config, shape)
        names = list(dict.fromkeys(group_of))
        of = np.array([names.index(name) for name in group_of])
        self.members = np.eye(len(names), dtype=np.float32)[of].T  # [G, F]
        part = [int(name == "item") for name in names]  # no other group can have this name
        sizes = self.members.sum(1)
        several = [a for a in range(len(names)) if sizes[a] > 1]  # groups with pairs of their own
        pairs = [(a, b) for b in range(len(names)) for a in range(b)] + [(a, a) for a in several]
        self.left = [PARTS * a + part[b] for a, b in pairs]
        self.right = [PARTS * b + part[a] for a, b in pairs]
        self.own = [PARTS * a + part[a] for a in several]
        self.r = tf.Variable(tf.ones([len(pairs)]), name="r")

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        del training
        vectors = fields(x, each(x, mean(x))) if self.pool else x.fields
        sums, squares = (self._by_group(v) for v in (vectors, tf.square(vectors)))
        left, right = (tf.gather(sums, rows, axis=1) for rows in (self.left, self.right))
        across = left.shape[1] - len(self.own)
        products = left * right
        within = 0.5 * (products[:, across:] - tf.gather(squares, self.own, axis=1))
        whole = tf.concat([products[:, :across], within], 1)
        return Encoded((tf.einsum("n,bnk->bk", self.r, whole),), x.history)

    def _by_group(self, values: tf.Tensor) -> tf.Tensor:
        """[B, F, D] -> sums over each group's fields [B, G · P, K]."""
        return tf.reshape(
            tf.einsum("gf,bfd->bgd", self.members, values),
            [-1, PARTS * len(self.members), self.width],
        )


def _group_of(config: Config, shape: Shape) -> list[str]:
    """The group's name of each field of ``Embedded.fields``, then of each pooled feature."""
    past = [(history_name(name), "history") for name in shape.past] if config.pool_history else []
    kinds = dict[str, str]([*shape.fields, *past])
    chosen: dict[str, str] = {}
    for group in config.groups:
        for name in group.split("+"):
            free = [n for n, kind in kinds.items() if kind != "item" and n not in chosen]
            if name not in free:
                raise unknown("field of the user or the context in backbone.groups", name, free)
            chosen[name] = f"{group}+"
    return [chosen.get(name, kind) for name, kind in kinds.items()]
