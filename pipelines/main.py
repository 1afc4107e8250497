"""What every entry point shares: flags, and bad input as one sentence with exit status 2."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from absl import app, flags, logging

import at4ctr  # noqa: F401  # isort: skip  (before TensorFlow loads: it sets the Keras version)
from at4ctr.errors import InputError


@contextmanager
def _native_quiet() -> Iterator[None]:
    """Silences what TensorFlow's C++ prints while it loads, before any log level is heeded."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


with _native_quiet():
    import tensorflow as tf

    tf.config.list_physical_devices()


def main(body: Callable[[], None]) -> None:
    """Parses flags and runs the body. Exits 2 on bad input, 130 when interrupted."""

    def run(argv: list[str]) -> None:
        if len(argv) > 1:
            raise InputError(f"unexpected argument {argv[1]!r}; expected --flag=value only")
        body()

    def guarded(argv: list[str]) -> None:
        try:
            run(argv)
        except InputError as error:
            _stop(str(error))
        except tf.errors.OpError as error:  # what a reader says arrives inside TensorFlow's words
            said = re.search(r"InputError: (.+)", str(error))
            if not said:
                raise
            _stop(said[1])
        except KeyboardInterrupt:
            print("\ninterrupted: run the same command again to continue", file=sys.stderr)
            sys.exit(130)

    logging.set_verbosity(logging.WARNING)
    tf.get_logger().setLevel("WARNING")
    app.run(guarded, flags_parser=_parse)


def _stop(why: str) -> NoReturn:
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _stop(str(error))
