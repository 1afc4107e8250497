"""Publishing into ``serving/<model>/``, the folder that a model server watches.

    serving/<model>/2017120101/                 a version: YYYYMMDD and its number that day
                    .staging-<version>-<pid>/   being copied; swept when its publisher is gone
                    .rolledback-<version>/      taken out of service
                    .deleted-<version>/         being deleted
                    TOMBSTONE-<version>.json    why it was; no other version gets its number
                    .journal.json               what is being done; the next command finishes it

The server's default policy serves the largest number, so the *live* version is the one with the
largest number; no clock, file time or pointer decides. Every command may be killed at any instant.
A version is then whole or absent, one can always be served, and running the command again gives the
same result as an undisturbed run. In this module ``serving`` is the folder ``serving/<model>`` and
``at`` the time to be recorded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from at4ctr import faults
from at4ctr.data import disk
from at4ctr.durable import make_folder, sync
from at4ctr.errors import InputError
from at4ctr.registry import TURNS, Entry, Ledger
from export.publishing import journal, staging
from export.publishing.journal import RetryError, versions

__all__ = ["Deleted", "Published", "RetryError", "RolledBack", "gc", "live", "publish", "reconcile"]
__all__ += ["rollback", "version_of", "versions"]

MOST = 99  # versions of a day
SPARE = 16 << 20  # bytes to stay free, for journal and ledger

faults.declare("publish.begin", "publish.journal", "publish.renamed", "publish.recorded")
faults.declare("publish.done", "rollback.journal", "rollback.recorded", "gc.renamed")


@dataclass(frozen=True)
class Published:
    """already: the day had a version of this very content. live: it is the newest."""

    version: int
    folder: Path
    already: bool
    live: bool


@dataclass(frozen=True)
class RolledBack:
    """What is live now; the versions taken out of service for it, and those put back."""

    live: int
    versions: tuple[int, ...]
    restored: tuple[int, ...] = ()


@dataclass(frozen=True)
class Deleted:
    """What retention deletes: a version, or one that was rolled back."""

    folder: Path
    version: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.folder.name}: {self.bytes:,} bytes"


def live(serving: Path) -> int | None:
    """The newest version, by number alone; None before the first."""
    return max(versions(serving), default=None)


def version_of(day: date, existing: Iterable[int]) -> int:
    """``YYYYMMDDNN``, NN one above the highest that ``day`` ever had, from 01."""
    number = max((v % 100 for v in existing if v // 100 == _prefix(day)), default=0) + 1
    if number > MOST:
        raise InputError(
            f"{day} has {number - 1} versions; expected at most {MOST}; publish a later day"
        )
    return _prefix(day) * 100 + number


def publish(
    staged: Path,
    serving: Path,
    day: date,
    *,
    ledger: Ledger,
    at: str,
    parent: int | None = None,
    incumbent: int | None = None,
    notes: Mapping[str, Any] | None = None,
    wait: bool = True,
) -> Published:
    """Makes the export folder ``staged`` a version of ``day``.

    It is copied beside its place, compared with MANIFEST.json, fsynced, renamed, recorded. The same
    content for the same day is not published again, even after its version was deleted. parent: the
    version that it was trained from. incumbent: the version that it was judged against. notes: for
    the ledger, as JSON can hold them. wait: whether to wait for another publisher.

    Raises InputError for a folder that ``staging.check`` refuses, a parent or an incumbent that was
    never published or was rolled back, content that was rolled back, a 100th version of a day, too
    little room; RetryError for a disk that fails, and for another publisher unless ``wait``.
    """
    manifest, size = staging.inspect(staged)
    with journal.refusals(serving):
        make_folder(serving)
        with journal.held(serving, journal.PUBLISHER, wait=wait):
            faults.point("publish.begin")
            journal.sweep(serving)
            with journal.held(serving, journal.LOCK):
                journal.recover(serving, ledger, at)
                known = ledger.entries(serving.name)
                again = _published(serving, known, day, manifest)
                if again is not None:
                    return again
                _demand_in_service(serving, known, parent, incumbent)
                version = version_of(day, journal.taken(serving, known))
            disk.demand_room(serving, size + SPARE, f"version {version}")
            facts = {"parent": parent, "incumbent": incumbent, "notes": dict(notes or {}),
                     **manifest.identity}  # fmt: skip
            entry = Entry("published", serving.name, at, version, facts)
            _place(staged, serving, ledger, entry, manifest)
            faults.point("publish.done")
            return Published(version, serving / str(version), False, live(serving) == version)


def rollback(
    serving: Path, *, ledger: Ledger, at: str, reason: str, by: str, to: int | None = None
) -> RolledBack:
    """Makes ``to`` (by default the version before the live one) live by hiding the newer ones.

    A ``to`` that was itself rolled back is put into service again. ``to`` is compared with its
    digests first. The newest version is hidden last, so that the server changes once. A rollback
    does not wait for a publisher that copies, and takes effect without a sound ledger and on a full
    disk. A killed or failed rollback is finished, not repeated.

    Raises InputError where ``to`` is no version or is damaged, or none would remain.
    """
    with journal.refusals(serving), journal.held(serving, journal.LOCK):
        begun = journal.pending(serving, at, reason=reason, by=by, to=live(serving))
        out, back = journal.turned(begun, "rolled back"), journal.turned(begun, "restored")
        found = sorted({*versions(serving), *back} - {*out})  # in service once that is finished
        hidden = {*journal.numbers(serving, journal.HIDDEN), *out} - {*found}
        to = found[-1] if to is None and (out or back) else to
        target = _target(serving, found, hidden, to)
        facts = {"reason": reason, "by": by, "to": target}
        new = [Entry("restored", serving.name, at, target, facts)] if target in hidden else []
        new += [Entry("rolled back", serving.name, at, v, facts) for v in found if v > target]
        if new:
            journal.check(serving, ledger, target)
        told = [*begun, *new]
        if told:
            with journal.moved(serving, told):
                journal.write(serving, told)
                faults.point("rollback.journal")
                journal.apply(serving, told)
                journal.tell(serving, ledger, told)
            faults.point("rollback.recorded")
        ended = (journal.turned(journal.latest(told), kind) for kind in TURNS)
        return RolledBack(target, *ended)


def gc(
    serving: Path, *, ledger: Ledger, at: str, keep: int = 3, dry_run: bool = False
) -> tuple[Deleted, ...]:
    """Deletes all but the newest ``keep`` versions, the live, the previous and the live's parent.

    A version that was rolled back is deleted once a newer one is live. dry_run: whether only to say
    what would be deleted. It works on a full disk.
    """
    if keep < 1:
        raise InputError(f"keep is {keep}; expected at least 1; keep more versions")
    with journal.refusals(serving), journal.held(serving, journal.LOCK):
        full = not dry_run and not journal.recovered(serving, ledger, at)
        plan = _expired(serving, ledger, keep, journal.pending(serving, at))
        for each in () if dry_run else plan:
            each.folder.rename(serving / f"{journal.DELETED}{each.version}")
            sync(serving)
            faults.point("gc.renamed")
            journal.bury(serving, ledger, at)
        if full:
            journal.recover(serving, ledger, at)
        return plan


def reconcile(serving: Path, *, ledger: Ledger, at: str) -> None:
    """Finishes what a crash left undone: the journal, half deleted folders, entries of the ledger.

    Copies that were never finished are deleted unless a publisher is at work. Raises InputError for
    a version that the ledger does not know and ``staging.check`` refuses.
    """
    with journal.refusals(serving), journal.held(serving, journal.LOCK):
        with disk.locked(serving / journal.PUBLISHER, wait=False) as alone:
            if alone:
                journal.sweep(serving)
        journal.recover(serving, ledger, at)


def _place(
    staged: Path, serving: Path, ledger: Ledger, entry: Entry, manifest: staging.Manifest
) -> None:
    """Copies an export and renames the copy, the one instant at which a server's answer changes."""
    final = serving / str(entry.version)
    aside = serving / f"{journal.STAGING}{entry.version}-{os.getpid()}"
    try:
        staging.copy(staged, aside, manifest)
        with journal.held(serving, journal.LOCK):
            journal.recover(serving, ledger, entry.at)
            needed = entry.facts["parent"], entry.facts["incumbent"]
            _demand_in_service(serving, ledger.entries(serving.name), *needed)
            if final.exists():
                raise InputError(
                    f"version {final} exists and is never overwritten; expected a free number; "
                    "move away what was not published there"
                )
            journal.write(serving, [entry])
            faults.point("publish.journal")
            aside.rename(final)
            sync(serving)
            faults.point("publish.renamed")
            journal.record(serving, ledger, [entry])
            faults.point("publish.recorded")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _published(
    serving: Path, known: Sequence[Entry], day: date, manifest: staging.Manifest
) -> Published | None:
    """The day's version of this content, if there ever was one."""
    for entry in known:
        version = entry.version or 0
        same = entry.kind == "published" and entry.facts.get("content") == manifest.content
        if same and version // 100 == _prefix(day):
            if version in journal.retired(serving, known):
                raise InputError(
                    f"version {version} of {serving} has the same content and was rolled back; "
                    "expected another model; train with other data, settings or seed, or put it "
                    f"into service again with rollback --to={version}"
                )
            folder = serving / str(version)
            return Published(version, folder, True, live(serving) == version)
    return None


def _demand_in_service(
    serving: Path, known: Sequence[Entry], parent: int | None, incumbent: int | None
) -> None:
    published = {e.version for e in known if e.kind == "published"}
    retired = journal.retired(serving, known)
    for what, version in (("parent", parent), ("incumbent", incumbent)):
        if version is not None and (version not in published or version in retired):
            found = "was rolled back" if version in published else "was never published"
            raise InputError(
                f"the {what} {version} of the new version {found} in {serving}; expected one in "
                f"service; train from {live(serving) or 'the start'}"
            )


def _target(serving: Path, found: Sequence[int], hidden: Iterable[int], to: int | None) -> int:
    """The version to go to. found: in service. hidden: rolled back."""
    if to is not None and to in (*found, *hidden):
        return to
    if to is None and len(found) > 1:
        return found[-2]
    listed = ", ".join(map(str, found)) or "none"
    again = ", ".join(map(str, sorted(hidden)))
    back = f"; --to also takes what was rolled back: {again}" if again else ""
    if to is None:
        raise InputError(
            f"{serving} has the versions: {listed}; expected one before the live one, for the "
            f"folder is never emptied; publish another version instead{back}"
        )
    gone = " any more (it was rolled back and deleted)" if to in journal.buried(serving) else ""
    raise InputError(
        f"{serving} has no version {to}{gone}; expected one of: {listed}; choose one{back}"
    )


def _expired(
    serving: Path, ledger: Ledger, keep: int, begun: Sequence[Entry]
) -> tuple[Deleted, ...]:
    """What retention does not keep, oldest first. begun: not in the ledger yet."""
    found = versions(serving)
    if not found:
        return ()
    known = (*ledger.entries(serving.name), *begun)
    published = (e for e in known if e.kind == "published")
    parents = {e.facts.get("parent") for e in published if e.version == found[-1]}
    kept = {*found[-max(keep, 2) :], *parents}
    hidden = {*journal.numbers(serving, journal.HIDDEN)} & {*journal.buried(serving)}  # told why
    gone = [(v, serving / str(v)) for v in found if v not in kept]
    gone += [(v, serving / f"{journal.HIDDEN}{v}") for v in sorted(hidden) if v < found[-1]]
    return tuple(Deleted(path, v, staging.size(path)) for v, path in gone)


def _prefix(day: date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day
