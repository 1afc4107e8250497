"""A base for a log of one's own: a schema and a mapping of CSV or Parquet columns, nothing else.

A subclass named ``Config`` in ``configs/<name>.py`` is the dataset ``<name>``. Its method
`impressions` maps the files of impressions, and `behaviours` those of users' behaviours. Attributes
may lie in files of their own. The instances are split by time. `trivago` is an example.
"""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from at4ctr.data.dataset import Options, Source
from at4ctr.data.days import PART_NAME
from at4ctr.data.mapped.columns import TABLE, demand_columns, finish, method_of, numbered
from at4ctr.data.mapped.rows import (
    BINARY,
    TEXTS,
    File,
    Rows,
    opened,
    said_plainly,
    select,
)
from at4ctr.data.periods import (
    KNOWN_UNTIL,
    SPLIT,
    bound,
    bound_by_shares,
    demand_dense,
    demand_shares,
)
from at4ctr.errors import InputError
from at4ctr.schema import Schema

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine


@dataclass(frozen=True)
class Mapped(Options):
    """A log of impressions that a mapping describes.

    raw: the folder of the files; where all rows come from one file, it may be that file.
    min_behaviours, min_history: 0, so that users who have impressions alone are kept too.
    test_share, validation_share: of the time from the first impression to the last, the end is
        test and what lies before it is validation.
    test_from, validation_from: dates or times, such as ``2018-11-08`` or ``2018-11-08T18:00``, in
        UTC, from which rows are test and validation instead; both or neither.

    An instance sees the behaviours of its user with a smaller timestamp, so neither itself nor
    what else happened in the same second.
    """

    min_behaviours: int = 0
    min_history: int = 0
    test_share: float = 0.2
    validation_share: float = 0.1
    test_from: str = ""
    validation_from: str = ""

    FEWEST: ClassVar[int] = 0
    DAILY: ClassVar[bool] = True
    CITATION: ClassVar[str] = ""  # where the log comes from, for the report

    def __post_init__(self) -> None:
        super().__post_init__()
        demand_shares(f"data options of {self.name}", self.test_share, self.validation_share)
        if bool(self.test_from) != bool(self.validation_from):
            raise InputError(
                f"data options of {self.name}: only one of test_from ({self.test_from!r}) and "
                f"validation_from ({self.validation_from!r}) is set; expected both or neither"
            )
        if self.test_from and not self._seconds("validation_from") <= self._seconds("test_from"):
            raise InputError(
                f"data options of {self.name}: validation_from {self.validation_from} is after "
                f"test_from {self.test_from}; expected validation before test; exchange them"
            )

    def _seconds(self, field: str) -> int:
        text = getattr(self, field)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise InputError(
                f"data options of {self.name}: {field} is {text!r}; expected a date or time such "
                f"as 2018-11-08 or 2018-11-08T18:00; correct data.{field}"
            ) from None
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())

    @abstractmethod
    def impressions(self) -> Rows:
        """The impressions: columns for the ids of user and item and for every context feature."""

    def behaviours(self) -> Rows | tuple[Rows, ...] | None:
        """The behaviours: columns for both ids and every behaviour feature. None: there are none.

        Several mappings, as of clicks and of orders in files of their own, make one history. A
        behaviour feature such as ``"event": "'buy'"`` says which mapping a behaviour is of.
        """
        return None

    def users(self) -> Rows | None:
        """Attributes of users in files of their own: columns for the user's id and those.

        They are known always or, with a `Rows.time`, from then on.
        """
        return None

    def items(self) -> Rows | None:
        """As `users`, of items."""
        return None

    def preparation(self) -> dict:
        """With a digest of the mapping, so that another mapping gives another store."""
        said = repr(tuple(self.sources().values()))
        return super().preparation() | {"mapping": hashlib.sha256(said.encode()).hexdigest()[:12]}

    def sources(self) -> dict[str, Rows]:
        """The mappings by their method; several of one method are named as `columns.numbered`."""
        behaviours = self.behaviours()
        each = behaviours if isinstance(behaviours, tuple) else (behaviours,)
        every = dict(zip(numbered(), each, strict=False))
        every |= {"impressions": self.impressions(), "users": self.users(), "items": self.items()}
        return {method: rows for method, rows in every.items() if rows is not None}

    def demand_daily(self) -> None:
        for method, rows in self.sources().items():
            begin = re.split(r"[*?[]", rows.files)[0]
            if not (begin.startswith(PART_NAME) or PART_NAME.startswith(begin)):
                raise InputError(
                    f"{method}() of {self.name} reads {rows.files}, and a day's folder holds "
                    f"files {PART_NAME}* alone; expected a name that begins so; call it "
                    f"{PART_NAME}{rows.files} in the mapping, and the files of the days alike"
                )

    def acquire(self) -> Source:
        rows = self.sources().values()
        files = dict.fromkeys(path for r in rows for path in self._files(r))
        return Source(tuple(files), notes=(self.CITATION,) if self.CITATION else ())

    def _files(self, rows: Rows) -> list[Path]:
        path = Path(self.raw or f"data/raw/{self.name}")
        if path.is_file() and len({r.files for r in self.sources().values()}) == 1:
            return [path]
        ends = (*TEXTS, BINARY)
        literal = path / rows.files
        named = [literal] if literal.is_file() else path.glob(rows.files)
        found = sorted(p for p in named if p.is_file() and p.name.endswith(ends))
        for file in found:
            if file.with_name(f"{file.name}.gz") in found:
                raise InputError(
                    f"raw log {path} holds both {file.name} and {file.name}.gz; expected one of "
                    "them, as both would be read; take one away"
                )
        if not found:
            what = "is a file" if path.is_file() else "does not exist"
            raise InputError(
                f"raw log {path} {f'holds no {rows.files}' if path.is_dir() else what}; expected a "
                f"folder with {rows.files} ({', '.join(ends)}); name it with data.raw (RAW=folder)"
            )
        return found

    def load(self, engine: Engine, source: Source) -> None:
        del source
        schema, sources = self.schema(), self.sources()
        demand_columns(schema, sources)
        kept = dict.fromkeys(sources, 0)
        read, starts = 0, dict[Path, int]()
        for path, delimiter in self._each():
            file = opened(engine, path, delimiter)
            starts.setdefault(path, read)
            done: list[Rows] = []
            for method, rows in sources.items():
                if rows.delimiter == delimiter and path in self._files(rows):
                    start = starts[path]
                    if method_of(method) == "behaviours":  # each has ordinals of its own
                        start += file.rows * len(done)
                        done.append(rows)
                    kept[method] += _insert(engine, file, method, rows, schema, start)
            if done:
                _count_left_out(engine, file, done)
            engine.drop("raw")
            read += file.rows * max(1, len(done))
        finish(engine, schema, sources)
        self._bound(engine)
        engine.notes += [f"{method}() gives {rows:,} rows" for method, rows in kept.items()]

    def _each(self) -> Iterable[tuple[Path, str]]:
        """Every file once, with its delimiter."""
        rows = self.sources().values()
        return dict.fromkeys((path, r.delimiter) for r in rows for path in self._files(r))

    def _bound(self, engine: Engine) -> None:
        """``bounds``: the seconds from which instances are validation and test."""
        if self.test_from:
            bound(engine, self._seconds("validation_from"), self._seconds("test_from"))
            return
        if not engine.one("SELECT count(*) FROM impressions")[0]:
            raise InputError(
                f"data options of {self.name}: impressions() gives no row; expected some; "
                f"correct its where ({self.impressions().where}) or put the log into its files"
            )
        bound_by_shares(engine, self.test_share, self.validation_share)

    def check_whole(self, engine: Engine) -> None:
        if not self.test_from:
            demand_dense(engine, f"data options of {self.name}")

    def split(self) -> str:
        return SPLIT

    def known_until(self) -> str:
        return KNOWN_UNTIL


def _insert(engine: Engine, file: File, method: str, rows: Rows, schema: Schema, start: int) -> int:
    """Adds a file's rows to the method's table; how many."""
    query = select(engine, file, rows, schema, f"{method}()", start)
    table = TABLE[method_of(method)]
    into = f"INSERT INTO {table}" if engine.columns(table) else f"CREATE TABLE {table} AS"
    with said_plainly(engine, file, f"{method}()"):
        return engine.run(method, f"{into} {query}")


def _count_left_out(engine: Engine, file: File, mappings: list[Rows]) -> None:
    """Counts the rows of a file that are a behaviour of no mapping."""
    where = " OR ".join(f"({rows.where})" for rows in mappings)
    kept = engine.one(f"SELECT count(*) FROM raw t WHERE {where}")[0]
    if file.rows > kept:
        before = engine.dropped.get("no behaviour", 0)
        engine.dropped["no behaviour"] = before + file.rows - int(kept)
