"""The data gate: is today's log like the logs of the days before?

`check` compares counts, never rows. An anomaly that *rejects* stops the night; a *warning* and a
*note* go into the report. What is usual, and how far a day may be from it, is in `history`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from at4ctr.gates import clock, features
from at4ctr.gates.anomaly import Anomaly, Thresholds
from at4ctr.gates.history import Distance, Usual, binomial
from at4ctr.gates.statistics import Relation, Stats
from at4ctr.plural import counted


def check(today: Stats, before: Sequence[Stats], thresholds: Thresholds) -> list[Anomaly]:
    """The anomalies of a day: those that reject first, named causes before what follows of them.

    before: statistics of days that were accepted, in any order; those of another dataset, from
        today on, or of a refused log are left out.
    """
    days = sorted((s for s in before if _fits(s, today)), key=lambda s: s.begin)
    if today.refusal:
        said = f"the dataset's own reading refuses the day: {today.refusal}"
        return [Anomaly("reject", "schema", "log", said)]
    found = []
    usual = None
    if len(days) >= thresholds.fewest:
        usual = Usual(tuple(days), thresholds.recent, thresholds.deviations)
    else:
        are = "is" if len(days) == 1 else "are"
        said = (
            f"{counted(len(days), 'day')} before {are} known, fewer than {thresholds.fewest}: only "
            "what needs no history was checked"
        )
        found.append(Anomaly("note", "history", "log", said, len(days), thresholds.fewest))
    if not any(r.rows for r in today.relations.values()):
        return [_no_rows(today), *found]
    if days:
        found += _schema(today, days[-1])
    for name, relation in today.relations.items():
        known = usual and _having(usual, name, thresholds.fewest)
        if relation.rows:
            found += clock.check(today, name, known, thresholds)
            found += _duplicates(today, name, known, thresholds)
            found += features.check(today, name, known, thresholds)
        if known:
            found += _clicks(today, name, known, thresholds)
            found += _rows(today, name, known, thresholds)
    if usual:
        found += _dropped(today, usual, thresholds)
    order = {"reject": 0, "warn": 1, "note": 2}
    return sorted(found, key=lambda a: order[a.severity])


def rejected(anomalies: Sequence[Anomaly]) -> bool:
    """Whether the night must stop."""
    return any(a.severity == "reject" for a in anomalies)


def _fits(past: Stats, today: Stats) -> bool:
    return past.dataset == today.dataset and past.begin < today.begin and not past.refusal


def _having(usual: Usual, relation: str, fewest: int) -> Usual | None:
    """The days that have rows of the relation; None where they are too few."""
    days = tuple(s for s in usual.days if relation in s.relations and s.relations[relation].rows)
    return Usual(days, usual.recent, usual.deviations) if len(days) >= fewest else None


def _no_rows(today: Stats) -> Anomaly:
    left = sum(today.dropped.values())
    also = f" ({left:,} were left out in reading)" if left else ""
    said = f"the day has no row{also}; expected some; deliver the day's log"
    return Anomaly("reject", "rows", "log", said, 0.0)


def _schema(today: Stats, last: Stats) -> Iterator[Anomaly]:
    """Columns that went, came or changed their type since the last day."""
    for relation in sorted({*today.relations, *last.relations}):
        now, then = ({n: c.dtype for n, c in s.relations[relation].columns.items()}
                     if relation in s.relations else None for s in (today, last))  # fmt: skip
        if now == then:
            continue
        if now is None or then is None:
            which = "is missing" if now is None else "is new"
            said = f"relation {relation} {which}; expected what the day before had; deliver it so"
            yield Anomaly("reject", "schema", relation, said)
            continue
        for column in [c for c in {**then, **now} if now.get(c) != then.get(c)]:
            said = (
                f"{relation}.{column} is {now.get(column, 'missing')}; expected "
                f"{then.get(column, 'no such column')} as on the day before; deliver the day so, "
                "or begin a new chain with the new schema"
            )
            yield Anomaly("reject", "schema", f"{relation}.{column}", said)


def _rows(today: Stats, name: str, usual: Usual, limits: Thresholds) -> Iterator[Anomaly]:
    now = today.relations[name]
    past = [s.relations[name].rows for s in usual.days]
    value, noise = float(np.log(max(now.rows, 0.5))), 1 / np.sqrt(max(now.users, 1))
    found = usual.level(list(np.log(past)), today, value, float(noise), limits.rows)
    if found.beyond:
        expected = float(np.exp(found.usual))
        said = (
            f"{name} has {now.rows:,} rows; expected about {expected:,.0f} (median of up to "
            f"{limits.recent} days, or of the weekday), {np.exp(-found.allowed):.2f} to "
            f"{np.exp(found.allowed):.2f} times that; look for missing or doubled parts"
        )
        yield Anomaly("reject", "rows", name, said, now.rows, expected)


def _clicks(today: Stats, name: str, usual: Usual, limits: Thresholds) -> Iterator[Anomaly]:
    """The odds of a click. A change that sampling at w would cause is reported as such."""
    now = today.relations[name]
    past = [s.relations[name] for s in usual.days]
    if now.clicks is None or any(r.clicks is None for r in past) or not now.rows:
        return
    fewer = float(np.median([min(r.clicks or 0, r.rows - (r.clicks or 0)) for r in past]))
    noise = float(
        np.sqrt(2 / max(fewer, 1.0))
    )  # of the rarer class, today's and that of the median
    found = usual.level([_odds(r) for r in past], today, _odds(now), noise, limits.click_rate)
    if not found.beyond:
        return
    rate, expected = now.clicks / now.rows, float(1 / (1 + np.exp(-found.usual)))
    w = today.negative_rate
    seen = f"the click rate of {name} is {rate:.4f}; expected about {expected:.4f}"
    if w < 1 and _sampled_twice(now, past, found, w, limits.sampled_twice):
        said = (
            f"{seen}; its odds are {np.exp(found.difference):.2f} times the usual ones, which fits "
            f"1/w = {1 / w:.2f}, and the rows without click are {w:g} times as many: the log was "
            f"sampled at w = {w:g} already and would be sampled twice; deliver it unsampled or set "
            "data.negative_rate=1"
        )
        yield Anomaly("reject", "sampled_twice", name, said, rate, expected)
        return
    said = f"{seen}; look for clicks that are lost, doubled or joined to the wrong impressions"
    yield Anomaly("reject", "click_rate", name, said, rate, expected)


def _odds(relation: Relation) -> float:
    """ln(clicks / others), each with half a row more, so that it is finite."""
    clicks = relation.clicks or 0
    return float(np.log((clicks + 0.5) / (relation.rows - clicks + 0.5)))


def _sampled_twice(
    now: Relation, past: Sequence[Relation], found: Distance, w: float, near: float
) -> bool:
    """The odds rose by 1/w, and because others are fewer rather than clicks more."""
    if abs(found.difference + np.log(w)) > max(near, found.allowed / 2):
        return False
    others = np.log(max(now.rows - (now.clicks or 0), 0.5)) - np.median(
        [np.log(max(r.rows - (r.clicks or 0), 0.5)) for r in past]
    )
    return bool(abs(others - np.log(w)) < abs(others))


def _duplicates(
    today: Stats, name: str, usual: Usual | None, limits: Thresholds
) -> Iterator[Anomaly]:
    share, most = _doubled(today, name), limits.duplicates_most
    expected = 0.0
    if usual:
        past = [_doubled(s, name) for s in usual.days]
        noise = binomial(past, today.relations[name].users)
        found = usual.level(past, today, share, noise, limits.duplicates)
        expected, most = found.usual, min(most, found.usual + found.allowed)
    if share > most:
        relation = today.relations[name]
        exact = relation.duplicates / max(relation.rows - relation.events + _gone(today, name), 1)
        said = (
            f"{share:.1%} of the rows of {name} repeat another ({exact:.0%} of those in the label "
            f"too); expected about {expected:.1%}; look for parts that were delivered or appended "
            "twice, or for clicks as rows of their own beside their impressions"
        )
        yield Anomaly("reject", "duplicates", name, said, share, expected)


def _doubled(stats: Stats, name: str) -> float:
    """Share of the rows, dropped ones included, that repeat another in all but the label."""
    relation, gone = stats.relations[name], _gone(stats, name)
    return (relation.rows - relation.events + gone) / max(relation.rows + gone, 1)


def _gone(stats: Stats, name: str) -> int:
    return stats.dropped.get("duplicates", 0) if name == "log" else 0


def _dropped(today: Stats, usual: Usual, limits: Thresholds) -> Iterator[Anomaly]:
    """Rows that reading left out, but for duplicates, which are checked as such."""
    for reason in sorted(today.dropped.keys() - {"duplicates"}):
        share, *past = (_left_out(s, reason) for s in (today, *usual.days))
        log = today.relations.get("log")
        noise = binomial(past, log.users) if log else 0.0
        found = usual.level(past, today, share, noise, limits.dropped)
        if found.beyond and found.difference > 0:
            said = (
                f"reading left out {share:.1%} of the rows for {reason!r}; expected about "
                f"{found.usual:.1%}; look at those rows"
            )
            yield Anomaly("reject", "dropped", "log", said, share, found.usual)


def _left_out(stats: Stats, reason: str) -> float:
    rows = stats.relations["log"].rows if "log" in stats.relations else 0
    return stats.dropped.get(reason, 0) / max(rows + sum(stats.dropped.values()), 1)
