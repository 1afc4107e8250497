"""Whether a version's folder is whole, and whether it changed: names, sizes, times and SHA-256."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from at4ctr.errors import InputError
from export.publishing import staging
from export.server import apart
from export.server.apart import Digests
from export.server.servable import GRAPHS

Fingerprint = tuple[tuple[str, int, int, int, int], ...]


class NotWholeError(Exception):
    """A version that lacks files, or whose files are not those of its manifest."""


def fingerprint(folder: Path) -> Fingerprint:
    """Path, size, times of modification and of change, and inode of every file and folder.

    A write, a change of permissions and a file that comes or goes each change it. Raises OSError
    for a folder that cannot be read.
    """
    found = []
    for root, _, files in os.walk(folder, onerror=_raise):
        for path in (root, *(os.path.join(root, name) for name in files)):
            with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                at = os.stat(path)
                size = 0 if path == root else at.st_size
                found.append((path, size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino))
    return tuple(sorted(found))


def check(folder: Path, read: Callable[[Path], Digests] = apart.read) -> Digests:
    """The digests of a version that is whole. read: what computes them.

    Raises NotWholeError where there is no graph, or where MANIFEST.json lies and a file that it
    names is missing or another. A version without MANIFEST.json cannot be checked further.
    """
    check_graph(folder)
    expected: Digests = {}
    if has_manifest(folder):
        try:
            expected = dict(staging.read_manifest(folder).files)
        except InputError:
            raise NotWholeError(f"{staging.MANIFEST} is no whole manifest") from None
    found = read(folder)
    for name, sha in expected.items():
        if name not in found:
            raise NotWholeError(f"{name} is missing, which {staging.MANIFEST} names")
        if found[name] != sha:
            raise NotWholeError(
                f"{name} has SHA-256 {found[name][:12]}…, and {sha[:12]}… in {staging.MANIFEST}"
            )
    return found


def check_graph(folder: Path) -> None:
    """Raises NotWholeError where there is no graph."""
    if not any((folder / graph).is_file() for graph in GRAPHS):
        raise NotWholeError(f"{GRAPHS[0]} is missing")


def has_manifest(folder: Path) -> bool:
    return (folder / staging.MANIFEST).exists()


def _raise(error: OSError) -> None:
    raise error
