"""Work beside live requests gives way to them, and its value or error comes back."""

import os
import sys
import threading

import pytest

from export.server.aside import LOWEST, aside


def priority():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_the_work_and_its_threads_give_way_and_nobody_else_does():
    before, found = priority(), []

    def work():
        inner = threading.Thread(target=lambda: found.append(priority()))
        inner.start()
        inner.join()
        return priority()

    assert aside(work) == LOWEST
    assert found == [LOWEST]
    assert priority() == before


def test_an_error_is_raised_where_the_work_was_asked_for():
    with pytest.raises(KeyError, match="gone"):
        aside(lambda: dict[str, int]()["gone"])
