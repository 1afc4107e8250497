"""SIGTERM as a request: the training saves a checkpoint, and the process ends with status 143.

Schedulers send it before they kill. Several hosts must agree on the step to stop after, so the
training asks ``wanted`` and raises ``Stopped`` itself. Anywhere else ``Stopped`` is raised at once.
A main thread that waits inside TensorFlow for other hosts runs no Python: then a second thread ends
the process after ``GRACE_SECONDS``, with the last checkpoint untouched.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 128 + signal.SIGTERM
GRACE_SECONDS = 10.0
AGAIN = "run the same command again to continue"

_wanted, _acting = threading.Event(), threading.Event()
_deferred = False


class Stopped(BaseException):
    """SIGTERM arrived, at this host or another one."""

    def __init__(self, what: str = "") -> None:
        super().__init__(f"stopped by SIGTERM{what}: {AGAIN}")


def wanted() -> bool:
    """Whether SIGTERM arrived at this process."""
    return _wanted.is_set()


def act() -> None:
    """Says that the main thread is stopping: however long that takes, it is not cut short."""
    _acting.set()


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, SIGTERM sets ``wanted`` alone; at the end it raises ``Stopped``."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    if wanted():
        act()
        raise Stopped


@contextmanager
def on_sigterm() -> Iterator[None]:
    """Inside, SIGTERM stops the process as above. It replaces TensorFlow's own handler, which a
    strategy over several hosts installs, and which ignores the signal: enter it afterwards."""
    _wanted.clear()
    _acting.clear()
    near, far = socket.socketpair()
    near.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(far,), name="sigterm", daemon=True)
    kept, woken = signal.signal(signal.SIGTERM, _handle), signal.set_wakeup_fd(near.fileno())
    watcher.start()
    try:
        yield
    finally:
        _wanted.clear()
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGTERM, kept or signal.SIG_DFL)
        near.close()
        watcher.join()
        far.close()


def _handle(number: int, frame: FrameType | None) -> None:
    del number, frame
    _wanted.set()
    if not _deferred:
        act()
        raise Stopped


def _watch(signals: socket.socket) -> None:
    """Ends the process where the main thread does not act on SIGTERM."""
    while data := signals.recv(64):
        if signal.SIGTERM in data and not _acting.wait(GRACE_SECONDS):
            print(Stopped(", in the middle of a step"), file=sys.stderr, flush=True)
            os._exit(STATUS)
