"""Where the log lines of a night go."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.night.places import now

log = logging.getLogger("at4ctr.nightly")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"at": now(), "level": record.levelname, "logger": record.name,
                "message": record.getMessage()}  # fmt: skip
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _File(logging.FileHandler):
    """A log that cannot be written fails no night: the terminal has its lines too."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        del record

    def close(self) -> None:
        with suppress(OSError):
            super().close()


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
def to_terminal() -> Iterator[None]:
    """Log lines to stderr, and whatever else is printed too: stdout is for the result alone."""
    root = logging.getLogger("at4ctr")
    kept = root.level, root.propagate
    root.setLevel(logging.INFO)
    root.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.level, root.propagate = kept
