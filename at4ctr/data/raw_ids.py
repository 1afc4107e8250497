"""Which raw ids requests can name: the others are refused where a log is prepared.

``MISSING`` stands for a missing value in requests. A vocabulary file holds one id a line, and
TensorFlow drops carriage returns from its lines; a NUL ends a text in C; JSON is UTF-8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from at4ctr.schema import MISSING, Table

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

BREAKS = "\n\r\0"
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
    surrogate = any("\ud800" <= mark <= "\udfff" for mark in value)
    return value == MISSING["string"] or surrogate or any(mark in value for mark in BREAKS)


def first_unnameable(table: Table, values: list[int | str]) -> str:
    """What is wrong with the first id of a table that requests cannot name; empty if none is."""
    found = next((value for value in values if unnameable(value)), None)
    if found is None:
        return ""
    expected = EXPECTED[table.dtype]
    return f"table {table.name!r} has the id {found!r}; expected {expected}"
