"""Standard output and error whose reader may go away, as in ``command | head -1``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class _Stream:
    """A stream that drops what is written once its pipe is closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Sends what is buffered, and the rest, to nobody."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        self._stream.flush()


@contextmanager
def ignoring_closed_pipes() -> Iterator[None]:
    """Inside, a command whose output is no longer read goes on to its own end and status."""
    kept = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    made = {name: _Stream(stream) for name, stream in kept.items() if stream is not None}
    vars(sys).update(made)
    try:
        yield
    finally:
        for stream in made.values():
            stream.flush()
        vars(sys).update(kept)
