"""The SQL of a day's statistics over one relation, ``log`` or ``impressions``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from at4ctr.data.engines.base import Engine, name
from at4ctr.data.engines.duck import literal
from at4ctr.data.sampling import PRIME
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Schema

BUCKETS = 64  # of a feature's histogram; what few values a column has mostly lie apart
SPREAD = 1_327_217_885  # about PRIME / golden ratio: neighbours and multiples lie far apart
TOP = 10  # most frequent values and days that are kept
MARGIN = 24  # hours before and after the day that are counted one by one
HOUR, DAY = 3600, 86_400
SIZES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
INTEGERS = frozenset((*SIZES, *(f"U{size}" for size in SIZES)))


def demand_vocabulary(schema: Schema, folder: Path) -> None:
    """Raises InputError where the known ids of a table are not in the folder."""
    for table in schema.tables:
        path = folder / f"{table.name}.parquet"
        if not table.buckets and not path.is_file():
            raise InputError(
                f"{path} does not exist; expected the known ids of table {table.name!r}; name the "
                "vocabulary folder of the parent's state"
            )


def columns(engine: Engine, relation: str) -> dict[str, str]:
    """Names and types of a relation's columns, in order; {} where there is no such relation."""
    found = engine.rows(
        f"""SELECT column_name, data_type FROM information_schema.columns
        WHERE table_name = '{relation}' ORDER BY ordinal_position"""
    )
    return dict(found)


class Counter:
    """Counts one relation of an engine for the day [begin, end)."""

    def __init__(self, engine: Engine, schema: Schema, relation: str, begin: int, end: int) -> None:
        self.engine, self.schema, self.relation = engine, schema, relation
        self.begin, self.end = begin, end
        self.columns = columns(engine, relation)
        self.label = schema.labels[0].column  # known in every row

    @property
    def features(self) -> tuple[Feature, ...]:
        """The schema's features that the relation has."""
        return tuple(f for f in self.schema.features if f.name in self.columns)

    def demand_columns(self, impressions: bool) -> None:
        """Raises InputError for a column that is missing or of another type than declared.

        impressions: whether the log has them; the context's features are then theirs alone.
        """
        shown = self.relation == "impressions"
        groups = {"item", "context"} if shown else {"profile", "item", "behaviour"}
        if not impressions:
            groups.add("context")
        need = [f for f in self.schema.features if f.group in groups]
        if shown:
            need.append(self.schema.user_id)
        for f in dict.fromkeys((*need, *self.features)):
            dtype = self.schema.table(f.table).dtype
            self._demand(f.name, dtype, f.length is not None)
        for column in ("timestamp", self.label) if shown else ("timestamp",):
            self._demand(column, "int64", False)

    def _demand(self, column: str, dtype: str, several: bool) -> None:
        if column not in self.columns:
            raise InputError(
                f"{self.relation} has no column {column!r} (it has {', '.join(self.columns)}); "
                "expected every feature of the schema; deliver the day with all its columns"
            )
        found = self.columns[column]
        single = found.removesuffix("[]") if several else found
        fits = single in INTEGERS if dtype == "int64" else single == "VARCHAR"
        if not fits or several != found.endswith("[]"):
            raise InputError(
                f"{self.relation} has column {column!r} of type {found}; expected {dtype}"
                f"{' lists' if several else ''}, as the schema says; deliver the day with that type"
            )

    def count(self) -> dict[str, Any]:
        """The counts of a `statistics.Relation`, all but its columns."""
        user, time = name(self.schema.user_id.name), '"timestamp"'
        clicks = f"sum({name(self.label)})" if self.label in self.columns else "NULL"
        rows, users, clicked, first, last, early, late = self._one(
            f"""SELECT count(*), count(DISTINCT {user}), {clicks}, min({time}), max({time}),
            count(*) FILTER ({time} < {self.begin}), count(*) FILTER ({time} >= {self.end})
            FROM {self.relation}"""
        )
        whole = rows - self._distinct(c for c in self.columns if c != "ord")
        responses = ("ord", "weight"), ("label_", "truth_")
        events = self._distinct(
            c for c in self.columns if c not in responses[0] and not c.startswith(responses[1])
        )
        span = MARGIN + -(-(self.end - self.begin) // HOUR) + MARGIN
        hours = dict(self._per(HOUR, f"hour BETWEEN {-MARGIN} AND {span - MARGIN - 1}", span))
        return {
            "rows": rows, "users": users, "duplicates": whole, "events": events,
            "clicks": int(clicked or 0) if self.label in self.columns else None,
            "first": first, "last": last, "early": early, "late": late,
            "hours": tuple(hours.get(h - MARGIN, 0) for h in range(span)),
            "days": tuple(self._per(DAY, "true", TOP)),
        }  # fmt: skip

    def column(self, f: Feature, vocabulary: Path | None) -> dict[str, Any]:
        """The fields of a `statistics.Column`."""
        source = name(f.name)
        missing = f"{source} IS NULL" if f.length is None else f"coalesce(len({source}), 0) = 0"
        nulls = self._one(f"SELECT count(*) FILTER ({missing}) FROM {self.relation}")[0]
        value = source if f.length is None else f"unnest({source})"
        values = f"(SELECT {value} AS v FROM {self.relation})"
        table = self.schema.table(f.table)
        key = self.engine.key("v", table.dtype)
        number = f"({key} * {SPREAD}) % {PRIME} * {BUCKETS} // {PRIME}"
        counts = dict(
            self.engine.rows(
                f"""SELECT {number} AS b, count(*) FROM {values} t WHERE v IS NOT NULL
                GROUP BY b"""
            )
        )
        top = self.engine.rows(
            f"""SELECT CAST(v AS VARCHAR) AS v, count(*) AS n FROM {values} t WHERE v IS NOT NULL
            GROUP BY v ORDER BY n DESC, v LIMIT {TOP}"""
        )
        return {
            "dtype": self.columns[f.name],
            "nulls": nulls,
            "values": sum(counts.values()),
            "unknown": None if table.buckets else self._unknown(table.name, values, vocabulary),
            "buckets": tuple(counts.get(b, 0) for b in range(BUCKETS)),
            "top": tuple(top),
        }

    def _unknown(self, table: str, values: str, vocabulary: Path | None) -> int | None:
        if vocabulary is None:
            return None
        path = vocabulary / f"{table}.parquet"
        known = f"SELECT raw FROM read_parquet('{literal(path)}')"
        query = f"SELECT count(*) FROM {values} t ANTI JOIN ({known}) k ON k.raw = t.v"
        return int(self._one(f"{query} WHERE v IS NOT NULL")[0])

    def _distinct(self, columns: Iterable[str]) -> int:
        """Rows that differ in these columns, by a 64-bit hash of them."""
        hashed = f"hash({', '.join(name(c) for c in columns)})"
        groups = f"SELECT {hashed} AS h FROM {self.relation} GROUP BY h"
        return int(self._one(f"SELECT count(*) FROM ({groups}) g")[0])

    def _per(self, seconds: int, where: str, most: int) -> list[tuple[int, int]]:
        """Rows by whole units of time from the day's begin, the most frequent first."""
        unit = f'floor(("timestamp" - {self.begin}) / {seconds})::BIGINT'
        return self.engine.rows(
            f"""SELECT hour, count(*) AS n FROM (SELECT {unit} AS hour FROM {self.relation}) t
            WHERE {where} GROUP BY hour ORDER BY n DESC, hour LIMIT {most}"""
        )

    def _one(self, sql: str) -> tuple[Any, ...]:
        return self.engine.one(sql)
