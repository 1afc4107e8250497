"""Taobao user behaviours as a funnel: page view, then cart or favourite, then purchase.

The file is that of `taobao`, or a simulated log of its five columns where there is none. An
impression is a page view. A *click* is a cart or favourite of the same user and item within 24
hours after it, a *conversion* a purchase within `conversion_days`. The log has nine days, so
a conversion's window is two by default: it is unknown of what is clicked in the last two days.

A simulated log draws each behaviour's type independently, so a model cannot learn there who buys
what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from at4ctr.data.dataset import Source
from at4ctr.data.datasets import taobao
from at4ctr.data.datasets._funnel import LABELS, Funnel
from at4ctr.schema import Feature, Schema, Table

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine


@dataclass(frozen=True)
class Config(Funnel):
    """Taobao's funnel.

    window: keep only timestamps of the nine official days. simulate_rows: size of the log that is
    simulated where there is no real one.
    """

    conversion_days: float = 2.0
    window: bool = True
    simulate_rows: int = 1_000_000

    READING: ClassVar[tuple[str, ...]] = (*Funnel.READING, "simulate_rows")
    VIEW: ClassVar[tuple[str, ...]] = ("pv",)
    CLICK: ClassVar[tuple[str, ...]] = ("cart", "fav")
    CONVERSION: ClassVar[tuple[str, ...]] = ("buy",)

    def schema(self) -> Schema:
        schema = Schema(
            times=self.times,
            tables=(Table("user"), Table("item"), Table("category"), Table("event", "string")),
            features=(
                Feature("user", "profile", "user"),
                Feature("item", "item", "item"),
                Feature("category", "item", "category"),
                Feature("event", "behaviour", "event"),
            ),
            history=("item", "category", "event"),
            labels=LABELS,
        )
        return self.with_options(schema)

    def acquire(self) -> Source:
        return taobao.Config(raw=self.raw, simulate_rows=self.simulate_rows).acquire()

    def events(self, engine: Engine, source: Source) -> list[str]:
        taobao.Config(raw=self.raw, window=self.window).load(engine, source)
        engine.execute("ALTER TABLE log RENAME TO events")
        kept = '"user", item, category, type AS event, "timestamp", ord'
        engine.replace("events", f"SELECT {kept} FROM events")
        return ["category"]
