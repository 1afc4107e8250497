"""The one exception that a user is meant to read."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: one sentence with what, where, the value found, what was expected and the fix.

    Entry points print it without a traceback and exit with status 2.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a misspelt name: says which names exist, closest first."""
    names = sorted(known)
    if not names:
        return InputError(f"unknown {kind} {name!r}: there is none; leave it out")
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return InputError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")
