"""Attributes of users and items in time: a value is known from its own time on, and missing before.

If an attribute has several values in time, the first is kept, and a note says so. Its time is that
of the first row that carries it. Which rows know it:

- the row that carries it, and rows with a larger timestamp;
- behaviours of the same second too. Impressions of that second do not: a click that is logged as a
  behaviour must not show itself in the attributes of its own impression.

A user or item has one row of ``dims`` with all its values, at its index. Where rows of the log know
less, it has *versions*: further rows, one for each set of values that is missing somewhere. Rows
of the log then carry the row of ``dims`` that holds (``user_version``, ``item_version``) beside the
index. A log in which every row carries its attributes has no versions, and no such columns.

Under the ``paper`` protocol all rows count, as for vocabularies: every row knows every value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from at4ctr.data.dataset import Options
from at4ctr.data.engines.base import Engine, name
from at4ctr.schema import Feature, Group, Number, Schema, weights_name

GROUPS: dict[str, Group] = {"user": "profile", "item": "item"}  # index column -> its features
ALIAS = {"user": "u", "item": "i"}  # of ``users`` and ``items`` in `steps.encoded`
Attribute = Feature | Number


class Late(NamedTuple):
    """The attributes that some rows do not know yet. A group without any has no versions."""

    user: tuple[Attribute, ...] = ()
    item: tuple[Attribute, ...] = ()

    def row(self, group: str) -> str:
        """The column of rows of the log that holds their row of ``dims``."""
        return f"{group}_version" if getattr(self, group) else name(group)


def first_seen(schema: Schema, group: str) -> list[Attribute]:
    """The attributes of users (``profile``) or items (``item``): all but the id; numbers last."""
    features = [f for f in schema.features if f.group == group][1:]
    return [*features, *(n for n in schema.numbers if n.group == group)]


def value(feature: Attribute) -> str:
    """The column of an attribute's first value."""
    return name(f"f_{feature.name}")


def carried(attributes: Sequence[Attribute]) -> list[tuple[str, str]]:
    """The columns of attributes in rows of the log, each with that of its first value.

    The weights of a feature's values stand in a column of their own and go with the feature.
    """
    pairs = []
    for a in attributes:
        pairs.append((name(a.name), value(a)))
        if isinstance(a, Feature) and a.weighted:
            pairs.append((name(weights_name(a.name)), name(f"w_{a.name}")))
    return pairs


def since(feature: Attribute) -> str:
    """The column of the time of an attribute's first value."""
    return name(f"t_{feature.name}")


def several(feature: Attribute) -> str:
    """The column that says whether an attribute has several values."""
    return name(f"s_{feature.name}")


def _time(feature: Attribute, missing: str = "NOT NULL") -> str:
    return f'min("timestamp") FILTER (WHERE {name(feature.name)} IS {missing})'


def _first(feature: Attribute) -> str:
    known = f"FILTER (WHERE {name(feature.name)} IS NOT NULL)"
    return "".join(
        f', min_by({column}, ("timestamp", ord)) {known} AS {made}'
        for column, made in carried([feature])
    )


def firsts(attributes: Sequence[Attribute]) -> str:
    """SQL of aggregates: of each attribute the first value that is not missing, and its time."""
    return "".join(f"{_first(f)}, {_time(f)} AS {since(f)}" for f in attributes)


def firsts_of_log(attributes: Sequence[Attribute]) -> str:
    """As `firsts` with `severals`. The time is NULL unless a row without the value comes before it,
    or in the same second."""
    late = (f"CASE WHEN {_time(f, 'NULL')} <= {_time(f)} THEN {_time(f)} END" for f in attributes)
    return severals(attributes) + "".join(
        f"{_first(f)}, {time} AS {since(f)}" for f, time in zip(attributes, late, strict=True)
    )


def severals(attributes: Sequence[Attribute]) -> str:
    """SQL of aggregates: of each attribute whether it has several values."""
    columns = [(name(f.name), several(f)) for f in attributes]
    return "".join(f", min({column}) < max({column}) AS {made}" for column, made in columns)


def note(feature: Attribute, group: str, entities: int, what: str = "several values") -> str:
    """What a report should say of an attribute that `entities` users or items have in several."""
    return (
        f"{feature.name}: {entities:,} {group}s have {what}; the first is kept, from its own time "
        "on; declare it as context to keep each"
    )


def find(engine: Engine, config: Options) -> tuple[Late, list[str]]:
    """Which attributes of ``users`` and ``items`` may be late; notes on those of several values."""
    schema, late, notes = config.schema(), dict[str, tuple[Attribute, ...]](), list[str]()
    for group, features in GROUPS.items():
        attributes = first_seen(schema, features)
        if not attributes:
            continue
        counts = ", ".join(
            f"count({since(f)}), count(*) FILTER (WHERE {several(f)})" for f in attributes
        )
        found = engine.one(f"SELECT {counts} FROM {group}s")
        facts = list(zip(attributes, found[::2], found[1::2], strict=True))
        notes += [note(f, group, many) for f, _, many in facts if many]
        if config.protocol != "paper":
            late[group] = tuple(f for f, times, _ in facts if times)
    return Late(**late), notes


def hidden(engine: Engine, late: Late, relation: str) -> str:
    """Terms for `steps.encoded`: ``hidden_user``, ``hidden_item``, NULL where all is known.

    They are texts with a digit for each late attribute, 1 where the row does not know its value.
    """
    columns, terms = engine.columns(relation), ""
    for group, features in late._asdict().items():
        tests = [_unknown(f, ALIAS[group], relation, columns) for f in features]
        if tests:
            digits = ", ".join(f"CASE WHEN {test} THEN '1' ELSE '0' END" for test in tests)
            terms += f", CASE WHEN {' OR '.join(tests)} THEN concat({digits}) END"
            terms += f" AS hidden_{group}"
    return terms


def _unknown(feature: Attribute, alias: str, relation: str, columns: Sequence[str]) -> str:
    """SQL of whether a row of a relation does not know an attribute."""
    time = f"{alias}.{since(feature)}"
    if relation != "impressions":
        return f'{time} > l."timestamp"'
    if feature.name not in columns:
        return f'{time} >= l."timestamp"'
    own = f"l.{name(feature.name)} IS NULL"
    return f'({time} > l."timestamp" OR ({time} = l."timestamp" AND {own}))'


def number(engine: Engine, late: Late, tables: Sequence[str]) -> tuple[Late, list[str]]:
    """Makes ``user_rows`` and ``item_rows``, which are the rows of ``dims``, with the versions.

    tables: made with the terms of `hidden`, in whose place they get the columns of `Late.row`.
    Returns the attributes that some rows do not know yet, and notes on them.
    """
    found, notes = dict[str, tuple[Attribute, ...]](), list[str]()
    for group, features in late._asdict().items():
        if not features:
            continue
        each = (f"SELECT {name(group)} AS entity, hidden_{group} AS hidden FROM {t} "
                f"WHERE hidden_{group} IS NOT NULL" for t in tables)  # fmt: skip
        first = int(engine.one(f"SELECT count(*) FROM {group}s")[0])
        pairs = f"SELECT DISTINCT entity, hidden FROM ({' UNION ALL '.join(each)}) e"
        made = f"{group}_versions"
        rows = engine.ranked(f"{group} versions", made, pairs, "entity, hidden", first)
        found[group] = features if rows else ()
        missing = (f"count(DISTINCT CASE WHEN {_digit(k)} = '1' THEN entity END)"
                   for k in range(len(features)))  # fmt: skip
        counts = engine.one(f"SELECT {', '.join(missing)} FROM {made} v")
        notes += [
            f"{f.name}: {entities:,} {group}s have rows before their first value; it is missing "
            "there"
            for f, entities in zip(features, counts, strict=True)
            if entities
        ]
    kept = Late(**found)
    for table in tables if any(late) else ():
        engine.replace(table, _versioned(table, late, kept))
    return kept, notes


def rows(engine: Engine, schema: Schema, late: Late) -> None:
    """Makes the views ``user_rows`` and ``item_rows`` of all rows of ``dims``.

    Their columns are ``idx``, ``entity`` (the index of the user or item), ``raw`` and those of
    `carried`.
    """
    for group, features in GROUPS.items():
        attributes, hides = first_seen(schema, features), getattr(late, group)
        whole = "".join(f", {made}" for _, made in carried(attributes))
        query = f"SELECT idx, idx AS entity, raw{whole} FROM {group}s"
        if hides:
            digit = {f: _digit(k) for k, f in enumerate(hides)}
            known = "".join(
                f", CASE WHEN {digit[f]} = '0' THEN e.{made} END AS {made}"
                if f in digit
                else f", e.{made}"
                for f in attributes
                for _, made in carried([f])
            )
            query += f""" UNION ALL SELECT v.id AS idx, v.entity, e.raw{known}
                FROM {group}_versions v JOIN {group}s e ON e.idx = v.entity"""
        engine.execute(f"CREATE VIEW {group}_rows AS {query}")


def _digit(place: int) -> str:
    return f"substr(v.hidden, {place + 1}, 1)"


def _versioned(table: str, late: Late, kept: Late) -> str:
    """SQL of a table's rows with versions in place of what is hidden."""
    gone = ", ".join(f"hidden_{g}" for g, features in late._asdict().items() if features)
    columns, joins = "", ""
    for group, features in kept._asdict().items():
        if features:
            own = f"t.{name(group)}"
            columns += f", coalesce({group}_v.id, {own})::INTEGER AS {group}_version"
            joins += f""" LEFT JOIN {group}_versions {group}_v
                ON {group}_v.entity = {own} AND {group}_v.hidden = t.hidden_{group}"""
    return f"SELECT t.* EXCLUDE ({gone}){columns} FROM {table} t{joins}"
