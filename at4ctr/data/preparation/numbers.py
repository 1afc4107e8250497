"""Statistics of each number over the training rows, for encodings, and the arrays of attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from at4ctr.data.sampling import PRIME
from at4ctr.data.store import flat
from at4ctr.schema import PADDING, Group, Number, Schema

QUANTILES = 257
LARGEST = 0.999  # quantile of |x|
Parts = Iterator[tuple[np.ndarray, np.ndarray]]
ROWS = 2**24  # training rows that are measured; of a longer log a keyed share


def summarise(
    folder: Path,
    schema: Schema,
    files: Sequence[str],
    rows: int,
    attributes: Mapping[str, np.ndarray],
    ids: Mapping[str, np.ndarray],
    versions: bool,
) -> dict[str, dict[str, Any]]:
    """Name -> `contracts.Numbers` as JSON, of the training rows in which a number is known.

    folder: of the store. rows: how many training rows it holds. attributes: values by dims row of
    the numbers of users and items. ids: model ids by dims row of the users' and items' ids.
    versions: instances name their user's row.
    """

    def values(number: Number) -> Parts:
        for at, u31 in _parts(folder, files, number.name, number.group, versions):
            yield (at if number.group == "context" else attributes[number.name][at]), u31

    def similarities(name: str) -> Parts:
        users, items = (np.load(folder / "vectors" / f"{name}.{x}.npy") for x in ("user", "item"))
        of_users = _parts(folder, files, "", "profile", versions)
        for (user, u31), (item, _) in zip(
            of_users, _parts(folder, files, "", "item", versions), strict=True
        ):
            u = users[ids[schema.user_id.name][user]]
            i = items[ids[schema.item_id.name][item]]
            known = u.any(axis=1) & i.any(axis=1)
            yield np.where(known, 1 + (u * i).sum(axis=1), np.nan).astype(np.float32), u31

    found = {n.name: _measured(values(n), rows) for n in schema.numbers}
    return found | {s.name: _measured(similarities(s.name), rows) for s in schema.similarities}


def _measured(parts: Parts, rows: int) -> dict[str, Any]:
    """parts: values and ``u31`` of some training rows. rows: how many they are together."""
    kept, whole = [np.zeros(0, np.float32)], True
    for values, u31 in parts:
        known = ~np.isnan(values)
        whole &= bool((np.floor(values[known]) == values[known]).all())
        if rows > ROWS:
            known &= u31 < PRIME * ROWS // rows
        kept.append(values[known])
    return _summary(np.concatenate(kept).astype(np.float64), whole)


def _summary(values: np.ndarray, whole: bool) -> dict[str, Any]:
    if not len(values):
        return {"quantiles": [], "whole": True, "largest": 0.0}
    quantiles = np.quantile(values, np.linspace(0, 1, QUANTILES)).tolist()
    largest = float(np.quantile(abs(values), LARGEST))
    return {"quantiles": quantiles, "whole": whole, "largest": largest}


def _parts(folder: Path, files: Sequence[str], number: str, group: Group, versions: bool) -> Parts:
    """Of each part, of its training rows: the dims rows of a group, or a context's number; u31."""
    names = {"context": f"train_{number}", "item": "train_item", "profile": "train_user_row"}
    column = names[group]
    if group == "profile" and not versions:
        column = "user"
    for file in files:
        table = pq.read_table(folder / "data" / file, columns=[column, "train_u31"])
        if column == "user":
            sizes = pc.list_value_length(table["train_u31"]).to_numpy()
            at = np.repeat(table["user"].to_numpy(), sizes)
        else:
            at = flat(table[column])
        yield at, flat(table["train_u31"])


def floats(column: pa.ChunkedArray) -> np.ndarray:
    """[N] float32 of a column of numbers; NaN where missing."""
    return column.cast(pa.float64()).to_numpy().astype(np.float32)


def padded(column: pa.ChunkedArray, ids: np.ndarray) -> np.ndarray:
    """[N, length] float32: the weights of several values, 0 where their ids are padding."""
    lists = column.combine_chunks()
    found = np.zeros(ids.shape, np.float32)
    row = pc.list_parent_indices(lists).to_numpy()
    starts = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).fill_null(0).to_numpy())])
    place = np.arange(len(row)) - starts[row]
    fits = place < ids.shape[1]
    found[row[fits], place[fits]] = lists.flatten().to_numpy(zero_copy_only=False)[fits]
    return np.where(ids == PADDING, np.float32(0), found)
