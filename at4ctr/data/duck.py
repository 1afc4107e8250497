"""DuckDB as the engine of preparation: named SQL steps, strict CSV reading, one-sentence errors.

What another engine would do in its own way is here; the steps themselves are portable SQL.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import duckdb
import pyarrow as pa

from at4ctr.data.sampling import PRIME
from at4ctr.errors import InputError

INTEGERS = {"BIGINT": "a whole number", "INTEGER": "a whole number", "DOUBLE": "a number"}


class Engine:
    """A scratch database in a folder; a context manager that closes it.

    folder: holds the database and what is spilled; its owner deletes it.
    memory: bytes that DuckDB may hold; beyond it spills to the folder.
    threads: 0 for one per core.
    """

    def __init__(self, folder: Path, memory: int = 4 << 30, threads: int = 0) -> None:
        self.folder = folder
        self.memory = memory
        self.threads = threads or os.cpu_count() or 1
        self.connection: duckdb.DuckDBPyConnection = duckdb.connect(str(folder / "scratch.duckdb"))
        for setting in (
            f"memory_limit = '{memory >> 20}MiB'",
            f"threads = {self.threads}",
            f"temp_directory = '{quoted(str(folder / 'spill'))}'",
            "preserve_insertion_order = false",
            "enable_progress_bar = false",
            "TimeZone = 'UTC'",
        ):
            self.connection.execute(f"SET {setting}")

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.connection.close()

    def run(self, step: str, sql: str) -> int:
        """Executes one statement; prints a line with its name, rows and seconds; returns rows.

        Raises InputError where the disk or the memory limit is the reason of a failure.
        """
        begin = time.monotonic()
        rows = self._execute(step, sql)
        report(step, rows, time.monotonic() - begin)
        return rows

    def each(self, step: str, ranges: Sequence[tuple[int, int]], sql: Callable[[str], str]) -> int:
        """Executes a statement range by range, as one step: ``sql('BETWEEN a AND b')``."""
        begin, rows = time.monotonic(), 0
        for number, (first, last) in enumerate(ranges):
            bar(step, number / len(ranges))
            rows += self._execute(step, sql(f"BETWEEN {first} AND {last}"))
        report(step, rows, time.monotonic() - begin)
        return rows

    def _execute(self, step: str, sql: str) -> int:
        with self._guarded(step):
            found = self.connection.execute(sql).fetchall()
        return int(found[0][0]) if found and isinstance(found[0][0], int) else 0

    @contextmanager
    def _guarded(self, step: str) -> Iterator[None]:
        try:
            yield
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            raise InputError(
                f"preparation step {step!r} failed for want of memory ({self.memory >> 20} MiB) "
                f"or disk in {self.folder}: {first_line(error)}; free some space or allow more "
                "memory"
            ) from error

    def one(self, sql: str) -> tuple[Any, ...]:
        """The first row of a query."""
        with self._guarded("query"):
            return next(iter(self.connection.execute(sql).fetchall()), ())

    def arrow(self, sql: str) -> pa.Table:
        """A query's result, in the order the query asks for."""
        with self._guarded("fetch"):
            return self.connection.sql(sql).to_arrow_table()

    def register(self, table: str, data: pa.Table) -> None:
        """Makes a table of an Arrow table."""
        self.connection.register("given", data)
        self.connection.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM given")
        self.connection.unregister("given")

    def drop(self, table: str) -> None:
        """Drops a relation that `read_csv` made, to free its space."""
        self.connection.execute(f"DROP VIEW {table}")
        self.connection.execute(f"DROP TABLE {table}_lines")

    @staticmethod
    def key(column: str, dtype: str) -> str:
        """SQL of a raw id's key word in 0 .. 2^31-2, from the id alone.

        Integers modulo p; of strings, the first 48 bits of their MD5 modulo p.
        """
        if dtype == "int64":
            return f"(({column}) % {PRIME} + {PRIME}) % {PRIME}"
        return f"(('0x' || substr(md5({column}), 1, 12))::BIGINT % {PRIME})"

    def read_csv(
        self,
        table: str,
        path: Path,
        columns: Mapping[str, str],
        *,
        delimiter: str = ",",
        header: bool = False,
        quote: str = "",
    ) -> int:
        """Makes ``table`` with typed ``columns`` and ``ord``, the 0-based row order of the file.

        path: a ``.csv`` or ``.csv.gz``. columns: name -> BIGINT, DOUBLE or VARCHAR, in the order
        of the file. header: whether the first line must be, or must not be, the names.
        Every row must have every column; an empty field is only legal in a VARCHAR, and a decimal
        fraction in a BIGINT is rounded.
        Raises InputError with file and line for anything else. Returns the number of rows.
        """
        check_file(path)
        _check_first_line(path, columns, delimiter, header, quote)
        types = ", ".join(f"'{quoted(name)}': '{kind}'" for name, kind in columns.items())
        begin = time.monotonic()
        reading = (
            f"read_csv('{quoted(str(path))}', auto_detect=false, header={header}, "
            f"delim='{delimiter}', quote='{quote}', escape='{quote}', nullstr='\x01', "
            f"columns={{{types}}})"
        )
        self._lines(f"{table}_lines", path, reading)
        self.connection.execute(f"CREATE VIEW {table} AS SELECT *, rowid AS ord FROM {table}_lines")
        rows = int(self.one(f"SELECT count(*) FROM {table}_lines")[0])
        report(f"read {path.name}", rows, time.monotonic() - begin)
        if not rows:
            raise InputError(f"{path} holds no row; expected a log; put the complete file there")
        return rows

    def _lines(self, table: str, path: Path, reading: str) -> None:
        """Makes a table whose rows are in the order of the file."""
        try:
            self.connection.execute("SET preserve_insertion_order = true")
            self.connection.execute(f"CREATE TABLE {table} AS SELECT * FROM {reading}")
        except duckdb.OutOfMemoryException:
            with self._guarded(f"read {path.name}"):
                raise
        except duckdb.Error as error:
            raise _csv_error(path, error) from error
        finally:
            self.connection.execute("SET preserve_insertion_order = false")


def quoted(text: str) -> str:
    """Text for between single quotes in SQL."""
    return text.replace("'", "''")


def name(column: str) -> str:
    """A column's name in SQL."""
    return '"' + column.replace('"', '""') + '"'


def report(step: str, rows: int, seconds: float) -> None:
    """One line on stderr about a finished step."""
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{clear}prepare: {step:<24} {rows:>13,} rows {seconds:8.1f} s", file=sys.stderr)


def bar(step: str, share: float) -> None:
    """How far a step is, on a terminal only."""
    if sys.stderr.isatty():
        full = int(share * 30)
        print(f"\r\x1b[K{step:<24} [{'=' * full}{' ' * (30 - full)}]", end="", file=sys.stderr)


def first_line(error: Exception) -> str:
    """An engine's message without its advice."""
    return str(error).strip().splitlines()[0].rstrip(".")


def check_file(path: Path) -> None:
    """Raises InputError for a raw file that is missing or empty."""
    if not path.is_file():
        raise InputError(f"raw log {path} does not exist; expected a file; put it there")
    if path.stat().st_size == 0:
        raise InputError(
            f"raw log {path} is empty (0 bytes); expected a log; put the complete file there"
        )


def open_text(path: Path) -> IO[str]:
    """Opens a text file, compressed or not."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="")
    return path.open(encoding="utf-8", errors="replace", newline="")


def _check_first_line(
    path: Path, columns: Mapping[str, str], delimiter: str, header: bool, quote: str
) -> None:
    try:
        with open_text(path) as file:
            line = file.readline(1 << 16).rstrip("\r\n").lstrip("\ufeff")
    except (OSError, EOFError) as error:
        raise InputError(
            f"{path} is not a readable gzip file ({error}); expected the complete download; "
            "fetch it again"
        ) from error
    if quote:
        found = next(csv.reader([line], delimiter=delimiter, quotechar=quote), [])
    else:
        found = line.split(delimiter)
    names = ",".join(columns)
    if len(found) != len(columns):
        raise InputError(
            f"{path} line 1 has {len(found)} column(s) separated by {delimiter!r} ({line[:80]!r}); "
            f"expected {len(columns)} ({names}); convert the file to that delimiter and order"
        )
    if header and found != list(columns):
        raise InputError(
            f"{path} line 1 is {line[:80]!r}; expected the header {names!r}; put it back"
        )
    numeric = [value for value, kind in zip(found, columns.values(), strict=True)
               if kind != "VARCHAR"]  # fmt: skip
    if not header and numeric and not any(re.search(r"\d", value) for value in numeric):
        raise InputError(
            f"{path} line 1 is a header ({line[:80]!r}); expected the first row of the log, as the "
            "file has no header; delete the line"
        )


def _csv_error(path: Path, error: duckdb.Error) -> InputError:
    text = str(error)
    line = re.search(r"Line: (\d+)", text)
    where = f"{path} line {line[1]}" if line else f"{path}"
    count = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
    if count:
        return InputError(
            f"{where} has {count[2]} column(s); expected {count[1]}; correct or delete the line"
        )
    value = re.search(
        r'converting column "(.*?)". Could not convert string "(.*?)" to \'(\w+)', text
    )
    if value:
        kind = INTEGERS.get(value[3], value[3])
        return InputError(
            f"{where} has {value[2]!r} in column {value[1]!r}; expected {kind}; "
            "correct or delete the line"
        )
    if "gzip" in text.lower() or "compress" in text.lower():
        return InputError(
            f"{path} is not a complete gzip file ({first_line(error)}); expected the whole "
            "download; fetch it again"
        )
    return InputError(f"{where} cannot be read as CSV ({first_line(error)}); correct the file")
