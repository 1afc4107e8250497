"""The log of a night: reads the rows of its days, and composes the log that preparation reads."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from at4ctr.data.dataset import Options, Source
from at4ctr.data.days import DAY, Day, NoData, Window
from at4ctr.data.engines import duck
from at4ctr.data.engines.base import Engine, name, quoted
from at4ctr.data.nights.state import Rows, kind
from at4ctr.data.preparation.attributes import GROUPS, first_seen, note, since, value
from at4ctr.data.preparation.columns import truth as truth_of
from at4ctr.data.preparation.waits import reported
from at4ctr.data.sampling import PRIME, uniform31_sql
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Label, Schema


@dataclass(frozen=True)
class Protocol(Options):
    """A dataset's options as a night prepares them.

    base: the dataset's own. halves: a keyed half of the users of evaluation rows is the validation
    split, which fits a calibrator, and the other half the test split; otherwise all are test.
    follows: whether the night has a parent, which has counted the rows before the window.
    expire_days: how many days before the cutoff training must have seen an id that stays; 0 keeps
    every id.
    """

    base: Options = field(kw_only=True)
    window: Window = field(kw_only=True)
    halves: bool = field(default=False, kw_only=True)
    follows: bool = field(default=False, kw_only=True)
    expire_days: int = field(default=0, kw_only=True)

    FEWEST: ClassVar[int] = 0

    @classmethod
    def of(cls, base: Options, window: Window, *, impressions: bool, **night: Any) -> Protocol:
        """night: the fields of a protocol alone. impressions: the log has them; where their users
        must have a behaviour, they need one before the row, so that no later behaviour decides
        whether it counts."""
        same = {f.name: getattr(base, f.name) for f in fields(Options)}
        least = max(base.min_history, base.FEWEST if impressions else 0)
        same |= {"min_behaviours": base.FEWEST, "min_history": least}
        return cls(**same, base=base, window=window, **night)

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def keep(self) -> int:
        """How many behaviours before a window a user's sequence begins with."""
        return max(self.history, self.min_history)

    def preparation(self) -> dict[str, Any]:
        night = {"min_behaviours": self.min_behaviours, "min_history": self.min_history,
                 "window": list(self.window), "halves": self.halves, "keep": self.keep}  # fmt: skip
        night |= {"expire_days": self.expire_days} if self.expire_days else {}
        return self.base.preparation() | night

    def schema(self) -> Schema:
        return self.base.schema()

    def labels_of_both_classes(self) -> tuple[Label, ...]:
        """The first label alone: a night may lack positives of a rare one, which the model gate
        reports."""
        return self.schema().labels[:1]

    def acquire(self) -> Source:
        raise NotImplementedError("the log of a night lies in day folders")

    def load(self, engine: Any, source: Source) -> None:
        self.base.load(engine, source)

    def split(self) -> str:
        later = "'test'"
        if self.halves:
            draw = uniform31_sql(["user_key"], f"{self.seed}/halves", PRIME)
            later = f"CASE WHEN {draw} < {PRIME // 2} THEN 'validation' ELSE 'test' END"
        return (
            f'CASE WHEN "timestamp" < {self.window.begin} THEN NULL '
            f"WHEN \"timestamp\" < {self.window.cutoff} THEN 'train' ELSE {later} END"
        )

    def known_until(self) -> str:
        """The cutoff for rows that train, and the window's end for those that are evaluated."""
        cutoff, end = self.window.cutoff, self.window.end
        return f'CASE WHEN "timestamp" < {cutoff} THEN {cutoff} ELSE {end} END'

    def counted_from(self) -> int | None:
        counting = any(t.least > 1 for t in self.schema().tables)
        return self.window.begin if self.follows and counting else None

    def expires_before(self) -> int | None:
        return self.window.cutoff - self.expire_days * DAY if self.expire_days else None

    def cut(self) -> str:
        return "earlier"


def load(
    engine: Engine, base: Options, days: Sequence[Day], begin: int | None, end: int
) -> tuple[Rows, bool]:
    """Makes ``day_log``, and ``day_impressions`` where the log has them, of the days' rows before
    `end`, and from `begin` on where there is one; with it, whether the truth is known.

    Each day is read by the dataset's own `load`, in a database of its own. Of rows with one
    timestamp those of earlier days, and of earlier rows of a day, come first, and behaviours before
    impressions. Raises what `load` raises, and InputError where only some days have impressions.
    """
    schema, start, shown = base.schema(), 0, list[bool]()
    inside = f'"timestamp" < {end}' + ("" if begin is None else f' AND "timestamp" >= {begin}')
    engine.dropped = {"outside the window": 0}
    truth = False
    for number, day in enumerate(days):
        folder = engine.folder / f"day-{number}"
        folder.mkdir()
        with duck.Engine(folder) as one:
            replace(base, raw=str(day.folder)).load(one, Source(day.files, day.simulated))
            tables = {t: one.columns(t) for t in ("log", "impressions")}
            for reason, rows in one.dropped.items():
                engine.dropped[reason] = engine.dropped.get(reason, 0) + rows
        engine.execute(f"ATTACH '{quoted(str(folder / 'scratch.duckdb'))}' AS day (READ_ONLY)")
        shown.append(bool(tables["impressions"]))
        truth = any(truth_of(x.name) in tables["impressions"] for x in schema.labels)
        for table, there in tables.items():
            if there:
                columns = _columns(base, schema, table, there, impressions=shown[-1])
                start = _take(engine, table, columns, inside, start)
        engine.execute("DETACH day")
        shutil.rmtree(folder)
        if shown[0] != shown[-1]:
            raise InputError(
                f"{day.folder} {'has' if shown[-1] else 'lacks'} impressions, unlike "
                f"{days[0].folder}; expected days of one form; correct the delivery"
            )
    return Rows("day_log", "day_impressions" if shown[0] else ""), truth


def _take(engine: Engine, table: str, columns: str, inside: str, start: int) -> int:
    """Adds a day's rows of a table, numbered from `start` on; the next number."""
    target = f"day_{table}"
    into = f"INSERT INTO {target}" if engine.columns(target) else f"CREATE TABLE {target} AS"
    rows = f"SELECT {columns}, ord + {start} AS ord FROM day.{table} WHERE {inside}"
    kept = engine.run(f"rows of {table}", f"{into} {rows}")
    found, last = engine.one(f"SELECT count(*), coalesce(max(ord), 0) FROM day.{table}")
    if table == "log":
        engine.dropped["outside the window"] += int(found) - kept
    return start + int(last) + 1


def _responses(schema: Schema, there: Collection[str]) -> list[str]:
    """The columns of labels, their probabilities and reports, and weights that impressions have."""
    named = [c for x in schema.labels for c in (x.column, truth_of(x.name), reported(x.name))]
    return [name(c) for c in [*named, "weight"] if c in there]


def _columns(
    base: Options, schema: Schema, table: str, there: Collection[str], *, impressions: bool
) -> str:
    """A loaded table's columns, but for ``ord``: those of `Options.load`. there: all it has."""
    profile = schema.group("profile")
    if table == "log":
        own = schema.group("behaviour") + (() if impressions else schema.group("context"))
        more = ['"timestamp"']
    else:
        profile = profile if base.FEWEST == 0 else profile[:1]
        own, more = schema.group("context"), ['"timestamp"', *_responses(schema, there)]
    features = [*profile, *schema.group("item"), *own]
    return ", ".join([*(name(f.name) for f in features), *more])


def demand_rows(engine: Engine, base: Options, window: Window, loaded: Rows) -> None:
    """Raises NoData unless both sides of the cutoff have rows, and of impressions both classes."""
    table = loaded.impressions or loaded.log
    clicks = f"{name(base.schema().labels[0].column)} = 1" if loaded.impressions else "true"
    for what, first, last in (("training", window.begin, window.cutoff),
                              ("evaluation", window.cutoff, window.end)):  # fmt: skip
        rows, positives = engine.one(
            f"""SELECT count(*), count(*) FILTER (WHERE {clicks}) FROM {table}
            WHERE "timestamp" >= {first} AND "timestamp" < {last}"""
        )
        if not rows or not positives or (loaded.impressions and rows == positives):
            found = f"{rows:,} rows, of which {positives:,} are clicks" if rows else "no row"
            raise NoData(
                f"the days of {base.name} hold {found} in the {what} window from {first} to "
                f"{last}; expected some of both classes; wait for more of the log, or correct "
                "utc_offset_hours if the days' rows are elsewhere"
            )


def compose(engine: Engine, base: Options, loaded: Rows, window: Window) -> None:
    """Makes ``log`` and ``impressions`` for preparation: of users with instances in the window,
    the past's behaviours and the window's rows, attributes as the past knows them at their time."""
    schema, user = base.schema(), name(base.schema().user_id.name)
    inside = f'"timestamp" >= {window.begin}'
    rows = loaded.within(f"{inside} AND {user} IN (SELECT raw FROM present)")
    active = f"SELECT DISTINCT {user} AS raw FROM {loaded.impressions or loaded.log}"
    engine.run("active users", f"CREATE TABLE present AS {active} WHERE {inside}")
    engine.notes += _changed(engine, schema, rows)
    own = schema.group("behaviour") + (() if loaded.impressions else schema.group("context"))
    features = [*schema.group("profile"), *schema.group("item"), *own]
    listed = ", ".join([*(name(f.name) for f in features), '"timestamp"', "ord"])
    union = f"{_past(schema, features)} UNION ALL SELECT {listed} FROM {rows.log} r"
    engine.run("log", f"CREATE TABLE log AS {_known(schema, features, union, '')}")
    if loaded.impressions:
        profile = schema.group("profile")[: None if base.FEWEST == 0 else 1]
        features = [*profile, *schema.group("item"), *schema.group("context")]
        given = engine.columns(loaded.impressions)
        more = "".join(f", l.{column}" for column in _responses(schema, given))
        query = _known(schema, features, f"SELECT * FROM {rows.impressions} r", more)
        engine.run("impressions", f"CREATE TABLE impressions AS {query}")
    for table in loaded:
        if table:
            engine.execute(f"DROP TABLE {table}")


def _changed(engine: Engine, schema: Schema, rows: Rows) -> list[str]:
    """Notes of the attributes that have another value in `rows` than the past's."""
    notes = []
    for table, group in GROUPS.items():
        attributes = first_seen(schema, group)
        key = name((schema.user_id if group == "profile" else schema.item_id).name)
        found = [set(engine.described(f"SELECT * FROM {r} r")) if r else () for r in rows]
        unions = [
            f"SELECT {', '.join(name(f.name) for f in attributes)}, {key} AS raw FROM {r} r"
            for r, columns in zip(rows, found, strict=True)
            if r and all(f.name in columns for f in attributes)
        ]
        if attributes:
            counts = (f"count(DISTINCT r.raw) FILTER (WHERE r.{name(f.name)} <> p.{value(f)})"
                      for f in attributes)  # fmt: skip
            others = engine.one(f"""SELECT {", ".join(counts)} FROM ({" UNION ALL ".join(unions)}) r
                JOIN past_{table}s p ON p.raw = r.raw""")
            notes += [note(f, table, n, "another value than in earlier nights")
                      for f, n in zip(attributes, others, strict=True) if n]  # fmt: skip
    return notes


def _past(schema: Schema, features: Sequence[Feature]) -> str:
    """The past's behaviours as rows of the log, in their order, before all others."""
    columns = []
    for f in features:
        if f == schema.user_id:
            columns.append(f"raw AS {name(f.name)}")
        elif f == schema.item_id or f.group == "behaviour":
            source = "item" if f == schema.item_id else name(f"f_{f.name}")
            columns.append(f"unnest({source}) AS {name(f.name)}")
        else:
            columns.append(f"NULL::{kind(schema, f)} AS {name(f.name)}")
    columns += ['unnest("timestamp") AS "timestamp"', "unnest(range(-len(item), 0)) AS ord"]
    where = "WHERE raw IN (SELECT raw FROM present)"
    return f"SELECT {', '.join(columns)} FROM past_behaviours {where}"


def _known(schema: Schema, features: Sequence[Feature], rows: str, more: str) -> str:
    """`rows` with the attributes that the past knows at their time in the place of their own."""
    joins, columns = [], []
    for table, group in (("users", "profile"), ("items", "item")):
        if first_seen(schema, group):
            key = name((schema.user_id if group == "profile" else schema.item_id).name)
            joins.append(f"LEFT JOIN past_{table} {table} ON {table}.raw = l.{key}")
    for f in features:
        seen = f in first_seen(schema, "profile") + first_seen(schema, "item")
        table = "users" if f.group == "profile" else "items"
        own = f"l.{name(f.name)}"
        if seen:
            known = f'{table}.{since(f)} <= l."timestamp"'
            own = f"CASE WHEN {known} THEN {table}.{value(f)} ELSE {own} END AS {name(f.name)}"
        columns.append(own)
    return f"""SELECT {", ".join(columns)}, l."timestamp", l.ord{more}
        FROM ({rows}) l {" ".join(joins)}"""
