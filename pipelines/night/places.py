"""The folders and files of a chain of nights."""

from __future__ import annotations

import getpass
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path

from at4ctr.data import disk
from at4ctr.data.days import FOLDER
from at4ctr.errors import InputError, unknown
from at4ctr.registry import Ledger
from export.publishing import journal
from export.publishing.publish import RetryError

LOCK, LOOKS = ".lock", 5
PYTHON = ".venv/bin/python"  # as `make setup` leaves it
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def now() -> str:
    """The current time, for records only: nothing is decided by it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def who() -> str:
    """Who is at work, for records; in a container that may be a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


@dataclass(frozen=True)
class Places:
    """The places of one model; runs, serving and registry are the folders of all models.

    Raises InputError for a name that could lead elsewhere.
    """

    model: str
    runs: Path = Path("runs/nightly")
    serving: Path = Path("serving")
    registry: Path = Path("registry")

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.model):
            raise InputError(
                f"model is {self.model!r}; expected a name of lower-case letters, digits, - and _ "
                "that begins with a letter or digit; set --model=ctr"
            )

    def demand_known(self) -> None:
        """Raises InputError for a name that is not among the models that there are."""
        roots = (r for r in (self.runs, self.serving) if r.is_dir())
        known = {p.name for r in roots for p in r.iterdir() if NAME.fullmatch(p.name)}
        if known and self.model not in known:
            raise unknown("model", self.model, known)

    @property
    def nights(self) -> Path:
        return self.runs / self.model

    @property
    def versions(self) -> Path:
        """The folder that the model server watches."""
        return self.serving / self.model

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.registry / "ledger.jsonl")

    @property
    def retired(self) -> set[int | None]:
        """The versions that were rolled back."""
        return journal.retired(self.versions, self.ledger.entries(self.model))

    @property
    def snapshot(self) -> Path:
        return self.registry / self.model / "nightly.json"

    def night(self, day: date) -> Path:
        return self.nights / f"dt={day}"

    def dates(self) -> tuple[date, ...]:
        """The dates of nights, in order; a folder whose name is no date is ignored."""
        days = []
        for found in (FOLDER.fullmatch(p.name) for p in self.nights.glob("dt=*")):
            with suppress(ValueError):
                days += [date.fromisoformat(found[1])] if found else []
        return tuple(sorted(days))

    def command(self, day: date) -> list[str]:
        """The words that run the night of a date again, from a checkout, in these places."""
        words = [PYTHON, "-m", "pipelines.nightly", f"--date={day}", f"--model={self.model}"]
        folders = {f.name: (getattr(self, f.name), f.default) for f in fields(self)[1:]}
        return words + [f"--{k}={path}" for k, (path, usual) in folders.items() if path != usual]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One job of this model at a time; the lock dies with its process. Else RetryError."""
        self.nights.mkdir(parents=True, exist_ok=True)
        for left in reversed(range(LOOKS)):
            with disk.locked(self.nights / LOCK, wait=False) as mine:
                if mine:
                    yield
                    return
            if left:
                time.sleep(0.2)  # `busy` holds it for an instant
        raise RetryError(
            f"another nightly job of {self.model} is at work in {self.nights}; expected one at a "
            "time; run the same command again when it has ended"
        )

    @property
    def busy(self) -> bool:
        """Whether a job of this model is at work; a killed one left its lock and does not hold it.

        True as well where permissions forbid to look.
        """
        if not (self.nights / LOCK).exists():
            return False
        try:
            with disk.locked(self.nights / LOCK, wait=False) as mine:
                return not mine
        except OSError:
            return True
