"""Splits by time: training, then validation, then test, at two seconds that all rows share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from at4ctr.errors import InputError

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

# SQL of a row's split, once `bound` has made the relation ``bounds``.
SPLIT = """CASE WHEN "timestamp" >= (SELECT test FROM bounds) THEN 'test'
    WHEN "timestamp" >= (SELECT validation FROM bounds) THEN 'validation' ELSE 'train' END"""

# SQL of the second before which a row's reports are known: the end of its split or of the log.
KNOWN_UNTIL = """CASE WHEN "timestamp" >= (SELECT test FROM bounds)
        THEN (SELECT max("timestamp") + 1 FROM impressions)
    WHEN "timestamp" >= (SELECT validation FROM bounds) THEN (SELECT test FROM bounds)
    ELSE (SELECT validation FROM bounds) END"""


def demand_shares(where: str, test: float, validation: float) -> None:
    """Raises InputError unless the shares of time leave some to train on."""
    if not (test > 0 and validation >= 0 and test + validation < 1):
        raise InputError(
            f"{where}: test_share is {test} and validation_share {validation}; expected the "
            "first above 0, and a sum below 1 that leaves time to train on; set "
            "data.test_share=0.2 data.validation_share=0.1"
        )


def bound(engine: Engine, validation: int, test: int) -> None:
    """Makes ``bounds``, the first seconds of validation and of test, and notes them."""
    engine.execute(
        f"CREATE TABLE bounds AS SELECT {validation}::BIGINT AS validation, {test}::BIGINT AS test"
    )
    moments = [datetime.fromtimestamp(s, UTC).isoformat(" ", "seconds")[:19]
               for s in (validation, test)]  # fmt: skip
    engine.notes.append(f"validation from {moments[0]} UTC, test from {moments[1]} UTC")


def bound_by_shares(engine: Engine, test_share: float, validation_share: float) -> None:
    """`bound` at shares of the time from the first impression to the last."""
    first, last = engine.one('SELECT min("timestamp"), max("timestamp") FROM impressions')
    test = round(last - test_share * (last - first))
    bound(engine, round(test - validation_share * (last - first)), test)
