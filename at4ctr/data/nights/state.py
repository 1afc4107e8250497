"""The state that a night leaves for the next: users' latest behaviours, attributes, vocabularies.

A state is as of a cutoff: it contains nothing of rows at or after it. Its folder holds

- ``behaviours.parquet``: one row a user (``raw``) with the lists ``timestamp``, ``item`` and
  ``f_<behaviour feature>`` of the latest `keep` behaviours, oldest first;
- ``users.parquet``: ``raw``, ``n`` (how many behaviours so far) and of each attribute its first
  value and the time of that, ``f_<attribute>`` and ``t_<attribute>``;
- ``items.parquet``: ``raw`` and the attributes likewise;
- ``vocabulary/<table>.parquet``: ``raw``, ``id``, and where ids expire ``last``, the second at
  which training last saw each; an id stays as it is until one before it expires;
- ``pending/<table>.parquet`` of a table with a least count, for each id without a row so far:
  ``raw``, ``n``, how often the chain has seen it, and ``last`` likewise;
- ``state.json``: the options, schema and cutoff of the state, and the SHA-256 of the other files.

Its size is bounded by users × keep, items and raw ids, not by the length of the log. The SQL
is DuckDB's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.dataset import Options
from at4ctr.data.engines.base import Engine, name, quoted
from at4ctr.data.engines.duck import literal
from at4ctr.data.preparation.attributes import Attribute, first_seen, firsts, since, value
from at4ctr.data.preparation.vocabulary import rare
from at4ctr.durable import digest, sync, write_json
from at4ctr.errors import InputError
from at4ctr.schema import FIRST_ID, Feature, Number, Schema

FORMAT = 2
FACTS, VOCABULARY, PENDING = "state.json", "vocabulary/", "pending/"
KIND = {"int64": "BIGINT", "string": "VARCHAR"}  # how a raw id stands in SQL
RELATIONS = ("users", "items", "behaviours")


@dataclass(frozen=True)
class State:
    """A state that was opened and verified. facts: its ``state.json``."""

    path: Path
    facts: Mapping[str, Any]

    @property
    def cutoff(self) -> int:
        """The second before which all rows are in the state."""
        return int(self.facts["cutoff"])

    @property
    def digest(self) -> str:
        """SHA-256 over all that it holds."""
        return digest(self.path / FACTS)


class Rows(NamedTuple):
    """Relations of raw rows. impressions: "" where the log has none."""

    log: str
    impressions: str

    def within(self, condition: str) -> Rows:
        """Those for which an SQL condition holds."""
        return Rows(*(r and f"(SELECT * FROM {r} WHERE {condition})" for r in self))


def opened(path: Path, part: str = "") -> State:
    """Raises InputError for a state that is missing, damaged or of another format.

    part: only files whose names begin so are looked at. A file's bytes are read once a process, as
    long as its inode, size and times stay.
    """
    path = Path(path)
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        files = {n: sha for n, sha in facts["files"].items() if n.startswith(part)}
        damaged = [n for n, sha in files.items() if _digest(path / n) != sha]
        found = facts["format"]
    except FileNotFoundError as error:
        raise InputError(
            f"state {path} lacks {Path(error.filename).name}; expected the state that the parent's "
            "night left; restore it, or begin anew with a cold start"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"state {path}: {FACTS} cannot be read ({error!r}); expected what a night wrote; "
            "restore it, or begin anew with a cold start"
        ) from error
    if damaged or found != FORMAT:
        what = f"{damaged[0]} is not the file that was written" if damaged else f"format is {found}"
        raise InputError(
            f"state {path}: {what}; expected format {FORMAT} and files that match their digests; "
            "restore it, or begin anew with a cold start"
        )
    return State(path, facts)


def _digest(path: Path) -> str:
    at = path.stat()
    return _hashed(path.absolute(), at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)


@lru_cache(maxsize=1024)
def _hashed(path: Path, *unchanged: int) -> str:
    del unchanged
    return digest(path)


def vocabularies(path: Path) -> dict[str, pa.ChunkedArray]:
    """Table -> its raw ids in the order of their ids, which begin at `FIRST_ID`; none of hashed
    tables. path: a state's folder, of which nothing else is read."""
    state = opened(path, VOCABULARY)
    files = (state.path / n for n in state.facts["files"] if n.startswith(VOCABULARY))
    return {file.stem: pq.read_table(file).column("raw") for file in sorted(files)}


def demand_same(state: State, config: Options) -> None:
    """Raises InputError, naming what differs, unless the state is of these options' log."""
    facts = state.facts
    now = {"dataset": config.name, "schema": config.schema().to_json(),
           "options": config.preparation()}  # fmt: skip
    found = difference({key: facts.get(key) for key in now}, now)
    if found:
        raise InputError(
            f"state {state.path} is of another log: {found}; expected the parent's schema and "
            "options; take back the change, or begin anew with a cold start"
        )
    if facts["keep"] < config.history:
        raise InputError(
            f"state {state.path} keeps {facts['keep']} behaviours of a user, and data.history is "
            f"{config.history}; expected no more than the parent's; lower data.history, or begin "
            "anew with a cold start"
        )


def difference(before: Any, after: Any, where: str = "") -> str:
    """The first difference of two JSON values in words, or ""; lists of named things by name."""
    before, after = (json.loads(json.dumps(_named(value))) for value in (before, after))
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return "" if before == after else f"{where} was {before!r} and is {after!r}"
    for key in [*before, *(k for k in after if k not in before)]:
        inner = f"{where} {key}".strip()
        if key not in before or key not in after:
            one = before.get(key, after.get(key))
            said = "" if isinstance(one, dict | list) else f" ({one!r})"
            return f"{inner}{said} is {'gone' if key in before else 'new'}"
        found = difference(before[key], after[key], inner)
        if found:
            return found
    return "" if list(before) == list(after) else f"the order of {where} has changed"


def _named(value: Any) -> Any:
    listed = isinstance(value, list | tuple) and value
    if listed and all(isinstance(v, dict) and "name" in v for v in value):
        return {v["name"]: v for v in value}
    return value


def attach(engine: Engine, schema: Schema, state: State | None, *, expires: bool = False) -> None:
    """Makes ``past_<relation>``, which are empty without a state, and with a state also
    ``known_<table>`` and ``pending_<table>``.

    expires: whether these have ``last``. Where the state was made without it, every id counts as
    last seen at the state's end.
    """
    for relation, columns in _columns(schema).items():
        if state is None:
            fields = ", ".join(f"{column} {kind}" for column, kind in columns.items())
            engine.execute(f"CREATE TABLE past_{relation} ({fields})")
        else:
            file = literal(state.path / f"{relation}.parquet")
            engine.execute(f"CREATE VIEW past_{relation} AS SELECT * FROM read_parquet('{file}')")
    for table in schema.tables:
        for made, part, column, there in (
            ("known", VOCABULARY, "id", not table.buckets),
            ("pending", PENDING, "n", table.least > 1),
        ):
            if state is not None and there:
                path = state.path / part / f"{table.name}.parquet"
                chosen = f"raw, {column}{_last(path, state) if expires else ''}"
                rows = f"SELECT {chosen} FROM read_parquet('{literal(path)}')"
                engine.execute(f"CREATE TABLE {name(f'{made}_{table.name}')} AS {rows}")


def _last(file: Path, state: State) -> str:
    there = "last" in pq.read_schema(file).names
    return ", last" if there else f", {state.cutoff - 1}::BIGINT AS last"


def advance(engine: Engine, config: Options, rows: Rows, keep: int) -> None:
    """Replaces ``past_<relation>``, which are tables, by those that know `rows` too."""
    for relation, query in _advanced(config, rows, keep).items():
        engine.run(f"past {relation}", f"CREATE TABLE new_{relation} AS {query}")
    for relation in RELATIONS:
        engine.execute(f"DROP TABLE past_{relation}")
        engine.execute(f"ALTER TABLE new_{relation} RENAME TO past_{relation}")


def write(engine: Engine, config: Options, folder: Path, rows: Rows, keep: int) -> None:
    """The files of ``past_<relation>`` advanced by `rows`."""
    folder.mkdir()
    for relation, query in _advanced(config, rows, keep).items():
        file = quoted(str(folder / f"{relation}.parquet"))
        copy = f"COPY ({query} ORDER BY raw) TO '{file}' (FORMAT parquet, COMPRESSION zstd)"
        engine.run(f"state {relation}", copy)


def write_vocabularies(engine: Engine, schema: Schema, folder: Path) -> None:
    """The files of ``vocabulary_<table>``, which preparation makes, and of what is pending."""
    (folder / VOCABULARY).mkdir()
    for table in schema.tables:
        named = f"vocabulary_{table.name}"
        last = ", last" if "last" in engine.columns(named) else ""
        if not table.buckets:
            rows = f"SELECT raw, id{last} FROM {name(named)} ORDER BY id"
            _copy(engine, rows, folder / VOCABULARY / f"{table.name}.parquet")
        if table.least > 1:
            (folder / PENDING).mkdir(exist_ok=True)
            rows = f"SELECT raw, n::BIGINT AS n{last} FROM ({rare(table)}) r ORDER BY raw"
            _copy(engine, rows, folder / PENDING / f"{table.name}.parquet")


def _copy(engine: Engine, query: str, file: Path) -> None:
    target = quoted(str(file))
    engine.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")


def finish(config: Options, folder: Path, cutoff: int, keep: int, *, simulated: bool) -> None:
    """Writes ``state.json``, last; every file is on the disk."""
    files = sorted(p for p in folder.rglob("*.parquet"))
    for path in (*files, *sorted({p.parent for p in files} - {folder})):
        sync(path)
    given = (folder / VOCABULARY).glob("*.parquet")
    sizes = {f.stem: pq.read_metadata(f).num_rows for f in sorted(given)}
    facts = {
        "format": FORMAT,
        "dataset": config.name,
        "schema": config.schema().to_json(),
        "options": config.preparation(),
        "simulated": simulated,
        "cutoff": cutoff,
        "keep": keep,
        "rows": {table: FIRST_ID + size for table, size in sizes.items()},
        "files": {str(path.relative_to(folder)): digest(path) for path in files},
    }
    write_json(folder / FACTS, facts)


def kind(schema: Schema, feature: Attribute) -> str:
    """The SQL type of a feature's raw values, or of a number."""
    if isinstance(feature, Number):
        return "DOUBLE"
    return KIND[schema.table(feature.table).dtype] + ("" if feature.length is None else "[]")


def _columns(schema: Schema) -> dict[str, dict[str, str]]:
    """Relation -> its columns and their types."""
    user, item = kind(schema, schema.user_id), kind(schema, schema.item_id)
    attributes = {
        group: {c: k for f in first_seen(schema, group)
                for c, k in ((value(f), kind(schema, f)), (since(f), "BIGINT"))}
        for group in ("profile", "item")
    }  # fmt: skip
    lists = {value(f): f"{kind(schema, f)}[]" for f in schema.group("behaviour")}
    return {
        "users": {"raw": user, "n": "BIGINT"} | attributes["profile"],
        "items": {"raw": item} | attributes["item"],
        "behaviours": {"raw": user, '"timestamp"': "BIGINT[]", "item": f"{item}[]"} | lists,
    }


def _advanced(config: Options, rows: Rows, keep: int) -> dict[str, str]:
    """Queries of the relations that know `rows` beside the past."""
    schema = config.schema()
    user, item = schema.user_id, schema.item_id
    everywhere = rows.impressions if config.FEWEST == 0 else ""
    users = _firsts(schema, user, "profile", Rows(rows.log, everywhere), "sum(one)::BIGINT AS n")
    items = _firsts(schema, item, "item", rows, "")
    counts = ", coalesce(p.n, 0) + coalesce(d.n, 0) AS n"
    lists = {'"timestamp"': '"timestamp"', "item": name(item.name)}
    lists |= {value(f): name(f.name) for f in schema.group("behaviour")}
    latest = ", ".join(f'list({c} ORDER BY "timestamp", ord) AS {at}' for at, c in lists.items())
    own = name(user.name)
    day = f"""SELECT {own} AS raw, {latest} FROM (SELECT *, row_number() OVER (
            PARTITION BY {own} ORDER BY "timestamp" DESC, ord DESC) AS back FROM {rows.log} l) b
        WHERE back <= {keep} GROUP BY {own}"""
    joined = ", ".join(f"list_concat(p.{c}, d.{c})[-{keep}:] AS {c}" for c in lists)
    return {
        "users": _together("users", users, counts + _first_of(schema, "profile")),
        "items": _together("items", items, _first_of(schema, "item")),
        "behaviours": _together("behaviours", day, f", {joined}"),
    }


def _firsts(schema: Schema, own: Feature, group: str, rows: Rows, more: str) -> str:
    """The first known values of every id's attributes in rows, and their times."""
    seen = first_seen(schema, group)
    columns = ", ".join([name(own.name), *(name(f.name) for f in seen), '"timestamp"', "ord"])
    source = f"SELECT {columns}, 1 AS one FROM {rows.log} a"
    if rows.impressions:
        source += f" UNION ALL SELECT {columns}, 0 AS one FROM {rows.impressions} b"
    chosen = ", ".join([f"{name(own.name)} AS raw", *([more] if more else [])])
    return f"SELECT {chosen}{firsts(seen)} FROM ({source}) s GROUP BY {name(own.name)}"


def _first_of(schema: Schema, group: str) -> str:
    named = [c for f in first_seen(schema, group) for c in (value(f), since(f))]
    return "".join(f", coalesce(p.{c}, d.{c}) AS {c}" for c in named)


def _together(relation: str, day: str, columns: str) -> str:
    return f"""SELECT coalesce(p.raw, d.raw) AS raw{columns}
        FROM past_{relation} p FULL JOIN ({day}) d ON d.raw = p.raw"""
