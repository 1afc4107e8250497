"""Timestamps: whether a day's rows lie in the day, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np

from at4ctr.gates.anomaly import Anomaly, Thresholds
from at4ctr.gates.counting import MARGIN
from at4ctr.gates.history import DAY, Distance, Floats, Usual, jensen_shannon, shares
from at4ctr.gates.statistics import Relation, Stats

WHOLE = 0.98  # of the rows lie in the shifted day, for a shift to be named
HOURS = 24


def check(
    today: Stats, relation: str, usual: Usual | None, limits: Thresholds
) -> Iterator[Anomaly]:
    """The anomalies of one relation's timestamps; at most one.

    usual: None with too few days before; then only rows outside the day are reported.
    """
    now = today.relations[relation]
    outside = (now.early + now.late) / now.rows
    past = [s.relations[relation] for s in usual.days] if usual else []
    before = [(r.early + r.late) / max(r.rows, 1) for r in past]
    expected = float(np.median(before)) if before else 0.0
    if outside - expected > limits.outside:
        yield _outside(today, relation, past, outside, expected)
        return
    if usual is None:
        return
    found = usual.shape(
        [profile(r) for r in past], profile(now), now.users, limits.hours, largest=False
    )
    if found.beyond:
        yield _turned(today, relation, past, found)


def profile(relation: Relation) -> Floats:
    """Shares of the rows [24] by hours since the day's begin, modulo 24."""
    counts = np.zeros(HOURS)
    for place, rows in enumerate(relation.hours):
        counts[(place - MARGIN) % HOURS] += rows
    return counts / max(counts.sum(), 1.0)


def _outside(
    today: Stats, relation: str, past: Sequence[Relation], outside: float, expected: float
) -> Anomaly:
    now = today.relations[relation]
    seen = (
        f"{outside:.1%} of {now.rows:,} rows of {relation} lie outside {_moment(today.begin)} to "
        f"{_moment(today.end)} UTC (from {_moment(now.first)} to {_moment(now.last)}); expected "
        f"about {expected:.1%}"
    )
    hours, share = _shift(now, (today.end - today.begin) // 3600)
    if hours and share >= WHOLE and share > 1 - outside:
        said = f"{seen}; {share:.1%} lie in the day shifted by {_zone(hours)}: "
        said += _why(now, past, hours)
        return Anomaly("reject", "clock_shift", relation, said, float(hours), 0.0)
    span = range((today.end - today.begin) // DAY)
    strange = [(day, rows) for day, rows in now.days if day not in span]
    day, rows = max(strange, key=lambda d: d[1], default=(0, 0))
    if rows >= (now.early + now.late) / 2:
        said = (
            f"{seen}; {rows / now.rows:.1%} are of the day that begins "
            f"{_moment(today.begin + day * DAY)}: another day's rows; put the day's own files there"
        )
        return Anomaly("reject", "wrong_day", relation, said, rows / now.rows, expected)
    said = f"{seen}; correct the timestamps or the cut between days"
    return Anomaly("reject", "outside", relation, said, outside, expected)


def _shift(now: Relation, period: int) -> tuple[int, float]:
    """The whole hours, 1 to 23 to either side, that bring most rows into the day; their share."""
    counts = np.asarray(now.hours, np.float64)
    found = {}
    for shift in sorted(range(-MARGIN + 1, MARGIN), key=abs):
        begin = MARGIN + shift
        found[shift] = float(counts[begin : begin + period].sum()) / now.rows
    best = max(found, key=lambda s: found[s])
    return best, found[best]


def _turned(today: Stats, relation: str, past: Sequence[Relation], found: Distance) -> Anomaly:
    """The anomaly of another histogram of hours: shifted by whole hours, or of another shape."""
    now, usual = profile(today.relations[relation]), _typical(past)
    distances = [jensen_shannon(np.roll(now, -hours), usual) for hours in range(HOURS)]
    best = int(np.argmin(distances))
    seen = (
        f"the hours of the day of {relation} differ from those of the days before by "
        f"{found.value:.3f} bits; expected about {found.usual:.3f}"
    )
    hours = best if best <= HOURS // 2 else best - HOURS
    if (
        best
        and distances[best] < found.usual + found.allowed
        and distances[best] < distances[0] / 2
    ):
        said = (
            f"{seen}, which they are when turned back by {abs(hours)} hours: all timestamps are "
            f"shifted by {_zone(hours)}; write them in UTC"
        )
        return Anomaly("reject", "clock_shift", relation, said, float(hours), 0.0)
    said = f"{seen}; look for hours without rows or with too many"
    return Anomaly("warn", "hours", relation, said, found.value, found.usual)


def _typical(past: Sequence[Relation]) -> Floats:
    return shares(np.median([profile(r) for r in past], axis=0))


def _why(now: Relation, past: Sequence[Relation], hours: int) -> str:
    """Whether the clock or the cut is wrong: a wrong clock turns the hours of the day as well."""
    clock = "the clock is wrong (local time written as UTC?); write the timestamps in UTC"
    cut = (
        "the timestamps look right and the day is cut at another midnight; cut it there or correct "
        "utc_offset_hours"
    )
    if not past:
        return f"either {clock}, or {cut}"
    usual, found = _typical(past), profile(now)
    turned = jensen_shannon(np.roll(found, -hours), usual)
    return clock if turned < jensen_shannon(found, usual) else cut


def _zone(hours: int) -> str:
    return f"{hours:+d} hours (UTC{hours:+d})"


def _moment(seconds: int | None) -> str:
    if seconds is None:
        return "never"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"second {seconds}"
