"""Spark as the engine of preparation: the same SQL on a cluster, or in one process without one.

Every table is written once, as Parquet under the scratch folder, which all nodes must see under the
same path. The executors write the parts of the store, each part where its users' rows were
collected. The driver keeps a number for each user and the model id of each user and item.
"""

from __future__ import annotations

import pickle
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.engines import base as engine
from at4ctr.data.engines.base import T, Write, listed, name, quoted, report
from at4ctr.data.engines.csv_file import demand_rows
from at4ctr.data.engines.spark_session import session
from at4ctr.data.sampling import PRIME
from at4ctr.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

STATEMENT = re.compile(
    r"\s*(CREATE TABLE|CREATE VIEW|INSERT INTO|DROP TABLE|DROP VIEW|ALTER TABLE)"
    r'\s+("(?:[^"]|"")+"|\w+)\s*(?:AS\b|RENAME TO\b)?(.*)',
    re.DOTALL,
)
ROWS = 33  # bits of a row's number in its task, of `monotonically_increasing_id`


class Engine(engine.Engine):
    """Spark, with its tables in the folder; takes the session that there is, or starts one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.resolve())
        self.own, self.spark = session()
        self.frames: dict[str, tuple[DataFrame, list[Path]]] = {}
        self.numbers = count()

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import PySparkException

        return PySparkException, Py4JJavaError

    def close(self) -> None:
        for table in list(self.frames):
            self._forget(table)
        if self.own:
            self.spark.stop()

    def statement(self, step: str, sql: str) -> int:
        found = STATEMENT.fullmatch(sql)
        if found is None:
            raise ValueError(f"{sql[:60]!r} is none of the statements that data.engine names")
        verb, table, rest = found[1], found[2].strip('"'), found[3]
        with self._guarded(step):
            if verb == "CREATE VIEW":
                self._name(table, self._query(rest), [])
            elif verb == "ALTER TABLE":
                frame, folders = self.frames.pop(table)
                self.spark.sql(f"DROP VIEW {name(table)}")
                self._name(rest.strip().strip('"'), frame, folders)
            elif verb.startswith("DROP"):
                self._forget(table)
            elif verb == "CREATE TABLE":
                return self._write(table, self._query(rest))
            else:
                return self._append(table, rest)
        return 0

    def _query(self, sql: str) -> DataFrame:
        return self.spark.sql(sql.replace("* EXCLUDE (", "* EXCEPT ("))

    def _write(self, table: str, frame: DataFrame) -> int:
        """Writes a frame as a table; its number of rows."""
        folder = self.folder / f"table-{next(self.numbers)}"
        frame.write.parquet(f"file://{folder}")
        written = self.spark.read.schema(frame.schema).parquet(literal(folder))
        self._name(table, written, [folder])
        return _counted(folder)

    def _append(self, table: str, query: str) -> int:
        before, folders = self.frames[table]
        folder = self.folder / f"table-{next(self.numbers)}"
        cast = ", ".join(
            f"CAST({name(given)} AS {f.dataType.simpleString()}) AS {name(f.name)}"
            for given, f in zip(self.described(query), before.schema.fields, strict=True)
        )
        self._query(f"SELECT {cast} FROM ({query}) q").write.parquet(f"file://{folder}")
        folders = [*folders, folder]
        reader = self.spark.read.schema(before.schema)
        self._name(table, reader.parquet(*map(literal, folders)), folders)
        return _counted(folder)

    def _name(self, table: str, frame: DataFrame, folders: list[Path]) -> None:
        frame.createOrReplaceTempView(name(table))
        self.frames[table] = frame, folders

    def _forget(self, table: str) -> None:
        _, folders = self.frames.pop(table)
        self.spark.sql(f"DROP VIEW {name(table)}")
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _guarded(self, step: str) -> Iterator[None]:
        try:
            yield
        except self.failures as error:
            if "No space left on device" not in str(error):
                raise
            raise InputError(
                f"preparation step {step!r} failed for want of disk in {self.folder} or in Spark's "
                "own folders; free some disk, or set spark.local.dir to a larger one"
            ) from error

    def each(self, step: str, ranges: Sequence[tuple[int, int]], sql: Callable[[str], str]) -> int:
        return self.run(step, sql(f"BETWEEN {ranges[0][0]} AND {ranges[-1][1]}"))

    def ranked(self, step: str, table: str, query: str, order: str, first: int) -> int:
        begin = time.monotonic()
        with self._guarded(step):
            rows_in_order = f"SELECT * FROM ({query}) s ORDER BY {order}"
            numbers, rows = self.numbered("ranked", rows_in_order, first)
            kept = f"* EXCLUDE (place), place::INTEGER AS id FROM ({numbers}) n"
            self.execute(f"CREATE TABLE {table} AS SELECT {kept}")
        self.drop("ranked")
        report(step, rows, time.monotonic() - begin)
        return rows

    def numbered(self, table: str, query: str, first: int) -> tuple[str, int]:
        """SQL of a query's rows with ``place``, their places in its order from `first`; how many.

        Each task numbers its own rows, and what the tasks before it have is added to that. The
        tables that the SQL reads are dropped with `table`.
        """
        made, starts = name(f"{table} by task"), f"{table} starts"
        placed = f"SELECT *, monotonically_increasing_id() AS place FROM ({query}) q"
        rows = self.statement("numbers", f"CREATE TABLE {made} AS {placed}")
        task = f"shiftright(place, {ROWS})"
        counts = self.rows(f"SELECT {task} AS t, count(*) FROM {made} GROUP BY 1 ORDER BY 1")
        ends = np.cumsum([first] + [n for _, n in counts])[:-1]
        tasks = pa.array([t for t, _ in counts], pa.int64())
        self.register(starts, pa.table({"task": tasks, "start": pa.array(ends, pa.int64())}))
        number = f"s.start + (r.place & {(1 << ROWS) - 1}) AS place"
        return (
            f"SELECT r.* EXCLUDE (place), {number} FROM {made} r "
            f"JOIN {name(starts)} s ON s.task = shiftright(r.place, {ROWS})"
        ), rows

    def parts(
        self,
        ranges: Sequence[tuple[int, int]],
        behaviours: tuple[str, str],
        instances: tuple[str, str],
        write: Write[T],
    ) -> list[T]:
        """The executors write: the rows of a part are brought together in one of them."""
        step = gcd(*(first for first, _ in ranges)) or ranges[-1][1] + 1
        parts = [(a // step, k) for k, r in enumerate(ranges) for a in range(r[0], r[1] + 1, step)]
        columns = zip(("block", "part"), zip(*parts, strict=True), strict=True)
        self.register("blocks", pa.table({c: pa.array(v, pa.int32()) for c, v in columns}))
        sides = [self._sided(query, step) for query, _ in (behaviours, instances)]
        orders = [order.replace('"', "").split(", ") for _, order in (behaviours, instances)]
        sent = self.spark.sparkContext.broadcast((write, orders))
        grouped = sides[0].groupBy("part").cogroup(sides[1].groupBy("part"))
        made = grouped.applyInArrow(_writing(sent), "part INT, result BINARY")
        with self._guarded("parts"):
            found = {part: pickle.loads(result) for part, result in made.collect()}
        none = [side.limit(0).toArrow().drop_columns(["part"]) for side in sides]
        return [
            found[number] if number in found else write(number, *none)
            for number in range(len(ranges))
        ]

    def _sided(self, query: str, step: int) -> DataFrame:
        """A query's rows with their ``part``, by ``blocks`` of users; columns of its own."""
        columns = ", ".join(f"q.{name(c)} AS {name(c)}" for c in self.described(query))
        return self._query(
            f"SELECT /*+ BROADCAST(b) */ {columns}, b.part AS part FROM ({query}) q "
            f'JOIN blocks b ON b.block = q."user" div {step}'
        )

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._guarded("query"):
            return [tuple(row) for row in self._query(sql).collect()]

    def arrow(self, sql: str) -> pa.Table:
        with self._guarded("fetch"):
            return self._query(sql).toArrow()

    def described(self, query: str) -> list[str]:
        return self._query(query).columns

    def columns(self, table: str) -> list[str]:
        return self.frames[table][0].columns if table in self.frames else []

    def register(self, table: str, data: pa.Table) -> None:
        if table in self.frames:
            self._forget(table)
        folder = self.folder / f"table-{next(self.numbers)}"
        folder.mkdir()
        pq.write_table(data, folder / "given.parquet")
        self._name(table, self.spark.read.parquet(literal(folder)), [folder])

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
        from at4ctr.data.engines.spark_csv import read

        return read(self, table, path, columns, delimiter, header, quote, order, empty=empty)

    def read_parquet(self, table: str, path: Path, *, order: str = "ord") -> list[str]:
        from pyspark.sql.functions import expr

        frame = self.spark.read.parquet(literal(self.linked(path)))
        columns, footer = frame.columns, pq.read_metadata(path)
        frame = frame.selectExpr("*", f"_metadata.row_index AS {order}")
        for field in footer.schema.to_arrow_schema():  # Spark reads nanoseconds as numbers
            if pa.types.is_timestamp(field.type) and dict(frame.dtypes)[field.name] == "bigint":
                instant = f"timestamp_micros({name(field.name)} div 1000)"
                local = f"CAST({instant} AS TIMESTAMP_NTZ)"
                frame = frame.withColumn(field.name, expr(instant if field.type.tz else local))
        self._name(table, frame, [])
        demand_rows(path, frame.count(), footer.num_rows)
        return columns

    def drop(self, table: str) -> None:
        for made in (table, f"{table} by task", f"{table} starts"):
            if made in self.frames:
                self._forget(made)

    @staticmethod
    def key(column: str, dtype: str) -> str:
        if dtype == "int64":
            return f"(({column}) % {PRIME} + {PRIME}) % {PRIME}"
        return f"(conv(substr(md5({column}), 1, 12), 16, 10)::BIGINT % {PRIME})"

    @staticmethod
    def matches(text: str, pattern: str) -> str:
        return f"regexp_like({text}, '^({quoted(pattern)})$')"

    @staticmethod
    def consists_of(text: str, element: str, mark: str) -> str:
        # possessive: Java calls itself for each repetition of a group that it may give back
        return Engine.matches(text, f"{element}({mark}{element})*+")

    @staticmethod
    def elements(lists: Mapping[str, str]) -> str:
        places = f"transform({next(iter(lists.values()))}, (x, i) -> i + 1)"
        names = ", ".join([*map(name, lists), "place"])
        return f"inline(arrays_zip({', '.join(lists.values())}, {places})) AS ({names})"

    @staticmethod
    def texts(sql: str, kind: str, missing: Sequence[str] = ("",)) -> str:
        full = f"filter(CAST({sql} AS ARRAY<STRING>), v -> v NOT IN ({listed(missing)}))"
        return f"CAST({full} AS ARRAY<{kind}>)"

    @staticmethod
    def mapped(sql: str, value: Callable[[str], str]) -> str:
        return f"transform({sql}, e -> {value('e')})"

    @staticmethod
    def some(sql: str, holds: Callable[[str], str]) -> str:
        return f"coalesce(exists({sql}, v -> {holds('v')}), false)"

    @staticmethod
    def heaviest(ids: str, weights: str, most: int) -> tuple[str, str]:
        pairs = f"zip_with({weights}, {ids}, (w, i) -> named_struct('w', w, 'i', i))"
        pairs = f"slice(sort_array({pairs}, false), 1, {most})"
        return f"transform({pairs}, p -> p.i)", f"transform({pairs}, p -> p.w)"

    @staticmethod
    def failing(sql: str) -> str:
        del sql
        return "false"  # Spark has no word for it

    @staticmethod
    def undecodable(text: str) -> str:
        return f"NOT is_valid_utf8({text})"

    @staticmethod
    def typed_seconds(sql: str, kind: str) -> tuple[str, bool] | None:
        if kind not in ("date", "timestamp", "timestamp_ntz"):
            return None
        return f"unix_seconds(CAST({sql} AS TIMESTAMP))", kind == "timestamp"

    @staticmethod
    def civil_seconds(text: str) -> str:
        return f"unix_seconds(try_cast({text} AS TIMESTAMP))"

    @staticmethod
    def zoned_seconds(text: str, zone: str) -> str:
        return f"unix_seconds(try_cast({text} || ' ' || {zone} AS TIMESTAMP))"

    @staticmethod
    def day(text: str) -> str:
        return f"unix_seconds(try_to_timestamp({text}, 'M/d/yyyy'))"

    @staticmethod
    def quotient(number: str, divisor: int) -> str:
        return f"(({number}) div {divisor})"


def _writing(sent: Any) -> Callable[[tuple, pa.Table, pa.Table], pa.Table]:
    """What an executor does with the rows of a part, given the broadcast function and orders."""

    def write(key: tuple, behaviours: pa.Table, instances: pa.Table) -> pa.Table:
        made, orders = sent.value
        tables = [
            table.drop_columns(["part"]).sort_by([(c, "ascending") for c in order])
            for table, order in zip((behaviours, instances), orders, strict=True)
        ]
        result = pickle.dumps(made(key[0].as_py(), *tables))
        kinds = pa.schema([("part", pa.int32()), ("result", pa.binary())])
        return pa.table([[key[0].as_py()], [result]], schema=kinds)

    return write


def literal(path: Path) -> str:
    """A path for Spark to read, where no sign is a pattern."""
    return "file://" + re.sub(r"[\\*?{}\[\]]", r"\\\g<0>", str(path))


def _counted(folder: Path) -> int:
    """The rows of a table's files."""
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))
