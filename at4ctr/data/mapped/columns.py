"""The columns that the mappings of a log must give, and the relations made of all mappings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING

from at4ctr.data.engines.base import name
from at4ctr.data.mapped.rows import KIND, Rows
from at4ctr.data.preparation.attributes import (
    Attribute,
    carried,
    first_seen,
    firsts,
    note,
    several,
    severals,
    since,
)
from at4ctr.data.preparation.waits import reported
from at4ctr.errors import InputError, unknown
from at4ctr.schema import Feature, Group, Number, Schema, weights_name

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

TABLE = {"behaviours": "log", "impressions": "impressions",
         "users": "user_attributes", "items": "item_attributes"}  # fmt: skip


ALWAYS = -(2**62)  # the time of what is known always
EVENTS = {"impressions": "context", "behaviours": "behaviour"}  # method -> group of its own


def numbered() -> Iterator[str]:
    """The names of several mappings of ``behaviours()``: behaviours, behaviours 2, …"""
    yield "behaviours"
    for number in count(2):
        yield f"behaviours {number}"


def method_of(numbered_name: str) -> str:
    """The method of a mapping's name."""
    return numbered_name.partition(" ")[0]


def demand_columns(schema: Schema, sources: Mapping[str, Rows]) -> None:
    """Raises InputError unless the mappings have what the schema declares, and nothing else."""
    _demand_single(schema)
    ids = [schema.user_id.name, schema.item_id.name]
    attributes = {f.name for g in ("profile", "item") for f in first_seen(schema, g)}
    weights = {f.name: weights_name(f.name) for f in schema.features if f.weighted}
    apart = {f for m, rows in sources.items() if method_of(m) not in EVENTS for f in rows.columns}
    for method, rows in sources.items():
        if method_of(method) in EVENTS:
            every: tuple[Feature | Number, ...] = (*schema.features, *schema.numbers)
            need = [*ids, *(f.name for f in every if f.group == EVENTS[method_of(method)])]
            known = {*need, *(attributes - apart)}
        else:
            group = _group(method)
            need = [schema.group(group)[0].name]
            known = {*need, *(f.name for f in first_seen(schema, group))}
        need += [w for f, w in weights.items() if f in rows.columns]
        known |= {w for f, w in weights.items() if f in rows.columns}
        for f in rows.columns:
            if f not in known:
                raise unknown(f"feature in {method}()", f, sorted(known))
        _demand_all(need, rows.columns, f"{method}() does not give")
    _demand_alike(sources)
    _demand_responses(schema, sources["impressions"])
    everywhere = {f for rows in sources.values() for f in rows.columns}
    _demand_all(sorted(attributes), everywhere, "no method gives")
    if "behaviours" not in sources and (schema.history or schema.group("behaviour")):
        raise InputError(
            "behaviours() is missing, but the schema has a history; expected where the behaviours "
            "lie, or a schema with history=() and no behaviour feature; write one of them"
        )


def _demand_alike(sources: Mapping[str, Rows]) -> None:
    """Raises InputError unless several mappings of behaviours have the same columns."""
    first = "behaviours"
    for method in (m for m in sources if method_of(m) == first != m):
        given = [sorted(sources[m].columns) for m in (first, method)]
        if given[0] != given[1]:
            raise InputError(
                f"{first}() gives the columns {', '.join(given[0])} and {method}() gives "
                f"{', '.join(given[1])}; expected the same of all behaviours; add what is missing "
                "as NULL"
            )
        if bool(sources[first].lists) != bool(sources[method].lists):
            raise InputError(
                f"one of {first}() and {method}() has lists; expected all behaviours with lists or "
                "none; give the other a list of one element"
            )


def _demand_responses(schema: Schema, rows: Rows) -> None:
    """Raises InputError unless the impressions have the schema's labels, and weights if it has."""
    known = [label.name for label in schema.labels]
    for label in (*rows.labels, *rows.reported):
        if label not in known:
            raise unknown("label in impressions()", label, known)
    for label in known:
        if label not in rows.labels:
            raise InputError(
                f"impressions() has no label {label!r}; expected what is 1 where there is such a "
                f"response and 0 where there is none; add it: labels={{{label!r}: …}}"
            )
    if bool(rows.weight) != schema.weighted:
        found, fix = ("a weight", "set weighted=True in") if rows.weight else (
            "no weight", "add weight=… or take weighted=True from")  # fmt: skip
        raise InputError(
            f"impressions() has {found}, and the schema is {'' if schema.weighted else 'not '}"
            f"weighted; expected both or neither; {fix} the schema"
        )


def _demand_single(schema: Schema) -> None:
    for f in schema.features:
        if f.group in EVENTS.values() and f.length is not None:
            raise InputError(
                f"schema: {f.group} feature {f.name!r} has length {f.length}; expected one value, "
                "as only features of users and items are lists; leave length out"
            )


def _demand_all(need: Iterable[str], given: Iterable[str], gives: str) -> None:
    given = set(given)
    for f in need:
        if f not in given:
            raise InputError(
                f"{gives} the schema's feature {f!r}; expected an expression for it (NULL where "
                "the log has none); add it to the columns or take the feature out of the schema"
            )


def finish(engine: Engine, schema: Schema, sources: Mapping[str, Rows]) -> None:
    """Gives ``log`` and ``impressions`` all attributes, and makes an empty ``log`` if need be."""
    if "behaviours" not in sources:
        own = {*(label.column for label in schema.labels), "weight"}
        own |= {reported(label.name) for label in schema.labels}
        kept = ", ".join(name(c) for c in engine.columns("impressions") if c not in own)
        engine.execute(f"CREATE TABLE log AS SELECT {kept} FROM impressions LIMIT 0")
    for method in ("users", "items"):
        if method in sources:
            _first_only(engine, method, schema)
    for table in ("log", "impressions"):
        columns, joins = "", ""
        for method in ("users", "items"):
            group = _group(method)
            apart = sources[method].columns if method in sources else {}
            if apart:
                key = name(schema.group(group)[0].name)
                joins += f" LEFT JOIN {TABLE[method]} {method} ON {method}.raw = t.{key}"
            for f in first_seen(schema, group):
                for column, made in carried([f]):
                    if f.name in apart:
                        known = f'{method}.{since(f)} <= t."timestamp"'
                        columns += f", CASE WHEN {known} THEN {method}.{made} END AS {column}"
                    elif f.name not in engine.columns(table):
                        columns += f", {_nothing(engine, schema, f, column)} AS {column}"
        if columns:
            engine.replace(table, f"SELECT t.*{columns} FROM {table} t{joins}")


def _nothing(engine: Engine, schema: Schema, attribute: Attribute, column: str) -> str:
    """SQL of a missing value of a column of an attribute."""
    if isinstance(attribute, Number):
        return "NULL::DOUBLE"
    kind = KIND[schema.table(attribute.table).dtype]
    kind = "DOUBLE" if column == name(weights_name(attribute.name)) else kind
    return f"NULL::{kind}" if attribute.length is None else engine.texts("NULL", kind)


def _group(method: str) -> Group:
    return "profile" if method == "users" else "item"


def _first_only(engine: Engine, method: str, schema: Schema) -> None:
    """Leaves one row an id (``raw``) in a table of attributes: each one's first value and its time.

    Without times of its own the table is a catalogue, which is known always.
    """
    table, given = TABLE[method], engine.columns(TABLE[method])
    group = _group(method)
    own = name(schema.group(group)[0].name)
    features = [f for f in first_seen(schema, group) if f.name in given]
    source = f'SELECT *, {ALWAYS}::BIGINT AS "timestamp" FROM {table}'
    source = table if "timestamp" in given else f"({source})"
    chosen = f"{own} AS raw{firsts(features)}{severals(features)}"
    engine.replace(table, f"SELECT {chosen} FROM {source} a GROUP BY {own}")
    counts = ", ".join(["count(*)", *(f"count(*) FILTER (WHERE {several(f)})" for f in features)])
    found = engine.one(f"SELECT {counts} FROM {table}")[1:]
    what = f"several values in {method}()"
    engine.notes += [
        note(f, method[:-1], n, what) for f, n in zip(features, found, strict=True) if n
    ]
