"""Checkpoints that are whole or absent: written aside, hashed, renamed; verified before use."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from at4ctr.errors import InputError

log = logging.getLogger(__name__)


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


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that the file is old or new, never half; refuses NaN."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def save(folder: Path, name: str, checkpoint: tf.train.Checkpoint, cursor: dict) -> Path:
    """Writes ``folder/name`` with the checkpoint's files and ``cursor.json`` (cursor, digests)."""
    aside, final, old = folder / f".{name}.tmp", folder / name, folder / f".{name}.old"
    try:
        for left in (aside, old):  # of a process that was killed here
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(parents=True)
        checkpoint.write(str(aside / "variables"))
        files = sorted(p for p in aside.iterdir())
        for path in files:
            sync(path)
        write_json(
            aside / "cursor.json", {"cursor": cursor, "files": {p.name: digest(p) for p in files}}
        )
        if final.exists():
            final.replace(old)
        aside.replace(final)
        sync(folder)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        if old.exists() and not final.exists():
            old.replace(final)
        raise InputError(
            f"checkpoint {final} could not be written ({str(error).splitlines()[0]}); "
            "older checkpoints are intact: free some space and run the same command again"
        ) from error
    shutil.rmtree(old, ignore_errors=True)
    return final


def prune(folder: Path, kind: str, keep: int) -> None:
    """Deletes all but the newest ``keep`` of the checkpoints called ``<kind>-<step>``."""
    for path in sorted(folder.glob(f"{kind}-*"))[: -keep or None]:
        shutil.rmtree(path, ignore_errors=True)


def whole(path: Path) -> dict | None:
    """The cursor of a checkpoint whose files match their digests, or None."""
    try:
        value = json.loads((path / "cursor.json").read_text())
        files = value["files"]
        if files and all(digest(path / name) == sha for name, sha in files.items()):
            return value["cursor"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def newest(folder: Path) -> tuple[Path, dict] | None:
    """The newest whole step checkpoint and its cursor; damaged ones are passed over aloud.

    InputError when there are checkpoints but none is whole: training never starts over silently.
    """
    found = sorted(folder.glob("step-*"), reverse=True)
    for path in found:
        cursor = whole(path)
        if cursor is not None:
            return path, cursor
        log.warning(
            "checkpoint %s is damaged (its files differ from their digests): passed over", path
        )
    if found:
        raise InputError(
            f"{folder} holds {len(found)} checkpoints and none is whole; "
            "delete the run's folder to train from the start"
        )
    return None


def restore(path: Path, checkpoint: tf.train.Checkpoint) -> None:
    """Reads every variable back; InputError where they are not those of the checkpoint."""
    try:
        checkpoint.read(str(path / "variables")).assert_consumed()
    except (ValueError, AssertionError, tf.errors.OpError) as error:
        raise InputError(
            f"checkpoint {path} does not fit the model ({str(error).splitlines()[0][:150]}); "
            "expected the same code and configuration that wrote it; delete the run's folder to "
            "train from the start"
        ) from error
