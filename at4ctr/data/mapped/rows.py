"""A mapping of CSV or Parquet files: SQL expressions for columns, and checks of their values."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.engines import instants
from at4ctr.data.engines.base import listed, name, report_span
from at4ctr.data.engines.csv_file import check_file, first_line, header, line_at
from at4ctr.data.preparation.columns import (
    EXPECTED_WEIGHT,
    FRACTIONS,
    as_feature,
    as_number,
    not_finite,
    not_weight,
    unequal,
)
from at4ctr.data.preparation.raw_ids import EXPECTED, unnameable_sql
from at4ctr.data.preparation.waits import reported
from at4ctr.errors import InputError, unknown
from at4ctr.schema import Feature, Label, Number, Schema, weights_name

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

Unit = Literal["seconds", "milliseconds", "microseconds", "datetime"]
PER = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6}  # second
RANGE = {
    "seconds": (0, instants.LAST),
    "milliseconds": (10**11, instants.LAST * 10**3),
    "microseconds": (10**14, instants.LAST * 10**6),
}
IMPRESSIONS = "impressions()"
TIMED = ("impressions", "behaviours")  # mappings whose rows have a time
KIND = {"int64": "BIGINT", "string": "STRING"}
WITH_ZERO = r"\s*[+-]?[0-9]+\.0*\s*"  # a whole number, as pandas writes it beside missing ones
NUMBER = r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*"
NOTHING = "\x1a"  # no text of a log
TEXTS, BINARY = (".csv", ".csv.gz", ".tsv", ".tsv.gz"), ".parquet"
PLACE = "place"  # of an element of `Rows.lists`, from 1, as of `Engine.elements`
LONGEST = 1 << 16  # elements of a list, so that row and place make one number


@dataclass(frozen=True)
class Rows:
    """Which rows of which files are read, and an SQL expression for each column.

    An expression is SQL of the engine over the file's columns, most often a column's name. The SQL
    that `engines.base` lists, ``string_split(text, mark)`` and ``list_contains(list, value)`` mean
    the same on DuckDB and Spark. All columns of a CSV file are text, an empty one ``''``; those of
    Parquet have their own types.

    files: name of a file in the raw folder, or, where no file has that name, a glob such as
        ``clicks-*.parquet``: CSV with a header (``.csv``, ``.tsv``, also ``.gz``) or ``.parquet``,
        by their names' ends.
    columns: feature or number -> expression; a list for a feature with a ``length``, and another
        under ``weights_<feature>`` where it is weighted. ``NULL`` and ``''`` are
        missing values, which an id must not be. A whole number must not be -1, and a text must
        have no line break and no NUL: requests could not name it.
    missing: texts of further missing values, such as ``-1`` or ``NULL``, in all columns.
    time, unit: when, from 1970 to 2099; Unix time as whole seconds, milliseconds (from 1973-03 on)
        or microseconds, or ``datetime``: a date, time stamp or its text, as `instants` says.
        Fractions of a second are cut off: what happened in one second has no order in the store.
        Of `Mapped.users` and `Mapped.items`: from when on a value is known; without, always.
    zone: of a ``datetime`` that names none: ``Asia/Shanghai``, ``+08:00`` or the like.
    labels: of impressions, label -> an expression that is 1, 1.0 or true where there is such a
        response, 0, 0.0 or false where there is none, and missing where that is not known.
    reported: of impressions, label -> when it was reported, as `time` in its unit, and missing
        where it was not. Preparation then waits for late reports (`preparation.waits`).
    weight: of impressions, a row's weight in training, where the schema is weighted.
    where: which rows; all by default.
    lists: name -> expression of a list, for a row that stands for several, such as a page of
        items: each element gives a row of its own, in which the other expressions find the element
        under the name and its place, from 1, as ``place``. Lists of a row are equally long.
    delimiter: of text, one character; empty: a tab in ``.tsv`` files, a comma in others.
    """

    files: str
    columns: Mapping[str, str]
    time: str = ""
    unit: Unit = "seconds"
    labels: Mapping[str, str] = field(default_factory=dict)
    reported: Mapping[str, str] = field(default_factory=dict)
    weight: str = ""
    where: str = "true"
    lists: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ""
    missing: tuple[str, ...] = ()
    zone: str = "UTC"

    def __post_init__(self) -> None:
        if self.unit not in (*PER, "datetime"):
            raise unknown("unit of time", self.unit, (*PER, "datetime"))
        if self.delimiter and (len(self.delimiter) > 1 or self.delimiter in '"\r\n\0'):
            raise InputError(
                f"a mapping of {self.files} has the delimiter {self.delimiter!r}; expected one "
                "character that is neither a double quote nor a line's end; write the file with "
                "one, such as a comma, and name it"
            )
        if self.reported and self.unit == "datetime":
            raise InputError(
                f"a mapping of {self.files} has reported and times as datetime; expected Unix time "
                "of both; write the times of that file so"
            )
        if self.zone != "UTC" and self.unit != "datetime":
            raise InputError(
                f"a mapping of {self.files} has zone {self.zone!r} and times in {self.unit}, which "
                "are UTC; expected a zone of datetime alone; set unit='datetime' or leave zone out"
            )


class Term(NamedTuple):
    """A column to be made. said: the expression as it was written. text: SQL of the value as an
    error shows it. sql: SQL of the value. wrong: SQL condition of rows that are refused. optional:
    whether it may be NULL.
    """

    column: str
    said: str
    text: str
    sql: str
    wrong: str
    expected: str
    optional: bool = False


def _sql(said: str, columns: Collection[str]) -> str:
    """An expression in parentheses; a bare column name is quoted, as it may be an SQL keyword."""
    return name(said) if said in columns else f"({said})"


def _term(
    engine: Engine, rows: Rows, schema: Schema, f: Feature, said: str, columns: Collection[str]
) -> Term:
    dtype, sql = schema.table(f.table).dtype, _sql(said, columns)
    kind, missing, expected = KIND[dtype], ("", *rows.missing), EXPECTED[dtype]
    if f.length is not None:
        value = engine.texts(sql, "STRING", missing)
        value = engine.mapped(value, engine.whole) if kind == "BIGINT" else value
        wrong = engine.some(
            value, lambda one: f"({one} IS NULL OR {unnameable_sql(engine, one, dtype)})"
        )
        text = f"CAST({sql} AS STRING)"
        return Term(f.name, said, text, value, wrong, f"a list, each {expected}", True)
    raw = f"CAST({sql} AS STRING)"
    text = f"CASE WHEN {raw} NOT IN ({listed(missing)}) THEN {raw} END"
    value = engine.whole(text) if kind == "BIGINT" else text
    optional = f not in (schema.user_id, schema.item_id)
    given = f"({text}) IS NOT NULL AND " if optional else ""
    wrong = f"{given}({value}) IS NULL OR {unnameable_sql(engine, f'({value})', dtype)}"
    return Term(f.name, said, text, value, f"coalesce({wrong}, false)", expected, optional)


def _number(
    engine: Engine, rows: Rows, number: Number, said: str, columns: Collection[str]
) -> Term:
    raw = f"CAST({_sql(said, columns)} AS STRING)"
    missing = listed(("", *rows.missing))
    text = f"CASE WHEN {raw} NOT IN ({missing}) AND lower({raw}) <> 'nan' THEN {raw} END"
    value = _double(engine, text)
    wrong = f"({text}) IS NOT NULL AND coalesce({not_finite(value)}, true)"
    expected = f"a finite number; {as_feature(number)}"
    return Term(number.name, said, text, value, f"coalesce({wrong}, false)", expected, True)


def _double(engine: Engine, text: str) -> str:
    """SQL of a text as DOUBLE; NULL where it is not written as a finite number."""
    return f"CASE WHEN {engine.matches(text, NUMBER)} THEN try_cast({text} AS DOUBLE) END"


def _weights(
    engine: Engine, made: Mapping[str, Term], feature: str, said: str, columns: Collection[str]
) -> Term:
    """Of a feature's several values, whose term is made already."""
    sql, values = _sql(said, columns), made[feature].sql
    weights = engine.mapped(engine.texts(sql, "STRING"), lambda one: _double(engine, one))
    gaps = [_gaps(engine, _sql(made[feature].said, columns), values), _gaps(engine, sql, weights)]
    tests = [unequal(values, weights), engine.some(weights, not_weight), *gaps]
    wrong = f"({values}) IS NOT NULL AND ({' OR '.join(tests)})"
    expected = (
        f"as many finite weights of at least 0 as {feature!r} has values, and no missing one "
        "among others"
    )
    return Term(weights_name(feature), said, f"CAST({sql} AS STRING)", weights, wrong, expected)


def _gaps(engine: Engine, sql: str, values: str) -> str:
    """SQL of whether some of a list's elements are missing, but not all. values: those that are
    not."""
    every = engine.texts(sql, "STRING", (NOTHING,))
    return f"(array_size({values}) > 0 AND array_size({every}) <> array_size({values}))"


def _weight(engine: Engine, rows: Rows, columns: Collection[str]) -> Term:
    text = f"CAST({_sql(rows.weight, columns)} AS STRING)"
    value = _double(engine, text)
    return Term("weight", rows.weight, text, value, not_weight(value), EXPECTED_WEIGHT)


def _timed(
    engine: Engine, file: File, rows: Rows, columns: Collection[str], where: str, base: str
) -> tuple[str, Term]:
    """A relation with what the term of its rows' time needs, and the term."""
    sql = _sql(rows.time, columns)
    text = f"CAST({sql} AS STRING)"
    _demand(engine, file, base, sql, f"{where} for 'timestamp' has {rows.time!r}")
    if rows.unit == "datetime":
        instants.demand_zone(engine, rows.zone, where)
        kind = engine.one(f"SELECT typeof({sql}) FROM {base} LIMIT 1") or ("",)
        base = instants.with_seconds(engine, base, sql, kind[0], rows.zone)
        value = instants.SECONDS
        wrong = f"{value} IS NULL OR {value} NOT BETWEEN 0 AND {instants.LAST - 1}"
        return base, Term("timestamp", rows.time, text, value, wrong, instants.EXPECTED)
    return base, Term("timestamp", rows.time, text, *_unix(engine, rows.unit, text))


def _unix(engine: Engine, unit: Unit, text: str) -> tuple[str, str, str]:
    """SQL of the seconds of a Unix time, SQL of whether it is invalid, and what is expected."""
    low, high = RANGE[unit]
    whole = engine.whole(text)
    wrong = f"{whole} IS NULL OR {whole} NOT BETWEEN {low} AND {high - 1}"
    expected = f"{unit} since 1970, a whole number from {low} to {high - 1}"
    return engine.quotient(whole, PER[unit]), wrong, expected


def _report(engine: Engine, rows: Rows, label: str, columns: Collection[str]) -> Term:
    """When a label was reported."""
    said = rows.reported[label]
    raw = f"CAST({_sql(said, columns)} AS STRING)"
    text = f"CASE WHEN {raw} NOT IN ({listed(('', *rows.missing))}) THEN {raw} END"
    value, wrong, expected = _unix(engine, rows.unit, text)
    wrong = f"(({text}) IS NOT NULL AND ({wrong}))"
    return Term(reported(label), said, text, value, wrong, expected, True)


def _label(rows: Rows, label: Label, first: bool, columns: Collection[str]) -> Term:
    """first: it must be known in every row."""
    said = rows.labels[label.name]
    raw = f"CAST({_sql(said, columns)} AS STRING)"
    text = f"lower({raw})"
    yes, no = listed(("1", "1.0", "true")), listed(("0", "0.0", "false"))
    value = f"CASE WHEN {text} IN ({yes}) THEN 1 WHEN {text} IN ({no}) THEN 0 END"
    wrong, expected = f"({value}) IS NULL", "0, 1, true or false"
    if not first:
        text = f"CASE WHEN {raw} NOT IN ({listed(('', *rows.missing))}) THEN {text} END"
        wrong, expected = f"({wrong} AND ({text}) IS NOT NULL)", f"{expected}, or nothing"
    return Term(label.column, said, text, f"({value})::TINYINT", wrong, expected, not first)


@dataclass(frozen=True)
class File:
    """A raw file that the engine reads as the relation ``raw``; see `opened`.

    order: the column of ``raw`` that numbers the rows from 0. No column of the file has its name.
    """

    path: Path
    columns: tuple[str, ...]
    rows: int
    delimiter: str
    order: str

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
        kinds, order = dict.fromkeys(columns, "STRING"), _order(columns)
        rows = engine.read_csv(
            "raw", path, kinds, delimiter=delimiter, header=True, quote='"', order=order, empty=True
        )
        return File(path, tuple(columns), rows, delimiter, order)
    try:
        order = _order(pq.read_schema(path).names)
        columns = engine.read_parquet("raw", path, order=order)
        rows = int(engine.one("SELECT count(*) FROM raw")[0])
    except (*engine.failures, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read as Parquet ({first_line(str(error))}); expected a whole "
            "Parquet file; write it again"
        ) from error
    _demand_names(path, columns)
    return File(path, tuple(columns), rows, delimiter, order)


def _order(columns: Collection[str]) -> str:
    """A name that no column of a file has, whatever its case."""
    order, taken = "ord", {column.lower() for column in columns}
    while order in taken:
        order += "_"
    return order


def _demand_names(path: Path, columns: list[str]) -> None:
    """Raises InputError for columns that an expression could not name."""
    lower = [c.lower() for c in columns]
    for column in columns:
        if column.strip() == "" or lower.count(column.lower()) > 1:
            raise InputError(
                f"{path} has a column called {column!r}; expected names that are not empty and "
                "differ (case does not count); rename it"
            )


def select(engine: Engine, file: File, rows: Rows, schema: Schema, where: str, start: int) -> str:
    """SQL of the mapped rows of ``raw`` with ``ord``, from `start` on, after all checks of them.

    Prints from when to when a file's rows are. Raises InputError for an expression that the engine
    refuses, for a row that a term refuses, and where most Unix times are dates in digits.
    """
    columns = (*file.columns, *rows.lists, *([PLACE] if rows.lists else []))
    with said_plainly(engine, file, where):
        base = _base(engine, file, rows, where)
        numbers = {n.name: n for n in schema.numbers}
        weights = {weights_name(f.name): f.name for f in schema.features if f.weighted}
        terms: dict[str, Term] = {}
        for column, said in sorted(rows.columns.items(), key=lambda c: (c[0] in weights, c[0])):
            if column in numbers:
                terms[column] = _number(engine, rows, numbers[column], said, columns)
            elif column in weights:
                terms[column] = _weights(engine, terms, weights[column], said, columns)
            else:
                f = schema.feature(column)
                terms[column] = _term(engine, rows, schema, f, said, columns)
        made = list(terms.values())
        if where.startswith(TIMED) and not rows.time:
            raise InputError(
                f"{where} has no time; expected the expression of a row's time; add it"
            )
        if rows.time:
            base, time = _timed(engine, file, rows, columns, where, base)
            made.append(time)
        if where == IMPRESSIONS:
            labels = [x for x in schema.labels if x.name in rows.labels]
            made += [_label(rows, x, x == schema.labels[0], columns) for x in labels]
            made += [_report(engine, rows, label, columns) for label in rows.reported]
            made += [_weight(engine, rows, columns)] if rows.weight else []
        for term in made:
            sql = _sql(term.said, columns)
            _demand(engine, file, base, sql, f"{where} for {term.column!r} has {term.said!r}")
        _demand_ids(engine, file, schema, where, base, made, columns)
        _check(engine, file, rows, where, base, made)
    number = f"{file.order} * {LONGEST} + {PLACE}" if rows.lists else file.order
    values = "".join(f"{t.sql} AS {name(t.column)}, " for t in made)
    first = start * LONGEST if rows.lists else start
    return f"SELECT {values}({number} + {first})::BIGINT AS ord FROM {base}"


def _demand_ids(
    engine: Engine,
    file: File,
    schema: Schema,
    where: str,
    base: str,
    made: Sequence[Term],
    columns: Collection[str],
) -> None:
    """Raises InputError for fractions as texts: only Parquet says that a column holds them."""
    texts = {f.name for f in schema.features if schema.table(f.table).dtype == "string"}
    terms = [t for t in made if t.column in texts]
    if file.text or not terms:
        return
    kinds = ", ".join(f"typeof({_sql(t.said, columns)})" for t in terms)
    for term, kind in zip(terms, engine.one(f"SELECT {kinds} FROM {base} LIMIT 1") or (),
                          strict=False):  # fmt: skip
        if any(word in str(kind).upper() for word in FRACTIONS):
            raise InputError(
                f"{where} reads {term.column!r} ({term.said}) of type {kind} from {file.path}, and "
                f"the feature {term.column!r} is of a table of texts; expected texts or whole "
                f"numbers, which are ids; {as_number(term.column)}"
            )


def _base(engine: Engine, file: File, rows: Rows, where: str) -> str:
    """SQL of the rows that are asked for, lists in rows of their own."""
    _demand(engine, file, "raw", rows.where, f"{where} as its where has {rows.where!r}")
    source = f"(SELECT * FROM raw t WHERE ({rows.where})) r"  # without t, Spark names raw WHERE
    if not rows.lists:
        return source
    lists = {c: _sql(said, file.columns) for c, said in rows.lists.items()}
    for column, said in lists.items():
        if column.lower() in (*(c.lower() for c in file.columns), PLACE, file.order):
            raise InputError(
                f"{where} calls a list {column!r}, a name that is taken; expected another than "
                f"{PLACE}, {file.order} and the columns {', '.join(file.columns)}; rename it"
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
    shown = f"SELECT {file.order}, {', '.join(sizes)} FROM {source} WHERE {unequal}"
    bad = engine.one(f"{shown} OR {sizes[0]} >= {LONGEST} ORDER BY {file.order} LIMIT 1")
    if bad:
        lengths = " and ".join(f"{n} in {c!r}" for n, c in zip(bad[1:], rows.lists, strict=True))
        raise InputError(
            f"{file.at(bad[0])} has lists of {lengths}; expected equally many elements, fewer than "
            f"{LONGEST}; correct or delete the row"
        )
    taken = ", ".join(name(c) for c in file.columns if c.lower() == PLACE)  # an element's own
    kept = f"* EXCLUDE ({taken})" if taken else "*"
    return f"(SELECT {kept}, {engine.elements(lists)} FROM {source}) e"


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


def _refuse(file: File, rows: Rows, where: str, bad: tuple[Any, ...], made: list[Term]) -> None:
    term, value = next((t, bad[2 + 2 * k]) for k, t in enumerate(made) if bad[1 + 2 * k])
    expected = term.expected
    if term.column == "timestamp" and (unit := _unit(str(value), rows.unit)):
        expected += f" (it looks like {unit}; set unit={unit!r} in {where})"
    if expected.startswith(EXPECTED["int64"]) and re.fullmatch(NUMBER, str(value)):
        whole = re.fullmatch(WITH_ZERO, str(value))
        expected += f"; {_as_whole(file, term.said) if whole else as_number(term.column)}"
    shown = "nothing" if value is None else repr(value)
    named = ", name the value in missing" if term.optional else ""
    raise InputError(
        f"{file.at(bad[0])} has {shown} as {term.column!r} ({term.said}); expected {expected}; "
        f"correct the row or the mapping{named}, or leave such rows out with where in {where}"
    )


def _as_whole(file: File, said: str) -> str:
    """How to read an id that was written as a fraction."""
    given = f"nullif({said}, '')" if file.text else said
    return (
        "pandas writes whole numbers so in a column with missing ones; convert the column "
        f"(astype('Int64')), or map it as CAST(CAST({given} AS DOUBLE) AS BIGINT)"
    )


def _unit(text: str, declared: str) -> str | None:
    """The unit that a time seems to be in, if it is not the one declared."""
    text = text.strip()
    dated = re.match(r"\d{4}[-/]\d", text, re.ASCII) or re.fullmatch(instants.DIGITS, text)
    if dated:
        found = "datetime"
    elif re.fullmatch(r"\d{1,18}", text, re.ASCII):
        found = next((u for u, (a, b) in RANGE.items() if a <= int(text) < b), declared)
    else:
        return None
    return None if found == declared else found


def _check(engine: Engine, file: File, rows: Rows, where: str, base: str, made: list[Term]) -> None:
    """Raises InputError for the first row that a term refuses, and where most Unix times are dates
    in digits: 20181020 is a second of 1970 too. Prints the first and last time."""
    wrong = " OR ".join(f"({t.wrong})" for t in made) or "false"
    time = next((t for t in made if t.column == "timestamp"), None)
    dated = "false"
    if time is not None and rows.unit != "datetime":
        dated = engine.matches(time.text, instants.DIGITS)
    seconds, order = "NULL::BIGINT" if time is None else time.sql, file.order
    with _located(engine, file, rows, where, base, made):
        number, count, first, last, dates = engine.one(
            f"""SELECT min({order}) FILTER (WHERE wrong), count(*), min(s), max(s),
            count(*) FILTER (WHERE dated)
            FROM (SELECT {order}, {wrong} AS wrong, {seconds} AS s, {dated} AS dated
                FROM {base}) t"""
        )
    if number is not None:
        shown = "".join(f", ({t.wrong}), {t.text}" for t in made)
        bad = engine.one(
            f"SELECT {order}{shown} FROM {base} WHERE {order} = {number} AND ({wrong}) LIMIT 1"
        )
        _refuse(file, rows, where, bad, made)
    if time is None:
        return
    if dates * 2 > count:
        found = engine.one(
            f"SELECT {time.text} FROM {base} WHERE {dated} ORDER BY {order} LIMIT 1"
        )[0]
        raise InputError(
            f"{file.path} has times such as {found!r} as 'timestamp' ({time.said}) in most rows, "
            f"which are dates in digits and no {rows.unit} since 1970; expected what unit says; "
            f"set unit='datetime' in {where}"
        )
    report_span(f"{where} of {file.path.name}", count, first, last)


@contextmanager
def _located(
    engine: Engine, file: File, rows: Rows, where: str, base: str, made: Sequence[Term]
) -> Iterator[None]:
    """An engine's error over a value: raises InputError with the first such row, where the engine
    can tell which it is."""
    try:
        yield
    except engine.failures as error:
        columns = (*file.columns, *rows.lists, *([PLACE] if rows.lists else []))
        for term in made:
            wrong = f"{engine.failing(_sql(term.said, columns))} OR {engine.failing(term.sql)}"
            with suppress(*engine.failures):
                at = engine.one(f"SELECT min({file.order}) FROM {base} WHERE {wrong}")[0]
                if at is not None:
                    raise InputError(
                        f"{where} cannot be read from {file.at(at)} as {term.column!r} "
                        f"({term.said}: {first_line(str(error))}); expected a value that the "
                        "expression fits; correct the row or the mapping"
                    ) from error
        raise


@contextmanager
def said_plainly(engine: Engine, file: File, where: str) -> Iterator[None]:
    """An engine's error over a value, such as one it cannot convert, in one sentence."""
    try:
        yield
    except engine.failures as error:
        bad = None if file.text else _undecodable(file.path)
        if bad:
            raise InputError(
                f"{file.at(bad[0])} has {bad[2]!r} in column {bad[1]!r}; expected UTF-8; correct "
                "the row, and write the file again"
            ) from error
        raise InputError(
            f"{where} cannot be read from {file.path} ({first_line(str(error))}); expected values "
            "that its expressions fit; correct the file or the mapping"
        ) from error


def _undecodable(path: Path) -> tuple[int, str, bytes] | None:
    """Row, from 0, column and value of the first text of a Parquet file that is not UTF-8."""
    start = 0
    with pq.ParquetFile(path) as file:
        texts = [f.name for f in file.schema_arrow if f.type in (pa.string(), pa.binary())]
        for batch in file.iter_batches(columns=texts):
            for column in texts:
                for row, value in enumerate(batch.column(column).cast(pa.binary()).to_pylist()):
                    try:
                        (value or b"").decode()
                    except UnicodeDecodeError:
                        return start + row, column, value
            start += batch.num_rows
    return None
