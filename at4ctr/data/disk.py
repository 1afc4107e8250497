"""Disk room, the errors of a disk as one sentence, and lock files."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from at4ctr.errors import InputError

DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


class NoRoomError(InputError):
    """A disk is too full for what is to be written: later there may be room."""


def demand_room(folder: Path, size: int, what: str) -> None:
    """Raises NoRoomError when the disk of `folder` has fewer than `size` bytes free for `what`."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise NoRoomError(
            f"{folder} has {free:,} bytes free; expected about {size:,} for {what}; free some space"
        )


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns a full disk, and files or folders that may not be used, into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(
                f"the disk of {folder} became full; expected room for the log and the store; "
                "free some space"
            ) from error
        if error.errno not in DENIED:
            raise
        raise InputError(
            f"{error.filename or folder} cannot be used ({error.strerror}); expected a log that "
            f"can be read and a folder {folder} that can be written; correct the permissions"
        ) from error


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds the lock file at `path`, which is deleted at the end; the value is whether it is held.

    wait: whether to wait for the lock's owner, and to say so in one line; otherwise the value is
        False at once. The lock of a process that was killed is free.
    Raises InputError on a disk without locks.
    """
    handle = _take(path, wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)
            os.close(handle)


def _take(path: Path, wait: bool) -> int | None:
    """A descriptor that holds the lock, or None."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _flocked(handle, path, wait):
            os.close(handle)
            return None
        try:
            if os.path.samestat(os.stat(path), os.fstat(handle)):
                return handle
        except FileNotFoundError:
            pass  # the owner before deleted the file that was waited for: lock the next one
        os.close(handle)


def _flocked(handle: int, path: Path, wait: bool) -> bool:
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                return False
            print(f"waiting for the process that holds {path}", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        os.close(handle)
        raise InputError(
            f"{path} cannot be locked ({error.strerror}); expected a disk with file locks; "
            "use a local one"
        ) from error
    return True
