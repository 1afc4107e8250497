"""The log lines of a night, to a file and to the terminal."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

from at4ctr.plural import counted
from pipelines.night.places import now

log = logging.getLogger("at4ctr.nightly")
printed = logging.getLogger("at4ctr.printed")
SHOWN = {"shown": True}  # extra of a line that a quiet terminal has, too


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"at": now(), "level": record.levelname, "logger": record.name,
                "message": record.getMessage()}  # fmt: skip
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _File(logging.FileHandler):
    """A log file whose errors do not fail a night: the terminal has its lines too."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        del record

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class _Printed(io.TextIOBase):
    """Turns printed lines into log lines; a line that says so is a warning."""

    def __init__(self) -> None:
        super().__init__()
        self._rest, self._busy = "", False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = f"{self._rest}{text}".replace("\r", "\n").split("\n")
        for line in lines:
            self._say(line.strip())
        return len(text)

    def _say(self, line: str) -> None:
        if self._busy or not line:  # what the logging itself prints is not logged again
            return
        self._busy = True
        try:
            printed.log(logging.WARNING if "warning: " in line else logging.INFO, "%s", line)
        finally:
            self._busy = False


@contextmanager
def to_file(path: Path) -> Iterator[None]:
    """Log lines as JSON to a file, appended."""
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(_Lines())
    root = logging.getLogger("at4ctr")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


@contextmanager
def to_terminal(*, verbose: bool) -> Iterator[None]:
    """Log lines to stderr: stdout is for the result alone.

    Without ``verbose`` these are the stages and the warnings, and what is printed to stderr
    meanwhile becomes log lines.
    """
    root = logging.getLogger("at4ctr")
    kept = root.level, root.propagate
    root.setLevel(logging.INFO)
    root.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    said = _Printed()
    with ExitStack() as stack:
        if not verbose:
            handler.addFilter(_shown)
            stack.enter_context(redirect_stderr(said))
        root.addHandler(handler)
        try:
            yield
        finally:
            said.write("\n")  # what has no line break at its end
            root.removeHandler(handler)
            root.level, root.propagate = kept


def _shown(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or getattr(record, "shown", False)


def stage(day: str, name: str, seconds: float, facts: Mapping[str, Any]) -> str:
    """The line of a stage that was reached: ``2017-12-01 TRAINED      41.2 s``."""
    return f"{day} {name:<9} {seconds:7.1f} s  {_facts(facts)}".rstrip()


def _facts(facts: Mapping[str, Any]) -> str:
    if rows := facts.get("rows"):
        return ", ".join(f"{split} {counted(n, 'row')}" for split, n in rows.items() if n)
    if inputs := facts.get("inputs"):
        return counted(len(inputs), "day")
    if checks := facts.get("verified"):
        return counted(len(checks), "check")
    return f"the gate says {facts['verdict']}" if "verdict" in facts else ""
