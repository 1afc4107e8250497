"""A log in day folders, and the windows of nights: which rows a night trains on, and which evaluate
its model.

``<root>/dt=YYYY-MM-DD/`` holds the day's files, ``part-*`` of one kind (``.parquet``, ``.csv`` or
``.csv.gz``), in the raw format of the dataset, and ``_SUCCESS`` once they are all there. Names that
begin with ``.`` or ``_`` are otherwise ignored, but for ``_SIMULATED``, which says that the day is
simulated and labels all that is made of it. Nothing is ever written here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from at4ctr.errors import InputError

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

DAY = 86_400  # seconds
READY, SIMULATED = "_SUCCESS", "_SIMULATED"
PART_NAME = "part-"
PART = re.compile(PART_NAME + r"[A-Za-z0-9._=-]*?\.(parquet|csv\.gz|csv)")
FOLDER = re.compile(r"dt=(\d{4}-\d{2}-\d{2})")


class NoData(InputError):  # noqa: N818  (a state of the world, no fault of the caller's)
    """The log of a day is not there (yet), or a window of it has no row to learn from."""


@dataclass(frozen=True)
class Day:
    """A finished day. files: its parts by name, those of no bytes left out."""

    date: date
    folder: Path
    files: tuple[Path, ...]
    simulated: bool = False


class Window(NamedTuple):
    """The window of a night, in epoch seconds. Rows in [begin, cutoff) are trained on, and rows in
    [cutoff, end) evaluate the model."""

    begin: int
    cutoff: int
    end: int


@dataclass(frozen=True)
class Lines:
    """How a raw log of text, with a row on each line, is split into days.

    day: gives the day of a line, whose line end is included, as days since 1970-01-01 on the
        calendar of the log's own zone (`Options.UTC_OFFSET_HOURS`). Raises ValueError or IndexError
        for a line without a day.
    header: whether a file's first line names its columns; every day's file then begins with it.
    first, last: days of the log. Lines of other days are strays, which are written only if asked
        for.
    """

    day: Callable[[bytes], int]
    header: bool = False
    first: date = date.min
    last: date = date.max


@dataclass(frozen=True)
class Periods:
    """How days become nights.

    days: days of a period. The period of the night of date D ends with D, and a night is due every
        so many days.
    utc_offset_hours: local minus universal time of the folders' dates, 8 for Taobao; without
        daylight saving.
    evaluation: share of a period at its end, in (0, 1), whose rows evaluate the night's model.
    """

    days: int = 1
    utc_offset_hours: float = 0.0
    evaluation: float = 0.25

    def __post_init__(self) -> None:
        if self.days < 1:
            raise InputError(f"days of a period is {self.days}; expected at least 1; set days=1")
        if not 0 < self.evaluation < 1:
            raise InputError(
                f"evaluation is {self.evaluation}; expected a share of a period, between 0 and 1 "
                "exclusive; set evaluation=0.25"
            )
        if not (math.isfinite(self.utc_offset_hours) and abs(self.utc_offset_hours) <= 14):
            raise InputError(
                f"utc_offset_hours is {self.utc_offset_hours}; expected -14 to 14, the hours that "
                "local time is ahead of UTC; set utc_offset_hours=0"
            )

    def begin(self, day: date) -> int:
        """The first second of a day."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return int(midnight.timestamp()) - round(self.utc_offset_hours * 3600)

    def window(self, day: date, since: int) -> Window:
        """The window of the night whose period ends with `day`. since: the parent's cutoff, or for
        a cold start the first second of the first day."""
        end = self.begin(day) + DAY
        return Window(since, end - round(self.evaluation * self.days * DAY), end)

    def dates(self, window: Window) -> tuple[date, ...]:
        """The days that a window touches."""
        first, last = (self._date(second) for second in (window.begin, window.end - 1))
        return tuple(first + timedelta(k) for k in range((last - first).days + 1))

    def _date(self, second: int) -> date:
        return datetime.fromtimestamp(second + round(self.utc_offset_hours * 3600), UTC).date()


def dates(root: Path) -> tuple[date, ...]:
    """The days that are finished and have a part with a byte, in order.

    Raises InputError for a date that no calendar has.
    """
    found = (FOLDER.fullmatch(path.name) for path in Path(root).glob("dt=*"))
    days = sorted(_dated(Path(root), m[1]) for m in found if m)
    return tuple(d for d in days if _filled(_folder(root, d)))


def _filled(folder: Path) -> bool:
    parts = (p for p in folder.glob(f"{PART_NAME}*") if PART.fullmatch(p.name))
    return (folder / READY).is_file() and any(p.is_file() and p.stat().st_size for p in parts)


def find(root: Path, wanted: Iterable[date]) -> tuple[Day, ...]:
    """These days, all of them.

    Raises NoData, which names the days without a folder, without ``_SUCCESS`` or with empty files
    alone. Raises InputError for a folder that holds anything else than its parts, parts of several
    kinds, one file under two names, or a link that leads out.
    """
    wanted = tuple(wanted)
    missing = [d for d in wanted if not _folder(root, d).is_dir()]
    if missing:
        raise NoData(
            f"{root} has no folder for {_listed(missing)}; expected dt=YYYY-MM-DD for every day of "
            f"{wanted[0]} to {wanted[-1]}; deliver the missing log, then run the night again"
        )
    unfinished = [d for d in wanted if not (_folder(root, d) / READY).is_file()]
    if unfinished:
        raise NoData(
            f"{root}: {_listed(unfinished)} has no {READY}, so its log is not complete; expected "
            "the file once all parts are written; wait for it, then run the night again"
        )
    return tuple(_day(Path(root), d) for d in wanted)


def demand_order(days: Sequence[Day]) -> None:
    """Raises InputError unless the days are one after another, each once."""
    if not days:
        raise NoData("no day is given; expected at least one; name the days of the window")
    for before, after in pairwise(days):
        if before.date >= after.date:
            what = "stands twice" if before.date == after.date else f"follows {before.date}"
            raise InputError(
                f"day {after.date} {what} in the days of the night; expected ascending dates, each "
                "once; sort them and take out what is double"
            )


def read_parts(
    engine: Engine,
    table: str,
    files: Sequence[Path],
    columns: Mapping[str, str],
    check: Callable[[Engine, Path], None],
    *,
    header: bool = False,
    quote: str = "",
) -> int:
    """`Engine.read_csv` of files that are one log in several: ``ord`` goes on from part to part.

    check: of each path, while `table` holds that file alone; raises for bad rows of it.
    """
    views, rows = list[str](), 0
    for number, path in enumerate(files):
        part = table if len(files) == 1 else f"{table}_{number}"
        found = engine.read_csv(part, path, columns, header=header, quote=quote)
        if part != table:
            engine.execute(f"CREATE VIEW {table} AS SELECT * FROM {part}")
        check(engine, path)
        if part != table:
            engine.execute(f"DROP VIEW {table}")
        named = ", ".join(f'"{column}"' for column in columns)
        views.append(f"SELECT {named}, ord + {rows} AS ord FROM {part}")
        rows += found
    if len(files) > 1:
        engine.execute(f"CREATE VIEW {table} AS {' UNION ALL '.join(views)}")
    return rows


def _dated(root: Path, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _odd(root / f"dt={text}", "is no day of the calendar", "dt=YYYY-MM-DD") from None


def _folder(root: Path, day: date) -> Path:
    return Path(root) / f"dt={day}"


def _listed(days: Sequence[date]) -> str:
    shown = [str(d) for d in days[:5]]
    return ", ".join(shown) + (f" and {len(days) - 5} more" if len(days) > 5 else "")


def _day(root: Path, day: date) -> Day:
    folder = _folder(root, day)
    if folder.resolve().parent != root.resolve():
        raise _odd(folder, "is a link that leads out of its root", "a folder of its own")
    kinds, homes, files = dict[str, Path](), dict[Path, Path](), list[Path]()
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        match = PART.fullmatch(path.name)
        home = path.resolve()
        if home.parent != folder.resolve():
            raise _odd(path, "is a link that leads out of its folder", "the file itself")
        if match is None or not path.is_file():
            raise _odd(path, "is no part of a log", "files part-*.parquet, .csv or .csv.gz alone")
        if home in homes:
            raise _odd(path, f"is the same file as {homes[home].name}", "each part once")
        homes[home] = path
        kinds.setdefault(match[1], path)
        if path.stat().st_size:
            files.append(path)
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        raise _odd(folder, f"holds both {one.name} and {other.name}", "parts of one kind")
    if not files:
        raise NoData(
            f"{folder} holds {READY} and no part with a row; expected the day's log; deliver it, "
            "then run the night again"
        )
    return Day(day, folder, tuple(files), (folder / SIMULATED).exists())


def _odd(path: Path, found: str, expected: str) -> InputError:
    return InputError(f"{path} {found}; expected {expected}; correct the delivery of that day")
