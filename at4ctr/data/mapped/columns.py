"""What a mapping of a log must give, and the relations that all mappings together make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from at4ctr.data.engines.base import name
from at4ctr.data.mapped.rows import KIND, Rows
from at4ctr.data.preparation.attributes import firsts, note, several, severals, since, value
from at4ctr.errors import InputError, unknown
from at4ctr.schema import Feature, Schema

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

TABLE = {"behaviours": "log", "impressions": "impressions",
         "users": "user_attributes", "items": "item_attributes"}  # fmt: skip


ALWAYS = -(2**62)  # the time of what is known always
EVENTS = {"impressions": "context", "behaviours": "behaviour"}  # method -> group of its own


def demand_columns(schema: Schema, sources: Mapping[str, Rows]) -> None:
    """Raises InputError unless the mappings have what the schema declares, and nothing else."""
    _demand_single(schema)
    ids = [schema.user_id.name, schema.item_id.name]
    attributes = {f.name for g in ("profile", "item") for f in schema.group(g)} - {*ids}
    apart = {f for m, rows in sources.items() if m not in EVENTS for f in rows.columns}
    for method, rows in sources.items():
        if method in EVENTS:
            need = [*ids, *(f.name for f in schema.features if f.group == EVENTS[method])]
            known = {*need, *(attributes - apart)}
        else:
            names = [f.name for f in _group(schema, method)]
            need, known = names[:1], set(names)
        for f in rows.columns:
            if f not in known:
                raise unknown(f"feature in {method}()", f, sorted(known))
        _demand_all(need, rows.columns, f"{method}() does not give")
    everywhere = {f for rows in sources.values() for f in rows.columns}
    _demand_all(sorted(attributes), everywhere, "no method gives")
    if "behaviours" not in sources and (schema.history or schema.group("behaviour")):
        raise InputError(
            "behaviours() is missing, but the schema has a history; expected where the behaviours "
            "lie, or a schema with history=() and no behaviour feature; write one of them"
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
        kept = ", ".join(name(c) for c in engine.columns("impressions") if c != "label")
        engine.execute(f"CREATE TABLE log AS SELECT {kept} FROM impressions LIMIT 0")
    for method in ("users", "items"):
        if method in sources:
            _first_only(engine, method, _group(schema, method))
    for table in ("log", "impressions"):
        columns, joins = "", ""
        for method in ("users", "items"):
            group = _group(schema, method)
            apart = sources[method].columns if method in sources else {}
            if apart:
                key = name(group[0].name)
                joins += f" LEFT JOIN {TABLE[method]} {method} ON {method}.raw = t.{key}"
            for f in group[1:]:
                if f.name in apart:
                    known = f'{method}.{since(f)} <= t."timestamp"'
                    columns += f", CASE WHEN {known} THEN {method}.{value(f)} END"
                    columns += f" AS {name(f.name)}"
                elif f.name not in engine.columns(table):
                    kind = KIND[schema.table(f.table).dtype]
                    none = f"NULL::{kind}" if f.length is None else engine.texts("NULL", kind)
                    columns += f", {none} AS {name(f.name)}"
        if columns:
            engine.replace(table, f"SELECT t.*{columns} FROM {table} t{joins}")


def _group(schema: Schema, method: str) -> tuple[Feature, ...]:
    return schema.group("profile" if method == "users" else "item")


def _first_only(engine: Engine, method: str, group: tuple[Feature, ...]) -> None:
    """Leaves one row an id (``raw``) in a table of attributes: each one's first value and its time.

    Without times of its own the table is a catalogue, which is known always.
    """
    table, given = TABLE[method], engine.columns(TABLE[method])
    features = [f for f in group[1:] if f.name in given]
    source = f'SELECT *, {ALWAYS}::BIGINT AS "timestamp" FROM {table}'
    source = table if "timestamp" in given else f"({source})"
    chosen = f"{name(group[0].name)} AS raw{firsts(features)}{severals(features)}"
    engine.replace(table, f"SELECT {chosen} FROM {source} a GROUP BY {name(group[0].name)}")
    counts = ", ".join(["count(*)", *(f"count(*) FILTER (WHERE {several(f)})" for f in features)])
    found = engine.one(f"SELECT {counts} FROM {table}")[1:]
    what = f"several values in {method}()"
    engine.notes += [
        note(f, method[:-1], n, what) for f, n in zip(features, found, strict=True) if n
    ]
