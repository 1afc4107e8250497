"""Whether one embedding can serve two labels: user-item pairs that are near in one embedding space
and far in another.

Pan et al., "Ad Recommendation in a Collapsed and Entangled World", §7.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.stats import rankdata

from at4ctr.data.reader import Reader
from at4ctr.errors import InputError
from at4ctr.layers.embedder import Embedder
from at4ctr.schema import FIRST_ID

SHARE = 0.25  # of the pairs, nearest and farthest

Array = npt.NDArray[Any]


class Distances(NamedTuple):
    """Of N user-item pairs in one embedding space. euclidean: ‖u − v‖₂ [N]. cosine: [N]."""

    euclidean: Array
    cosine: Array

    @property
    def ranks(self) -> Array:
        """Of the Euclidean distance among all pairs, in (0, 1]; equal ones share a rank [N]."""
        return np.asarray(rankdata(self.euclidean)) / len(self.euclidean)


class Pairs(NamedTuple):
    """Contradictory pairs. near_first, near_second: masks [N] of the pairs that are near in one of
    two spaces and far in the other."""

    near_first: Array
    near_second: Array

    def order(self, found: Distances) -> float | None:
        """Mean rank of the pairs near in the second space, less that of those near in the first.

        It is above 0 in a space that ranks the pairs as the first space does, below 0 in one that
        ranks them as the second does, and near 0 in one that does neither. None where either group
        is empty.
        """
        if not (self.near_first.any() and self.near_second.any()):
            return None
        ranks = found.ranks
        return float(ranks[self.near_second].mean() - ranks[self.near_first].mean())


def drawn(reader: Reader, count: int) -> dict[str, Array]:
    """The first so many rows of a reader whose user and item are known to the model: their ids,
    indices and labels. InputError where there is none."""
    user, item = reader.schema.user_id.name, reader.schema.item_id.name
    names = [user, item, "user_index", "item_index", *(x.column for x in reader.schema.labels)]
    parts: list[dict[str, Array]] = []
    left = count
    for step in range(reader.steps(0)):
        if left <= 0:
            break
        batch = reader.batch(0, step)
        rows = np.flatnonzero((batch[user] >= FIRST_ID) & (batch[item] >= FIRST_ID))[:left]
        left -= len(rows)
        parts.append({name: batch[name][rows] for name in names})
    found = {name: np.concatenate([part[name] for part in parts]) for name in names}
    if not len(found[user]):
        raise InputError(
            f"store {reader.store.path}, split {reader.split}: no row has a known user and a known "
            "item; expected some; prepare the store with more users"
        )
    return found


def distances(embedder: Embedder, rows: Mapping[str, Array]) -> Distances:
    """Of the vectors of the user's id and the item's id in a space. rows: of `drawn`."""
    schema = embedder.schema
    user, item = (
        embedder.lookup(f.table, tf.constant(rows[f.name])).numpy().astype(np.float64)
        for f in (schema.user_id, schema.item_id)
    )
    lengths = np.linalg.norm(user, axis=1) * np.linalg.norm(item, axis=1)
    products = (user * item).sum(1)
    cosine = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return Distances(np.linalg.norm(user - item, axis=1), cosine)


def contradictory(first: Distances, second: Distances, share: float = SHARE) -> Pairs:
    """The pairs among the nearest ``share`` of one space and the farthest ``share`` of the other.

    "Near" and "far" are ranks within each space, so that spaces of other widths and scales compare.
    The paper does not print its bounds.
    """
    one, two = first.ranks, second.ranks
    return Pairs(
        (one <= share) & (two > 1 - share),
        (two <= share) & (one > 1 - share),
    )
