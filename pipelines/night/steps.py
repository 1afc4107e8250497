"""The work between two stages of a night. A step may be repeated after a crash and gives the same
result, as all that it needs lies in files. It returns its entries for ``run.json``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from at4ctr.data import disk
from at4ctr.data.days import NoData, dates, find
from at4ctr.data.nights import increment, state
from at4ctr.data.store import Store
from at4ctr.durable import write_json
from at4ctr.errors import InputError
from at4ctr.gates.verdict import Verdict, override
from export.publishing import publish
from export.publishing.publish import RetryError
from pipelines.night import days, judge, learn, outcome, parents
from pipelines.night.attempt import ANOMALIES, GATE, STATS, Attempt
from pipelines.night.chain import Settings
from pipelines.night.outcome import End
from pipelines.night.places import Places, now

log = logging.getLogger("at4ctr.nightly")

SPARE = 64 << 20  # bytes, for the small files of a night


@dataclass
class Night:
    """A running attempt. minutes: how long to wait for the day's log."""

    places: Places
    settings: Settings
    attempt: Attempt
    minutes: float = 0.0
    sleep: Callable[[float], None] = time.sleep

    @cached_property
    def parent(self) -> parents.Parent | None:
        """The version that it trains on from; None for a cold start."""
        record = self.attempt.record
        return None if record["cold"] else parents.of_record(self.places, record["parent"])

    @cached_property
    def incumbent(self) -> parents.Parent | None:
        """The version that it is compared with: the parent, or that of the same date which it
        replaces."""
        record = self.attempt.record
        return parents.of_record(self.places, record.get("incumbent", record["parent"]))

    @property
    def store(self) -> Store:
        data = self.settings.experiment.data
        return Store.open(self.attempt.store, schema=data.schema())


def wait(night: Night) -> dict[str, Any]:
    """Waits for the day's log and checks that it is complete and like the days before it."""
    attempt, settings = night.attempt, night.settings
    wanted = days.needed(settings, attempt.window, cold=night.parent is None)
    try:
        found = days.found(settings, wanted, night.minutes, night.sleep)
    except NoData as error:
        missing = f"{error}{_hole(night, wanted)}"
        raise End("SKIPPED", outcome.NO_DATA, missing, retryable=True) from error
    inputs = days.digests(found)
    checked = days.checked(night.places, settings, found, inputs, _knowing(night))
    passed = days.passed_over(settings, attempt.window, checked) if night.parent is None else {}
    if passed:
        log.info("passed over: %s", ", ".join(f"{d} {why}" for d, why in passed.items()))
    read = [c for c in checked if str(c.day) not in passed]
    write_json(attempt.folder / STATS, {str(c.day): c.stats.to_json() for c in read})
    said = {str(c.day): [a.to_json() for a in c.anomalies] for c in checked}
    write_json(attempt.folder / ANOMALIES, said)
    facts = {
        "inputs": {d: files for d, files in inputs.items() if d not in passed},
        "passed_over": passed,
        "simulated": any(d.simulated for d in found if str(d.date) not in passed),
    }
    refused = [c for c in read if not c.accepted]
    if refused:
        first = next(a for a in refused[0].anomalies if a.severity == "reject")
        more = sum(a.severity == "reject" for c in refused for a in c.anomalies) - 1
        attempt.record |= facts
        names = [str(c.day) for c in refused]
        raise End(
            "REJECTED",
            outcome.DATA_REJECTED,
            f"the log of {', '.join(names)} is refused: {first.sentence}"
            + (f" (and {more} more, see {ANOMALIES})" if more else ""),
            of="data",
            days=names,
        )
    return facts


def _knowing(night: Night) -> parents.Parent | None:
    """The version whose vocabulary decides which ids are unknown: the parent, or for a cold start
    the incumbent."""
    other = night.incumbent
    if night.parent is not None or other is None:
        return night.parent
    try:
        before = state.opened(other.state, state.VOCABULARY).facts["schema"]
        what = state.difference(before, night.settings.experiment.data.schema().to_json())
    except InputError as error:
        what = str(error)
    if what:
        log.info("unknown ids are not checked: %s", what)
    return None if what else other


def _hole(night: Night, wanted: Sequence[date]) -> str:
    """What else to do, where a day before the last period is missing."""
    there = dates(night.settings.data)
    hole = any(d not in there for d in wanted[: -night.settings.periods.days])
    return "; --cold_start passes over a day that never comes" if hole and night.parent else ""


def prepare(night: Night) -> dict[str, Any]:
    """The night's store and state."""
    try:
        _build(night)
    except NoData as error:
        raise End("SKIPPED", outcome.NO_DATA, str(error), retryable=True) from error
    counts = {s: night.store.counts(s)["rows"] for s in ("train", "validation", "test")}
    return {"rows": counts}


def _build(night: Night) -> None:
    attempt = night.attempt
    wanted = [date.fromisoformat(d) for d in attempt.record["inputs"]]
    found = find(night.settings.data, wanted)
    log_bytes = sum(f.stat().st_size for d in found for f in d.files)
    before = _size(night.parent.checkpoints) if night.parent else 0
    needed = increment.SPACE * log_bytes + 3 * before + SPARE
    disk.demand_room(attempt.folder, needed, f"the night of {attempt.day}")
    options = night.settings.experiment.data
    parent = night.parent.state if night.parent else None
    increment.build(options, found, attempt.window, parent, attempt.folder / "data",
                    halves=night.settings.halves,
                    expire_days=night.settings.expire_days)  # fmt: skip
    judged = {f"dt={day}/{name}": digest for day, files in attempt.record["inputs"].items()
              for name, digest in files.items()}  # fmt: skip
    read = {f["name"]: f["sha256"] for f in night.store.manifest["inputs"]}
    if read != judged:
        odd = min(n for n in {*read, *judged} if read.get(n) != judged.get(n))
        raise RetryError(
            f"{night.settings.data}/{odd} has changed since the data gate judged it; expected the "
            "same bytes, so that nothing trains on what no gate saw; run the same command again"
        )


def fit(night: Night) -> dict[str, Any]:
    attempt, e = night.attempt, night.settings.experiment
    expires = night.settings.expire_days > 0
    learn.train_night(e, night.store, attempt.state, night.parent, attempt.folder, expires=expires)
    return {}


def export(night: Night) -> dict[str, Any]:
    attempt, record = night.attempt, night.attempt.record
    facts = {key: record[key] for key in ("model", "date", "window", "inputs", "cold")}
    facts |= {"attempt": attempt.name, "cutoff": attempt.window.cutoff}  # for a lost ledger
    facts["parent"] = night.parent and night.parent.version
    learn.exported(
        night.settings.experiment, night.store, attempt.state, attempt.folder, {"night": facts}
    )
    return {}


def verify(night: Night) -> dict[str, Any]:
    return {"verified": learn.demand_verified(_candidate(night.attempt))}


def evaluate(night: Night) -> dict[str, Any]:
    attempt = night.attempt
    verdict = judge.judge_night(
        night.settings, night.store, attempt.state, night.incumbent, attempt.folder
    )
    return {"verdict": verdict.decision}


def bless(night: Night) -> dict[str, Any]:
    """Goes on only if the gate passed the candidate, or an operator blessed it."""
    verdict = Verdict.from_json(night.attempt.read(GATE))
    if verdict.decision == "BLESS":
        return {}
    held = verdict.decision == "HOLD"
    wrong = verdict.decisive
    names = ", ".join(c.name for c in wrong)
    said = f": {wrong[0].sentence}" if wrong else ""
    sentence = f"the gate {'holds' if held else 'refuses'} the model ({names}){said}"
    name = "HOLD" if held else "REJECTED"
    raise End(name, outcome.MODEL_REFUSED, sentence, of="model", checks=[c.name for c in wrong])


def publish_(night: Night) -> dict[str, Any]:
    attempt, places = night.attempt, night.places
    verdict = Verdict.from_json(attempt.read(GATE))
    gate = {c.name: {"outcome": c.outcome, "value": c.value} for c in verdict.checks}
    notes = {
        "attempt": attempt.name,
        "cutoff": attempt.window.cutoff,
        "cold": attempt.record["cold"],
        "inputs": days.digest_of(attempt.record["inputs"]),
        "gate": {"decision": verdict.decision, "was": verdict.was, "reason": verdict.reason,
                 "checks": gate},
    }  # fmt: skip
    parent = night.parent.version if night.parent else None
    incumbent = night.incumbent.version if night.incumbent else None
    try:
        done = publish.publish(_candidate(attempt), places.versions, attempt.day, parent=parent,
                               incumbent=incumbent, ledger=places.ledger, at=now(), notes=notes,
                               wait=False)  # fmt: skip
    except InputError as error:
        if {parent, incumbent} & places.retired:  # the same command plans anew, from another parent
            raise RetryError(f"{error}, by running the same command again") from error
        raise
    live = publish.live(places.versions)
    said = f"version {done.version} is published" + (
        "" if done.live else f" beside the live version {live}"
    )
    if verdict.decision == "BLESS" and verdict.was is None and verdict.decisive:
        said += f"; warnings of the gate: {', '.join(c.name for c in verdict.decisive)}"
    log.info("%s", said)
    return {"version": done.version,
            "outcome": {"name": "PUBLISHED", "exit": outcome.DONE, "sentence": said}}  # fmt: skip


STEPS: dict[str, Callable[[Night], dict[str, Any]]] = {
    "WAIT_DATA": lambda _: {},
    "DATA_OK": wait,
    "TRAINING": prepare,
    "TRAINED": fit,
    "EXPORTED": export,
    "INFRA_OK": verify,
    "EVALUATED": evaluate,
    "BLESSED": bless,
    "PUBLISHED": publish_,
}


def overruled(night: Night, reason: str, by: str) -> tuple[str, Callable[[], None]]:
    """The stage at which a night goes on when its gate is overruled, and a function that overrules
    it.

    Writes nothing itself. Raises InputError where the gate may not be overruled.
    """
    attempt = night.attempt
    assert attempt.outcome is not None
    if attempt.outcome.get("of") == "data":
        days.demand_readable(attempt.read(STATS) or {})
        given = night.places, night.settings, attempt.record["inputs"], f"{reason} ({by})"
        return "WAIT_DATA", partial(days.accept, *given)
    verdict = override(Verdict.from_json(attempt.read(GATE)), reason)
    if not _candidate(attempt).is_dir():
        raise InputError(
            f"{_candidate(attempt)} is gone, as gc deletes it of older dates; expected the model "
            f"that was judged; train it anew with --date={attempt.day} --again"
        )
    return "EVALUATED", partial(write_json, attempt.folder / GATE, verdict.to_json())


def _candidate(attempt: Attempt) -> Path:
    return attempt.folder / learn.EXPORT / "1"


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
