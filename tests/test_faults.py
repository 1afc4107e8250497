"""Injected faults: what they do, when, and what is refused."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from at4ctr import faults
from at4ctr.errors import InputError

RUN = """
from at4ctr import faults
faults.declare("here", "there")
faults.check()
for step in range(3):
    print(step, flush=True)
    faults.point("here")
"""


@pytest.fixture(autouse=True)
def declared():
    faults.declare("here", "there")
    faults.reset()
    yield
    faults.reset()


def set_to(monkeypatch, text):
    monkeypatch.setenv(faults.VARIABLE, text)


def start(fault):
    return subprocess.Popen(
        [sys.executable, "-c", RUN],
        env={**os.environ, faults.VARIABLE: fault},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_unset_nothing_happens(monkeypatch):
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    faults.check()
    faults.point("here")
    set_to(monkeypatch, "")
    faults.check()
    faults.point("here")


@pytest.mark.parametrize(("kind", "number"), [("enospc", errno.ENOSPC), ("eio", errno.EIO)])
@pytest.mark.parametrize("nth", [1, 3])
def test_the_disk_refuses_at_the_nth_passage_alone(monkeypatch, kind, number, nth):
    set_to(monkeypatch, f"here:{kind}:{nth}" if nth > 1 else f"here:{kind}")
    found = []
    for step in range(1, 6):
        faults.point("there")
        try:
            faults.point("here")
        except OSError as error:
            found.append((step, error.errno))
    assert found == [(nth, number)]


def test_a_kill_is_a_kill():
    with start("here:kill:2") as running:
        assert running.wait(1800) == -signal.SIGKILL
        assert running.stdout.read().split() == ["0", "1"]


def test_a_hang_lasts_until_it_is_killed():
    with start("here:hang") as running:
        assert running.stdout.readline() == "0\n"
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.3)
        running.kill()
        assert running.wait(1800) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("heer:kill", "unknown AT4CTR_FAULT point 'heer': did you mean here"),
        ("here:die", "unknown AT4CTR_FAULT kind 'die'"),
        ("here", "expected <point>:<kill|enospc|eio|hang>"),
        ("here:kill:1:2", "expected <point>:<kill|enospc|eio|hang>"),
        ("here:kill:0", "asks for passage '0' of here"),
        ("here:kill:²", "asks for passage '²' of here"),
    ],
)
def test_a_wrong_setting_is_refused_at_the_start(monkeypatch, text, says):
    set_to(monkeypatch, text)
    with pytest.raises(InputError) as refused:
        faults.check()
    assert says in str(refused.value)


def test_a_process_that_is_misspelt_does_no_work():
    with start("heer:kill") as running:
        assert running.wait(1800) == 1
        assert running.stdout.read() == ""
