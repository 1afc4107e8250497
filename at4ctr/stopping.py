"""On SIGTERM or Ctrl-C the training saves a checkpoint and ends with status 143 or 130.

Schedulers send SIGTERM before they kill. A second Ctrl-C stops at once. Several hosts must agree on
the step to stop after, so the training asks ``wanted`` and raises ``Stopped`` itself. Anywhere else
``Stopped`` is raised at once. While the main thread waits inside TensorFlow for other hosts, it
runs no Python. Then a second thread ends the process after ``GRACE_SECONDS``, with the last
checkpoint untouched.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STATUS, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT
GRACE_SECONDS = 10.0
SECOND_SECONDS = 1.0  # that the main thread has to act on a second Ctrl-C
PUT_BACK_SECONDS = 0.2
SECOND = b"\nstopping after this step, with a checkpoint; Ctrl-C again stops at once\n"
AGAIN = "run the same command again to continue"

_wanted, _acting, _cut = threading.Event(), threading.Event(), threading.Event()
_deferred = False
_interrupts = 0  # how often SIGINT arrived


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived, at this host or another one. status: the process's exit status."""

    def __init__(self, what: str = "") -> None:
        self.status = INTERRUPTED if _interrupts else STATUS
        super().__init__(f"{'interrupted' if _interrupts else 'stopped by SIGTERM'}{what}: {AGAIN}")


def wanted() -> bool:
    """Whether SIGTERM or SIGINT arrived at this process."""
    return _wanted.is_set()


def act() -> None:
    """Records that the main thread is stopping, so that no other thread ends the process."""
    _acting.set()


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal sets ``wanted`` alone; at the end it raises ``Stopped``."""
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
    """Inside ``deferred``: a signal raises ``Stopped`` after all, also one that arrived before."""
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
def on_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGINT stop the process as above. An ignored SIGINT stays ignored.

    A strategy over several hosts installs a handler of TensorFlow's, which ignores SIGTERM; ours is
    put back every ``PUT_BACK_SECONDS``.
    """
    global _interrupts
    _interrupts = 0
    for event in (_wanted, _acting, _cut):
        event.clear()
    near, far = socket.socketpair()
    near.setblocking(False)
    kept, woken = signal.signal(signal.SIGTERM, _handle), signal.set_wakeup_fd(near.fileno())
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt):
        signal.signal(signal.SIGINT, _handle)
    watcher = threading.Thread(target=_watch, args=(far, _put_back()), name="signals", daemon=True)
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
        if callable(interrupt):
            signal.signal(signal.SIGINT, interrupt)
        _interrupts = 0


def _handle(number: int, frame: FrameType | None) -> None:
    global _interrupts
    del frame
    if number == signal.SIGINT:
        _interrupts += 1
        if _interrupts > 1:
            act()
            _cut.set()
            raise KeyboardInterrupt
    _wanted.set()
    if not _deferred:
        act()
        raise Stopped
    if number == signal.SIGINT:
        os.write(2, SECOND)


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
    """Ends the process where the main thread does not act on a signal."""
    global _interrupts
    signals.settimeout(PUT_BACK_SECONDS)
    first = second = math.inf  # when the main thread must have acted
    interrupts = 0
    while True:
        try:
            data = signals.recv(64)
        except TimeoutError:
            put_back()
        else:
            if not data:
                return
            now = time.monotonic()
            interrupts += data.count(signal.SIGINT)
            if interrupts or signal.SIGTERM in data:
                first = min(first, now + GRACE_SECONDS)
            if interrupts > 1:
                second = min(second, now + SECOND_SECONDS)
        now = time.monotonic()
        if (now > first and not _acting.is_set()) or (now > second and not _cut.is_set()):
            _interrupts = interrupts  # the main thread may not have counted them
            busy = Stopped(" while it was busy, without a new checkpoint")
            print(busy, file=sys.stderr, flush=True)
            os._exit(busy.status)
