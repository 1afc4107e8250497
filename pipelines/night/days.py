"""The days of a night: found, counted once, and accepted or refused before anything trains on them.

``<runs>/<model>/stats/dt=D.json`` keeps a day's counts, its anomalies and whether it was accepted.
It is used as long as the day's files, and the settings that counts depend on, stay the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from at4ctr.data import days as days_of
from at4ctr.data.days import DAY, Day, NoData
from at4ctr.durable import digest, make_folder, write_json
from at4ctr.errors import InputError
from at4ctr.gates import data as gate
from at4ctr.gates import statistics
from at4ctr.gates.anomaly import Anomaly
from at4ctr.gates.statistics import Stats
from pipelines.night.chain import Settings
from pipelines.night.parents import Parent
from pipelines.night.places import Places

log = logging.getLogger("at4ctr.nightly")

PATIENCE = 60.0  # seconds between two looks for a day that is not there yet
WEEKS = timedelta(weeks=4)  # before a day, whose counts it is compared with: weekdays differ
Digests = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Counted:
    """A day's counts. counting: digest of the settings they depend on. accepted: None before a gate
    has judged the day. reason: of an operator who accepted it by hand."""

    day: date
    files: dict[str, str]
    counting: str
    stats: Stats
    anomalies: tuple[Anomaly, ...] = ()
    accepted: bool | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"date": str(self.day), "files": self.files, "counting": self.counting,
                "accepted": self.accepted, "reason": self.reason,
                "anomalies": [a.to_json() for a in self.anomalies],
                "stats": self.stats.to_json()}  # fmt: skip


def needed(settings: Settings, window: days_of.Window, *, cold: bool) -> tuple[date, ...]:
    """The dates that a night reads: all that its window touches. For a cold start they are those
    whose log is there, and the last period in any case."""
    wanted = settings.periods.dates(window)
    if not cold:
        return wanted
    there = set(days_of.dates(settings.data))
    return tuple(
        d for d in wanted if d in there or d > wanted[-1] - timedelta(settings.periods.days)
    )


def found(
    settings: Settings, wanted: Sequence[date], minutes: float, sleep: Callable[[float], None]
) -> tuple[Day, ...]:
    """The days; waits for them up to so many minutes, then raises NoData."""
    end = time.monotonic() + 60 * minutes
    while True:
        try:
            return days_of.find(settings.data, wanted)
        except NoData:
            left = end - time.monotonic()
            if left <= 0:
                raise
            log.info("waiting for the log of %s: %.0f minutes left", wanted[-1], left / 60)
            sleep(min(PATIENCE, left))


def passed_over(
    settings: Settings, window: days_of.Window, judged: Sequence[Counted]
) -> dict[str, str]:
    """Date -> ``missing`` or ``refused``, of days that a cold start leaves out; never of its last
    period."""
    wanted = settings.periods.dates(window)
    known = {c.day: "" if c.accepted else "refused" for c in judged}
    before = wanted[-1] - timedelta(settings.periods.days)
    return {str(d): why for d in wanted if d <= before and (why := known.get(d, "missing"))}


def digests(found: Sequence[Day]) -> Digests:
    return {str(d.date): {f.name: digest(f) for f in d.files} for d in found}


def digest_of(inputs: Digests) -> dict[str, Any]:
    """A short entry for the ledger about a night's files; run.json has the list of them."""
    text = json.dumps(inputs, sort_keys=True)
    return {"days": len(inputs), "files": sum(map(len, inputs.values())),
            "sha256": hashlib.sha256(text.encode()).hexdigest()}  # fmt: skip


def changed(settings: Settings, inputs: Digests) -> bool:
    """Whether the files of a night have changed; False where they are gone."""
    try:
        return digests(days_of.find(settings.data, map(date.fromisoformat, inputs))) != inputs
    except InputError:
        return False


def checked(
    places: Places,
    settings: Settings,
    found: Sequence[Day],
    inputs: Digests,
    knowing: Parent | None,
) -> tuple[Counted, ...]:
    """Counts and judges the days in order, each against the accepted ones before it.

    knowing: the version whose vocabulary decides which ids are unknown, on days after those that it
    was trained on. A day that was accepted is not judged again while its files and the settings of
    counting stay the same.
    """
    counting = counting_of(settings)
    before = {c.day: c for c in _before(places, settings, found[0].date)}
    result = []
    for day in found:
        files = inputs[str(day.date)]
        known = _kept(places, counting, day.date, files)
        if known is None or not known.accepted:
            later = knowing and settings.periods.begin(day.date) >= knowing.cutoff
            vocabulary = knowing.state / "vocabulary" if knowing and later else None
            stats = known.stats if known else _count(places, settings, day, vocabulary)
            since = day.date - WEEKS
            history = [c.stats for d, c in before.items() if d >= since]
            found_odd = tuple(gate.check(stats, history, settings.data_gate))
            accepted = not gate.rejected(found_odd)
            known = Counted(day.date, files, counting, stats, found_odd, accepted)
            keep(places, known)
        if known.accepted:
            before[day.date] = known
        result.append(known)
    return tuple(result)


def accepted(places: Places, settings: Settings, inputs: Digests) -> bool:
    """Whether each of a night's days is accepted by now."""
    counting = counting_of(settings)
    kept = (_kept(places, counting, date.fromisoformat(d), files) for d, files in inputs.items())
    return all(c is not None and bool(c.accepted) for c in kept)


def accept(places: Places, settings: Settings, inputs: Digests, reason: str) -> None:
    """Accepts by hand the days of a night that were refused."""
    for text, files in inputs.items():
        known = _kept(places, counting_of(settings), date.fromisoformat(text), files)
        if known is not None and not known.accepted:
            keep(places, replace(known, accepted=True, reason=reason))


def demand_readable(stats: Mapping[str, Any]) -> None:
    """Raises InputError for a day that its dataset cannot read. stats: an attempt's."""
    for day, found in stats.items():
        if found["refusal"]:
            raise InputError(
                f"the log of {day} cannot be blessed, as nothing can be read of it: "
                f"{found['refusal']}; deliver the day anew, or without a row as {days_of.READY} "
                "alone, and run the night again"
            )


def keep(places: Places, counted: Counted) -> None:
    """Remembers a day."""
    path = path_of(places, counted.day)
    make_folder(path.parent)
    write_json(path, counted.to_json())


def _before(places: Places, settings: Settings, first: date) -> list[Counted]:
    """The counts of the weeks before. The latest of those days are counted now if their log is
    there and was not counted before."""
    known, counting = [], counting_of(settings)
    there = days_of.dates(settings.data)
    earlier = [d for d in there if first - WEEKS <= d < first]
    recent = set(earlier[-settings.data_gate.recent :])
    for day in earlier:
        kept = _kept(places, counting, day, None)
        if kept is None and day in recent:
            (one,) = days_of.find(settings.data, [day])
            files = digests([one])[str(day)]
            kept = Counted(day, files, counting, _count(places, settings, one, None))
            keep(places, kept)
        if kept is not None and kept.accepted is not False and not kept.stats.refusal:
            known.append(kept)
    return known


def _count(places: Places, settings: Settings, day: Day, vocabulary: Path | None) -> Stats:
    begin = settings.periods.begin(day.date)
    scratch = path_of(places, day.date).parent
    scratch.mkdir(parents=True, exist_ok=True)
    for left in scratch.glob("at4ctr-gate-*"):  # of a killed night, as this one holds the lock
        shutil.rmtree(left)
    log.info("counting %s", day.folder)
    data = settings.experiment.data
    return statistics.of(data, day.files, begin, begin + DAY, vocabulary, scratch)


def counting_of(settings: Settings) -> str:
    """A digest of what counts depend on beside the files: the zone, and what `load` keeps."""
    data = settings.experiment.data
    said = [settings.periods.utc_offset_hours, data.name, data.negative_rate, data.preparation(),
            data.schema().to_json()]  # fmt: skip
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _kept(places: Places, counting: str, day: date, files: dict[str, str] | None) -> Counted | None:
    """The kept counts of a day; None where there are none, or only of other files or settings."""
    try:
        value = json.loads(path_of(places, day).read_text(encoding="utf-8"))
        if value["counting"] != counting or (files is not None and value["files"] != files):
            return None
        return Counted(day, value["files"], counting, Stats.from_json(value["stats"]),
                       tuple(map(Anomaly.from_json, value["anomalies"])),
                       value["accepted"], value["reason"])  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a cache: counted again


def path_of(places: Places, day: date) -> Path:
    """Where a day's counts are kept."""
    return places.nights / "stats" / f"dt={day}.json"
