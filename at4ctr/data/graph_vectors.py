"""Vectors of users and items by truncated SVD of the training rows' user-item graph.

The paper pre-trains GraphSage on a bipartite graph of users and items (Pan et al., KDD 2024,
§3.1.3). Here a truncated SVD of the same kind of graph takes its place, which needs no other
framework.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix, diags_array
from sklearn.utils.extmath import randomized_svd

from at4ctr.data.dataset import ITEM_VECTORS, USER_VECTORS
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import FIRST_ID

SEED = 0


def training_graph(store: Store, first: int = 0) -> csr_matrix:
    """Users × items by model id [rows, rows] float64: 1 where training saw the two together.

    Those are the positives of training rows, by the first label, and the behaviours that training
    rows see. No validation or test row, and no behaviour after a user's last training row, is read.
    Ids that training does not know have no edge.

    first: 0 takes all of them. Otherwise an edge is one of the user's first ``first`` behaviours,
        or a positive that comes before the user has so many. Then no row of a model that is trained
        with ``data.min_history`` of at least ``first`` has its own edge in the graph.
    """
    schema, label = store.schema, store.schema.labels[0].column
    users, items = store.ids(schema.user_id.name), store.ids(schema.item_id.name)
    edges = [np.zeros((2, 0), np.int64)]
    for group in store.groups("train"):
        found = store.read("train", [group])
        owner = np.repeat(np.arange(len(found.users)), found.counts)
        last = np.zeros(len(found.users), np.int64)
        np.maximum.at(last, owner, found.instances["cut"])
        last = np.minimum(last, first) if first else last
        sizes = np.diff(found.offsets)
        place = np.arange(found.offsets[-1]) - np.repeat(found.offsets[:-1], sizes)
        seen = place < np.repeat(last, sizes)
        positive = found.instances[label] == 1
        positive &= (found.instances["cut"] < first) | (not first)
        behaviour = np.repeat(found.users, sizes)[seen], found.behaviours["item"][seen]
        response = found.users[owner[positive]], found.instances["item"][positive]
        for user, item in (behaviour, response):
            edges.append(np.stack([users[user], items[item]]))
    user, item = np.concatenate(edges, 1)
    known = (user >= FIRST_ID) & (item >= FIRST_ID)
    shape = (store.rows(schema.user_id.table), store.rows(schema.item_id.table))
    graph = csr_matrix((np.ones(int(known.sum())), (user[known], item[known])), shape=shape)
    graph.data[:] = 1.0
    return graph


def graph_vectors(graph: csr_matrix, width: int) -> tuple[np.ndarray, np.ndarray]:
    """User vectors U√Σ [users, W] and item vectors V√Σ [items, W] of D⁻½ A E⁻½ ≈ U Σ Vᵀ.

    A is the graph. D and E are the degrees of users and items, by which popular items count less. W
    is the rank. A user or item without an edge has a vector of zeros. The SVD is scikit-learn's
    randomised one (Halko et al. 2011), with a fixed seed.
    """
    least = min(graph.shape)
    if not 1 <= width <= least:
        raise InputError(
            f"the width of graph vectors is {width}; expected 1 to {least}, the smaller side of "
            "the graph of users and items; give a smaller --width"
        )
    users, items = (np.asarray(graph.sum(axis)).ravel() for axis in (1, 0))
    roots = [diags_array(1 / np.sqrt(np.maximum(degrees, 1))) for degrees in (users, items)]
    left, values, right = randomized_svd(
        roots[0] @ graph @ roots[1], width, n_iter=7, random_state=SEED
    )
    left[users == 0], right[:, items == 0] = 0, 0  # where rounding leaves something else
    root = np.sqrt(values)
    return (left * root).astype(np.float32), (right.T * root).astype(np.float32)


def write(store: Store, folder: Path, width: int, first: int = 0) -> tuple[Path, Path]:
    """``user_vectors.parquet`` and ``item_vectors.parquet``: ``id``, ``vector`` of every id that
    training knows. first: of `training_graph`."""
    schema, paths = store.schema, (folder / USER_VECTORS, folder / ITEM_VECTORS)
    for feature in (schema.user_id, schema.item_id):
        if schema.table(feature.table).buckets:
            raise InputError(
                f"store {store.path}: ids of {feature.name!r} are hashed into buckets, so that "
                "they have no vectors of their own; expected a vocabulary; choose another dataset"
            )
    vectors = graph_vectors(training_graph(store, first), width)
    for path, dims, feature, made in zip(
        paths, ("user", "item"), (schema.user_id, schema.item_id), vectors, strict=True
    ):
        raw = pq.read_table(store.path / "dims" / f"{dims}.parquet").column(feature.name)
        ids, at = np.unique(store.ids(feature.name), return_index=True)
        at, ids = at[ids >= FIRST_ID], ids[ids >= FIRST_ID]
        lists = pa.FixedSizeListArray.from_arrays(pa.array(made[ids].ravel()), width)
        table = pa.table({"id": raw.take(pa.array(at)), "vector": lists})
        aside = path.with_name(f".{path.name}")
        pq.write_table(table, aside)
        aside.replace(path)
    return paths
