"""The registry's ledger: what was published, rolled back, restored, deleted or blessed, and why.

``registry/ledger.jsonl`` holds one JSON object a line: kind, model, version, at, facts, and

    sha256(k) = SHA-256 of line k without this field,    previous(k) = SHA-256 of line k − 1

(64 zeros on the first line). So a line that was changed, moved or taken from the middle is noticed.
The chain is no signature: it does not show that somebody rewrote all lines from one on, or cut
whole lines off the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from at4ctr import faults
from at4ctr.durable import make_folder, sync
from at4ctr.errors import InputError, unknown

KINDS = ("published", "rolled back", "restored", "deleted", "blessed")
ONCE = ("published", "deleted")  # in a version's life
TURNS = ("rolled back", "restored")  # of a version, by turns
WITH_REASON = (*TURNS, "blessed")
START = "0" * 64

log = logging.getLogger(__name__)
faults.declare("ledger.begin", "ledger.half", "ledger.written")


@dataclass(frozen=True)
class Entry:
    """One line. at: a moment with its offset, ``2017-12-02T03:00:00Z``. facts: as JSON can hold.

    Only an entry ``blessed`` may have no version yet. It needs ``facts["reason"]``, and so do
    ``rolled back`` and ``restored``. Raises InputError for anything else.
    """

    kind: str
    model: str
    at: str
    version: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("ledger kind", self.kind, KINDS)
        moment(self.at)
        if self.kind != "blessed" and self.version is None:
            raise InputError(
                f"a ledger entry {self.kind!r} of {self.model} has no version; expected a number; "
                "give one"
            )
        reason = self.facts.get("reason")
        if self.kind in WITH_REASON and not (isinstance(reason, str) and reason.strip()):
            raise InputError(
                f"a ledger entry {self.kind!r} of {self.model} has the reason {reason!r}; expected "
                "a few words for who reads it later; give a reason"
            )


def moment(at: str) -> datetime:
    """``2017-12-02T03:00:00Z`` as a datetime; InputError without an offset."""
    with contextlib.suppress(ValueError):
        if (found := datetime.fromisoformat(at)).tzinfo is not None:
            return found
    raise InputError(
        f"the moment {at!r} is not a time with its offset; expected one as 2017-12-02T03:00:00Z; "
        "correct it"
    )


class Ledger:
    """A ledger's file, which the first entry creates."""

    def __init__(self, file: Path) -> None:
        self.file = Path(file)

    def entries(self, model: str | None = None) -> tuple[Entry, ...]:
        """Every entry (of a model), oldest first; a last line that a crash cut short is left out.

        Raises InputError naming the first line that is not as it was written.
        """
        try:
            data = self.file.read_bytes()
        except FileNotFoundError:
            return ()
        found = _parse(data, self.file)[0]
        return tuple(e for e in found if model in (None, e.model))

    def append(self, entry: Entry) -> bool:
        """Adds an entry, fsynced. False, and nothing is added, where the version already has its
        only entry of this kind (`ONCE`), or where its last turn (`TURNS`) was the same.

        Half a line that a crash left at the end is first moved to
        ``<file>.torn-<offset>-<digest>``. Raises InputError as ``entries`` does, and OSError from
        the disk: then nothing was added.
        """
        with self._opened() as handle:
            data = _read(handle)
            found, previous, end = _parse(data, self.file)
            if end < len(data):
                self._set_aside(handle, data[end:], end)
            if _recorded(entry, found):
                return False
            line = _line(entry, previous)
            try:
                faults.point("ledger.begin")
                _write(handle, line)
                faults.point("ledger.half")
                _write(handle, b"\n")
                faults.point("ledger.written")
                os.fsync(handle)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, end)
                error.filename = error.filename or str(self.file)
                raise
        return True

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor at the file's start, under a lock that dies with the process."""
        fresh = not self.file.exists()
        make_folder(self.file.parent)
        handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if fresh:
                sync(self.file.parent)
            yield handle
        finally:
            os.close(handle)

    def _set_aside(self, handle: int, torn: bytes, end: int) -> None:
        """Moves the half line at the end to a file of its own, which nothing else overwrites."""
        name = f"{self.file.name}.torn-{end}-{hashlib.sha256(torn).hexdigest()[:12]}"
        aside = self.file.with_name(name)
        aside.write_bytes(torn)
        sync(aside)
        sync(aside.parent)
        os.ftruncate(handle, end)
        os.fsync(handle)
        os.lseek(handle, end, os.SEEK_SET)
        log.warning("%s ended in half a line (a crash): kept in %s", self.file, aside)


def _line(entry: Entry, previous: str) -> bytes:
    body = {**asdict(entry), "facts": dict(entry.facts), "previous": previous}
    return _dump({**body, "sha256": hashlib.sha256(_dump(body)).hexdigest()})


def _dump(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(
        value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return text.encode()


def _parse(data: bytes, file: Path) -> tuple[list[Entry], str, int]:
    """The entries, the last whole line's SHA-256, and where the whole lines end."""
    *lines, torn = data.split(b"\n")
    entries, previous = [], START
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            after, _ = value.pop("previous"), value.pop("sha256")
            entry = Entry(**value)
            intact = _line(entry, after) == line
        except (ValueError, TypeError, AttributeError, KeyError):
            intact, after = False, ""
        if not intact:
            raise _broken(file, number, "was changed since it was written")
        if after != previous:
            raise _broken(file, number, "does not follow the line before it")
        entries.append(entry)
        previous = hashlib.sha256(line).hexdigest()
    return entries, previous, len(data) - len(torn)


def _broken(file: Path, number: int, what: str) -> InputError:
    return InputError(
        f"ledger {file}, line {number}, {what} (its SHA-256 differs); expected lines that are only "
        "ever added; restore the file from a backup"
    )


def _recorded(entry: Entry, known: Sequence[Entry]) -> bool:
    kinds = [e.kind for e in known if (e.model, e.version) == (entry.model, entry.version)]
    if entry.kind in TURNS:
        return [k for k in kinds if k in TURNS][-1:] == [entry.kind]
    return entry.kind in ONCE and entry.kind in kinds


def _read(handle: int) -> bytes:
    data = b""
    while piece := os.read(handle, 1 << 20):
        data += piece
    return data


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
