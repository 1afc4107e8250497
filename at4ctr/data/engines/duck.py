"""DuckDB as the engine of preparation: one machine, its memory bounded, the rest on disk."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr import stopping
from at4ctr.data.days import DAY
from at4ctr.data.engines import base as engine
from at4ctr.data.engines.base import T, Write, bar, listed, name, quoted, refuse_field, report
from at4ctr.data.engines.csv_file import (
    WHOLE,
    check_file,
    check_first_line,
    demand_rows,
    error_of,
    first_line,
    line_at,
    rows_held,
)
from at4ctr.data.sampling import PRIME
from at4ctr.errors import InputError

MEMORY = "AT4CTR_MEMORY"  # the environment's variable; commands take --memory
LEAST = 16 << 20  # bytes
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
CGROUP = Path("/sys/fs/cgroup/memory.max")
ROW = "file_row_number"  # DuckDB's name of the number of a Parquet file's row
FULL = re.compile("could not write|no space left|temp_directory_size", re.IGNORECASE)
WORDS = (  # functions of Spark's SQL that a mapping may use
    "CREATE MACRO array_size(list) AS len(list)",
)


def memory() -> int:
    """Bytes that DuckDB may hold; beyond that it spills to disk.

    It is the value of ``AT4CTR_MEMORY``, such as 6GB or 512MiB. Without one it is a quarter of the
    machine's memory or, where that is less, of its control group's.

    Raises InputError for a text that is no size, or one below 16 MiB.
    """
    said = os.environ.get(MEMORY, "").strip()
    if not said:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        group = CGROUP.read_text().strip() if CGROUP.exists() else "max"
        return max((min(found, int(group)) if group.isdigit() else found) // 4, LEAST)
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]i?B|)", said, re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < LEAST:
        raise InputError(
            f"{MEMORY} is {said!r}, the memory of preparation; expected a size of at least 16MiB, "
            "as 6GB; set MEMORY=6GB, or leave it out for a quarter of the machine's"
        )
    return size


def ask_memory(size: str) -> None:
    """Sets ``AT4CTR_MEMORY`` for the preparations of this process; '' leaves it as it is. Raises
    InputError as `memory` does."""
    if size:
        os.environ[MEMORY] = size
    memory()


class Engine(engine.Engine):
    """DuckDB on a database in the folder.

    Raises InputError where the disk or the memory limit is the reason of a failure.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.connection: duckdb.DuckDBPyConnection = duckdb.connect(str(folder / "scratch.duckdb"))
        self.memory = memory()
        for setting in (
            f"memory_limit = '{self.memory >> 20}MiB'",
            f"threads = {os.cpu_count() or 1}",
            f"temp_directory = '{quoted(str(folder / 'spill'))}'",
            "preserve_insertion_order = false",
            "enable_progress_bar = false",
            "TimeZone = 'UTC'",
        ):
            self.connection.execute(f"SET {setting}")
        for word in WORDS:
            self.connection.execute(word)

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        return (duckdb.Error,)

    def close(self) -> None:
        self.connection.close()

    def each(self, step: str, ranges: Sequence[tuple[int, int]], sql: Callable[[str], str]) -> int:
        begin, rows = time.monotonic(), 0
        for number, (first, last) in enumerate(ranges):
            bar(step, number / len(ranges))
            rows += self.statement(step, sql(f"BETWEEN {first} AND {last}"))
        report(step, rows, time.monotonic() - begin)
        return rows

    def ranked(self, step: str, table: str, query: str, order: str, first: int) -> int:
        number = f"(row_number() OVER (ORDER BY {order}) + {first - 1})::INTEGER"
        return self.run(step, f"CREATE TABLE {table} AS SELECT *, {number} AS id FROM ({query}) s")

    def parts(
        self,
        ranges: Sequence[tuple[int, int]],
        behaviours: tuple[str, str],
        instances: tuple[str, str],
        write: Write[T],
    ) -> list[T]:
        found = []
        for number, (first, last) in enumerate(ranges):
            bar("parts", number / len(ranges))
            within = f'WHERE "user" BETWEEN {first} AND {last}'
            tables = (
                self.arrow(f"SELECT * FROM ({query}) q {within} ORDER BY {order}")
                for query, order in (behaviours, instances)
            )
            found.append(write(number, *tables))
        return found

    def statement(self, step: str, sql: str) -> int:
        with self._guarded(step):
            found = self.connection.execute(sql).fetchall()
        return int(found[0][0]) if found and isinstance(found[0][0], int) else 0

    @contextmanager
    def _guarded(self, step: str) -> Iterator[None]:
        try:
            with _interruptible():
                yield
        except duckdb.Error as error:
            if not _starved(error):
                raise
            raise InputError(
                f"preparation step {step!r} failed for want of disk in {self.folder} or of memory "
                f"({self.memory >> 20} MiB): {first_line(str(error))}; free some disk, or set "
                f"{MEMORY}, as {MEMORY}=16GB"
            ) from error

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._guarded("query"):
            return self.connection.execute(sql).fetchall()

    def arrow(self, sql: str) -> pa.Table:
        with self._guarded("fetch"):
            return self.connection.sql(sql).to_arrow_table()

    def described(self, query: str) -> list[str]:
        return [column for column, *_ in self.rows(f"DESCRIBE {query}")]

    def columns(self, table: str) -> list[str]:
        columns = "SELECT column_name FROM information_schema.columns"
        return [c for (c,) in self.rows(f"{columns} WHERE table_name = '{quoted(table)}'")]

    def register(self, table: str, data: pa.Table) -> None:
        self.connection.register("given", data)
        self.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM given")
        self.connection.unregister("given")

    def drop(self, table: str) -> None:
        self.execute(f"DROP VIEW {table}")
        self.execute(f"DROP TABLE IF EXISTS {table}_lines")

    def whole(self, text: str) -> str:
        number = f"try_cast({text} AS BIGINT)"  # most are written as numbers are shown: no need of
        written = f"{number}::STRING = {text} OR {self.matches(text, WHOLE)}"  # the slow pattern
        return f"CASE WHEN {written} THEN {number} END"

    @staticmethod
    def key(column: str, dtype: str) -> str:
        if dtype == "int64":
            return f"(({column}) % {PRIME} + {PRIME}) % {PRIME}"
        return f"(('0x' || substr(md5({column}), 1, 12))::BIGINT % {PRIME})"

    @staticmethod
    def matches(text: str, pattern: str) -> str:
        return f"regexp_full_match({text}, '{quoted(pattern)}')"

    @staticmethod
    def consists_of(text: str, element: str, mark: str) -> str:
        return Engine.matches(text, f"{element}({mark}{element})*")

    @staticmethod
    def elements(lists: Mapping[str, str]) -> str:
        place = f"generate_subscripts({next(iter(lists.values()))}, 1) AS place"
        return ", ".join([*(f"unnest({sql}) AS {name(c)}" for c, sql in lists.items()), place])

    @staticmethod
    def texts(sql: str, kind: str, missing: Sequence[str] = ("",)) -> str:
        full = f"lambda v: v NOT IN ({listed(missing)})"
        return f"CAST(list_filter(CAST({sql} AS STRING[]), {full}) AS {kind}[])"

    @staticmethod
    def mapped(sql: str, value: Callable[[str], str]) -> str:
        return f"list_transform({sql}, lambda e: {value('e')})"

    @staticmethod
    def some(sql: str, holds: Callable[[str], str]) -> str:
        return f"coalesce(len(list_filter({sql}, lambda v: {holds('v')})) > 0, false)"

    @staticmethod
    def heaviest(ids: str, weights: str, most: int) -> tuple[str, str]:
        pairs = f"list_reverse_sort(list_zip({weights}, {ids}))[1:{most}]"
        first, second = (f"list_transform({pairs}, lambda p: p[{n}])" for n in (1, 2))
        return second, first

    @staticmethod
    def failing(sql: str) -> str:
        return f"(TRY(coalesce(CAST({sql} AS STRING), '')) IS NULL)"

    @staticmethod
    def undecodable(text: str) -> str:
        del text
        return "false"  # DuckDB refuses the file

    @staticmethod
    def typed_seconds(sql: str, kind: str) -> tuple[str, bool] | None:
        if kind != "DATE" and not kind.startswith("TIMESTAMP"):
            return None
        instant = "TZ" in kind or "TIME ZONE" in kind
        if kind.endswith("_NS"):  # a cast to microseconds would round
            return f"(epoch_ns(CAST({sql} AS TIMESTAMP_NS)) // 1000000000)", instant
        return f"floor(epoch({sql}))::BIGINT", instant

    @staticmethod
    def civil_seconds(text: str) -> str:
        return f"epoch(try_cast({text} AS TIMESTAMP))::BIGINT"

    @staticmethod
    def zoned_seconds(text: str, zone: str) -> str:
        local = f"epoch(try_cast({text} AS TIMESTAMP))"
        instant = f"try_cast({text} || ' ' || {zone} AS TIMESTAMPTZ)"
        if zone.startswith("'"):  # one zone for all rows, which is faster and must exist
            instant = f"timezone({zone}, try_cast({text} AS TIMESTAMP))"

        def away(second: str) -> str:  # of the zone's clocks from UTC; no unknown zone is asked for
            known = f"CASE WHEN s IS NOT NULL THEN {zone} END"
            return f"epoch(timezone({known}, to_timestamp({second}))) - ({second})"

        before = away(f"s - {DAY}")  # what the clocks showed until they were set, if they were
        first = f"({local} - ({before}))"
        chosen = (
            f"CASE WHEN {before} = {local} - s THEN s "
            f"WHEN {first} < s AND {away(first)} = {before} THEN {first} ELSE s END"
        )
        return f"floor(list_transform([epoch({instant})], lambda s: {chosen})[1])::BIGINT"

    @staticmethod
    def day(text: str) -> str:
        return f"epoch(try_strptime({text}, '%m/%d/%Y'))::BIGINT"

    @staticmethod
    def quotient(number: str, divisor: int) -> str:
        return f"({number}) // {divisor}"

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
        check_file(path)
        check_first_line(path, columns, delimiter, header, quote)
        held, exactly = rows_held(path, header=header)
        texts = ", ".join(f"'{quoted(column)}': 'VARCHAR'" for column in columns)
        begin = time.monotonic()
        reading = (
            f"read_csv('{self._named(path)}', hive_partitioning=false, auto_detect=false, "
            f"compression='{'gzip' if path.suffix == '.gz' else 'none'}', header={header}, "
            f"delim='{quoted(delimiter)}', quote='{quote}', escape='{quote}', nullstr='\x01', "
            f"columns={{{texts}}})"
        )
        typed = {column: self._typed(column, kind) for column, kind in columns.items()}
        try:
            self._lines(table, typed, reading, order, f"read {path.name}")
        except duckdb.Error as error:
            raise error_of(path, str(error)) from error
        rows = int(self.one(f"SELECT count(*) FROM {table}_lines")[0])
        report(f"read {path.name}", rows, time.monotonic() - begin)
        demand_rows(path, rows, held if exactly else min(rows, held))
        if not (rows or empty):
            raise InputError(f"{path} holds no row; expected a log; put the complete file there")
        null = " OR ".join(f"{name(column)} IS NULL" for column in columns)
        bad = self.one(f"SELECT * FROM {table} WHERE {null} ORDER BY {order} LIMIT 1")
        if bad:
            at = bad.index(None)
            line, fields = line_at(path, bad[-1], delimiter=delimiter, header=header, quote=quote)
            raise refuse_field(path, line, fields[at], list(columns)[at])
        return rows

    def read_parquet(self, table: str, path: Path, *, order: str = "ord") -> list[str]:
        options = "hive_partitioning = false, binary_as_string = true"
        source = f"read_parquet('{self._named(path)}', {options})"
        columns = self.described(f"SELECT * FROM {source}")
        footer = pq.read_metadata(path)
        old = {c for k, c in enumerate(footer.schema.names)
               if footer.schema.column(k).physical_type == "INT96"}  # fmt: skip
        values = {c: f"timezone('UTC', {name(c)})" if c in old else name(c) for c in columns}
        if ROW in map(str.lower, columns):  # the number that DuckDB gives has the same name
            self._lines(table, values, source, order, f"read {path.name}")
        else:
            source = f"read_parquet('{self._named(path)}', {options}, {ROW} = true)"
            shown = "".join(f"{value} AS {name(c)}, " for c, value in values.items())
            self.execute(f"CREATE VIEW {table} AS SELECT {shown}{ROW} AS {order} FROM {source}")
        demand_rows(path, int(self.one(f"SELECT count(*) FROM {source}")[0]), footer.num_rows)
        return columns

    def _named(self, path: Path) -> str:
        return literal(self.linked(path) if "\\" in path.name else path)  # else a separator

    def _typed(self, column: str, kind: str) -> str:
        """SQL of a text column as its type; NULL where it is no such value."""
        value = name(column)
        return self.whole(value) if kind == "BIGINT" else value

    def _lines(
        self, table: str, values: Mapping[str, str], source: str, order: str, step: str
    ) -> None:
        """Makes ``table`` of a file's rows and `order`, their order in the file.

        values: column -> SQL of it. The rows lie in ``<table>_lines``, whose columns have names of
            their own: a column called rowid would hide DuckDB's.
        """
        own = {column: f"c{number}" for number, column in enumerate(values)}
        made = ", ".join(f"{value} AS {own[column]}" for column, value in values.items())
        try:
            self.connection.execute("SET preserve_insertion_order = true")
            with _interruptible():
                self.connection.execute(
                    f"CREATE TABLE {table}_lines AS SELECT {made} FROM {source}"
                )
        except duckdb.Error as error:
            if _starved(error):
                with self._guarded(step):
                    raise
            raise
        finally:
            self.connection.execute("SET preserve_insertion_order = false")
        shown = "".join(f"{own[column]} AS {name(column)}, " for column in values)
        self.execute(f"CREATE VIEW {table} AS SELECT {shown}rowid AS {order} FROM {table}_lines")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raises what a signal's handler raised, where DuckDB says only that a query was interrupted.

    ``Stopped`` where a signal stops the process (`at4ctr.stopping`), ``KeyboardInterrupt``
    elsewhere.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise (stopping.Stopped() if stopping.wanted() else KeyboardInterrupt()) from None


def literal(path: Path) -> str:
    """A file's name for between single quotes in DuckDB's SQL, with glob characters escaped."""
    return quoted(re.sub(r"[*?\[]", r"[\g<0>]", str(path.absolute())))


def _starved(error: duckdb.Error) -> bool:
    """Whether the disk or the memory limit is the reason; a commit may fail of it too."""
    return isinstance(error, duckdb.OutOfMemoryException) or bool(FULL.search(str(error)))
