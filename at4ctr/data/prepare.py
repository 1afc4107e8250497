"""From a raw log to a store: runs the steps, writes the files, and the manifest last.

A store is built in a hidden folder beside its place and renamed when it is whole, so a store that
can be seen is complete. A preparation that was interrupted leaves a hidden folder without a
running owner; the next one deletes it and begins again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from at4ctr.data.acquire import sha256
from at4ctr.data.build import build
from at4ctr.data.dataset import Options, Source
from at4ctr.data.duck import Engine, check_file
from at4ctr.errors import InputError

FORMAT = 1
MANIFEST = "manifest.json"
SPACE = 4  # bytes of scratch and store for a byte of raw text, and one more for each negative
DEFLATED = 4  # bytes of text in a byte of gzip, at most


def prepare(config: Options, root: Path = Path("data"), *, memory: int = 4 << 30) -> Path:
    """The folder of the store for these options, prepared unless it is there already.

    root: the store is ``root/store/<dataset>/<12 hex>``, named after the format, the schema, the
        preparation options and the raw files' names, sizes and times.
    memory: bytes that the engine may hold before it spills to disk.
    Raises InputError for a bad log, a log that gives no training rows, and a disk too small.
    """
    source = config.acquire()
    for file in source.files:
        check_file(file)
    place = Path(root) / "store" / config.name / _key(config, source)
    if (place / MANIFEST).is_file():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    _demand_space(place.parent, config, source)
    with _full_disk(place.parent), _workshop(place) as folder:
        begin = time.monotonic()
        scratch = folder / "scratch"
        scratch.mkdir()
        with Engine(scratch, memory) as engine:
            config.load(engine, source)
            manifest = build(engine, config, folder)
        shutil.rmtree(scratch)
        manifest |= {
            "format": FORMAT,
            "dataset": config.name,
            "simulated": source.simulated,
            "inputs": [_described(file) for file in source.files],
            "notes": [*source.notes, *manifest["notes"]],
            "seconds": time.monotonic() - begin,
        }
        _write_manifest(folder, manifest)
        folder.rename(place)
    return place


def _key(config: Options, source: Source) -> str:
    """Twelve hex digits of all that the store depends on."""
    files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in source.files]
    facts = [FORMAT, config.schema().fingerprint(), config.preparation(), files]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _demand_space(folder: Path, config: Options, source: Source) -> None:
    text = sum(f.stat().st_size * (DEFLATED if f.suffix == ".gz" else 1) for f in source.files)
    need, free = (SPACE + config.negatives) * text, shutil.disk_usage(folder).free
    if free < need:
        raise InputError(
            f"{folder} has {free:,} bytes free; expected about {need:,} to prepare "
            f"{source.files[0]}; free some space or choose another folder"
        )


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(
            f"the disk of {folder} became full; expected room for the store; free some space"
        ) from error


@contextmanager
def _workshop(place: Path) -> Iterator[Path]:
    """A hidden folder beside `place`, deleted if it still exists at the end.

    Leftovers of interrupted preparations are deleted, each in one line; so is a store without a
    manifest. A lock on the folder tells a leftover from a preparation that is running.
    """
    for old in sorted(place.parent.glob(f".{place.name}.tmp-*")):
        with _locked(old):
            print(f"prepare: deleting {old}, an interrupted preparation", file=sys.stderr)
            shutil.rmtree(old)
    if place.exists():
        print(f"prepare: deleting {place}, which has no {MANIFEST}", file=sys.stderr)
        shutil.rmtree(place)
    folder = place.with_name(f".{place.name}.tmp-{os.getpid()}")
    folder.mkdir()
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(
            f"{folder} is being written by another preparation of the same store; expected none; "
            "wait for it to finish"
        ) from None
    finally:
        os.close(handle)


def _described(file: Path) -> dict[str, Any]:
    return {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)}


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    with (folder / "new").open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    (folder / "new").rename(folder / MANIFEST)
