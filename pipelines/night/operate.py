"""The operator's commands beside running nights: status, compare, rollback, gc. They need no model
and do not load TensorFlow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from at4ctr.errors import InputError
from export.publishing import journal, publish, staging
from export.publishing.publish import RetryError
from pipelines.night import still
from pipelines.night.attempt import (
    GATE,
    METRICS,
    PREDICTIONS,
    SETTINGS,
    STATS,
    Attempt,
    attempts,
    opened,
    recorded,
)
from pipelines.night.outcome import CONFIGURATION, DONE, Result
from pipelines.night.places import Places, now, who

HEAVY = ("data", "checkpoints", "export", "tensorboard", PREDICTIONS)  # deleted of old attempts
GONE = ".gone"  # of what is being deleted
METRIC_NAMES = ("rows", "positives", "auc", "gauc", "logloss", "normalized_entropy", "pcoc")


def status(places: Places, last: int = 30) -> Result:
    """The last nights, and the live version."""
    live = publish.live(places.versions)
    try:
        retired, damaged = places.retired, ""
    except InputError as error:
        retired, damaged = journal.retired(places.versions, ()), str(error)
    settings = still.asked(places)
    wrong = still.mistyped(places, settings)
    dates = [day for day in places.dates() if day not in wrong][-last:]
    found = [known[-1] for day in dates if (known := attempts(places, day))]
    open_ = [a for a in found if not a.outcome]
    busy = max(open_, key=_moved).folder if open_ and places.busy else None
    rows = [_row(a, retired, at_work=a.folder == busy) for a in found]
    standing = "" if damaged else str(still.of(places))
    code = CONFIGURATION if damaged else DONE
    value = {"exit": code, "model": places.model, "live": live, "ledger": damaged, "nights": rows,
             "still": standing, "mistyped": sorted(map(str, wrong))}  # fmt: skip
    names = ("date", "outcome", "version", "AUC", "ΔAUC", "PCOC", "log rows", "trained rows",
             "seconds", "reason")  # fmt: skip
    cells = [names, *(tuple(_shown(v) for v in row.values()) for row in rows)]
    widths = [max(len(c[k]) for c in cells) for k in range(len(names))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
             for line in cells]  # fmt: skip
    head = [f"live: {live or 'nothing yet'}", *([f"ledger: {damaged}"] if damaged else [])]
    return Result(code, value, "\n".join([*head, *lines, *_notes(places, wrong, standing)]))


def _notes(places: Places, wrong: set[date], standing: str) -> Iterator[str]:
    """Below the table."""
    if wrong:
        named = ", ".join(map(str, sorted(wrong)))
        yield (
            f"not shown, as no log and no night that found one are near: {named}; if mistyped, "
            f"delete {places.nights}/dt=…"
        )
    if standing:
        yield standing


def _moved(attempt: Attempt) -> str:
    """When it last reached a stage."""
    return max((str(s["at"]) for s in attempt.record["stages"]), default="")


def _row(attempt: Attempt, retired: set[int | None], *, at_work: bool) -> dict[str, Any]:
    record, found = attempt.record, attempt.outcome or {}
    metrics = attempt.read(METRICS) or {}
    new, old = (metrics.get(k) or {} for k in ("candidate", "incumbent"))
    name = found.get("name") or ("at work" if at_work else "KILLED")
    sentence = found.get("sentence") or (
        f"it has reached {attempt.stage}"
        + ("" if at_work else f"; go on with --date={attempt.day}, or leave it to the next night")
    )
    if record["version"] and record["version"] in retired:
        name, sentence = "ROLLED BACK", f"was published as {record['version']}"
    elif record["blessed"]:
        sentence = f"{sentence}; blessed: {record['blessed']['reason']}"
    delta = new["auc"] - old["auc"] if new.get("auc") and old.get("auc") else None
    return {"date": record["date"], "outcome": name, "version": record["version"],
            "auc": new.get("auc"), "auc_change": delta, "pcoc": new.get("pcoc"),
            "log_rows": _log_rows(attempt), "trained_rows": record.get("rows", {}).get("train"),
            "seconds": round(sum(s["seconds"] for s in record["stages"])),
            "reason": sentence}  # fmt: skip


def _log_rows(attempt: Attempt) -> int | None:
    """Rows of the log of the night's own period, as the data gate counted them."""
    try:
        stats, settings = attempt.read(STATS) or {}, attempt.read(SETTINGS) or {}
        period = sorted(stats)[-settings["periods"]["days"] :]
        found = [stats[day]["relations"] for day in period]
        return sum((r.get("impressions") or r["log"])["rows"] for r in found) if found else None
    except (InputError, KeyError, TypeError):  # damaged; the other columns still tell
        return None


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and value < 10**9 else str(value)


def compare(places: Places, one: str, other: str) -> Result:
    """Two nights' models side by side, each on the rows that judged it."""
    sides = [_named(places, text) for text in (one, other)]
    value: dict[str, Any] = {"exit": 0, "nights": [], "metrics": {}}
    found = []
    for attempt in sides:
        metrics = (attempt.read(METRICS) or {}).get("candidate")
        if not metrics:
            raise InputError(
                f"{attempt.folder} has no metrics of its model: it ended before its evaluation, or "
                "its predictions are no probabilities; expected an evaluated night; choose "
                "another date"
            )
        found.append(metrics)
        gate = attempt.read(GATE) or {}
        value["nights"].append({"date": attempt.record["date"], "attempt": str(attempt.folder),
                                "version": attempt.record["version"],
                                "decision": gate.get("decision")})  # fmt: skip
    names = [str(n["version"] or n["date"]) for n in value["nights"]]
    lines = [f"{'':20s} {names[0]:>12s} {names[1]:>12s}   difference"]
    for name in METRIC_NAMES:
        a, b = (m.get(name) for m in found)
        if a is not None and b is not None:
            value["metrics"][name] = {"values": [a, b], "difference": b - a}
            lines.append(f"{name:20s} {_shown(a):>12s} {_shown(b):>12s}   {b - a:+.4f}")
    lines.append("Each on the rows that judged it: a difference between dates is of both.")
    return Result(0, value, "\n".join(lines))


def _named(places: Places, text: str) -> Attempt:
    """The attempt of a date (2017-12-01) or of a version (2017120101)."""
    if text.isascii() and text.isdecimal() and len(text) == 10:
        for entry in places.ledger.entries(places.model):
            if entry.kind == "published" and entry.version == int(text):
                if folder := recorded(places, entry):
                    return opened(folder)
                raise InputError(
                    f"version {text} of {places.model} was published by hand, so nothing is known "
                    "of its metrics; expected a night's; see the status for those"
                )
        raise InputError(f"{text} is no version of {places.model}; see the status for those")
    try:
        found = attempts(places, date.fromisoformat(text))
    except ValueError:
        raise InputError(
            f"{text!r} is neither a date nor a version; expected 2017-12-01 or 2017120101"
        ) from None
    if not found:
        raise InputError(f"{text} has no night of {places.model}; see the status for those")
    return found[-1]


def rollback(places: Places, to: int | None, reason: str) -> Result:
    """Makes a version live by taking newer ones out of service. A version that was rolled back is
    put back into service first.

    It does not wait for a running night.
    """
    done = publish.rollback(
        places.versions, ledger=places.ledger, at=now(), reason=reason, by=who(), to=to
    )
    value = {"exit": 0, "live": done.live, "rolled_back": list(done.versions),
             "restored": list(done.restored)}  # fmt: skip
    parts = [f"live: {done.live}", f"taken out of service: {_listed(done.versions)}"]
    if done.restored:
        parts.insert(1, f"put into service again: {_listed(done.restored)}")
    return Result(0, value, "; ".join(parts))


def _listed(versions: tuple[int, ...]) -> str:
    return ", ".join(map(str, versions)) or "nothing"


def gc(places: Places, *, keep: int, dry_run: bool) -> Result:
    """Deletes old versions, and the large files of attempts that no night goes on from.

    The attempts of the kept versions, those of the newest dates, and unfinished ones of the live
    version's date or a later one stay whole. Of all other attempts the records, metrics and reports
    stay.
    """
    with places.locked():
        versions = partial(publish.gc, places.versions, ledger=places.ledger, at=now(), keep=keep)
        gone, full = versions(dry_run=True), False
        try:
            gone = gone if dry_run else versions()
        except RetryError:  # no room to record them: first the attempts' files
            full = True
        kept = _kept(places, set() if full else {d.version for d in gone}, keep)
        files: dict[str, int] = {}
        live = str(publish.live(places.versions) or "0")[:8]
        for day in places.dates():
            known = attempts(places, day)
            older = f"{day:%Y%m%d}" < live
            for attempt in known:
                done = attempt.finished or attempt is not known[-1] or older
                if attempt.folder in kept or not done:
                    continue  # one that is not finished is gone on with
                left = sorted(attempt.folder.glob(f".*{GONE}"))
                for path in (*left, *(attempt.folder / name for name in HEAVY)):
                    if path.exists():
                        files[str(path)] = _delete(path, dry_run=dry_run)
        if full:
            versions()
    value = {"exit": 0, "dry_run": dry_run, "versions": {d.folder.name: d.bytes for d in gone},
             "files": files, "bytes": sum(d.bytes for d in gone) + sum(files.values())}  # fmt: skip
    verb = "would delete" if dry_run else "deleted"
    lines = [f"{verb} {d}" for d in gone] + [f"{verb} {p}: {b:,} bytes" for p, b in files.items()]
    return Result(0, value, "\n".join([*lines, f"{verb} {value['bytes']:,} bytes in all"]))


def _kept(places: Places, gone: set[int], keep: int) -> set[Path]:
    """The folders of attempts whose large files stay."""
    published = [e for e in places.ledger.entries(places.model) if e.kind == "published"]
    there = set(publish.versions(places.versions)) - gone
    used = {folder for e in published if e.version in there if (folder := recorded(places, e))}
    newest = [a.folder for day in places.dates()[-keep:] for a in attempts(places, day)[-1:]]
    return used | set(newest)


def _delete(path: Path, *, dry_run: bool) -> int:
    size = staging.size(path) if path.is_dir() else path.stat().st_size
    if not dry_run:
        aside = path if path.name.endswith(GONE) else path.with_name(f".{path.name}{GONE}")
        path.rename(aside)  # whole or absent for what would go on with it
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink()
    return size
