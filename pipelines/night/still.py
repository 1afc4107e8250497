"""Whether a chain stands still: for how many nights it has published nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from at4ctr.data import days
from at4ctr.errors import InputError
from at4ctr.plural import counted
from pipelines.night.asked import DEFAULTS
from pipelines.night.attempt import attempts
from pipelines.night.places import Places

NEAR = timedelta(31)  # between two groups of dates there is more


@dataclass(frozen=True)
class Still:
    """The latest consecutive nights that left no version in service.

    nights: how many. outcomes: how they ended. since: the last date that has a version, if any.
    limit: the number of such nights from which on the chain stands still; 0: never.
    """

    nights: int
    outcomes: Mapping[str, int]
    since: date | None
    limit: int

    def __str__(self) -> str:
        """A sentence for the operator; empty while the chain moves."""
        if not self.limit or self.nights < self.limit:
            return ""
        ends = ", ".join(f"{n} {name}" for name, n in self.outcomes.items())
        last = f"since the version of {self.since}" if self.since else "and has no version"
        return f"the chain has stood still for {counted(self.nights, 'night')} ({ends}), {last}"


def of(places: Places) -> Still:
    """Of a chain, as it is now."""
    settings = asked(places)
    wrong = mistyped(places, settings)
    limit = int(settings.get("still_nights", DEFAULTS["still_nights"]))
    records = []
    for day in reversed(places.dates()):
        known = [] if day in wrong else [a.record for a in reversed(attempts(places, day))]
        live = [r for r in known if r.get("version") and r["version"] not in places.retired]
        records += (live or known)[:1]
    return count(records, places.retired, limit)


def count(records: Iterable[Mapping[str, Any]], retired: set[int | None], limit: int) -> Still:
    """Counts those nights. records: ``run.json`` of each date's latest attempt, or of the one whose
    version was not rolled back, newest first; an unfinished attempt does not count. retired:
    versions that were rolled back."""
    outcomes = Counter[str]()
    for record in records:
        version = record.get("version")
        if version and version not in retired:
            since = date.fromisoformat(record["date"])
            return Still(outcomes.total(), outcomes, since, limit)
        if record.get("outcome"):
            outcomes["ROLLED BACK" if version else str(record["outcome"]["name"])] += 1
    return Still(outcomes.total(), outcomes, None, limit)


def asked(places: Places) -> Mapping[str, str]:
    """The flags of the chain; empty where there is none, or its file is damaged."""
    try:
        value = json.loads(places.snapshot.read_text(encoding="utf-8"))["settings"]["asked"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return value if isinstance(value, dict) else {}


def mistyped(places: Places, settings: Mapping[str, str]) -> set[date]:
    """Dates that were probably mistyped: their nights found no log, and no day of the log and no
    other kind of night is near them.

    Days of the log and dates of nights are put in groups that lie more than `NEAR` apart. A group
    of nights without a log alone is mistyped. settings: the flags of the chain. No date is mistyped
    where the folder of the log has no day.
    """
    try:
        logs = set(days.dates(Path(settings["data"])))
    except (KeyError, InputError, OSError):
        return set()
    if not logs:
        return set()
    groups = list[list[date]]()
    for day in sorted({*logs, *places.dates()}):
        if not groups or day - groups[-1][-1] > NEAR:
            groups.append([])
        groups[-1].append(day)
    alone = (group for group in groups if logs.isdisjoint(group))
    return {day for group in alone if all(_skipped(places, d) for d in group) for day in group}


def _skipped(places: Places, day: date) -> bool:
    known = attempts(places, day)
    return bool(known) and (known[-1].outcome or {}).get("name") == "SKIPPED"
