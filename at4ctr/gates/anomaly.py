"""The anomalies that the data gate reports, and its thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from at4ctr.errors import InputError, unknown

Severity = Literal["reject", "warn", "note"]
Name = Literal[
    "schema", "rows", "click_rate", "sampled_twice", "nulls", "unknown_ids", "drift", "hours",
    "clock_shift", "wrong_day", "outside", "duplicates", "dropped", "history",
]  # fmt: skip
NAMES: tuple[str, ...] = get_args(Name)


@dataclass(frozen=True)
class Thresholds:
    """The thresholds beyond which a day is odd. Shares lie in [0, 1].

    deviations: how many standard deviations, of sampling and from day to day, are still usual.
    recent: how many days the median is of. fewest: with fewer days before, only checks that need no
        earlier day are made.
    rows, click_rate: least difference of ln(rows) and of ln(odds of a click) that counts.
    nulls, unknown_ids, duplicates, outside, dropped: least rise of a share that counts; of nulls,
        also a fall. outside: of timestamps outside the day; dropped: of rows that reading left out.
    jensen_shannon, largest_shift: least rise of a histogram's divergence (base 2) and of its L∞
        distance, over what is usual between two days, that counts.
    hours: the same for the histogram of the hours of the day.
    unknown_most, duplicates_most: shares that no day may have, with or without days before.
    sampled_twice: a log counts as sampled already where ln of its odds of a click, over the usual
        odds, is so near to ln(1/w).
    """

    deviations: float = 5.0
    recent: int = 7
    fewest: int = 3
    rows: float = 0.35
    click_rate: float = 0.2
    nulls: float = 0.02
    unknown_ids: float = 0.1
    duplicates: float = 0.01
    outside: float = 0.01
    dropped: float = 0.02
    jensen_shannon: float = 0.05
    largest_shift: float = 0.1
    hours: float = 0.05
    unknown_most: float = 0.95
    duplicates_most: float = 0.3
    sampled_twice: float = 0.15

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (np.isfinite(value) and value >= 0):
                raise InputError(
                    f"data gate: threshold {name} is {value}; expected a number of at least 0"
                )
        if min(self.fewest, self.recent) < 1:
            raise InputError(
                f"data gate: fewest is {self.fewest} and recent {self.recent}; expected at least "
                "1 day each; set fewest=3 recent=7"
            )


@dataclass(frozen=True)
class Anomaly:
    """Something odd about a day. where: the relation, or relation.feature. found, expected: the
    numbers behind the sentence, where there are any."""

    severity: Severity
    name: Name
    where: str
    sentence: str
    found: float | None = None
    expected: float | None = None

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise unknown("anomaly", self.name, NAMES)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``anomalies.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Anomaly:
        """The inverse of `to_json`."""
        return cls(**value)
