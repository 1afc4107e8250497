"""A command whose reader goes away, as in ``command | head -1``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRINTS = """
import sys
from export.streams import ignoring_closed_pipes
with ignoring_closed_pipes():
    for i in range(100_000):
        print("x" * 100{flush})
    print("y" * 100, file=sys.{other})
sys.exit(7)
"""
ENTRIES = [
    path
    for room in ("export", "pipelines")
    for path in sorted((ROOT / room).rglob("*.py"))
    if "__main__" in path.read_text()
]


def unread(words: list[str], *, both: bool = False) -> tuple[int, bytes]:
    """Exit status and standard error of a command whose output is a pipe without a reader."""
    near, far = os.pipe()
    os.close(near)
    done = subprocess.run(
        words,
        cwd=ROOT,
        stdout=far,
        stderr=far if both else subprocess.PIPE,
        timeout=300,
        check=False,
    )
    os.close(far)
    return done.returncode, done.stderr or b""


@pytest.mark.parametrize("flush", ["", ", flush=True"])
@pytest.mark.parametrize("other", ["stdout", "stderr"])
def test_a_command_goes_on_to_its_own_end(flush, other):
    code = PRINTS.format(flush=flush, other=other)
    status, said = unread([sys.executable, "-c", code], both=other == "stderr")
    assert (status, said) == (7, b"")


def test_what_is_read_is_whole():
    code = PRINTS.format(flush="", other="stdout")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=300, check=False
    )
    assert done.stdout == (b"x" * 100 + b"\n") * 100_000 + b"y" * 100 + b"\n"


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_every_command_is_one_of_them(path):
    """It uses ``ignoring_closed_pipes``, or ``pipelines.main``, which does, or prints nothing."""
    text = path.read_text()
    assert re.search(r"@ignoring_closed_pipes\(\)\ndef main|import main$", text, re.M) or (
        "print(" not in re.sub(r"print\(.*file=sys\.stderr\)", "", text)
    )


def test_the_nightly_command_ends_silently():
    words = [sys.executable, "-m", "pipelines.nightly", "--help"]
    assert unread(words) == (0, b"")
