"""Requests in raw values of the log, made from a store's dims, sequences and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from at4ctr.data.dataset import Split
from at4ctr.data.store import Store
from at4ctr.schema import MISSING, PADDING, Feature, Number, history_name
from export.lookup import Front, Input

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
    raw: dict[str, list] = {}
    for key, given in front.inputs.items():
        of = given.of
        source = behaviours if given.past else at
        if given.aged:
            ages = at["timestamp"][:, None] - behaviours["timestamp"]
            raw[key] = np.where(where < 0, given.missing, ages).tolist()
        elif given.group in ("profile", "item"):
            row = source[own if given.group == "profile" else "item"]
            raw[key] = dims_values(store, given, row).tolist()
        elif isinstance(of, Number):
            raw[key] = [float(str(value)) for value in source[of.name]]  # its shortest decimals
        else:
            raw[key] = unmapped(store, of, np.maximum(source[of.name], PADDING)).tolist()
    return raw


def example(front: Front, raw: Mapping[str, list], row: int) -> bytes:
    """One row of ``requests`` as a serialized ``tf.Example``, without its padding."""
    real: Any = slice(None)
    if front.past:
        known = _known(front, raw, history_name(front.past[0].name), row)
        real = known.reshape(len(known), -1).any(-1)
    features = {}
    for key, given in front.inputs.items():
        values = np.array(raw[key][row], object)
        if given.past:
            values = values[real]
        else:  # a weight is there where its value is
            values = values[_known(front, raw, given.of.name if given.weighs else key, row)]
        flat = values.ravel().tolist()
        if flat or given.past:  # missing is left out: an empty list is no single value
            features[key] = _feature(flat, given.dtype)
    made = tf.train.Example(features=tf.train.Features(feature=features))
    return made.SerializeToString(deterministic=True)


def _known(front: Front, raw: Mapping[str, list], key: str, row: int) -> np.ndarray:
    """Which values of an input are there."""
    values, missing = np.array(raw[key][row], object), front.inputs[key].missing
    return (values != missing) & (values == values)  # NaN is not itself


def _feature(values: list, dtype: tf.DType) -> tf.train.Feature:
    if dtype == tf.string:
        text = tf.train.BytesList(value=[v.encode() for v in values])
        return tf.train.Feature(bytes_list=text)
    if dtype.is_floating:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def of_user(front: Front, raw: dict[str, list], row: int, candidates: slice) -> dict[str, list]:
    """``candidates``'s inputs: the user of a row of ``requests``, the candidates of others."""
    found = {}
    for key, given in front.inputs.items():
        if given.past:
            found[key] = raw[key][row]
        elif given.group == "profile":
            found[key] = raw[key][row] if given.length else raw[key][row : row + 1]
        else:
            found[key] = raw[key][candidates]
    return found


def dims_values(store: Store, given: Input, rows: np.ndarray) -> np.ndarray:
    """Raw values [...] or [..., length] of dims rows of an input of profile or item.

    Row -1 has none; a missing value is ``given.missing``, and its weight 0.
    """
    missing = 0.0 if given.weighs else given.missing
    file = "user" if given.group == "profile" else "item"
    name = given.name if given.weighs else given.of.name
    column = pq.read_table(store.path / "dims" / f"{file}.parquet", columns=[name])
    values = column.column(0).take(pa.array(np.maximum(rows, 0).ravel())).to_pylist()
    found = np.full((rows.size, given.length or 1), missing, object)
    for i, (row, value) in enumerate(zip(rows.ravel(), values, strict=True)):
        several = [value] if given.length is None else value or []
        if row >= 0:
            for place, one in enumerate(several[: found.shape[1]]):
                found[i, place] = missing if one is None else one
    return found.reshape(rows.shape + (() if given.length is None else (given.length,)))


def unmapped(store: Store, feature: Feature, ids: np.ndarray) -> np.ndarray:
    """A value of the log for every model id of a context or behaviour feature. [...] -> [...]."""
    missing = MISSING[store.schema.table(feature.table).dtype]
    found = pq.read_table(store.values_path(feature.name)).to_pydict()
    known = dict(zip(found["id"], found["raw"], strict=True)) | {PADDING: missing}
    return np.array([known[i] for i in ids.ravel().tolist()], object).reshape(ids.shape)
