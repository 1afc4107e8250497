"""Splits by time: training, then validation, then test, at two seconds that all rows share."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from at4ctr.data.days import DAY
from at4ctr.errors import InputError

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

GAP, FEW = 0.25, 0.01  # of the time, and of the impressions that lie beyond it
CELLS = 4096  # of equal time, between which gaps are looked for

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
    moments = f"validation from {_moment(validation)} UTC, test from {_moment(test)} UTC"
    engine.notes.append(moments)


def _moment(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat(" ", "seconds")[:19]


def demand_dense(engine: Engine, where: str) -> None:
    """Raises InputError where a few impressions lie far from all others in time.

    A row dated 2099 would make splits by shares of time hold it alone. Refused is a gap of more
    than `GAP` of the time from the first impression to the last that separates at most `FEW` of the
    impressions from the others.
    """
    first, last = engine.one('SELECT min("timestamp"), max("timestamp") FROM impressions')
    width = max((last - first) // CELLS, 1)
    cell = engine.quotient(f'"timestamp" - {first}', width)
    cells = engine.rows(
        f"""SELECT {cell} AS cell, min("timestamp"), max("timestamp"), count(*) FROM impressions
        GROUP BY 1 ORDER BY 1"""
    )
    total, before = sum(n for *_, n in cells), 0
    for (_, _, end, here), (_, begin, _, _) in pairwise(cells):
        before += here
        few = min(before, total - before)
        if begin - end <= GAP * (last - first) or few > FEW * total:
            continue
        late = few < before
        raise InputError(
            f"{where}: {few:,} of {total:,} impressions {'is' if few == 1 else 'are'} at "
            f"{_moment(begin if late else end)} UTC or {'later' if late else 'earlier'}, "
            f"{(begin - end) / DAY:,.1f} days {'after' if late else 'before'} the others; expected "
            "impressions without such a gap, since shares of the whole time make the splits; "
            "correct those rows or leave them out with where in impressions(), or set "
            "data.validation_from and data.test_from"
        )


def bound_by_shares(engine: Engine, test_share: float, validation_share: float) -> None:
    """`bound` at shares of the time from the first impression to the last."""
    first, last = engine.one('SELECT min("timestamp"), max("timestamp") FROM impressions')
    test = round(last - test_share * (last - first))
    bound(engine, round(test - validation_share * (last - first)), test)
