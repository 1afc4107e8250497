"""CSV by Spark, with the checks and the error messages of `duck`, but for two.

Bytes that are no UTF-8 are found by U+FFFD, which Spark puts in their place. So text that has
U+FFFD in it is refused too. And a file with two kinds of line ends is read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from at4ctr.data.engines.base import name, refuse_field, report
from at4ctr.data.engines.csv_file import (
    check_file,
    check_first_line,
    demand_rows,
    first_line,
    line_at,
    rows_held,
)
from at4ctr.data.engines.spark import literal
from at4ctr.errors import InputError

if TYPE_CHECKING:
    from at4ctr.data.engines.spark import Engine

LOST = "\ufffd"  # what stands for bytes that are no UTF-8
BAD = "_malformed"  # the line, where it has too few or too many columns


def read(
    engine: Engine,
    table: str,
    path: Path,
    columns: Mapping[str, str],
    delimiter: str,
    header: bool,
    quote: str,
    order: str,
    *,
    empty: bool,
) -> int:
    """Makes ``table`` as `Engine.read_csv` says; its number of rows.

    The tasks read the blocks of one file in its order, so a row's place among the rows of its task
    and of those before gives `order`. A file of quoted text, which may hold line breaks, and a
    ``.gz`` are one block.
    """
    from pyspark.sql.types import StringType, StructField, StructType

    check_file(path)
    check_first_line(path, columns, delimiter, header, quote)
    held, exactly = rows_held(path, header=header)
    begin = time.monotonic()
    own = [f"c{number}" for number in range(len(columns))]  # none of them is called place
    frame = engine.spark.read.csv(
        literal(engine.linked(path)),
        schema=StructType([StructField(c, StringType()) for c in (*own, BAD)]),
        columnNameOfCorruptRecord=BAD,
        sep=delimiter,
        header=header,
        quote=quote,
        escape=quote or "\0",
        nullValue="\x01",
        multiLine=bool(quote),
        maxCharsPerColumn=-1,
    )
    frame.createOrReplaceTempView("csv_lines")
    typed = ", ".join(_typed(engine, c, k) for c, k in zip(own, columns.values(), strict=True))
    try:
        numbers, rows = engine.numbered(table, f"SELECT {typed}, {BAD} FROM csv_lines", 0)
    except engine.failures as error:
        raise _error(path, str(error)) from error
    if not (rows or empty):
        raise InputError(f"{path} holds no row; expected a log; put the complete file there")
    wrong = [f"{c} IS NULL OR contains({c}::STRING, '{LOST}')" for c in own]
    bad = engine.one(
        f"SELECT place, {BAD}, {', '.join(own)} FROM ({numbers}) n "
        f"WHERE {BAD} IS NOT NULL OR {' OR '.join(wrong)} ORDER BY place LIMIT 1"
    )
    if bad:
        raise _refused(path, columns, bad, delimiter, header, quote)
    demand_rows(path, rows, held if exactly else min(rows, held))
    shown = "".join(f"{c} AS {name(column)}, " for c, column in zip(own, columns, strict=True))
    engine.execute(f"CREATE VIEW {table} AS SELECT {shown}place AS {order} FROM ({numbers}) n")
    report(f"read {path.name}", rows, time.monotonic() - begin)
    return rows


def _typed(engine: Engine, column: str, kind: str) -> str:
    text = f"coalesce({name(column)}, '')"  # Spark reads nothing as NULL
    return f"{engine.whole(text) if kind == 'BIGINT' else text} AS {name(column)}"


def _refused(
    path: Path, columns: Mapping[str, str], bad: tuple, delimiter: str, header: bool, quote: str
) -> InputError:
    line, fields = line_at(path, bad[0], delimiter=delimiter, header=header, quote=quote)
    if bad[1] is not None and len(fields) != len(columns):
        return InputError(
            f"{path} line {line} has {len(fields)} column(s); expected {len(columns)}; correct or "
            "delete the line"
        )
    if None in bad[2:]:
        at = bad[2:].index(None)
        return refuse_field(path, line, fields[at], list(columns)[at])
    return InputError(f"{path} line {line} is not UTF-8; expected UTF-8 text; convert the file")


def _error(path: Path, message: str) -> InputError:
    if path.suffix == ".gz":
        return InputError(
            f"{path} is not a complete gzip file ({first_line(message)}); expected the whole "
            "download; fetch it again"
        )
    return InputError(
        f"{path} cannot be read as CSV ({first_line(message)}); expected one row a line; "
        "correct the file"
    )
