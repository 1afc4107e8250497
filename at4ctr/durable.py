"""Files and folders that survive a crash: digests, fsync, JSON that is old or new, never half."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sync(path: Path) -> None:
    """fsync of a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Makes a folder and its parents, each fsynced into the one that holds it."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync(made.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that the file is old or new, never half; refuses NaN."""
    with replaced(path) as aside:
        aside.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def replaced(path: Path, tag: str = "tmp") -> Iterator[Path]:
    """A file to write beside `path`, which it replaces at the end: old or new, never half.

    tag: ends the temporary file's name, so that several processes may write at once. After an error
    of the disk, which names `path`, the temporary file is gone.
    """
    aside = path.with_name(f".{path.name}.{tag}")
    try:
        yield aside
        sync(aside)
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise
    sync(path.parent)


@contextmanager
def filled(folder: Path, last: str) -> Iterator[Path]:
    """A new folder to write files into. At the end they replace those of ``folder`` one by one.

    last: the file that moves last, such as the page that names the others. After an exception in
    the block no file moves.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(aside.iterdir(), key=lambda path: path.name == last):
            sync(file)
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
