"""Runs a night through its stages, from the last one that it reached."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

from at4ctr import faults
from at4ctr.data import days as days_of
from at4ctr.errors import InputError
from at4ctr.registry import Entry
from export.publishing import publish
from pipelines.night import attempt as attempts
from pipelines.night import chain, days, logs, outcome, parents, steps, still, textfile
from pipelines.night.asked import Asked
from pipelines.night.attempt import METRICS, STAGES, Attempt
from pipelines.night.chain import Settings
from pipelines.night.logs import log
from pipelines.night.outcome import End, Result, Stopped
from pipelines.night.places import Places, now, who
from pipelines.night.report import build as nightly_report


def run(places: Places, day: date, asked: Asked, *, only_first: bool = False) -> Result:
    """Runs the night of a date, or reports how it ended. only_first: bless a model only where it is
    held because there is no incumbent."""
    with reporting_errors(places, asked), places.locked():
        if places.versions.is_dir():
            publish.reconcile(places.versions, ledger=places.ledger, at=now())
        settings = chain.settle(places, asked.given, adopt=asked.adopt, reason=asked.reason)
        attempt = _attempt(places, settings, day, asked, only_first=only_first)
        with logs.to_file(attempt.folder / "log.jsonl"):
            if said := chain.drifted(settings):
                log.info("the recipe reads otherwise today, which changes nothing: %s", said)
            settings = Settings.from_json(attempt.read(attempts.SETTINGS), str(attempt.folder))
            night = steps.Night(places, settings, attempt, asked.minutes, asked.sleep)
            already = attempt.finished
            if asked.bless and not only_first:
                _demand_unpublished(attempt)
            if not already:
                _walk(night)
            if asked.bless and _blessable(attempt, already=already, only_first=only_first):
                already = False
                _bless(night, asked.reason)
                _walk(night)
            if not already or not (attempt.folder / nightly_report.PAGE).is_file():
                _report(attempt)
        _measure(places, asked, attempt)
        return _result(places, attempt, already=already)


@contextmanager
def reporting_errors(places: Places, asked: Asked) -> Iterator[None]:
    """Writes a FAILED metric when an exception is raised outside an attempt."""
    try:
        yield
    except Exception:
        _measure(places, asked, None)
        raise


def _measure(places: Places, asked: Asked, attempt: Attempt | None) -> None:
    """The textfile for Prometheus; it never changes how a night ended."""
    if asked.metrics is None:
        return
    try:
        textfile.write(asked.metrics, places, attempt)
    except (OSError, InputError) as error:
        log.warning("no metrics: %s", outcome.sentence_of(error))


def _attempt(
    places: Places, settings: Settings, day: date, asked: Asked, *, only_first: bool
) -> Attempt:
    """The attempt to go on with, or a new one."""
    known = attempts.attempts(places, day)
    latest = known[-1] if known else None
    if latest is not None and not _anew(places, settings, latest, asked):
        return latest
    if asked.bless and latest is None and not only_first:
        raise InputError(
            f"{day} has no night that could be blessed; expected one that ended with HOLD or "
            "REJECTED; run the date first, look at it, then bless it"
        )
    facts = _plan(places, settings, day, cold=asked.cold)
    return attempts.begin(places, day, settings.to_json(), facts)


def _anew(places: Places, settings: Settings, latest: Attempt, asked: Asked) -> bool:
    """Whether a date needs another attempt: it was asked for, or the inputs have changed."""
    record, found = latest.record, latest.outcome or {}
    if asked.again and found:
        return True
    if record.get("inputs") and days.changed(settings, record["inputs"]):
        log.info("the log of %s has changed since %s", latest.day, record["attempt"])
        return True
    if latest.finished:
        colder = asked.cold and not record["cold_asked"] and found["name"] != "PUBLISHED"
        judged_anew = found.get("of") == "data" and (
            record["settings"] != settings.digest
            or days.accepted(places, settings, record["inputs"])  # with an earlier date's night
        )
        return colder or judged_anew
    known = places.ledger.entries(places.model)
    if any(e.kind == "published" and attempts.recorded(places, e) == latest.folder for e in known):
        return False  # killed once its version was there
    if latest.reached("TRAINING") and not latest.state.is_dir():
        log.info("the files of %s are gone, as gc deletes those of older dates", latest.name)
        return True
    planned = _plan(places, settings, latest.day, cold=asked.cold)
    if latest.reached("DATA_OK"):
        del planned["window"]  # later deliveries of earlier days change nothing any more
    before = {"incumbent": record["parent"], **record}
    return any(before[key] != value for key, value in planned.items())


def _plan(places: Places, settings: Settings, day: date, *, cold: bool) -> dict[str, Any]:
    """The record of a new attempt of a date: its window, parent and incumbent."""
    periods = settings.periods
    window = periods.window(day, 0)
    try:
        parent, incumbent = (parents.choose(places, window.cutoff + k) for k in (0, 1))
    except InputError:
        if not cold:
            raise
        parent = incumbent = None
    since = 0 if parent is None else parent.cutoff
    if cold or parent is None:
        there = [d for d in days_of.dates(settings.data) if d <= day]
        first = there[0] if there else day
        if settings.cold_days:
            first = max(first, day - timedelta(settings.cold_days - 1))
        since = periods.begin(first)
    window = periods.window(day, since)
    return {"settings": settings.digest, "cold": cold or parent is None, "cold_asked": cold,
            "parent": parent and parent.to_json(), "window": list(window),
            "incumbent": incumbent and incumbent.to_json()}  # fmt: skip


def _walk(night: steps.Night) -> None:
    """Runs step after step until the night ends. An exception is recorded and then raised."""
    attempt = night.attempt
    attempt.record["outcome"] = None
    stage = attempt.stage
    try:
        if not attempt.reached("TRAINED") and night.parent is not None:
            night.parent.demand_whole(night.settings.experiment.data)
        for stage in STAGES[STAGES.index(attempt.stage) + 1 :]:
            began = time.monotonic()
            facts = steps.STEPS[stage](night)
            attempt.enter(stage, time.monotonic() - began, **facts)
    except End as end:
        log.info("%s: %s", end.name, end.sentence)
        attempt.end(end.name, end.code, end.sentence, **end.facts)
    except (Exception, Stopped, KeyboardInterrupt) as error:
        if attempt.finished:  # PUBLISHED is written, and stays
            raise
        code, said = outcome.code_of(error), outcome.sentence_of(error)
        log.error("%s", said, exc_info=None if code != outcome.BROKEN else error)
        try:
            attempt.end("FAILED", code, said, of=stage, retryable=code == outcome.RETRY)
        except OSError as unrecorded:
            log.error("that is not recorded: %s", outcome.sentence_of(unrecorded))
            raise error  # noqa: B904


def _demand_unpublished(attempt: Attempt) -> None:
    found = attempt.outcome
    if found and found["name"] == "PUBLISHED" and not attempt.record["blessed"]:
        raise InputError(
            f"{attempt.day} was PUBLISHED by the gate itself; expected HOLD or REJECTED to bless; "
            "leave --bless out"
        )


def _blessable(attempt: Attempt, *, already: bool, only_first: bool) -> bool:
    found = attempt.outcome
    if found is None or found["name"] not in ("HOLD", "REJECTED"):
        return False
    if only_first:
        checks = found.get("checks") or []  # of several labels: "incumbent", "<label> incumbent", …
        return bool(checks) and all(c.split()[-1] == "incumbent" for c in checks)
    return already


def _bless(night: steps.Night, reason: str) -> None:
    """Records who overrules a gate and why, once, and takes the night up again.

    The ledger is written first: nothing is accepted without a record, and after a kill the same
    command goes on.
    """
    attempt, places = night.attempt, night.places
    if not reason.strip():
        raise InputError(
            f"{attempt.day} was to be blessed without a reason; expected one for the ledger; add "
            '--reason "why this is right in spite of the gate"'
        )
    found = dict(attempt.outcome or {})
    by = who()
    stage, overrule = steps.overruled(night, reason, by)
    facts = {"reason": reason.strip(), "by": by, "attempt": attempt.name, "was": found["name"],
             **{key: found.get(key) for key in ("of", "days", "sentence")}}  # fmt: skip
    known = places.ledger.entries(places.model)
    key = ("attempt", "of", "sentence")
    if not any(e.kind == "blessed" and all(e.facts.get(k) == facts[k] for k in key) for e in known):
        places.ledger.append(Entry("blessed", places.model, now(), None, facts))
    faults.point("accept.recorded")
    overrule()
    attempt.reopen(stage, blessed=facts)


def _report(attempt: Attempt) -> None:
    """``report.html``; it never fails a night."""
    try:
        log.info("report: %s", nightly_report.write(attempt.folder))
    except Exception as error:  # the night is what counts
        log.warning("no report: %s", outcome.sentence_of(error))


def _result(places: Places, attempt: Attempt, *, already: bool) -> Result:
    found = dict(attempt.outcome or {})
    record = attempt.record
    if why := _rolled_back(places, record["version"]):
        found["sentence"] = why
    metrics = attempt.read(METRICS) or {}
    value = {
        "model": record["model"],
        "date": record["date"],
        "outcome": found["name"],
        "exit": found["exit"],
        "sentence": found["sentence"],
        "of": found.get("of"),
        "retryable": found.get("retryable"),
        "already": already,
        "version": record["version"],
        "rolled_back": bool(why),
        "attempt": str(attempt.folder),
        "auc": (metrics.get("candidate") or {}).get("auc"),
        "pcoc": (metrics.get("candidate") or {}).get("pcoc"),
    }
    standing = still.of(places)
    value |= {"still_nights": standing.nights, "still": str(standing)}
    return Result(found["exit"], value, "\n".join(text(attempt, value)))


def text(attempt: Attempt, value: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a person: the report's path, the command that approves a night which a gate
    stopped, and the verdict."""
    if (page := attempt.folder / nightly_report.PAGE).is_file():
        yield f"report: {page}"
    if value["outcome"] in ("HOLD", "REJECTED"):
        words = shlex.join(attempt.record["command"])
        what = "accept the log" if value["of"] == "data" else "publish it"
        yield f'to {what} all the same: {words} --bless --reason "why this is right"'
    was = "already " if value["already"] else ""
    more = f"; {value['still']}" if value["still"] else ""
    yield f"{value['date']} {was}{value['outcome']}: {value['sentence']}{more}"


def _rolled_back(places: Places, version: int | None) -> str:
    """What became of a version that is out of service, or ""."""
    if version is None or version not in places.retired:
        return ""
    known = places.ledger.entries(places.model)
    told = [e.facts["reason"] for e in known if e.kind == "rolled back" and e.version == version]
    live = publish.live(places.versions)
    return f"version {version} was rolled back since ({''.join(told[-1:])}); live is {live}"
