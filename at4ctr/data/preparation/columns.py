"""Columns of ``log`` and ``impressions`` beside ids: labels, weights and numbers, checked and cast.

A label is known only where the label that it is known within is 1: elsewhere it becomes NULL, or
stays `OPEN`. A number that is NaN is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from at4ctr.data.dataset import Options
from at4ctr.data.engines.base import name
from at4ctr.errors import InputError
from at4ctr.schema import OPEN, Feature, Number, Schema, weights_name

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

LARGEST = "3.4028234e38::DOUBLE"  # of float32
FRACTIONS = ("DOUBLE", "FLOAT", "DECIMAL")
TEXTS = ("VARCHAR", "STRING")
IDS = {"int64": "whole numbers", "string": "texts"}
EXPECTED_WEIGHT = "a finite weight of at least 0"


def truth(label: str) -> str:
    """The column of the true probability of a label, where a log knows it."""
    return f"truth_{label}"


def not_finite(number: str) -> str:
    """SQL of whether a DOUBLE that is not NULL is none of float32's finite numbers."""
    return f"NOT (abs({number}) <= {LARGEST})"


def not_weight(weight: str) -> str:
    """SQL of whether a DOUBLE is no weight; one that is NULL is none."""
    return f"coalesce(NOT ({weight} >= 0 AND {weight} <= {LARGEST}), true)"


def check_and_cast(engine: Engine, config: Options) -> None:
    """Checks the columns of ``log`` and ``impressions``, and gives them one type each."""
    schema, shown = config.schema(), engine.columns("impressions")
    if shown:
        _demand_labels(engine, schema)
    else:
        _demand_drawn(config)
    for relation in ("log", "impressions"):
        there = engine.columns(relation)
        changed = dict(_labels(schema)) if relation == "impressions" else {}
        if relation == "impressions" and schema.weighted:
            _demand_there(relation, there, "weight", "a weighted schema")
            wrong = not_weight("weight::DOUBLE")
            _demand_none(engine, schema, relation, "weight", wrong, EXPECTED_WEIGHT)
        _demand_ids(engine, schema, relation, there)
        for n in schema.numbers:
            if n.name in there:
                _demand_number(engine, schema, relation, n)
                changed[n.name] = f"nullif({name(n.name)}::DOUBLE, 'NaN'::DOUBLE)"
        for f in schema.features:
            if f.weighted and f.name in there:
                _demand_weights(engine, schema, relation, there, f)
        if changed:
            gone = ", ".join(map(name, changed))
            made = ", ".join(f"{sql} AS {name(column)}" for column, sql in changed.items())
            engine.replace(relation, f"SELECT * EXCLUDE ({gone}), {made} FROM {relation}")


def _demand_drawn(config: Options) -> None:
    """Raises InputError for a schema that a log without impressions, whose negatives are drawn,
    cannot have."""
    schema = config.schema()
    found = ""
    if len(schema.labels) > 1:
        found = f"labels {' and '.join(label.name for label in schema.labels)}"
    elif schema.weighted:
        found = "a weight of each row"
    if found:
        raise InputError(
            f"data options of {config.name}: the schema has {found}, and the log has no "
            "impressions; expected one label without weights, as drawn negatives have no other; "
            "give the log impressions or change the schema"
        )


def _labels(schema: Schema) -> Iterator[tuple[str, str]]:
    """The columns of labels that are known within others, and SQL of their values."""
    within: dict[str, str] = {}
    for label in schema.labels:
        column = name(label.column)
        if label.within is not None:
            known = within[label.within]
            yield (
                label.column,
                f"(CASE WHEN {known} OR {column} = {OPEN} THEN {column} END)::TINYINT",
            )
            within[label.name] = f"{known} AND {column} = 1"
        else:
            within[label.name] = f"{column} = 1"


def _demand_labels(engine: Engine, schema: Schema) -> None:
    relation, there = "impressions", engine.columns("impressions")
    for number, label in enumerate(schema.labels):
        _demand_there(relation, there, label.column, f"label {label.name!r}")
        wrong = f"{name(label.column)}::DOUBLE NOT IN (0, 1)"
        if label.within is not None:
            wrong = f"{name(label.column)}::DOUBLE NOT IN (0, 1, {OPEN})"
            expected = f"0, 1, NULL where it is not known, or {OPEN} where its window is open"
        elif number:
            expected = "0, 1 or, where it is not known, NULL"
        else:
            wrong = f"coalesce({wrong}, true)"
            expected = "0 or 1, as the first label is known in every row"
        _demand_none(engine, schema, relation, label.column, wrong, expected)
    for label in schema.labels:
        if label.within is not None:
            outer = schema.label(label.within).column
            wrong = f"{name(label.column)} = 1 AND coalesce({name(outer)}, 0) <> 1"
            expected = f"0 or NULL where {outer} is not 1, as {label.name} is known within it"
            _demand_none(engine, schema, relation, label.column, wrong, expected)


def _demand_there(relation: str, there: list[str], column: str, of: str) -> None:
    if column not in there:
        raise InputError(
            f"{relation} has no column {column!r} (it has {', '.join(there)}); expected one of "
            f"{of}; give it one or take it out of the schema"
        )


def _demand_none(
    engine: Engine, schema: Schema, relation: str, column: str, wrong: str, expected: str
) -> None:
    """Raises InputError for the first row of which an SQL condition holds."""
    user, item = name(schema.user_id.name), name(schema.item_id.name)
    bad = engine.one(
        f"""SELECT {user}, {item}, "timestamp", {name(column)} FROM {relation} WHERE {wrong}
        ORDER BY ord LIMIT 1"""
    )
    if bad:
        found = "nothing" if bad[3] is None else repr(bad[3])
        raise InputError(
            f"the row of {relation} with {schema.user_id.name} {bad[0]!r}, {schema.item_id.name} "
            f"{bad[1]!r} and timestamp {bad[2]} has {found} as {column!r}; expected {expected}; "
            "correct the log or leave such rows out"
        )


def _kind(engine: Engine, relation: str, column: str) -> str:
    found = engine.one(f"SELECT typeof({name(column)}) FROM {relation} LIMIT 1")
    return str(found[0]).upper() if found else ""


def _demand_ids(engine: Engine, schema: Schema, relation: str, there: list[str]) -> None:
    """Raises InputError for a feature whose column holds fractions."""
    for f in schema.features:
        if f.name in there:
            kind = _kind(engine, relation, f.name)
            if kind.startswith(FRACTIONS) and not kind.endswith("[]"):
                expected = IDS[schema.table(f.table).dtype]
                raise InputError(
                    f"{relation} has column {f.name!r} of type {kind}, and feature {f.name!r} is "
                    f"of table {f.table!r}; expected {expected}, which are ids; "
                    f"{as_number(f.name)}"
                )


def as_number(column: str) -> str:
    """How to declare a column whose values are quantities."""
    return f"declare a quantity as Number({column!r}, group) in Schema.numbers"


def as_feature(number: Number) -> str:
    """How to declare a number whose values are texts."""
    table = f"Table({number.name!r}, 'string')"
    made = f"Feature({number.name!r}, {number.group!r}, {number.name!r})"
    return f"declare texts as {made} of {table}"


def _demand_number(engine: Engine, schema: Schema, relation: str, number: Number) -> None:
    kind = _kind(engine, relation, number.name)
    if kind in TEXTS:
        raise InputError(
            f"{relation} has column {number.name!r} of type {kind}, and {number.name!r} is a "
            f"number; expected numbers; {as_feature(number)}"
        )
    value = f"nullif({name(number.name)}::DOUBLE, 'NaN'::DOUBLE)"
    expected = "a finite number of float32, or NULL where it is missing"
    _demand_none(engine, schema, relation, number.name, not_finite(value), expected)


def _demand_weights(
    engine: Engine, schema: Schema, relation: str, there: list[str], feature: Feature
) -> None:
    column = weights_name(feature.name)
    _demand_there(relation, there, column, f"the weighted feature {feature.name!r}")
    values, weights = name(feature.name), name(column)
    some = engine.some(weights, lambda one: not_weight(f"{one}::DOUBLE"))
    wrong = f"{values} IS NOT NULL AND ({unequal(values, weights)} OR {some})"
    expected = f"as many finite weights of at least 0 as {feature.name!r} has values"
    _demand_none(engine, schema, relation, column, wrong, expected)


def unequal(values: str, weights: str) -> str:
    """SQL of whether a list of weights is not as long as that of its values."""
    return f"coalesce(array_size({weights}) <> array_size({values}), true)"
