"""Taobao user behaviours (Tianchi 649, UserBehavior.csv), or a simulated log of the same columns.

A headerless CSV of user, item, category, behaviour type and Unix seconds, roughly grouped by user.
The defaults are those of the AT4CTR paper as far as its counts show them: timestamps of 2017-11-25
to 2017-12-03 (Beijing), exact duplicates dropped, behaviours of all four types, users with at
least ten of them; each user's last ten are test, the one before validation.

Deviations: the public code has no validation split; it keeps training rows with more than 50
behaviours only (`min_history=51` does so); it builds vocabularies from all rows and draws negatives
from the whole log (`protocol="paper"` does so).
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from at4ctr.data.dataset import Options, Source, holdout
from at4ctr.data.datasets._acquire import MILLISECONDS
from at4ctr.data.days import DAY, Lines, read_parts
from at4ctr.data.engines.base import report_span
from at4ctr.data.engines.csv_file import line_at
from at4ctr.data.preparation.raw_ids import demand_nameable
from at4ctr.data.sampling import PRIME, uniform31_sql
from at4ctr.data.simulation import world as worlds
from at4ctr.data.simulation import write as simulate
from at4ctr.data.simulation.world import World
from at4ctr.errors import InputError, unknown
from at4ctr.schema import Feature, Schema, Table

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

RAW = Path("data/raw/taobao")
SIMULATED = Path("data/raw/simulated")
FILES = ("UserBehavior.csv", "UserBehavior.csv.gz")
COLUMNS = {"user": "BIGINT", "item": "BIGINT", "category": "BIGINT", "type": "STRING",
           "timestamp": "BIGINT"}  # fmt: skip
TYPES = ("pv", "cart", "fav", "buy")
FIRST, LAST = 1_511_539_200, 1_512_316_799  # 2017-11-25 00:00:00 to 2017-12-03 23:59:59, UTC+8
BEIJING = 8  # hours ahead of UTC
CITATION = (
    "Taobao: User Behavior Data from Taobao for Recommendation, Alibaba Tianchi, data set 649, 2018"
)


def _day(line: bytes) -> int:
    return (int(line[line.rindex(b",") + 1 :]) + BEIJING * 3600) // DAY


@dataclass(frozen=True)
class Config(Options):
    """Taobao.

    behaviours: ``all`` four types, or ``pv`` (clicks) only.
    window: keep only timestamps of the nine official days.
    dedupe: drop exact duplicates (all five columns), of which the first row stays.
    cutting: ``last_10`` splits each user by time: the last `holdout` behaviours are test, the one
        before them validation, the rest training. ``can_user_9_1`` splits by user, as CAN does:
        only a user's last behaviour is a row, the others are its history; a tenth of the users,
        by a keyed hash, is test, a tenth of the others validation, which CAN does not have.
    holdout: of ``last_10``.
    types: whether each behaviour's type is a feature too (``Embedded.extras``).
    simulate_rows: size of the log that is simulated where there is no real one.
    """

    behaviours: Literal["all", "pv"] = "all"
    window: bool = True
    dedupe: bool = True
    cutting: Literal["last_10", "can_user_9_1"] = "last_10"
    holdout: int = 10
    types: bool = False
    simulate_rows: int = 1_000_000

    READING: ClassVar[tuple[str, ...]] = (*Options.READING, "simulate_rows")
    UTC_OFFSET_HOURS: ClassVar[float] = BEIJING
    LINES: ClassVar[Lines | None] = Lines(_day, first=date(2017, 11, 25), last=date(2017, 12, 3))
    DAILY: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, known in (
            ("behaviours", ("all", "pv")),
            ("cutting", ("last_10", "can_user_9_1")),
        ):
            if getattr(self, field) not in known:
                raise unknown(f"value of data.{field}", getattr(self, field), known)
        for field, least in (("holdout", 1), ("simulate_rows", 1000)):
            if getattr(self, field) < least:
                raise InputError(
                    f"data options of {self.name}: {field} is {getattr(self, field)}; expected at "
                    f"least {least}"
                )

    def schema(self) -> Schema:
        schema = Schema(
            times=self.times,
            tables=(
                *(Table("user"), Table("item"), Table("category")),
                *([Table("type", "string")] if self.types else []),
            ),
            features=(
                Feature("user", "profile", "user"),
                Feature("item", "item", "item"),
                Feature("category", "item", "category"),
                *([Feature("type", "behaviour", "type")] if self.types else []),
            ),
            history=("item", "category"),
        )
        return self.with_options(schema)

    def acquire(self) -> Source:
        """The official log, or a simulated one if there is none and `raw` names none.

        Raises InputError when `raw` is no file, or a folder without the log.
        """
        if self.raw:
            return Source((_found(Path(self.raw)),), notes=(CITATION,))
        if RAW.is_dir() and any((RAW / name).is_file() for name in FILES):
            return Source((_found(RAW),), notes=(CITATION,))
        print(
            f"prepare: no {RAW / FILES[0]}, so a log of about {self.simulate_rows:,} rows is "
            "simulated; everything made from it is labelled simulated",
            file=sys.stderr,
        )
        return Source((self._simulate(),), simulated=True, notes=("the log is simulated",))

    def _simulate(self) -> Path:
        world = World(
            users=max(10, self.simulate_rows * 3 // 100),
            items=max(100, self.simulate_rows * 42 // 1000),
            categories=min(10_000, max(10, self.simulate_rows // 100)),
            rows=self.simulate_rows,
        )
        digest = hashlib.sha256(repr(world).encode())
        for module in (simulate, worlds):  # another simulator makes another log
            digest.update(Path(str(module.__file__)).read_bytes())
        path = SIMULATED / f"taobao-{digest.hexdigest()[:12]}.csv"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            simulate.write_behaviours(world, path)
        return path

    def load(self, engine: Engine, source: Source) -> None:
        path = ", ".join(map(str, source.files))  # of a day: several
        read_parts(engine, "raw", source.files, COLUMNS, _demand)
        inside = f'"timestamp" BETWEEN {FIRST} AND {LAST}' if self.window else "true"
        wanted = "type = 'pv'" if self.behaviours == "pv" else "true"
        low, high, rows, within, filtered = engine.one(
            f"""SELECT min("timestamp"), max("timestamp"), count(*),
            count(*) FILTER (WHERE {inside}),
            count(*) FILTER (WHERE {inside} AND {wanted}) FROM raw"""
        )
        if not within:
            raise InputError(
                f"{path} has timestamps from {low} to {high}, all outside the window; expected "
                f"{FIRST} to {LAST}; set data.window=false to keep them"
            )
        if not filtered:
            raise InputError(
                f"{path} has no behaviour of type pv in the window; expected some; set "
                "data.behaviours=all"
            )
        columns = '"user", item, category, type, "timestamp"'
        group = f" GROUP BY {columns}" if self.dedupe else ""
        order = "min(ord) AS ord" if self.dedupe else "ord"
        kept = engine.run(
            "log",
            f"""CREATE TABLE log AS
            SELECT {columns}, {order} FROM raw WHERE {inside} AND {wanted}{group}""",
        )
        engine.drop("raw")
        engine.dropped |= {
            "window": rows - within, "type": within - filtered, "duplicates": filtered - kept
        }  # fmt: skip

    def split(self) -> str:
        if self.cutting == "last_10":
            return holdout(test=self.holdout, validation=1)
        draw = uniform31_sql(["user_key"], f"{self.seed}/users", PRIME)
        return (
            f"CASE WHEN pos < n - 1 THEN NULL WHEN {draw} < {PRIME // 10} THEN 'test' "
            f"WHEN {draw} < {PRIME // 10 + PRIME * 9 // 100} THEN 'validation' ELSE 'train' END"
        )


def _found(path: Path) -> Path:
    """The log at `path`, a file or a folder that holds it."""
    candidates = [path] if not path.is_dir() else [path / name for name in FILES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(
        f"raw log {path} {'holds no ' + ' or '.join(FILES) if path.is_dir() else 'does not exist'}"
        "; expected the official log; download it from Tianchi (data set 649) with your account "
        "and name it with data.raw (RAW=path)"
    )


def _demand(engine: Engine, path: Path) -> None:
    _demand_types(engine, path)
    demand_nameable(engine, "raw", path, dict.fromkeys(("user", "item", "category"), "int64"))
    _demand_seconds(engine, path)
    rows = engine.one('SELECT count(*), min("timestamp"), max("timestamp") FROM raw')
    report_span(path.name, *rows)


def _demand_types(engine: Engine, path: Path) -> None:
    known = ", ".join(f"'{t}'" for t in TYPES)
    wrong = engine.one(
        f"SELECT type, ord FROM raw WHERE type NOT IN ({known}) ORDER BY ord LIMIT 1"
    )
    if wrong:
        line, _ = line_at(path, wrong[1])
        raise InputError(
            f"{path} line {line} has behaviour type {wrong[0]!r}; expected one of "
            f"{', '.join(TYPES)}; correct or delete the line"
        )


def _demand_seconds(engine: Engine, path: Path) -> None:
    late = engine.one(
        f"""SELECT "timestamp", ord FROM raw WHERE "timestamp" >= {MILLISECONDS}
        ORDER BY ord LIMIT 1"""
    )
    if late:
        line, _ = line_at(path, late[1])
        raise InputError(
            f"{path} line {line} has timestamp {late[0]}, which is in "
            f"milliseconds; expected seconds such as {FIRST}; divide the last column by 1000, or "
            "delete the line"
        )
