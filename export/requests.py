"""Requests in raw values of the log, from what a store keeps: its dims, sequences and values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from at4ctr.data.dataset import Split
from at4ctr.data.store import Store
from at4ctr.schema import MISSING, PADDING, Feature, history_name
from export.lookup import Front

LONGEST = 3  # histories reach back at most so many times T


def requests(
    front: Front, store: Store, split: Split, rows: int, *, longest: int = LONGEST
) -> dict[str, list]:
    """``serving_default``'s inputs for the first rows of a split, from the store's raw values.

    Histories are right-aligned and up to ``longest`` · T long, unlike the reader's.
    """
    groups = store.groups(split)
    ends = np.cumsum([g.rows for g in groups])
    data = store.read(split, groups[: int(np.searchsorted(ends, rows)) + 1])
    owner = np.repeat(np.arange(len(data.users)), data.counts)[:rows]
    at = {name: column[:rows] for name, column in data.instances.items()}
    at["user"] = data.users[owner]
    reach = np.minimum(at["cut"], longest * front.history)
    steps = np.arange(-max(int(reach.max(initial=0)), 1), 0)
    cuts = data.offsets[owner] + at["cut"]
    where = np.where(steps >= -reach[:, None], cuts[:, None] + steps, -1)  # [B, L]
    behaviours = {name: np.append(column, -1)[where] for name, column in data.behaviours.items()}
    own = "user_row" if "user_row" in at else "user"
    raw, now = {}, {f.name for f in front.now}
    for key, f in front.inputs.items():
        source = at if key in now else behaviours
        if f.group in ("context", "behaviour"):
            raw[key] = unmapped(store, f, np.maximum(source[f.name], PADDING)).tolist()
        else:
            row = source[own if f.group == "profile" else "item"]
            raw[key] = dims_values(store, f, row).tolist()
    return raw


def example(front: Front, raw: Mapping[str, list], row: int) -> bytes:
    """One row of ``requests`` as a serialized ``tf.Example``, without its padding."""
    real = slice(None)
    if front.past:
        ids = np.array(raw[history_name(front.past[0].name)][row], object)
        real = (ids.reshape(len(ids), -1) != front.missing(front.past[0])).any(-1)
    now = {f.name for f in front.now}
    features = {}
    for key, f in front.inputs.items():
        values = np.array(raw[key][row], object)
        values = values[values != front.missing(f)] if key in now else values[real]
        flat = values.ravel().tolist()
        if key in now and not flat:
            continue  # missing is left out: an empty list is no single value
        if front.dtype(f) == tf.string:
            text = tf.train.BytesList(value=[v.encode() for v in flat])
            features[key] = tf.train.Feature(bytes_list=text)
        else:
            features[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=flat))
    made = tf.train.Example(features=tf.train.Features(feature=features))
    return made.SerializeToString(deterministic=True)


def of_user(front: Front, raw: dict[str, list], row: int, candidates: slice) -> dict[str, list]:
    """``candidates``'s inputs: the user of a row of ``requests``, the candidates of others."""
    found = {}
    for key, f in front.inputs.items():
        if key != f.name:
            found[key] = raw[key][row]
        elif f.group == "profile":
            found[key] = raw[key][row] if f.length else raw[key][row : row + 1]
        else:
            found[key] = raw[key][candidates]
    return found


def dims_values(store: Store, feature: Feature, rows: np.ndarray) -> np.ndarray:
    """Raw values [...] or [..., length] of dims rows of a profile or item feature.

    Row -1 has none; a missing value is that of ``MISSING``.
    """
    missing = MISSING[store.schema.table(feature.table).dtype]
    file = "user" if feature.group == "profile" else "item"
    column = pq.read_table(store.path / "dims" / f"{file}.parquet", columns=[feature.name])
    values = column.column(0).take(pa.array(np.maximum(rows, 0).ravel())).to_pylist()
    found = np.full((rows.size, feature.length or 1), missing, object)
    for i, (row, value) in enumerate(zip(rows.ravel(), values, strict=True)):
        several = [value] if feature.length is None else value or []
        if row >= 0:
            for place, one in enumerate(several[: found.shape[1]]):
                found[i, place] = missing if one is None else one
    return found.reshape(rows.shape + (() if feature.length is None else (feature.length,)))


def unmapped(store: Store, feature: Feature, ids: np.ndarray) -> np.ndarray:
    """A value of the log for every model id of a context or behaviour feature. [...] -> [...]."""
    missing = MISSING[store.schema.table(feature.table).dtype]
    found = pq.read_table(store.values_path(feature.name)).to_pydict()
    known = dict(zip(found["id"], found["raw"], strict=True)) | {PADDING: missing}
    return np.array([known[i] for i in ids.ravel().tolist()], object).reshape(ids.shape)
