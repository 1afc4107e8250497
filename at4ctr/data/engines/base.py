"""What runs the SQL of preparation: `duck` on this machine, `spark` on a cluster.

The steps are written in the SQL that both have: standard statements, and ``::`` casts, ``min_by``
over a row of values, ``FILTER (WHERE …)``, ``IS NOT DISTINCT FROM``, ``GROUP BY ALL``, ``STRING``
for text and double quotes for names; ``* EXCLUDE (…)`` is translated for Spark. Statements begin
with ``CREATE TABLE t AS``, ``CREATE VIEW t AS``, ``INSERT INTO t``, ``DROP TABLE t``, ``DROP VIEW
t`` or ``ALTER TABLE a RENAME TO b``. Where the engines' SQL differs, `Engine` has a method.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import pyarrow as pa

from at4ctr.data.engines.csv_file import WHOLE
from at4ctr.errors import InputError

T = TypeVar("T")
Write = Callable[[int, pa.Table, pa.Table], T]
Name = Literal["duckdb", "spark"]
NAMES: tuple[Name, ...] = ("duckdb", "spark")


class Engine(ABC):
    """A scratch database in a folder; a context manager that closes it.

    folder: holds what is made; its owner deletes it.
    dropped: how many rows of the raw log were left out, by reason, in order; `Options.load` fills
        it, and it goes into the manifest.
    notes: sentences for the manifest that `Options.load` adds to those of its source.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dropped: dict[str, int] = {}
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, step: str, sql: str) -> int:
        """Executes one statement; prints a line with its name, rows and seconds; returns rows.

        Raises InputError where the disk or the memory limit is the reason of a failure.
        """
        begin = time.monotonic()
        rows = self.statement(step, sql)
        report(step, rows, time.monotonic() - begin)
        return rows

    def execute(self, sql: str) -> None:
        """Executes a statement that is no step of its own."""
        self.statement("statement", sql)

    def one(self, sql: str) -> tuple[Any, ...]:
        """The first row of a query; () where there is none."""
        return next(iter(self.rows(sql)), ())

    def replace(self, table: str, query: str) -> None:
        """Puts a query's rows, which may be of the table itself, in a table's place."""
        self.execute(f"CREATE TABLE replaced AS {query}")
        self.execute(f"DROP TABLE {table}")
        self.execute(f"ALTER TABLE replaced RENAME TO {table}")

    def linked(self, path: Path) -> Path:
        """A link to a file, in the folder: readers do not accept every character in a name."""
        link = self.folder / f"file-{len(list(self.folder.glob('file-*')))}{path.suffix}"
        link.symlink_to(path.resolve())
        return link

    def whole(self, text: str) -> str:
        """SQL of a text as BIGINT; NULL where it is not written as a whole number."""
        return f"CASE WHEN {self.matches(text, WHOLE)} THEN try_cast({text} AS BIGINT) END"

    @property
    @abstractmethod
    def failures(self) -> tuple[type[Exception], ...]:
        """The exceptions of a statement that the engine refuses."""

    @abstractmethod
    def close(self) -> None:
        """Ends the engine."""

    @abstractmethod
    def statement(self, step: str, sql: str) -> int:
        """Executes one statement; returns the rows it made. `step` is named in errors."""

    @abstractmethod
    def each(self, step: str, ranges: Sequence[tuple[int, int]], sql: Callable[[str], str]) -> int:
        """Executes a statement range by range, as one step: ``sql('BETWEEN a AND b')``.

        The ranges bound one machine's memory; they are contiguous, and an engine may join them.
        """

    @abstractmethod
    def ranked(self, step: str, table: str, query: str, order: str, first: int) -> int:
        """Makes ``table``: a query's rows with ``id``, their place in the order, from `first` on.

        order: SQL of a total order. No task of a cluster sorts all rows.
        """

    @abstractmethod
    def parts(
        self,
        ranges: Sequence[tuple[int, int]],
        behaviours: tuple[str, str],
        instances: tuple[str, str],
        write: Write[T],
    ) -> list[T]:
        """What `write` returns for each range: of its number and of the rows of two queries.

        behaviours, instances: a query with the column ``"user"``, by which rows belong to a range,
            and the names of the columns that its rows are ordered by.
        write: picklable, as a cluster writes parts where their rows are.
        """

    @abstractmethod
    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""

    @abstractmethod
    def arrow(self, sql: str) -> pa.Table:
        """A query's result, in the order the query asks for."""

    @abstractmethod
    def described(self, query: str) -> list[str]:
        """The columns of a query, which is not run; one of `failures` where it is refused."""

    @abstractmethod
    def columns(self, table: str) -> list[str]:
        """The columns of a table or view; none where there is no such."""

    @abstractmethod
    def register(self, table: str, data: pa.Table) -> None:
        """Makes a table of an Arrow table."""

    @abstractmethod
    def read_csv(
        self,
        table: str,
        path: Path,
        columns: Mapping[str, str],
        *,
        delimiter: str = ",",
        header: bool = False,
        quote: str = "",
        order: str = "ord",
        empty: bool = False,
    ) -> int:
        """Makes ``table`` with typed ``columns`` and `order`, the 0-based row order of the file.

        order: a name that no column has. empty: whether a file may have a header and no row.
        path: a ``.csv`` or ``.csv.gz``; its name is never a glob. columns: name -> BIGINT
            or STRING, in the order of the file. header: whether the first line must be, or must
            not be, the names.
        Every row must have every column; an empty field is only legal in a STRING, and a BIGINT
        must be written as a whole number. Blank lines are skipped, and counted in line numbers.
        Raises InputError with file and line for anything else, and where the rows are not those
        of the file. Returns the number of rows.
        """

    @abstractmethod
    def read_parquet(self, table: str, path: Path, *, order: str = "ord") -> list[str]:
        """Makes ``table`` of a Parquet file's columns and of `order`, a name that none of them has.

        Returns the columns' names.

        Raises InputError where it has not as many rows as the file says.
        """

    @abstractmethod
    def drop(self, table: str) -> None:
        """Drops a relation that `read_csv` or `read_parquet` made, to free its space."""

    @staticmethod
    @abstractmethod
    def key(column: str, dtype: str) -> str:
        """SQL of a raw id's key word in 0 .. 2^31-2, from the id alone.

        Integers modulo p; of strings, the first 48 bits of their MD5 modulo p.
        """

    @staticmethod
    @abstractmethod
    def matches(text: str, pattern: str) -> str:
        """SQL of whether all of a text is as a regular expression says."""

    @staticmethod
    @abstractmethod
    def consists_of(text: str, element: str, mark: str) -> str:
        """SQL of whether a text is elements with a mark between them; both are expressions."""

    @staticmethod
    @abstractmethod
    def elements(lists: Mapping[str, str]) -> str:
        """Terms of a SELECT that make a row of each element of equally long lists.

        lists: name of an element -> SQL of the list. ``place`` is the element's, from 1. No list
            and an empty one make no row.
        """

    @staticmethod
    @abstractmethod
    def texts(sql: str, kind: str, missing: Sequence[str] = ("",)) -> str:
        """SQL of a list's elements but for the ``missing`` texts, as BIGINT or STRING."""

    @staticmethod
    @abstractmethod
    def mapped(sql: str, value: Callable[[str], str]) -> str:
        """SQL of the list of the values of an SQL expression, one of each element."""

    @staticmethod
    @abstractmethod
    def some(sql: str, holds: Callable[[str], str]) -> str:
        """SQL of whether an SQL condition holds for any element of a list."""

    @staticmethod
    @abstractmethod
    def heaviest(ids: str, weights: str, most: int) -> tuple[str, str]:
        """SQL of the `most` ids of largest weight, and of their weights.

        ids, weights: SQL of equally long lists. The order is by weight, then by id, descending.
        """

    @staticmethod
    @abstractmethod
    def failing(sql: str) -> str:
        """SQL of whether an expression cannot be computed, where an engine's SQL can say so."""

    @staticmethod
    @abstractmethod
    def undecodable(text: str) -> str:
        """SQL of whether a text has bytes that are no UTF-8, where an engine reads such."""

    @staticmethod
    @abstractmethod
    def typed_seconds(sql: str, kind: str) -> tuple[str, bool] | None:
        """SQL of a date or time stamp as whole seconds, and whether it is an instant and no local
        time. kind: by ``typeof``; None for other kinds."""

    @staticmethod
    @abstractmethod
    def civil_seconds(text: str) -> str:
        """SQL of a text such as 2018-10-20 09:57:43 as seconds, in UTC; NULL of others."""

    @staticmethod
    @abstractmethod
    def zoned_seconds(text: str, zone: str) -> str:
        """SQL of such a text as seconds, given an SQL of its zone's name; NULL of unknown zones.

        Where clocks are set back, a time that occurs twice is the first one. Where they are set
        forward, a time that is skipped is taken as if the clocks had not been set.
        """

    @staticmethod
    @abstractmethod
    def day(text: str) -> str:
        """SQL of a text such as 11/30/2000 as seconds since 1970; NULL where it is no such day."""

    @staticmethod
    @abstractmethod
    def quotient(number: str, divisor: int) -> str:
        """SQL of ⌊number / divisor⌋ of a BIGINT that is not negative."""


def quoted(text: str) -> str:
    """Text for between single quotes in SQL."""
    return text.replace("'", "''")


def report_span(what: str, rows: int, first: int | None, last: int | None) -> str:
    """A sentence on stderr, which it returns: from when to when some rows are."""
    moments = " to ".join(
        "none" if s is None else f"{datetime.fromtimestamp(s, UTC):%Y-%m-%d %H:%M:%S}"
        for s in (first, last)
    )
    found = f"{what} has {rows:,} rows of {moments} UTC"
    print(f"prepare: {found}", file=sys.stderr)
    return found


def listed(texts: Sequence[str]) -> str:
    """Texts for between the parentheses of IN in SQL."""
    return ", ".join(f"'{quoted(text)}'" for text in texts)


def name(column: str) -> str:
    """A column's name in SQL."""
    return '"' + column.replace('"', '""') + '"'


def report(step: str, rows: int, seconds: float) -> None:
    """One line on stderr about a finished step."""
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{clear}prepare: {step:<24} {rows:>13,} rows {seconds:8.1f} s", file=sys.stderr)


def announce(notes: Iterable[str]) -> None:
    """A line on stderr about each note for the manifest."""
    for note in notes:
        print(f"prepare: {note}", file=sys.stderr)


def bar(step: str, share: float) -> None:
    """How far a step is, on a terminal only."""
    if sys.stderr.isatty():
        full = int(share * 30)
        print(f"\r\x1b[K{step:<24} [{'=' * full}{' ' * (30 - full)}]", end="", file=sys.stderr)


def refuse_field(path: Path, line: int, value: str, column: str) -> InputError:
    """The error for a text where a whole number must be."""
    return InputError(
        f"{path} line {line} has {value!r} in column {column!r}; expected "
        "a whole number (of at most 64 bits); correct or delete the line"
    )
