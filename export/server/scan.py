"""How deep and how wide a JSON text is, before a value is built from it."""

from __future__ import annotations

import numpy as np

from export.server.tensors import Limits, invalid

DEEPEST = 32  # levels; no input of a model has more than a handful
BLOCK = 1 << 20
MARKS = b'"[]{},'
OTHERS = bytes(sorted({*range(256)} - {*MARKS}))
STEP = np.zeros(256, np.int8)
STEP[[*b"[{"]], STEP[[*b"]}"]] = 1, -1


def check(text: bytes, limits: Limits, inputs: int) -> None:
    """Refuses a request that is nested too deep or holds more values than any request may.

    inputs: the most that a signature has. Within the object of a request (depth 1) lie its rows or
    its inputs (depth 2), and in these a value per input or per row (depth 3).
    """
    found = separators(text)
    if found is None:
        raise invalid(f"the request is nested deeper than {DEEPEST} levels; expected a few")
    entries, values = found[2] + 1, found[3] + 1
    if entries > max(limits.rows, inputs):
        raise invalid(
            f"the request has {entries:,} rows; expected at most {limits.rows:,}; ask twice"
        )
    most = max(limits.rows, limits.history) * max(inputs, 1)
    if values > most:
        raise invalid(
            f"the request has {values:,} values in the rows of its inputs; expected at most "
            f"{most:,}: {max(limits.rows, limits.history):,} of each of {inputs} inputs; ask twice"
        )


def separators(text: bytes) -> list[int] | None:
    """The number of commas at every depth, outside of texts; None where DEEPEST is exceeded.

    Of a text that is no JSON this holds up to the place where its reader stops.
    """
    if b"\\" in text:  # an escaped quote ends no text
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(text.translate(None, OTHERS), np.uint8)
    counts, depth, quotes = np.zeros(DEEPEST + 1, np.int64), 0, 0
    for begin in range(0, len(marks), BLOCK):
        block = marks[begin : begin + BLOCK]
        quoted = np.cumsum(block == ord('"'), dtype=np.int32) + quotes
        outside = quoted % 2 == 0
        depths = np.cumsum(np.where(outside, STEP[block], 0), dtype=np.int32) + depth
        if depths.max() > DEEPEST:
            return None
        commas = depths[outside & (block == ord(","))]
        counts += np.bincount(np.maximum(commas, 0), minlength=DEEPEST + 1)
        depth, quotes = int(depths[-1]), int(quoted[-1]) % 2
    return counts.tolist()
