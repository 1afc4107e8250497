"""UIM, user-item match (AT4CTR, Eq. 2-7): pulls a positive sample's user and item together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from at4ctr.contracts import AuxiliaryConfig, Embedded, Tensor, View
from at4ctr.errors import InputError
from at4ctr.layers.mlp import MLP
from at4ctr.layers.replicas import gathered, gathered_owners, share
from at4ctr.layers.self_attention import Lengths, SelfAttention
from at4ctr.layers.shape import Shape, history_required
from at4ctr.losses import dense_user_item_match, user_item_match
from at4ctr.schema import Schema


@dataclass(frozen=True)
class Config(AuxiliaryConfig):
    """weight: λ_UIM (Eq. 12). temperature: τ₁. use_history: False leaves e^U = profile alone, as
    the paper has it for models without a sequence. hidden, width: of the projection heads (not in
    the paper). mask_duplicates: candidates of the anchor's own user or item are left out.
    gather: candidates are the rows of all replicas; without it, as in the paper, they are those of
    the anchor's own replica. The loss is then that of one replica with the whole batch.
    """

    dense: ClassVar[bool] = True

    weight: float = 0.1
    temperature: float = 0.07
    use_history: bool = True
    hidden: int = 64
    width: int = 32
    mask_duplicates: bool = False
    gather: bool = False

    def __post_init__(self) -> None:
        for name in ("temperature", "hidden", "width"):
            if not getattr(self, name) > 0:
                raise InputError(f"uim.{name} is {getattr(self, name)}; expected above 0")

    def build(self, schema: Schema, shape: Shape, seed: int) -> UserItemMatch:
        del schema
        if self.use_history:
            history_required("uim with use_history", shape, "set auxiliaries.uim.use_history=false")
        if not (shape.profile or self.use_history):
            raise InputError(
                "uim needs a user: the schema serves no profile feature and use_history is false; "
                "set auxiliaries.uim.use_history=true or declare a profile feature"
            )
        return UserItemMatch(self, shape, seed)


class UserItemMatch(tf.Module):
    """e^U = [profile; mean_pool(SA(history))], e^I = item, two heads, InfoNCE both ways.

    Heads are dense-ReLU-dense with a linear output: a ReLU there would confine cosines to [0, 1].
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="uim")
        self.config = config
        user = shape.profile
        if config.use_history:
            self.attention = SelfAttention(shape.history, seed + 2)  # the heads' are seed and + 1
            user += shape.history
        sizes = (config.hidden, config.width)
        self.user, self.item = (
            MLP(width, sizes, "relu", seed=seed + i, last="linear", name=name)
            for i, (name, width) in enumerate((("user_head", user), ("item_head", shape.item)))
        )

    def represent(self, view: View) -> tuple[Tensor, Tensor]:
        """r^U [H, width] of users and r^I [B, width] of rows (Eq. 5)."""
        x = view.embedded
        user = x.profile
        if self.config.use_history:
            user = tf.concat([user, self._pooled(x)], -1)
        return self.user(user, training=True), self.item(x.item, training=True)

    def _pooled(self, x: Embedded) -> Tensor:
        if x.dense:
            return self.attention.dense_pooled(x.history, x.mask)
        lengths = Lengths.of(x.packed.rows, tf.shape(x.mask)[0])
        return self.attention.pooled(x.packed, lengths)

    def loss(self, view: View) -> Tensor:
        user, item = self.represent(view)
        # Rows of the log's users and items: model ids may read as unknown.
        names = ("user_index", "item_index") if self.config.mask_duplicates else ()
        found, anchors, parts = [user, item, view.labels, *(view.batch[n] for n in names)], None, 1
        owner = view.embedded.owner
        if self.config.gather and share().size > 1:
            index, parts = share()
            anchors = gathered(tf.fill(tf.shape(view.labels), index))[0] == index
            if owner is not None:
                owner = gathered_owners(owner, tf.shape(user)[0])
            found = gathered(*found)
        user, item, labels, *ids = found
        user_ids, item_ids = ids or (None, None)
        tau = self.config.temperature
        given: dict[str, Any] = {"user_ids": user_ids, "item_ids": item_ids, "anchors": anchors}
        if view.embedded.dense:
            return parts * dense_user_item_match(user, item, labels, tau, **given)
        return parts * user_item_match(user, item, labels, tau, **given, owner=owner)
