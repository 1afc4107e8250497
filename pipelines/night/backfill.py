"""The nights of a range of dates, in order."""

from __future__ import annotations

from datetime import date, timedelta

from at4ctr.errors import InputError
from export.publishing import publish
from pipelines.night import chain, job, outcome
from pipelines.night.asked import Asked
from pipelines.night.outcome import Result
from pipelines.night.places import Places


def backfill(places: Places, begin: date, end: date, asked: Asked) -> Result:
    """Runs the night of each period, in order, and skips those that are done.

    It stops where no later night could do better, with that night's exit code: at a failure; at a
    day that is missing (which cold starts leave out) or refused, as the nights after it read that
    day too; and where the first model waits to be blessed, which ``--bless --reason`` does.
    Otherwise the exit code is the highest of all nights.
    """
    if end < begin:
        raise InputError(f"--end {end} lies before --begin {begin}; expected a range; swap them")
    with job.reporting_errors(places, asked), places.locked():
        settings = chain.settle(places, asked.given, adopt=asked.adopt, reason=asked.reason)
    results, day = list[Result](), begin
    code = outcome.DONE
    while day <= end:
        found = job.run(places, day, asked, only_first=asked.bless)
        results.append(found)
        if _last(places, found, asked):
            code = found.exit
            break
        code = max(code, found.exit)
        day += timedelta(settings.periods.days)
    value = {"exit": code, "nights": [r.value for r in results]}
    return Result(code, value, "\n".join(r.text for r in results))


def _last(places: Places, found: Result, asked: Asked) -> bool:
    first = publish.live(places.versions) is None
    if found.exit == outcome.NO_DATA:
        return not (first or asked.cold)
    if found.exit == outcome.MODEL_REFUSED:
        return first and found.value["outcome"] == "HOLD"
    return found.exit != outcome.DONE
