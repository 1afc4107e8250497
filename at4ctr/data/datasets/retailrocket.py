"""RetailRocket: views, carts and purchases of a web shop, May to September 2015; a real funnel.

R. Zykov, N. Artem, A. Alexander, "Retailrocket recommender system dataset", Kaggle, 2022. The file
``events.csv`` has the columns timestamp (Unix milliseconds), visitorid, event, itemid and
transactionid. An impression is a view. A *click* is an addtocart of the same visitor and item
within 24 hours after it, a *conversion* a transaction within 7 days.

What to know of the log:

- a view is what the visitor chose to see, not what the shop showed: the click rate is that of
  people who are already on an item's page.
- several views may come before one addtocart; each of them is clicked.
- a visitor may put an item into the cart and go on viewing it: the history then holds the addtocart
  of the very candidate, which is why event types belong to a behaviour's vector here.
- item properties are another file, which is not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from at4ctr.data.dataset import Source
from at4ctr.data.datasets._funnel import LABELS, Funnel
from at4ctr.data.engines.csv_file import line_at
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Schema, Table

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

FILES = ("events.csv", "events.csv.gz")
COLUMNS = {"timestamp": "BIGINT", "visitorid": "BIGINT", "event": "STRING", "itemid": "BIGINT",
           "transactionid": "STRING"}  # fmt: skip
EVENTS = ("view", "addtocart", "transaction")
LEAST = 10**12  # milliseconds; seconds are below
CITATION = "RetailRocket: R. Zykov et al., Retailrocket recommender system dataset, Kaggle, 2022"


@dataclass(frozen=True)
class Config(Funnel):
    """RetailRocket.

    raw: the folder of ``events.csv`` or ``events.csv.gz``, or that file.
    """

    VIEW: ClassVar[tuple[str, ...]] = ("view",)
    CLICK: ClassVar[tuple[str, ...]] = ("addtocart",)
    CONVERSION: ClassVar[tuple[str, ...]] = ("transaction",)

    def schema(self) -> Schema:
        schema = Schema(
            times=self.times,
            tables=(Table("visitor"), Table("item"), Table("event", "string")),
            features=(
                Feature("visitor", "profile", "visitor"),
                Feature("item", "item", "item"),
                Feature("event", "behaviour", "event"),
            ),
            history=("item", "event"),
            labels=LABELS,
        )
        return self.with_options(schema)

    def acquire(self) -> Source:
        path = Path(self.raw or f"data/raw/{self.name}")
        for file in [path] if path.is_file() else [path / name for name in FILES]:
            if file.is_file():
                return Source((file,), notes=(CITATION,))
        raise InputError(
            f"raw log {path} {'holds no events.csv' if path.is_dir() else 'does not exist'}; "
            "expected RetailRocket's events.csv; download it from Kaggle and name its folder with "
            "data.raw (RAW=folder)"
        )

    def events(self, engine: Engine, source: Source) -> list[str]:
        (path,) = source.files
        engine.read_csv("raw", path, COLUMNS, header=True)
        known = ", ".join(f"'{event}'" for event in EVENTS)
        wrong = engine.one(
            f"""SELECT event, "timestamp", ord FROM raw WHERE event NOT IN ({known})
            OR "timestamp" NOT BETWEEN {LEAST} AND {10 * LEAST - 1} ORDER BY ord LIMIT 1"""
        )
        if wrong:
            line, _ = line_at(path, wrong[2], header=True)
            found = f"event {wrong[0]!r}" if wrong[0] not in EVENTS else f"timestamp {wrong[1]}"
            raise InputError(
                f"{path} line {line} has {found}; expected one of {', '.join(EVENTS)} and Unix "
                "milliseconds of 13 digits; correct or delete the line"
            )
        engine.run(
            "events",
            f"""CREATE TABLE events AS SELECT visitorid AS visitor, itemid AS item, event,
            {engine.quotient('"timestamp"', 1000)} AS "timestamp", ord FROM raw""",
        )
        engine.drop("raw")
        return []
