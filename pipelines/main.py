"""What every entry point shares: flags, and bad input as one sentence with exit status 2."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

import tensorflow as tf
from absl import app, flags, logging

from at4ctr import cluster, stopping
from at4ctr.errors import InputError
from export.streams import ignoring_closed_pipes


def main(body: Callable[[], None]) -> None:
    """Parses flags and runs the body.

    Exits 2 on bad input, 130 after Ctrl-C, 143 after SIGTERM.
    """

    def run(argv: list[str]) -> None:
        if len(argv) > 1:
            raise InputError(f"unexpected argument {argv[1]!r}; expected --flag=value only")
        body()

    def guarded(argv: list[str]) -> None:
        try:
            run(argv)
        except InputError as error:
            _stop(str(error))
        except OSError as error:
            _stop(
                f"{error.filename or 'a file'}: {error.strerror or error}; expected a folder that "
                "can be written and a disk with room; mend it and run the same command again"
            )
        except tf.errors.OpError as error:  # what a reader says arrives inside TensorFlow's words
            said = re.search(r"InputError: (.+)", str(error))
            if not said:
                raise
            _stop(said[1])
        except stopping.Stopped as stopped:
            print(stopped, file=sys.stderr, flush=True)
            if cluster.hosts().size > 1:
                os._exit(stopped.status)  # TensorFlow's threads take half a minute to end
            sys.exit(stopped.status)
        except KeyboardInterrupt:
            print("\ninterrupted: run the same command again to continue", file=sys.stderr)
            sys.exit(stopping.INTERRUPTED)

    logging.set_verbosity(logging.WARNING)
    tf.get_logger().setLevel("WARNING")
    with ignoring_closed_pipes():
        app.run(guarded, flags_parser=_parse)


def _stop(why: str) -> NoReturn:
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _stop(str(error))
