"""Fault injection: at a named point a process kills itself, or a write to disk fails.

``AT4CTR_FAULT=<point>:<kill|enospc|eio|hang>[:<n>]``: at the n-th passage of the point (1 by
default) the process sends itself SIGKILL, gets OSError(ENOSPC or EIO), or sleeps for ever. Without
the variable a point costs one look at the environment.

A module declares its points when it is imported, and an entry point calls ``check`` once all are,
so that a misspelt point is refused before any work.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

from at4ctr.errors import InputError, unknown

VARIABLE = "AT4CTR_FAULT"
KINDS = ("kill", "enospc", "eio", "hang")

_declared: set[str] = set()


@dataclass
class Fault:
    """The fault that ``AT4CTR_FAULT`` asks for. left: passages of its point until it happens, the
    one with the fault included."""

    point: str
    kind: str
    left: int


def declare(*names: str) -> None:
    """Declares points by name. A module declares its points when it is imported."""
    _declared.update(names)


def known() -> tuple[str, ...]:
    """The points of every module that was imported."""
    return tuple(sorted(_declared))


def check() -> None:
    """Raises InputError for a setting that names no known point or kind, or no number."""
    text = os.environ.get(VARIABLE)
    if text:
        _parse(text)


def reset() -> None:
    """Forgets how often the point was passed."""
    _parse.cache_clear()


def point(name: str) -> None:
    """Does nothing, or injects the fault that was asked for here: OSError, or no return at all."""
    text = os.environ.get(VARIABLE)
    if not text:
        return
    fault = _parse(text)
    if fault.point == name:
        fault.left -= 1
        if fault.left == 0:
            _strike(fault)


def _strike(fault: Fault) -> None:
    if fault.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.kind in ("kill", "hang"):
        _hang()
    number = errno.ENOSPC if fault.kind == "enospc" else errno.EIO
    raise OSError(number, f"{os.strerror(number)} (injected)", fault.point)


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)


@cache
def _parse(text: str) -> Fault:
    """The fault of a setting; always the same object, which counts its passages."""
    name, *rest = text.split(":")
    if name not in _declared:
        raise unknown(f"{VARIABLE} point", name, _declared)
    if not 1 <= len(rest) <= 2:
        raise InputError(
            f"{VARIABLE} is {text!r}; expected <point>:<{'|'.join(KINDS)}>[:<n>]; correct it"
        )
    kind, number = rest[0], rest[1] if len(rest) == 2 else "1"
    if kind not in KINDS:
        raise unknown(f"{VARIABLE} kind", kind, KINDS)
    if not (number.isascii() and number.isdecimal() and int(number) > 0):
        raise InputError(
            f"{VARIABLE} asks for passage {number!r} of {name}; expected a number from 1; "
            "correct it"
        )
    return Fault(name, kind, int(number))
