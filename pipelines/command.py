"""What commands with flags of their own share: help, and errors as one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import flags

from at4ctr.errors import InputError
from pipelines.night.outcome import sentence_of


def run(
    name: str,
    about: str | None,
    f: flags.FlagValues,
    arguments: Sequence[str],
    body: Callable[[flags.FlagValues], None],
    interrupted: str,
) -> int:
    """Parses flags and runs the body; the exit code: 0, 2 on bad input, 130 when interrupted.

    about: what ``--help`` prints first; f has a flag ``help``. interrupted: what is said then.
    """
    try:
        words = f([name, *arguments])[1:]
        if words:
            raise InputError(f"unexpected argument {words[0]!r}; expected --flag=value only")
        if f.help:
            print(f"{about}\n{f.get_help()}")
            return 0
        body(f)
    except flags.Error as error:
        print(f"error: {error}; see --help", file=sys.stderr)
        return 2
    except (InputError, OSError) as error:
        print(f"error: {sentence_of(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted: {interrupted}", file=sys.stderr)
        return 130
    return 0
