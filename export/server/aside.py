"""Work beside live requests, in a thread of lower priority than those that answer."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

LOWEST = 19  # a nice value
SWITCH_SECONDS = 0.0005  # that a thread may keep the interpreter while another waits for it


def aside(work: Callable[[], Value]) -> Value:
    """Runs ``work`` in a thread of the lowest priority; returns or raises what it does.

    Use it for work that computes outside of the interpreter: a thread that is not scheduled while
    it holds the interpreter's lock stops all others. Threads that ``work`` starts have its
    priority. Only Linux has priorities of threads; elsewhere the thread has the process's.
    """
    done: list[Value] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            if sys.platform == "linux":
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="aside")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
