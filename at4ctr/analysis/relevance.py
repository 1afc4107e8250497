"""How alike a user's and an item's vectors are on positive samples (AT4CTR, Fig. 5)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from at4ctr.data.reader import Reader
from at4ctr.errors import InputError
from at4ctr.model.serving import ServingModel

SAMPLES = 10_000  # the paper's


class Relevance(NamedTuple):
    """[n] cosines of the same users with their candidates, and with shuffled candidates."""

    paired: np.ndarray
    shuffled: np.ndarray

    @property
    def summary(self) -> dict[str, float]:
        """Means, their gap, and how often a candidate is nearer than a shuffled one."""
        wins = (self.paired > self.shuffled) + 0.5 * (self.paired == self.shuffled)
        return {
            "samples": len(self.paired),
            "paired": float(self.paired.mean()),
            "shuffled": float(self.shuffled.mean()),
            "gap": float(self.paired.mean() - self.shuffled.mean()),
            "nearer": float(wins.mean()),
        }


def positives(reader: Reader, samples: int = SAMPLES, seed: int = 0) -> dict[str, np.ndarray]:
    """A random choice of a split's positive rows that have a history, as one batch.

    The same rows for every model: the choice depends on the store and the seed alone. One pass;
    the memory is that of the chosen rows.
    """
    chosen: dict[str, np.ndarray] = {}
    keys = np.empty(0)
    for step in range(reader.steps(0)):
        batch = reader.batch(0, step)
        labels = batch[reader.label]
        rows = np.flatnonzero((labels > 0) & (batch["history_length"] > 0))
        drawn = np.random.Generator(np.random.Philox(key=[seed, step])).random(len(labels))
        keys = np.concatenate([keys, drawn[rows]])
        lowest = np.argsort(keys, kind="stable")[:samples]
        keys = keys[lowest]
        for name, column in batch.items():
            parts = [chosen[name]] if name in chosen else []
            chosen[name] = np.concatenate([*parts, column[rows]])[lowest]
    if len(keys) < 2:
        raise InputError(
            f"store {reader.store.path}, split {reader.split}: {len(keys)} positive rows have a "
            "history; expected at least 2 for Fig. 5; prepare it with more users"
        )
    return chosen


def vectors(model: ServingModel, batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """User and item vectors [B, J]: the mean of the real behaviours' embeddings, the candidate's.

    The paper takes the cosine of "the concatenated embedding" of user side and item side features.
    Their widths differ (18 and 36 on its Taobao log), so here the user's vector is made of the
    behaviours, which the candidate's own tables embed. Raises InputError where history and
    candidate have different features.
    """
    x = model.embedder(batch)
    if x.item.shape[-1] != x.packed.values.shape[-1]:
        raise InputError(
            f"history has width {x.packed.values.shape[-1]} and the candidate {x.item.shape[-1]}; "
            "expected equal widths for Fig. 5; declare the same item features in Schema.history"
        )
    user = tf.math.segment_mean(x.packed.values, x.packed.rows)
    return user.numpy(), x.item.numpy()


def relevance(model: ServingModel, batch: dict[str, np.ndarray], seed: int = 0) -> Relevance:
    """Cosines of rows with a history. Shuffled: each user with another row's candidate."""
    users, items = [], []
    for begin in range(0, len(batch["history_length"]), 1024):
        piece = {k: tf.constant(v[begin : begin + 1024]) for k, v in batch.items()}
        user, item = vectors(model, piece)
        users.append(user)
        items.append(item)
    user, item = _unit(np.concatenate(users)), _unit(np.concatenate(items))
    order = np.random.Generator(np.random.Philox(key=[seed, 2**32])).permutation(len(item))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # one cycle: no row keeps its own candidate
    return Relevance((user * item).sum(-1), (user * item[other]).sum(-1))


def _unit(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
    return x / np.maximum(norm, 1e-12)
