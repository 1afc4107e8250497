"""Which raw ids requests can name: the others are refused where a log is prepared.

``MISSING`` stands for a missing value in requests. A vocabulary file holds one id a line, and
TensorFlow drops carriage returns from its lines; a NUL ends a text in C; JSON is UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from at4ctr.data.engines.base import name
from at4ctr.data.engines.csv_file import line_at
from at4ctr.errors import InputError
from at4ctr.schema import MISSING, Table

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

BREAKS = "\n\r\0"
BROKEN = re.compile(f"[{BREAKS}\ud800-\udfff]")  # with halves of a pair, which UTF-8 cannot hold
EXPECTED = {
    "int64": f"a whole number (of at most 64 bits) other than {MISSING['int64']}, which stands for "
    "a missing value in requests",
    "string": "UTF-8 text of one line without NUL",
}


def unnameable_sql(engine: Engine, value: str, dtype: str) -> str:
    """SQL of whether a value of a table's dtype cannot be an id; it may be NULL for NULL."""
    if dtype == "int64":
        return f"{value} = {MISSING['int64']}"
    broken = " OR ".join(f"contains({value}, chr({ord(mark)}))" for mark in BREAKS)
    return f"({broken} OR {engine.undecodable(value)})"


def unnameable(value: int | str) -> bool:
    """Whether a raw value cannot be an id."""
    if isinstance(value, int):
        return value == MISSING["int64"]
    return value == MISSING["string"] or BROKEN.search(value) is not None


def demand_nameable(
    engine: Engine,
    relation: str,
    path: Path,
    columns: Mapping[str, str],
    *,
    header: bool = False,
    quote: str = "",
) -> None:
    """Raises InputError, with file and line, for an id in the rows of a CSV file that is none.

    columns: of the relation, which holds that file alone, and their dtypes.
    """
    for column, dtype in columns.items():
        wrong = unnameable_sql(engine, name(column), dtype)
        bad = engine.one(
            f"SELECT ord, {name(column)} FROM {relation} WHERE {wrong} ORDER BY ord LIMIT 1"
        )
        if bad:
            line, _ = line_at(path, bad[0], header=header, quote=quote)
            raise InputError(
                f"{path} line {line} has {bad[1]!r} in column {column!r}; expected "
                f"{EXPECTED[dtype]}; correct or delete the line"
            )


def demand_all_nameable(table: Table, values: Iterable[Any]) -> None:
    """Raises InputError for a value of a table that no check of its file has found."""
    found = next((value for value in values if unnameable(value)), None)
    if found is not None:
        raise InputError(
            f"the log has {found!r} as an id of table {table.name!r}; expected "
            f"{EXPECTED[table.dtype]}; correct the log or how the dataset loads it"
        )
