"""The checks of PCOC: of all rows, and of every large segment.

A PCOC that is off is no reason to keep the incumbent if the incumbent's is as far off on the same
rows. So a check fails only where PCOC is shown to be off, and by more than the tolerance further
off than the incumbent's. It warns where PCOC is shown to be off and the incumbent's is no better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from at4ctr.gates import ratios
from at4ctr.gates.ratios import Sums
from at4ctr.gates.verdict import Check, Outcome, Thresholds, unset
from at4ctr.metrics.intervals import FEW, holm


def overall(whole: Sums, limits: Thresholds, level: float) -> Check:
    """PCOC of all rows. level: of the two-sided test."""
    off, limit, pcoc = limits.pcoc, limits.pcoc_limit, whole.pcoc
    if off is None or limit is None or pcoc is None:
        return unset("pcoc", pcoc, whole.interval)
    said, limit = _said(whole), max(limit, off)
    if ratios.p_value(whole.alone(), limit) <= level:
        said = f"{said}; it is shown to be outside {_bounds(limit)}, which no model may be"
        return Check("pcoc", "fail", said, pcoc, off, whole.interval)
    p = ratios.p_value(whole, off)
    outcome, said = _judged(said, whole, off, p, ratios.p_value(whole.alone(), off), level)
    return Check("pcoc", outcome, said, pcoc, off, whole.interval)


def segments(
    whole: Sums, parts: Mapping[str, Sums], limits: Thresholds, level: float
) -> Iterator[Check]:
    """PCOC of every large segment, by p-values that Holm's method adjusts for their number.

    level: of the whole family: the probability, at most, that any sound segment fails.

    A segment is large if it has `segment_share` of the clicks, or of the predicted clicks: one that
    is predicted far too high has few clicks. Without a large segment the check holds.
    """
    share, off = limits.segment_share, limits.segment_pcoc
    if share is None or off is None:
        yield unset("segments")
        return
    seen, thought = (max(share * float(v.sum()), FEW) for v in (whole.clicks, whole.new))
    large = {name: s for name, s in parts.items()
             if s.clicks.sum() >= seen or s.new.sum() >= thought}  # fmt: skip
    if not large:
        yield Check("segments", "hold", "no large segment was given; give the segments' rows")
    worse, wrong = (
        dict(zip(group, holm([ratios.p_value(s, off) for s in group.values()]), strict=True))
        for group in (large, {name: s.alone() for name, s in large.items()})
    )
    for name, s in large.items():
        yield _segment(f"segment {name}", s, off, worse[name], wrong[name], level)


def _segment(name: str, s: Sums, off: float, worse: float, wrong: float, level: float) -> Check:
    """worse, wrong: adjusted p of being further off than the incumbent, and of being off."""
    if not s.clicks.sum():
        return _silent(name, s, off, worse, wrong, level)
    if s.users < 2:
        said = f"its {s.clicks.sum():,.0f} clicks are of one user, so that there is no interval"
        return Check(name, "warn", said, s.pcoc, off)
    outcome, said = _judged(_said(s), s, off, worse, wrong, level)
    interval = s.interval or (0.0, 0.0)  # 0: so is every probability
    return Check(name, outcome, said, s.pcoc or 0.0, off, interval)


def _silent(name: str, s: Sums, off: float, worse: float, wrong: float, level: float) -> Check:
    """A segment without a click, of which PCOC has a lower bound alone."""
    said = (
        f"no click is seen in {s.rows.sum():,.0f} rows of {s.users:,} users, and "
        f"{s.new.sum():,.0f} are predicted"
    )
    if s.users < FEW:
        return Check(name, "warn", f"{said}; so few users show nothing", None, off)
    outcome: Outcome = "fail" if worse <= level else "warn" if wrong <= level else "pass"
    low = ratios.least_silent(s)
    said = f"{said}, so PCOC is above {low:.2f}; at most {1 + off:.4f} is allowed"
    return Check(name, outcome, said, None, off)


def _judged(
    said: str, s: Sums, off: float, worse: float, wrong: float, level: float
) -> tuple[Outcome, str]:
    """The outcome, and why. worse, wrong: p, two-sided."""
    bounds = _bounds(off)
    if worse <= level:
        than = "" if s.before is None else f", and further off than the live model's {s.before:.4f}"
        return "fail", f"{said}; it is shown to be outside {bounds}{than}"
    if wrong <= level:
        return "warn", (
            f"{said}; it is shown to be outside {bounds}, but not to be further off than the live "
            f"model's {s.before or 0.0:.4f} by more than {off:.1%}"
        )
    if _within(s.pcoc or 0.0, off):
        return "pass", f"{said}; {bounds} is allowed"
    return "pass", f"{said}, off by more than {off:.1%}, not shown: it may lie in {bounds}"


def _said(s: Sums) -> str:
    interval = s.interval
    between = "" if interval is None else f" (95 %: {interval[0]:.4f} to {interval[1]:.4f})"
    return f"PCOC is {s.pcoc or 0.0:.4f}{between}"


def _within(pcoc: float, off: float) -> bool:
    return abs(pcoc - 1) <= off


def _bounds(off: float) -> str:
    return f"{1 - off:.4f} to {1 + off:.4f}"
