"""A write-ahead journal of publishing: the next command can finish what a killed one began.

The journal holds entries that the ledger is to get. An operation writes the journal, does the work,
adds the entries to the ledger, and deletes the journal. Every step may be repeated. A folder
``.deleted-<version>`` is a journal of its own, because deleting must work on a full disk.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from at4ctr import faults
from at4ctr.data import disk
from at4ctr.durable import sync, write_json
from at4ctr.errors import InputError
from at4ctr.registry import TURNS, Entry, Ledger
from export.publishing import staging

JOURNAL, LOCK, PUBLISHER = ".journal.json", ".lock", ".publisher.lock"
STAGING, HIDDEN, DELETED, TOMBSTONE = ".staging-", ".rolledback-", ".deleted-", "TOMBSTONE-"
FULL = (errno.ENOSPC, errno.EDQUOT)
UNTOLD = {"reason": "not told: done on a full disk, or by hand", "by": "unknown"}
EXPORT = (
    "runs/nightly/<model>/dt=<date>/attempt-<n>/export/1"  # what a night's version is copied of
)

faults.declare("rollback.tombstone", "rollback.renamed", "gc.emptied", "gc.recorded")
faults.declare("restore.renamed", "restore.untombed")


class RetryError(InputError):
    """An error that is not the input's, after which nothing is half done: try the command later."""


def versions(serving: Path) -> tuple[int, ...]:
    """The numbers that a server sees, ascending."""
    return tuple(v for v in numbers(serving) if (serving / str(v)).is_dir())


def numbers(serving: Path, before: str = "", after: str = "") -> tuple[int, ...]:
    """The n of every name ``<before><n><after>``, ascending."""
    names = (p.name for p in serving.iterdir()) if serving.is_dir() else ()
    found = (n.removeprefix(before).removesuffix(after) for n in names)
    whole = {int(n) for n in found if n.isascii() and n.isdecimal()}
    return tuple(v for v in sorted(whole) if (serving / f"{before}{v}{after}").exists())


def buried(serving: Path) -> tuple[int, ...]:
    """The numbers that have a tombstone."""
    return numbers(serving, TOMBSTONE, ".json")


@contextmanager
def held(serving: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """One process at a time under the lock ``name``, which dies with its process; or RetryError."""
    if not serving.is_dir():
        raise InputError(
            f"{serving} is no folder; expected serving/<model> with its versions; publish first"
        )
    with disk.locked(serving / name, wait=wait) as mine:
        if not mine:
            raise RetryError(
                f"{serving} is in use by another publisher; expected to be alone; wait for it to "
                "end and run the same command again"
            )
        yield


@contextmanager
def refusals(serving: Path) -> Iterator[None]:
    """Inside, an error of the disk becomes an InputError, which is one sentence."""
    try:
        yield
    except OSError as error:
        where = error.filename or serving
        if error.errno == errno.EXDEV:
            raise InputError(
                f"{where} is on another disk than {serving}, so that it cannot be renamed into "
                "place; expected one file system; mount serving/<model> as a whole"
            ) from error
        if error.errno in disk.DENIED:
            raise InputError(
                f"{where} cannot be used ({error.strerror}); expected files that can be read and a "
                f"folder {serving} that can be written; correct the permissions"
            ) from error
        remedy = "free some space and " if error.errno in FULL else ""
        live = getattr(error, "__notes__", ["what is live is whole"])[-1]
        raise RetryError(
            f"{where} failed ({error.strerror}); expected a disk that works and has room; {live}: "
            f"{remedy}run the same command again"
        ) from error


def turned(entries: Sequence[Entry], kind: str) -> tuple[int, ...]:
    """The versions that the entries of a kind are about."""
    return tuple(e.version for e in entries if e.kind == kind and e.version)


def latest(entries: Sequence[Entry]) -> list[Entry]:
    """The last rollback or restoration of each version."""
    return [*({e.version: e for e in entries if e.kind in TURNS}.values())]


def write(serving: Path, entries: Sequence[Entry]) -> None:
    """Writes what will be done."""
    write_json(serving / JOURNAL, [{**asdict(e), "facts": dict(e.facts)} for e in entries])


def pending(serving: Path, at: str, **facts: Any) -> list[Entry]:
    """The entries of what was begun and not recorded, without a version that was never renamed into
    place.

    at, facts: for the entry of a version that was taken out of service, or put back, on a disk too
    full to record it. A version counts as put back if it is in service and has a tombstone.
    """
    path = serving / JOURNAL
    try:
        entries = [Entry(**value) for value in json.loads(path.read_bytes())]
    except FileNotFoundError:
        entries = []
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is damaged; expected what the last command was doing; compare the folder with "
            "the ledger and delete it"
        ) from error
    places = ("", HIDDEN, DELETED)
    begun = [
        e
        for e in entries
        if e.kind != "published" or any((serving / f"{p}{e.version}").exists() for p in places)
    ]
    told, tombs = {e.version for e in begun if e.kind in TURNS}, {*buried(serving)}
    untold = [("rolled back", v) for v in numbers(serving, HIDDEN) if v not in tombs]
    untold += [("restored", v) for v in versions(serving) if v in tombs]
    given = facts or UNTOLD
    return begun + [Entry(k, serving.name, at, v, given) for k, v in untold if v not in told]


def apply(serving: Path, entries: Sequence[Entry]) -> None:
    """Puts versions back into service, then takes others out, the newest last; a publication has
    nothing left to do.

    A disk that cannot take a tombstone does not keep its version in service.
    """
    with moved(serving, entries):
        for entry in _incoming(entries):
            _show(serving, entry)
            faults.point("restore.renamed")
            _tombstone(serving, entry).unlink(missing_ok=True)
            sync(serving)
            faults.point("restore.untombed")
        for entry in _outgoing(entries):
            if not _tombstone(serving, entry).exists():
                facts = {"version": entry.version, "at": entry.at, **entry.facts}
                write_json(_tombstone(serving, entry), facts)
            faults.point("rollback.tombstone")
            _hide(serving, entry)
            faults.point("rollback.renamed")


@contextmanager
def moved(serving: Path, entries: Sequence[Entry]) -> Iterator[None]:
    """Puts versions into service and takes them out also where the disk cannot record why."""
    try:
        yield
    except OSError as error:
        for entry in _incoming(entries):
            _show(serving, entry)
        for entry in _outgoing(entries):
            _hide(serving, entry)
        if latest(entries):
            live = max(versions(serving), default=0)
            error.add_note(f"{live} is live, unrecorded yet, and --to={live} records it")
        raise


def _incoming(entries: Sequence[Entry]) -> list[Entry]:
    return [e for e in latest(entries) if e.kind == "restored"]


def _outgoing(entries: Sequence[Entry]) -> list[Entry]:
    return sorted((e for e in latest(entries) if e.kind == "rolled back"), key=_number)


def _tombstone(serving: Path, entry: Entry) -> Path:
    return serving / f"{TOMBSTONE}{entry.version}.json"


def _hide(serving: Path, entry: Entry) -> None:
    _rename(serving, f"{entry.version}", f"{HIDDEN}{entry.version}")


def _show(serving: Path, entry: Entry) -> None:
    _rename(serving, f"{HIDDEN}{entry.version}", f"{entry.version}")


def _rename(serving: Path, name: str, to: str) -> None:
    if (serving / name).exists():
        (serving / name).rename(serving / to)
        sync(serving)


def record(serving: Path, ledger: Ledger, entries: Sequence[Entry]) -> None:
    """Adds to the ledger those entries that it lacks, and deletes the journal."""
    last, left = {e.version: e for e in latest(ledger.entries(serving.name))}, list[Entry]()
    for entry in entries:
        if entry == last.get(entry.version):  # so the version's earlier turns are there too
            left = [e for e in left if e.version != entry.version or e.kind not in TURNS]
        else:
            left.append(entry)
    for entry in left:
        ledger.append(entry)
    (serving / JOURNAL).unlink(missing_ok=True)
    sync(serving)


def tell(serving: Path, ledger: Ledger, entries: Sequence[Entry]) -> None:
    """Records a rollback. It has taken effect even if the ledger cannot be written."""
    try:
        record(serving, ledger, entries)
    except InputError as error:
        live = max(versions(serving), default=None)
        raise InputError(f"{live} is live, which is not recorded yet: {error}") from error


def recover(serving: Path, ledger: Ledger, at: str) -> None:
    """Finishes what other commands began; records versions that the ledger does not have.

    Raises InputError for a version that the ledger does not have and that is not whole.
    """
    begun = pending(serving, at)
    if begun or (serving / JOURNAL).exists():
        apply(serving, begun)
        record(serving, ledger, begun)
    bury(serving, ledger, at)
    known = {e.version for e in ledger.entries(serving.name) if e.kind == "published"}
    for version in versions(serving):
        if version not in known:
            manifest = _served(serving, version)
            told = manifest.facts.get("night")  # what its own export knows of where it comes from
            night = told if isinstance(told, dict) else {}
            notes = {**night, "recovered": True}
            facts = {"parent": night.get("parent"), "notes": notes, **manifest.identity}
            ledger.append(Entry("published", serving.name, at, version, facts))


def recovered(serving: Path, ledger: Ledger, at: str) -> bool:
    """`recover`; False where the disk is too full for it."""
    try:
        recover(serving, ledger, at)
    except OSError as error:
        if error.errno not in FULL:
            raise
        bury(serving, ledger, at)
        return False
    return True


def bury(serving: Path, ledger: Ledger, at: str) -> None:
    """Deletes folders renamed for deletion: first their files, which makes room for the ledger."""
    for version in numbers(serving, DELETED):
        folder = serving / f"{DELETED}{version}"
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        faults.point("gc.emptied")
        ledger.append(Entry("deleted", serving.name, at, version))
        faults.point("gc.recorded")
        folder.rmdir()
        sync(serving)


def sweep(serving: Path) -> None:
    """Deletes unfinished copies. The caller holds the publishers' lock, so none is in use."""
    for path in serving.glob(f"{STAGING}*"):
        shutil.rmtree(path)


def _served(serving: Path, version: int) -> staging.Manifest:
    """The manifest of a version in service that the ledger does not know."""
    folder, found = serving / str(version), versions(serving)
    try:
        return staging.check(folder)
    except staging.UnfitError as error:
        live = version == found[-1] and len(found) > 1
        out = "run rollback, which takes it out of service" if live else f"move {folder} elsewhere"
        raise InputError(
            f"version {version} of {serving} is in service, unknown to the ledger and not whole: "
            f"{error.found}; expected {error.expected}; restore the file from the export that the "
            f"version is a copy of ({EXPORT}), or {out}"
        ) from None


def check(serving: Path, ledger: Ledger, version: int) -> None:
    """Raises InputError unless a version, rolled back or not, is whole and what was published."""
    places = (serving / f"{before}{version}" for before in ("", HIDDEN))
    folder = next(p for p in places if p.exists())
    try:
        found = staging.check(folder).digest
    except staging.UnfitError as error:
        raise InputError(
            f"version {version} is not whole: in {folder} {error.found}; expected "
            f"{error.expected}; restore the file from the export that the version is a copy of "
            f"({EXPORT}), or choose another version with --to"
        ) from None
    try:
        known = ledger.entries(serving.name)
    except InputError:
        return  # recording will say so; a rollback comes first
    recorded = (e for e in known if (e.kind, e.version) == ("published", version))
    if any(e.facts.get("manifest") != found for e in recorded):
        raise InputError(
            f"version {version} of {serving} has another {staging.MANIFEST} than was published; "
            "expected it unchanged; choose another version with --to"
        )


def retired(serving: Path, known: Sequence[Entry]) -> set[int | None]:
    """The versions that were rolled back, and not restored."""
    last = {e.version: e.kind for e in known if e.kind in TURNS}
    hidden = {*buried(serving), *numbers(serving, HIDDEN)}
    return {v for v, kind in last.items() if kind == "rolled back"} | hidden


def taken(serving: Path, known: Sequence[Entry]) -> set[int]:
    """Every number that is or ever was a version."""
    places = ("", HIDDEN, DELETED)
    on_disk = {v for place in places for v in numbers(serving, place)}
    return on_disk | {*buried(serving)} | {e.version for e in known if e.version}


def _number(entry: Entry) -> int:
    return entry.version or 0
