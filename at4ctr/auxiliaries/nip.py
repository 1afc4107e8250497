"""NIP, next-item prediction (AT4CTR, Eq. 8-10): behaviours so far against the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from at4ctr.contracts import AuxiliaryConfig, Tensor, View
from at4ctr.errors import InputError
from at4ctr.layers.replicas import WHOLE, gathered, share
from at4ctr.layers.self_attention import Lengths, SelfAttention
from at4ctr.layers.shape import Shape, history_required
from at4ctr.losses import dense_next_item_prediction, next_item_prediction
from at4ctr.schema import UNKNOWN, Schema, history_name


@dataclass(frozen=True)
class Config(AuxiliaryConfig):
    """weight: λ_NIP (Eq. 12). temperature: τ₂. mask_duplicates: candidates with the anchor's own
    next item are left out; items without a model id count as different ones. block: in-batch
    negatives come from blocks of so many samples at a position (None: the whole batch, as the
    paper); the cost falls in proportion. gather: negatives come from the rows of all replicas and
    not only of the anchor's own. The loss is then that of one replica with the whole batch, and the
    replicas share its work.
    """

    dense: ClassVar[bool] = True

    weight: float = 0.01
    temperature: float = 0.1
    mask_duplicates: bool = False
    block: int | None = None
    gather: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"nip.temperature is {self.temperature}; expected above 0")
        if self.block is not None and self.block < 4:
            raise InputError(f"nip.block is {self.block}; expected none, or at least 4")

    def build(self, schema: Schema, shape: Shape, seed: int) -> NextItemPrediction:
        history_required("nip", shape, "leave nip out")
        if self.mask_duplicates and schema.item_id.name not in schema.history:
            raise InputError(
                f"nip.mask_duplicates needs item ids in the history, which has {schema.history}; "
                f"add {schema.item_id.name!r} to Schema.history or turn it off"
            )
        return NextItemPrediction(self, schema, shape, seed)


class NextItemPrediction(tf.Module):
    """r^k = causal self-attention over behaviours 0..k, matched with the raw embedding of k+1."""

    def __init__(self, config: Config, schema: Schema, shape: Shape, seed: int) -> None:
        super().__init__(name="nip")
        self.config, self.item_id = config, history_name(schema.item_id.name)
        self.attention = SelfAttention(shape.history, seed)

    def loss(self, view: View) -> Tensor:
        if view.embedded.dense:
            return self._dense_loss(view)
        x, config = view.embedded, self.config
        lengths = Lengths.of(x.packed.rows, tf.shape(x.mask)[0])
        found = [self.attention.states(x.packed, lengths), x.packed.values, lengths.sizes]
        if config.mask_duplicates:
            ids = view.batch[self.item_id][:, : tf.shape(x.mask)[1]]
            found.append(tf.boolean_mask(ids, x.mask))
        part = WHOLE
        if config.gather:
            part, found = share(), gathered(*found)
        states, behaviours, sizes, *ids = found
        ids = [_apart(own) for own in ids]
        return part.size * next_item_prediction(
            states,
            behaviours,
            sizes,
            config.temperature,
            item_ids=ids[0] if ids else None,
            block=config.block,
            part=part,
        )

    def _dense_loss(self, view: View) -> Tensor:
        """Of padded behaviours. With ``gather`` every replica does the work of all."""
        x, config = view.embedded, self.config
        real = tf.cast(x.mask, tf.int32)  # which no collective takes as truth values
        found = [self.attention.dense_states(x.history), x.history, real]
        if config.mask_duplicates:
            found.append(view.batch[self.item_id])
        if config.gather:
            found = gathered(*found)
        states, behaviours, mask, *ids = found
        return dense_next_item_prediction(
            states,
            behaviours,
            mask > 0,
            config.temperature,
            item_ids=_apart_dense(ids[0]) if ids else None,
            block=config.block,
        )


def _apart_dense(ids: Tensor) -> Tensor:
    """As `_apart`, of [B, T]."""
    return tf.reshape(_apart(tf.reshape(ids, [-1])), tf.shape(ids))


def _apart(ids: Tensor) -> Tensor:
    """Model ids [R], each unknown one as a number of its own: it stands for many items."""
    return tf.where(ids == UNKNOWN, -1 - tf.range(tf.size(ids), dtype=ids.dtype), ids)
