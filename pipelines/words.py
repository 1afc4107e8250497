"""Runs a module with the arguments in ARGS: python -m pipelines.words MODULE [WORD…], as make does.

The words of the environment variable ARGS follow the given ones. They are quoted as in a shell, and
nothing in them is executed or expanded: ARGS='--bless --reason "the first model"' has three words.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from at4ctr.errors import InputError

EXAMPLE = "--bless --reason 'the first model'"


def split(name: str, text: str, example: str) -> list[str]:
    """The words that a variable holds; InputError where a quotation is not closed."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"{name}={text!r} cannot be split into words ({error}); expected words quoted as in a "
            f'shell, such as {name}="{example}"; close the quotation'
        ) from None


def main(words: Sequence[str]) -> int:
    """Replaces this process by the module's; the exit code where ARGS is refused."""
    try:
        added = split("ARGS", os.environ.get("ARGS", ""), EXAMPLE)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return os.execv(sys.executable, [sys.executable, "-m", *words, *added])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
