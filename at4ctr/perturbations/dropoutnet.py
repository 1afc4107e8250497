"""DropoutNet (Volkovs et al., NeurIPS 2017): train as if a user or an item had never been seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import PerturbationConfig, Tensor
from at4ctr.errors import InputError
from at4ctr.layers.mlp import Draws
from at4ctr.schema import UNKNOWN, Schema


@dataclass(frozen=True)
class Config(PerturbationConfig):
    """user, item: the share of rows whose user's, or candidate's, id reads as unknown; at most 1
    together, because no row loses both.
    """

    user: float = 0.1
    item: float = 0.1

    def __post_init__(self) -> None:
        for name in ("user", "item"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"dropoutnet.{name} is {getattr(self, name)}; expected at least 0 and below 1"
                )
        if self.user + self.item > 1:
            raise InputError(
                f"dropoutnet.user is {self.user} and dropoutnet.item is {self.item}; expected at "
                "most 1 together, because no row loses both; lower one"
            )

    def build(self, schema: Schema, seed: int) -> DropoutNet:
        return DropoutNet(self, schema, seed)


class DropoutNet(tf.Module):
    """The user's id or the candidate's, never both, reads as unknown in rows drawn at random.

    Everything else that is known of the user or item stays. Alg. 1 has three cases: the user's
    vector is dropped, the item's, or neither. Deviations: a case is drawn for each row, and not for
    a batch. Rows of one request share the draw of their user. The paper sets fixed vectors of a
    factorisation to 0. Here vectors are learned, and an id that was never seen is served with the
    row of the unknown id. The drawn rows train that row.
    """

    def __init__(self, config: Config, schema: Schema, seed: int) -> None:
        super().__init__(name="dropoutnet")
        self.config, self.user, self.item = config, schema.user_id.name, schema.item_id.name
        self.draws = Draws(seed)

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        changed, c = dict(batch), self.config
        users = tf.random.stateless_uniform(tf.shape(batch[self.user])[:1], self.draws.seed())
        of_items = users
        if "owner" in batch:  # given that the user stays, the item is out at item / (1 − user)
            rows = tf.random.stateless_uniform(tf.shape(batch["owner"]), self.draws.seed())
            of_items = c.user + (1 - c.user) * rows
            of_items = tf.where(tf.gather(users < c.user, batch["owner"]), 0.0, of_items)
        for name, out in ((self.user, users < c.user), (self.item, of_items >= 1 - c.item)):
            ids = batch[name]
            out = tf.reshape(out, [-1] + [1] * (ids.shape.rank - 1))
            changed[name] = tf.where(out, tf.constant(UNKNOWN, ids.dtype), ids)
        return changed
