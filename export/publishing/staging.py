"""Checks of a folder to be published: its files are those of its manifest, each with its digest.

A model is a program, so its folder is not trusted: no link, no path that leads out, and no file
beyond those below is accepted, whatever the manifest says. TensorFlow is not needed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from at4ctr import faults
from at4ctr.durable import digest, sync
from at4ctr.errors import InputError

MANIFEST, GRAPH = "MANIFEST.json", "saved_model.pb"
WORD = r"\w[\w.+=-]*"  # no leading dot, no slash
ALLOWED = re.compile(
    rf"saved_model\.pb|fingerprint\.pb|SIGNATURES\.md|assets/{WORD}\.txt"
    r"|variables/variables\.(?:index|data-\d{5}-of-\d{5})"
    rf"|assets\.extra/(?:golden/{WORD}\.(?:json|bin)|tf_serving_warmup_requests)"
)
NEEDED = (GRAPH, "variables/variables.index")
BEGINS = (
    b"\x08\x01\x12"  # a SavedModel: schema version 1, then its first graph; no pickle, zip, HDF5
)
REFUSED_OPS = (b"PyFunc", b"WriteFile")  # would run Python, or write to the server's disk
LARGEST_MANIFEST = 64 << 20
FOLDER_MODE, FILE_MODE = 0o755, 0o644  # whatever the umask: the server is often another user

faults.declare("publish.copying", "publish.copied", "publish.synced")


class UnfitError(InputError):
    """An export's folder is not what may be published. found, expected: parts of a sentence."""

    def __init__(self, folder: Path, found: str, expected: str) -> None:
        super().__init__(
            f"export {folder} is not fit to publish: {found}; expected {expected}; export it again"
        )
        self.found, self.expected = found, expected


@dataclass(frozen=True)
class Manifest:
    """The manifest of an export folder. digest: SHA-256 of MANIFEST.json. content: SHA-256 of the
    names and digests of the files."""

    files: Mapping[str, str]
    facts: Mapping[str, Any]
    digest: str

    @property
    def content(self) -> str:
        text = json.dumps(dict(self.files), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def identity(self) -> dict[str, str]:
        """For the ledger."""
        return {"content": self.content, "manifest": self.digest}


def inspect(folder: Path) -> tuple[Manifest, int]:
    """The manifest and the bytes of all files, whose names alone are compared with it.

    Raises UnfitError for a link, a name that may not be published, a file that is missing or that
    the manifest does not name.
    """
    found = dict(_files(folder))
    if MANIFEST not in found:
        raise UnfitError(folder, f"{MANIFEST} is missing", "one with the SHA-256 of every file")
    manifest = read_manifest(folder)
    for name in (*manifest.files, *found):
        if name != MANIFEST:
            _allowed(folder, name)
    for name in (*NEEDED, *manifest.files):
        if name not in found:
            raise UnfitError(folder, f"{name} is missing", "every file of a whole export")
    for name in found:
        if name != MANIFEST and name not in manifest.files:
            raise UnfitError(folder, f"{name} is not in {MANIFEST}", "no other file")
    return manifest, sum(found.values())


def check(folder: Path) -> Manifest:
    """As ``inspect``, and every file's SHA-256; saved_model.pb must be one and run no Python."""
    manifest, _ = inspect(folder)
    for name, expected in manifest.files.items():
        found = digest(folder / name)
        if found != expected:
            raise UnfitError(
                folder, f"{name} has SHA-256 {found[:12]}…", f"{expected[:12]}… as in {MANIFEST}"
            )
    graph = (folder / GRAPH).read_bytes()
    if not graph.startswith(BEGINS):
        raise UnfitError(folder, f"{GRAPH} begins with {graph[:4]!r}", "a SavedModel's graph")
    for op in REFUSED_OPS:
        if op in graph:
            raise UnfitError(folder, f"{GRAPH} holds {op.decode()}", "none of that operation")
    return manifest


def copy(source: Path, target: Path, manifest: Manifest) -> None:
    """Copies the files (never links), checks the copies, fsyncs them and their folders.

    Raises UnfitError where the copy is not what ``manifest`` says.
    """
    target.mkdir()
    target.chmod(FOLDER_MODE)
    for name in (*sorted(manifest.files), MANIFEST):
        faults.point("publish.copying")
        path = target / name
        for folder in (path.parent.parent, path.parent):
            if not folder.exists():
                folder.mkdir()
                folder.chmod(FOLDER_MODE)
        handle = os.open(source / name, os.O_RDONLY | os.O_NOFOLLOW)
        with open(handle, "rb") as old, path.open("xb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
            os.fchmod(new.fileno(), FILE_MODE)
        sync(path)
    faults.point("publish.copied")
    if check(target).digest != manifest.digest:
        raise UnfitError(source, f"{MANIFEST} changed while it was copied", "a finished export")
    for folder in sorted({(target / n).parent for n in manifest.files} | {target}, reverse=True):
        sync(folder)
    for folder in target.iterdir():
        if folder.is_dir():
            sync(folder)
    faults.point("publish.synced")


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if not p.is_dir())


def read_manifest(folder: Path) -> Manifest:
    """Raises InputError for a manifest that is damaged or too large."""
    size = (folder / MANIFEST).stat().st_size
    if size > LARGEST_MANIFEST:
        raise UnfitError(folder, f"{MANIFEST} has {size:,} bytes", "a few thousand")
    data = (folder / MANIFEST).read_bytes()
    try:
        value = json.loads(data)
        files, facts = value["files"], value.get("facts", {})
        good = all(isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) for v in files.values())
        if not (good and isinstance(facts, dict)):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UnfitError(
            folder, f"{MANIFEST} is damaged", 'JSON with "files": {path: SHA-256}'
        ) from None
    return Manifest(files, facts, hashlib.sha256(data).hexdigest())


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Path and bytes of every file; a link or a device is refused."""
    if folder.is_symlink() or not folder.is_dir():
        raise UnfitError(folder, "it is no folder", "an export's folder")
    pending = [folder]
    while pending:
        for item in os.scandir(pending.pop()):
            name = Path(item.path).relative_to(folder).as_posix()
            kind = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(kind.st_mode):
                pending.append(Path(item.path))
            elif stat.S_ISREG(kind.st_mode):
                yield name, kind.st_size
            elif stat.S_ISLNK(kind.st_mode):
                raise UnfitError(folder, f"{name} is a symbolic link", "files only")
            else:
                raise UnfitError(folder, f"{name} is neither file nor folder", "files only")


def _allowed(folder: Path, name: str) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise UnfitError(folder, f"{name!r} leads out of it", "paths within the folder")
    if not ALLOWED.fullmatch(name):
        raise UnfitError(
            folder,
            f"{name!r} is there",
            "the files of a SavedModel alone, no pickle, no Keras archive, no HDF5",
        )
