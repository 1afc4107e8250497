"""Rows of CSV or Parquet files as SQL expressions: how each column is made, and what is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from at4ctr.data.csv_file import check_file, first_line, header, line_at
from at4ctr.data.engine import name
from at4ctr.errors import InputError, unknown
from at4ctr.schema import Feature, Schema

if TYPE_CHECKING:
    from at4ctr.data.engine import Engine

Unit = Literal["seconds", "milliseconds", "microseconds", "datetime"]
PER = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6}  # second
RANGE = {"seconds": (0, 10**11), "milliseconds": (10**11, 10**14), "microseconds": (10**14, 10**17)}
KIND = {"int64": "BIGINT", "string": "STRING"}
TEXTS, BINARY = (".csv", ".csv.gz", ".tsv", ".tsv.gz"), ".parquet"
PLACE = "place"  # of an element of `Rows.lists`, from 1, as of `Engine.elements`
LONGEST = 1 << 16  # elements of a list, so that row and place make one number


@dataclass(frozen=True)
class Rows:
    """Which rows of which files, and what they say.

    An expression is SQL of the engine over the file's columns, most often a column's name. What
    `engine` calls common, ``string_split(text, mark)`` and ``list_contains(list, value)`` mean the
    same on DuckDB and Spark. All columns of a CSV file are text, an empty one ``''``; those of
    Parquet have their own types.

    files: name of a file in the raw folder, or a glob such as ``clicks-*.parquet``: CSV with a
        header (``.csv``, ``.tsv``, also ``.gz``) or ``.parquet``, by their names' ends.
    columns: feature -> expression; a list for a feature with a ``length``. ``NULL`` and ``''`` are
        missing values, which an id must not be.
    time, unit: when; Unix time as whole seconds, milliseconds (from 1973-03 on) or microseconds,
        or ``datetime``: a date, time stamp or its ISO text, in UTC where it names no zone.
        Fractions of a second are cut off: what happened in one second has no order in the store.
        Of `Mapped.users` and `Mapped.items`: from when on a value is known; without, always.
    label: of impressions, what is 1 or true for a click, 0 or false for none.
    where: which rows; all by default.
    lists: name -> expression of a list, for a row that stands for several, such as a page of
        items: each element gives a row of its own, in which the other expressions find the element
        under the name and its place, from 1, as ``place``. Lists of a row are equally long.
    delimiter: of text; empty: a tab in ``.tsv`` files, a comma in others.
    """

    files: str
    columns: Mapping[str, str]
    time: str = ""
    unit: Unit = "seconds"
    label: str = ""
    where: str = "true"
    lists: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ""

    def __post_init__(self) -> None:
        if self.unit not in (*PER, "datetime"):
            raise unknown("unit of time", self.unit, (*PER, "datetime"))


class Term(NamedTuple):
    """A column to be made. said: the expression as it was written. text: SQL of what to show of it
    in an error. sql: its value. wrong: holds for a row that is refused."""

    column: str
    said: str
    text: str
    sql: str
    wrong: str
    expected: str


def terms(
    engine: Engine, rows: Rows, schema: Schema, columns: Collection[str], where: str
) -> list[Term]:
    """The terms of a mapping over some columns; `where` names the mapping in errors."""
    made = [
        _term(engine, schema, schema.feature(f), said, columns) for f, said in rows.columns.items()
    ]
    if where in ("impressions()", "behaviours()"):
        if not rows.time:
            raise InputError(
                f"{where} has no time; expected the expression of a row's time; add it"
            )
    if rows.time:
        made.append(_time(engine, rows, columns))
    if where == "impressions()":
        if not rows.label:
            raise InputError(f"{where} has no label; expected what is 1 for a click; add it")
        text = f"lower(CAST({_sql(rows.label, columns)} AS STRING))"
        value = f"CASE WHEN {text} IN ('1', 'true') THEN 1 WHEN {text} IN ('0', 'false') THEN 0 END"
        made.append(Term("label", rows.label, text, f"({value})::TINYINT",
                         f"({value}) IS NULL", "0, 1, true or false"))  # fmt: skip
    return made


def _sql(said: str, columns: Collection[str]) -> str:
    """An expression as it can stand anywhere; a column's bare name may be a word of SQL's own."""
    return name(said) if said in columns else f"({said})"


def _term(engine: Engine, schema: Schema, f: Feature, said: str, columns: Collection[str]) -> Term:
    kind, sql = KIND[schema.table(f.table).dtype], _sql(said, columns)
    if f.length is not None:
        return Term(f.name, said, "NULL", engine.texts(sql, kind), "false", "a list")
    text = f"nullif(CAST({sql} AS STRING), '')"
    value, expected = text, "text"
    if kind == "BIGINT":
        value, expected = engine.whole(text), "a whole number (of at most 64 bits)"
    missing = "" if f in (schema.user_id, schema.item_id) else f"{text} IS NOT NULL AND "
    return Term(f.name, said, text, value, f"{missing}{value} IS NULL", expected)


def _time(engine: Engine, rows: Rows, columns: Collection[str]) -> Term:
    sql = _sql(rows.time, columns)
    text = f"CAST({sql} AS STRING)"
    if rows.unit == "datetime":
        value = engine.seconds(sql)
        expected = "a date or time such as 2018-11-07 13:45:00"
        return Term("timestamp", rows.time, text, value, f"{value} IS NULL", expected)
    low, high = RANGE[rows.unit]
    whole = engine.whole(text)
    wrong = f"{whole} IS NULL OR {whole} NOT BETWEEN {low} AND {high - 1}"
    expected = f"{rows.unit} since 1970, a whole number from {low} to {high - 1}"
    value = engine.quotient(whole, PER[rows.unit])
    return Term("timestamp", rows.time, text, value, wrong, expected)


@dataclass(frozen=True)
class File:
    """A raw file that the engine reads as the relation ``raw``, with ``ord``; see `opened`."""

    path: Path
    columns: tuple[str, ...]
    rows: int
    delimiter: str

    @property
    def text(self) -> bool:
        return self.path.suffix != BINARY

    def at(self, row: int) -> str:
        """Where a row is, for a person: counted from 1, a line of a CSV file."""
        if not self.text:
            return f"{self.path} row {row + 1}"
        line, _ = line_at(self.path, row, delimiter=self.delimiter, header=True, quote='"')
        return f"{self.path} line {line}"


def opened(engine: Engine, path: Path, delimiter: str) -> File:
    """Makes the view ``raw`` of a file; InputError for one that cannot be read."""
    check_file(path)
    if path.suffix != BINARY:
        delimiter = delimiter or ("\t" if ".tsv" in path.suffixes else ",")
        columns = header(path, delimiter)
        _demand_names(path, columns)
        kinds = dict.fromkeys(columns, "STRING")
        rows = engine.read_csv("raw", path, kinds, delimiter=delimiter, header=True, quote='"')
        return File(path, tuple(columns), rows, delimiter)
    try:
        columns = engine.read_parquet("raw", path)
        rows = int(engine.one("SELECT count(*) FROM raw")[0])
    except engine.failures as error:
        raise InputError(
            f"{path} cannot be read as Parquet ({first_line(str(error))}); expected a whole "
            "Parquet file; write it again"
        ) from error
    _demand_names(path, columns)
    return File(path, tuple(columns), rows, delimiter)


def _demand_names(path: Path, columns: list[str]) -> None:
    """Raises InputError for columns that an expression could not name."""
    lower = [c.lower() for c in columns]
    for column in columns:
        if column.strip() == "" or lower.count(column.lower()) > 1 or column.lower() == "ord":
            raise InputError(
                f"{path} has a column called {column!r}; expected names that are not empty, differ "
                "(case does not count) and are not 'ord', which is a row's number here; rename it"
            )


def select(engine: Engine, file: File, rows: Rows, schema: Schema, where: str, start: int) -> str:
    """SQL of the mapped rows of ``raw`` with ``ord``, from `start` on, after all checks of them.

    Raises InputError for an expression that the engine refuses and for a row that a term refuses.
    """
    columns = (*file.columns, *rows.lists, *([PLACE] if rows.lists else []))
    made = terms(engine, rows, schema, columns, where)
    with said_plainly(engine, file, where):
        base = _base(engine, file, rows, where)
        for term in made:
            sql = _sql(term.said, columns)
            _demand(engine, file, base, sql, f"{where} for {term.column!r} has {term.said!r}")
        wrong = " OR ".join(f"({t.wrong})" for t in made) or "false"
        shown = "".join(f", ({t.wrong}), {t.text}" for t in made)
        bad = engine.one(f"SELECT ord{shown} FROM {base} WHERE {wrong} ORDER BY ord LIMIT 1")
    if bad:
        _refuse(file, where, bad, made)
    number = f"ord * {LONGEST} + {PLACE}" if rows.lists else "ord"
    values = "".join(f"{t.sql} AS {name(t.column)}, " for t in made)
    first = start * LONGEST if rows.lists else start
    return f"SELECT {values}({number} + {first})::BIGINT AS ord FROM {base}"


def _base(engine: Engine, file: File, rows: Rows, where: str) -> str:
    """SQL of the rows that are asked for, lists in rows of their own."""
    _demand(engine, file, "raw", rows.where, f"{where} as its where has {rows.where!r}")
    source = f"(SELECT * FROM raw t WHERE ({rows.where})) r"  # without t, Spark names raw WHERE
    if not rows.lists:
        return source
    lists = {c: _sql(said, file.columns) for c, said in rows.lists.items()}
    for column, said in lists.items():
        if column.lower() in (*(c.lower() for c in file.columns), PLACE, "ord"):
            raise InputError(
                f"{where} calls a list {column!r}, a name that is taken; expected another than "
                f"{PLACE}, ord and the columns {', '.join(file.columns)}; rename it"
            )
        _demand(
            engine,
            file,
            "raw",
            engine.elements({column: said}),
            f"{where} for the list {column!r} has {said!r}",
        )
    sizes = [f"coalesce(array_size({said}), 0)" for said in lists.values()]
    unequal = " OR ".join(f"{size} <> {sizes[0]}" for size in sizes)
    shown = f"SELECT ord, {', '.join(sizes)} FROM {source} WHERE {unequal}"
    bad = engine.one(f"{shown} OR {sizes[0]} >= {LONGEST} ORDER BY ord LIMIT 1")
    if bad:
        lengths = " and ".join(f"{n} in {c!r}" for n, c in zip(bad[1:], rows.lists, strict=True))
        raise InputError(
            f"{file.at(bad[0])} has lists of {lengths}; expected equally many elements, fewer than "
            f"{LONGEST}; correct or delete the row"
        )
    return f"(SELECT *, {engine.elements(lists)} FROM {source}) e"


def _demand(engine: Engine, file: File, source: str, sql: str, what: str) -> None:
    """Raises InputError for an expression that does not fit the columns of a relation."""
    try:
        engine.described(f"SELECT {sql} FROM {source}")
    except engine.failures as error:
        raise InputError(
            f"{what}, which is no expression over {file.path} ({first_line(str(error))}); its "
            f"columns are {', '.join(file.columns)}; correct the mapping (a name that is a word of "
            "SQL's own needs double quotes)"
        ) from error


def _refuse(file: File, where: str, bad: tuple[Any, ...], made: list[Term]) -> None:
    term, value = next((t, bad[2 + 2 * k]) for k, t in enumerate(made) if bad[1 + 2 * k])
    expected = term.expected
    if term.column == "timestamp" and (unit := _unit(str(value))):
        expected += f" (it looks like {unit}; set unit={unit!r} in {where})"
    shown = "nothing" if value is None else repr(value)
    raise InputError(
        f"{file.at(bad[0])} has {shown} as {term.column!r} ({term.said}); expected {expected}; "
        f"correct the row or the mapping, or leave such rows out with where in {where}"
    )


def _unit(text: str) -> str | None:
    """The unit that a time seems to be in."""
    if not text.strip().isdigit():
        return "datetime" if text[:4].isdigit() and text[4:5] == "-" else None
    return next((u for u, (low, high) in RANGE.items() if low <= int(text) < high), None)


@contextmanager
def said_plainly(engine: Engine, file: File, where: str) -> Iterator[None]:
    """An engine's error over a value, such as one it cannot convert, in one sentence."""
    try:
        yield
    except engine.failures as error:
        raise InputError(
            f"{where} cannot be read from {file.path} ({first_line(str(error))}); expected values "
            "that its expressions fit; correct the file or the mapping"
        ) from error
