"""A base for logs of events that form a funnel: a view, then a click, then a conversion.

An impression is a view. Its labels come from later events of the same user and item. The history
of an impression is every earlier event of its user, whatever its type.

What to know of such labels: a training row's label looks as far ahead as its window, so that the
labels of the last training rows were not yet known at the first second of validation. Rows whose
click window does not end within the log are left out. A conversion whose window does not end within
the log is `OPEN`, even where it has happened or nothing was clicked. Otherwise all known
conversions of that time would be positive, and all rows of the composed label negative.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from at4ctr.data.dataset import Options, Source
from at4ctr.data.engines.base import name, quoted
from at4ctr.data.periods import SPLIT, bound_by_shares, demand_shares
from at4ctr.errors import InputError
from at4ctr.schema import OPEN, Label

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

HOUR, DAY = 3600, 86_400
LABELS = (Label("click", sampled=True), Label("conversion", within="click"))


@dataclass(frozen=True)
class Funnel(Options):
    """Options of a funnel.

    click_hours: a view is clicked if its user clicks the item within so many hours after it.
    conversion_days: a clicked view converts if its user buys the item within so many days after
        the view; otherwise it does not. It is unknown of a view without a click, and open in one
        whose window does not end within the log.
    test_share, validation_share: of the time from the first view to the last, the end is test and
        what lies before it is validation.
    """

    min_behaviours: int = 0
    min_history: int = 0
    click_hours: float = 24.0
    conversion_days: float = 7.0
    test_share: float = 0.2
    validation_share: float = 0.1

    FEWEST: ClassVar[int] = 0
    VIEW: ClassVar[tuple[str, ...]] = ()  # event types
    CLICK: ClassVar[tuple[str, ...]] = ()
    CONVERSION: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"data options of {self.name}"
        for field in ("click_hours", "conversion_days"):
            if not 0 < getattr(self, field) < float("inf"):
                raise InputError(
                    f"{where}: {field} is {getattr(self, field)}; expected a finite time above 0"
                )
        demand_shares(where, self.test_share, self.validation_share)

    @abstractmethod
    def events(self, engine: Engine, source: Source) -> list[str]:
        """Makes the relation ``events``: the ids, item attributes, ``event`` STRING, ``timestamp``
        BIGINT in seconds and ``ord``. Returns the names of the item attributes."""

    def load(self, engine: Engine, source: Source) -> None:
        attributes = self.events(engine, source)
        schema = self.schema()
        user, item = name(schema.user_id.name), name(schema.item_id.name)
        columns = ", ".join([user, item, *map(name, attributes)])
        clicked = self._next("clicked", self.CLICK, user, item)
        bought = self._next("converted", self.CONVERSION, user, item)
        log = f'SELECT {columns}, event, "timestamp", ord FROM events'
        engine.run("log", f"CREATE TABLE log AS {log}")
        last = engine.one('SELECT max("timestamp") FROM events')[0]
        click, conversion = round(self.click_hours * HOUR), round(self.conversion_days * DAY)
        engine.execute(
            f"""CREATE TABLE views AS SELECT * FROM (
            SELECT {columns}, event, "timestamp", ord, {clicked}, {bought} FROM events) e
            WHERE event IN ({_listed(self.VIEW)})"""
        )
        found = int(engine.one("SELECT count(*) FROM views")[0])
        converted = f"""CASE WHEN converted <= "timestamp" + {conversion} THEN 1 ELSE 0 END"""
        kept = engine.run(
            "impressions",
            f"""CREATE TABLE impressions AS SELECT {columns}, "timestamp", ord, label_click,
            (CASE WHEN "timestamp" + {conversion} > {last} THEN {OPEN}
                WHEN label_click = 1 THEN {converted} END)::TINYINT AS label_conversion
            FROM (SELECT *, (CASE WHEN clicked <= "timestamp" + {click} THEN 1 ELSE 0 END)::TINYINT
                AS label_click FROM views WHERE "timestamp" + {click} <= {last}) v""",
        )
        engine.execute("DROP TABLE events")
        engine.execute("DROP TABLE views")
        if not kept:
            raise InputError(
                f"{', '.join(map(str, source.files))} has {found:,} views, and none whose click "
                f"window of {self.click_hours:g} hours ends within the log; expected some; use a "
                "longer log, or set data.click_hours lower"
            )
        if found > kept:
            engine.notes.append(
                f"{found - kept:,} of {found:,} views are no rows, as their click window of "
                f"{self.click_hours:g} hours does not end within the log"
            )
        bound_by_shares(engine, self.test_share, self.validation_share)

    def split(self) -> str:
        return SPLIT

    def _next(self, column: str, types: tuple[str, ...], user: str, item: str) -> str:
        """SQL of the time of the next event of some types, this one's second included."""
        return f"""min(CASE WHEN event IN ({_listed(types)}) THEN "timestamp" END) OVER (
            PARTITION BY {user}, {item} ORDER BY "timestamp"
            RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS {column}"""


def _listed(types: tuple[str, ...]) -> str:
    return ", ".join(f"'{quoted(t)}'" for t in types)
