"""How a night ends: its exit code, and whether what went wrong may pass by itself."""

from __future__ import annotations

import errno
import re
import sys
from dataclasses import dataclass
from typing import Any

from at4ctr.data.disk import NoRoomError
from at4ctr.errors import InputError
from export.publishing.publish import RetryError

DONE, BROKEN, CONFIGURATION, NO_DATA, DATA_REJECTED, MODEL_REFUSED, RETRY = 0, 1, 2, 10, 11, 12, 75

PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE,
           errno.ENOMEM, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE}  # fmt: skip
STOPPED = "stopped from outside; run the same command again to go on"
FULL = {errno.ENOSPC, errno.EDQUOT}
NOISE = re.compile(r"\{\{function_node .*?\}\} ?| ?\[Op:\w+\]")  # TensorFlow's
SAID = re.compile("No space left|Disk quota exceeded|Input/output error|Cannot allocate memory")
PASSING_OPS = (
    "ResourceExhaustedError",
    "UnavailableError",
    "AbortedError",
    "DeadlineExceededError",
)


@dataclass(frozen=True)
class Result:
    """The result of a command. value: what --json prints. text: the lines for a person."""

    exit: int
    value: dict[str, Any]
    text: str


class End(Exception):  # noqa: N818  (no error: how a night ends that does not publish)
    """Ends a night before its next stage."""

    def __init__(self, name: str, code: int, sentence: str, **facts: Any) -> None:
        super().__init__(sentence)
        self.name, self.code, self.sentence, self.facts = name, code, sentence, facts


class Stopped(BaseException):
    """SIGTERM arrived: the night stops where it can be resumed."""


def passing(error: BaseException) -> bool:
    """Whether the same command may succeed later without any correction."""
    kinds: tuple[type[BaseException], ...] = (
        Stopped, KeyboardInterrupt, RetryError, NoRoomError, MemoryError, *_passing_ops()
    )  # fmt: skip
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, kinds):
            return True
        if isinstance(found, OSError) and found.errno in PASSING:
            return True
        if SAID.search(str(found)):  # in TensorFlow's or DuckDB's words
            return True
        found = found.__cause__
    return False


def _passing_ops() -> tuple[type[BaseException], ...]:
    """TensorFlow's errors that may pass; none where it was not loaded, so raised nothing."""
    tf = sys.modules.get("tensorflow")
    return tuple(getattr(tf.errors, name) for name in PASSING_OPS) if tf else ()


def code_of(error: BaseException) -> int:
    """The exit code of an error: 75 if it may pass by itself, 2 if something must be corrected, 1
    for a defect of the program."""
    if passing(error):
        return RETRY
    return CONFIGURATION if isinstance(error, (InputError, OSError)) else BROKEN


def sentence_of(error: BaseException) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        return STOPPED
    if isinstance(error, OSError):
        mend = "free some space" if error.errno in FULL else "mend it"
        return (
            f"{error.filename or 'a file'}: {error.strerror or error}; expected a folder that can "
            f"be written and a disk with room; {mend} and run the same command again"
        )
    text = " ".join(NOISE.sub("", str(error)).split())[:300]
    said = f"{type(error).__name__}: {text}"
    if SAID.search(str(error)):
        return f"{said}; expected disk and memory with room; free some, run the same command again"
    return said
