"""Run folders: ``runs/<dataset>-<recipe>/<UTC time>/``. An unfinished run is resumed in its own."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from at4ctr.durable import write_json
from at4ctr.errors import InputError

SNAPSHOT, METRICS = "config.json", "metrics.json"
FORM = 4  # of results: raised by a change after which the same snapshot trains to other weights


def commit() -> str:
    """The checkout's commit, ``+`` where files were changed since; "" outside a checkout.

    ``docs`` does not count: no run reads it, and a report that is written between two runs would
    mark the second one.
    """
    changes = ("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)docs")
    words = ("rev-parse", "--short=12", "HEAD"), changes
    try:
        head, changed = (
            subprocess.run(
                ["git", *w], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
            ).stdout.strip()
            for w in words
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + "+" * bool(changed)


def open_run(root: Path, name: str, snapshot: dict) -> Path:
    """The folder of the newest unfinished run of the very same snapshot, or a new folder with it.

    Options of ``export`` may differ, as they do not change what a run trains. So a run whose export
    was refused can be resumed with other ones, and its snapshot then has those.
    """
    folder = root / name
    for path in sorted(folder.glob("*Z"), reverse=True):
        if (path / SNAPSHOT).exists() and not (path / METRICS).exists():
            try:
                same = _trained(json.loads((path / SNAPSHOT).read_text())) == _trained(snapshot)
            except ValueError:
                same = False
            if same:
                write_json(path / SNAPSHOT, snapshot)
                return path
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{os.getpid()}"
    aside.mkdir(exist_ok=True)
    write_json(aside / SNAPSHOT, snapshot)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for count in range(1, 1000):
        path = folder / (f"{stamp}Z" if count == 1 else f"{stamp}-{count}Z")
        try:
            return aside.rename(path)
        except OSError:  # another run took the name
            continue
    raise InputError(f"{folder} cannot take another run at {stamp}; wait a second and try again")


def _trained(snapshot: Any) -> Any:
    if not (isinstance(snapshot, dict) and isinstance(snapshot.get("experiment"), dict)):
        return snapshot
    kept = {k: v for k, v in snapshot["experiment"].items() if k != "export"}
    return {**snapshot, "experiment": kept}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in a folder; the lock dies with its process.

    A process that only looks whether the folder is in use holds the lock for an instant. So
    InputError is raised only if the lock is still held after a second.
    """
    patience = time.monotonic() + 1.0
    with (folder / ".lock").open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() < patience:
                    time.sleep(0.02)
                    continue
                raise InputError(
                    f"run folder {folder} is in use by another process; wait for it to end, "
                    "or change the experiment"
                ) from None
        yield


def point_latest(root: Path, folder: Path) -> None:
    """Makes ``runs/latest`` point to a finished run."""
    aside = root / f".latest-{os.getpid()}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(folder.relative_to(root))
    aside.replace(root / "latest")


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Log lines to a file (appended) and to the terminal."""
    root = logging.getLogger("at4ctr")
    root.setLevel(logging.INFO)
    root.propagate = False
    to_file, to_terminal = logging.FileHandler(path), logging.StreamHandler()
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    to_terminal.setFormatter(logging.Formatter("%(message)s"))
    for handler in (to_file, to_terminal):
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in (to_file, to_terminal):
            root.removeHandler(handler)
            handler.flush()
        to_file.close()
