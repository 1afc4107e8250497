"""Turns columns of a table into a version's inputs: types, missing values and padding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from at4ctr.errors import InputError
from at4ctr.schema import AGES
from export.scoring.version import Column, Version

KINDS = {"int64": pa.int64(), "string": pa.string(), "float32": pa.float64()}
LARGEST = 2**63 - 1
WANTED = {"int64": "whole numbers", "string": "texts", "float32": "numbers"}
WRITE = {"int64": "-1 (a missing id)", "string": '"" (a missing id)', "float32": "NaN"}


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a file. first: the number of the first one, from 1, for errors."""

    table: pa.Table
    file: str
    first: int

    def slice(self, begin: int, count: int) -> Rows:
        """Some of them."""
        return Rows(self.table.slice(begin, count), self.file, self.first + begin)


def demand_type(column: Column, found: pa.DataType, file: str) -> None:
    """Raises InputError unless values of an Arrow type can be an input's."""
    kind, depth = found, 0
    while is_list(kind):
        kind, depth = kind.value_type, depth + 1
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    fits = {
        "int64": pa.types.is_integer(kind),
        "string": pa.types.is_string(kind) or pa.types.is_large_string(kind),
        "float32": pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind),
    }
    if (depth == column.depth and fits[column.kind]) or pa.types.is_null(found):
        return
    raise InputError(
        f"{file}: column {column.name!r} has the type {found}; expected {said(column)}; cast it, "
        "or name another file"
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are lists."""
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def said(column: Column) -> str:
    """The type of an input's column, in words."""
    return "lists of " * column.depth + WANTED[column.kind]


def parsed(column: Column, texts: pa.ChunkedArray, rows: Rows) -> pa.ChunkedArray:
    """A column of a CSV file with the type of its input. Lists are written as JSON. An empty field
    is null, but in a column of texts it is the empty text.

    Raises InputError for the first field that is written otherwise.
    """
    if column.depth:
        every = enumerate(texts.to_pylist())
        made = [_json(column, text, rows, row) if text else None for row, text in every]
        kind = KINDS[column.kind]
        for _ in range(column.depth):
            kind = pa.list_(kind)
        return pa.chunked_array([pa.array(made, kind)])
    if column.kind == "string":
        return texts
    given = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    try:
        return given.cast(KINDS[column.kind])
    except pa.ArrowInvalid:
        for row, text in enumerate(given.to_pylist()):
            try:
                pa.scalar(text).cast(KINDS[column.kind])
            except pa.ArrowInvalid:
                _refuse(column, rows, row, repr(text))
        raise


def arrays(version: Version, rows: Rows, *, nulls: bool) -> dict[str, np.ndarray]:
    """Input -> its values in some rows, lists padded with missing values at their ends.

    An input whose column is not there is missing in all rows.

    nulls: whether a null is a missing value, and a null list an empty one.
    Raises InputError, which names the row, for a null without ``nulls``, an infinite number, a
    negative weight, an age below -1, and lists of a row that must be equally long and are not.
    """
    found, lengths = {}, {}
    for name, column in version.inputs.items():
        if name not in rows.table.column_names:
            found[name] = column.absent
            continue
        values = rows.table.column(name).combine_chunks()
        found[name], sizes = _padded(column, values, rows, nulls)
        if sizes is not None:
            lengths[name] = sizes
    for name, column in version.inputs.items():
        if name in lengths:
            like = version.first if column.past else column.weighs
            if like and name != like:
                _demand_as_long(column, lengths[name], like, lengths, rows)
                found[name] = _as_wide(column, found[name], found[like])
    return found


def largest(version: Version, rows: Rows) -> int:
    """How many values the largest padded input of some rows has."""
    size = 0
    for name, column in version.inputs.items():
        if column.depth and name in rows.table.column_names:
            values, cells = rows.table.column(name).combine_chunks(), len(rows.table)
            for _ in range(column.depth):
                if pa.types.is_null(values.type):
                    break
                cells *= pc.max(pc.list_value_length(values)).as_py() or 0
                values = values.flatten()
            size = max(size, cells)
    return size


def _padded(
    column: Column, values: pa.Array, rows: Rows, nulls: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """An input's array, and how long each row's list is; None of one value a row."""
    if values.null_count and not nulls:
        _refuse_null(column, rows, int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))))
    if not column.depth:
        return _leaves(column, values, rows, np.arange(len(values)), nulls), None
    if pa.types.is_null(values.type):
        values = values.cast(pa.list_(pa.null()))
    sizes = _sizes(values)
    owner, inner, flat = np.repeat(np.arange(len(sizes)), sizes), None, values.flatten()
    if column.depth == 2:
        if pa.types.is_null(flat.type):
            flat = flat.cast(pa.list_(pa.null()))
        if flat.null_count and not nulls:
            where = np.argmax(flat.is_null().to_numpy(zero_copy_only=False))
            _refuse_null(column, rows, int(owner[where]))
        inner = _sizes(flat)
        leaves = _leaves(column, flat.flatten(), rows, np.repeat(owner, inner), nulls)
        leaves = _laid_out(leaves, inner, column)
    else:
        leaves = _leaves(column, flat, rows, owner, nulls)
    return _laid_out(leaves, sizes, column), sizes


def _sizes(lists: pa.Array) -> np.ndarray:
    """[N] int64: how long each list is, 0 of null."""
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)


def _laid_out(values: np.ndarray, sizes: np.ndarray, column: Column) -> np.ndarray:
    """[Σ sizes, ...] -> [N, longest, ...], padded with missing values at the end."""
    longest = int(sizes.max(initial=0))
    made = np.full((len(sizes), longest, *values.shape[1:]), column.missing, values.dtype)
    made[np.arange(longest) < sizes[:, None]] = values
    return made


def _leaves(
    column: Column, values: pa.Array, rows: Rows, owner: np.ndarray, nulls: bool
) -> np.ndarray:
    """Values [E] of an input, each of the row that owner [E] names."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if values.null_count and not nulls:
        where = np.argmax(values.is_null().to_numpy(zero_copy_only=False))
        _refuse_null(column, rows, int(owner[where]))
    if pa.types.is_uint64(values.type) and column.kind == "int64":
        beyond = pc.greater(values, pa.scalar(LARGEST, pa.uint64()))
        large = pc.fill_null(beyond, False).to_numpy(zero_copy_only=False)
        if large.any():
            place = int(np.argmax(large))
            _refuse(column, rows, int(owner[place]), str(values[place].as_py()))
    made = pc.fill_null(values.cast(KINDS[column.kind], safe=False), column.missing)
    array = made.to_numpy(zero_copy_only=False)
    wrong = np.zeros(len(array), bool)
    if column.kind == "float32":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        wrong = np.isinf(array) | ((array < 0) if column.weighs else False)
    elif column.name == AGES:
        wrong = array < -1
    if wrong.any():
        place = int(np.argmax(wrong))
        _refuse(column, rows, int(owner[place]), str(values[place].as_py()))
    return array


def _demand_as_long(
    column: Column, found: np.ndarray, like: str, lengths: Mapping[str, np.ndarray], rows: Rows
) -> None:
    """Raises InputError unless each list is as long as that of another input, or empty."""
    expected = lengths.get(like, np.zeros_like(found))
    wrong = (found != expected) & (found != 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{rows.file}, row {rows.first + row}: {column.name} has {found[row]} entries and "
            f"{like} {expected[row]}; expected as many, or none; correct the row"
        )


def _as_wide(column: Column, values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """[B, n, ...] with as many places as another input, missing values at the end."""
    more = like.shape[1] - values.shape[1]
    ends = [(0, 0), (0, max(more, 0)), *([(0, 0)] * (values.ndim - 2))]
    return np.pad(values, ends, constant_values=column.missing)


def _json(column: Column, text: str, rows: Rows, row: int) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if not _fits(column, value, column.depth):
        _refuse(column, rows, row, repr(text))
    return value


def _fits(column: Column, value: Any, depth: int) -> bool:
    if value is None:
        return True
    if depth:
        return isinstance(value, list) and all(_fits(column, v, depth - 1) for v in value)
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) > LARGEST):
        return False
    types = {"int64": (int,), "string": (str,), "float32": (int, float)}[column.kind]
    return isinstance(value, types)


def _refuse(column: Column, rows: Rows, row: int, found: str) -> NoReturn:
    wanted, example = said(column), ""
    if column.depth and not column.weighs:
        item = '"a"' if column.kind == "string" else "1"
        example = f" ({'[' * column.depth}{item}{']' * column.depth} in CSV)"
    bound = " of at least 0" if column.weighs else ""
    bound = " from -1 on" if column.name == AGES else bound
    finite = "finite " if column.kind == "float32" else ""
    raise InputError(
        f"{rows.file}, row {rows.first + row}: {column.name} is {found}; expected "
        f"{finite}{wanted}{bound}{example}; correct the row"
    )


def _refuse_null(column: Column, rows: Rows, row: int) -> NoReturn:
    raise InputError(
        f"{rows.file}, row {rows.first + row}: {column.name} is null or holds a null; expected "
        f"{said(column)}; write {WRITE[column.kind]}{', or []' if column.depth else ''}, or let "
        'null mean missing with ARGS="--nulls=missing"'
    )
