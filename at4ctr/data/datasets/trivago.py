"""trivago: hotels shown and clicked, RecSys Challenge 2019; true impressions.

P. Knees, Y. Deldjoo, F. B. Moghaddam, J. Adamczak, G.-P. Leyson, P. Monreal, "RecSys Challenge
2019: session-based hotel recommendations", RecSys 2019. One row an action of a user in a session.
A ``clickout item`` lists up to 25 items shown with their prices, of which ``reference`` was
clicked: each item shown is an instance. What the session did with items before that second is the
history.

What to know of the log:

- every page has one click, so the click rate is that of the pages' length (4 % of 25 items), and
  pages that nobody clicked on are not in the log: the model predicts which item, given a click.
- half of the clicks are on the first three positions; position is the strongest feature.
- a clickout whose reference is not among the items shown gives no instances (1 of 9,481 in a
  public sample), yet is a behaviour. References that are no item (``unknown``) are no behaviours.
- steps of a session can share a second; none of the clickout's own second is in its history.
- prices are whole euros of a night, 5 to 9,999: here in quarters of an octave, 19 % wide.
- users hardly come back (1.15 sessions each in the sample's two days), so a model would only
  memorise a user's id: `by` is ``session``, and the model has no id of the user or session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from at4ctr.data.mapped.config import Mapped
from at4ctr.data.mapped.rows import Rows
from at4ctr.errors import unknown
from at4ctr.schema import Feature, Schema, Table

ACTIONS = (
    "interaction item image", "interaction item info", "interaction item rating",
    "interaction item deals", "search for item", "clickout item",
)  # fmt: skip
OCTAVE = 4  # price buckets for a doubling
PROPERTIES = 100  # of an item, at most
FILE, METADATA = "train.csv*", "item_metadata.csv*"
CONTEXT = ("position", "price", "platform", "device", "city")


@dataclass(frozen=True)
class Config(Mapped):
    """trivago.

    raw: the folder of ``train.csv`` or ``train.csv.gz``, or that file.
    by: whose earlier actions are the history: the ``session``'s, whose id is no feature, or the
        ``user``'s, over all sessions, whose id is a feature.
    properties: whether the item's properties, from ``item_metadata.csv`` in the same folder, are
        features.
    test_share, validation_share: a public sample has two days only, of which 30 hours are training,
        6 validation and 12 test; of the challenge's own six days, 90, 18 and 36 hours.
    """

    test_share: float = 0.25
    validation_share: float = 0.125
    by: Literal["session", "user"] = "session"
    properties: bool = False

    CITATION: ClassVar[str] = (
        "trivago: P. Knees et al., RecSys Challenge 2019: session-based hotel recommendations, "
        "RecSys 2019"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in ("session", "user"):
            raise unknown("value of data.by", self.by, ("session", "user"))

    def schema(self) -> Schema:
        told = self.by == "user"
        who = Table(self.by, "string", buckets=0 if told else 1)  # one row for an id not told
        schema = Schema(
            times=self.times,
            tables=(
                *(who, Table("item"), Table("action", "string"), Table("position"), Table("price")),
                *(Table(name, "string") for name in ("platform", "device", "city")),
                *([Table("property", "string")] if self.properties else []),
            ),
            features=(
                Feature(self.by, "profile", self.by, serve=told),
                Feature("item", "item", "item"),
                *([Feature("properties", "item", "property", length=PROPERTIES)]
                  if self.properties else []),
                Feature("action", "behaviour", "action"),
                *(Feature(name, "context", name) for name in CONTEXT),
            ),
            history=("item",),
        )  # fmt: skip
        return self.with_least(schema)

    def behaviours(self) -> Rows:
        known = ", ".join(f"'{action}'" for action in ACTIONS)
        return Rows(
            files=FILE,
            where=f"action_type IN ({known}) AND reference <> 'unknown'",
            time="timestamp",
            columns={self.by: f"{self.by}_id", "item": "reference", "action": "action_type"},
        )

    def impressions(self) -> Rows:
        shown, prices = "string_split(impressions, '|')", "string_split(prices, '|')"
        return Rows(
            files=FILE,
            where=f"action_type = 'clickout item' AND list_contains({shown}, reference)",
            lists={"shown": shown, "euros": prices},
            time="timestamp",
            labels={"click": "shown = reference"},
            columns={
                self.by: f"{self.by}_id",
                "item": "shown",
                "position": "place",
                "price": f"floor({OCTAVE} * log2(greatest(euros::DOUBLE, 1)))::BIGINT",
                "platform": "platform",
                "device": "device",
                "city": "city",
            },
        )

    def items(self) -> Rows | None:
        if not self.properties:
            return None
        properties = "string_split(properties, '|')"
        return Rows(files=METADATA, columns={"item": "item_id", "properties": properties})
