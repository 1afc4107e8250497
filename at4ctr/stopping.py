"""On SIGTERM the training saves a checkpoint, and the process ends with status 143.

Schedulers send SIGTERM before they kill. Several hosts must agree on the step to stop after, so the
training asks ``wanted`` and raises ``Stopped`` itself. Anywhere else ``Stopped`` is raised at once.
While the main thread waits inside TensorFlow for other hosts, it runs no Python. Then a second
thread ends the process after ``GRACE_SECONDS``, with the last checkpoint untouched.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 128 + signal.SIGTERM
GRACE_SECONDS = 10.0
PUT_BACK_SECONDS = 0.2
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
    """Records that the main thread is stopping, so that no other thread ends the process."""
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
def at_once() -> Iterator[None]:
    """Inside ``deferred``: SIGTERM raises ``Stopped`` after all, also one that arrived before."""
    global _deferred
    kept, _deferred = _deferred, False
    try:
        if kept and wanted():
            act()
            raise Stopped
        yield
    finally:
        _deferred = kept


@contextmanager
def on_sigterm() -> Iterator[None]:
    """Inside, SIGTERM stops the process as above.

    A strategy over several hosts installs a handler of TensorFlow's, which ignores the signal; ours
    is put back every ``PUT_BACK_SECONDS``.
    """
    _wanted.clear()
    _acting.clear()
    near, far = socket.socketpair()
    near.setblocking(False)
    kept, woken = signal.signal(signal.SIGTERM, _handle), signal.set_wakeup_fd(near.fileno())
    watcher = threading.Thread(target=_watch, args=(far, _put_back()), name="sigterm", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        _acting.set()  # the main thread is at its end, with or without an error
        _wanted.clear()
        signal.set_wakeup_fd(woken)
        near.close()
        watcher.join()
        far.close()
        signal.signal(signal.SIGTERM, kept or signal.SIG_DFL)


def _handle(number: int, frame: FrameType | None) -> None:
    del number, frame
    _wanted.set()
    if not _deferred:
        act()
        raise Stopped


def _put_back() -> Callable[[], None]:
    """A function that any thread may call, and that installs the handler that is installed now."""
    install = ctypes.CDLL(None).signal
    install.restype, install.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    ours = install(signal.SIGTERM, None)

    def put_back() -> None:
        install(signal.SIGTERM, ours)

    put_back()
    return put_back


def _watch(signals: socket.socket, put_back: Callable[[], None]) -> None:
    """Ends the process where the main thread does not act on SIGTERM."""
    signals.settimeout(PUT_BACK_SECONDS)
    while True:
        try:
            data = signals.recv(64)
        except TimeoutError:
            put_back()
            continue
        if not data:
            return
        if signal.SIGTERM in data and not _acting.wait(GRACE_SECONDS):
            busy = Stopped(" while it was busy, without a new checkpoint")
            print(busy, file=sys.stderr, flush=True)
            os._exit(STATUS)
