"""Quantises the tables of a serving model inside a ``with`` block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf

from at4ctr.errors import InputError, unknown
from at4ctr.layers.quantized import BLOCK, Floats, Halves, Int8Rows, Stored
from at4ctr.model.serving import ServingModel

Kind = Literal["none", "int8", "fp16"]
NARROW = 4  # rows of D int8 codes and a scale, D + 4 bytes, are no smaller than 2 D bytes here


@dataclass(frozen=True)
class Config:
    """How the tables of a trained model are exported.

    quantize: ``none`` keeps float32 tables. ``int8`` stores each row as int8 codes and one float32
        scale; tables of at most 4 columns, and the vectors of similarities, become half floats.
        ``fp16`` stores every table as half floats.
    largest_change: of a probability on the golden rows. Beyond it a quantised export is refused.
    """

    quantize: Kind = "none"
    largest_change: float = 0.01

    def __post_init__(self) -> None:
        if self.quantize not in get_args(Kind):
            raise unknown("export.quantize", self.quantize, get_args(Kind))
        if not (math.isfinite(self.largest_change) and 0 < self.largest_change <= 1):
            raise InputError(
                f"export.largest_change is {self.largest_change}; expected a change of a "
                "probability, above 0 and at most 1"
            )


@contextmanager
def quantized(model: ServingModel, kind: Kind) -> Iterator[dict[str, dict[str, Any]]]:
    """Gives the model quantised tables, and its own again at the end.

    What is quantised: the rows of every table of every space, pre-trained, first-order and output
    tables among them, and the vectors of similarities. What stays: the rest of the weights, among
    them the vectors of digits, which have no row for each id, and hash codes, which are whole
    numbers.

    Yields for each quantised table, by its path in the model: how it is ``stored``, its ``shape``,
    the ``largest_error`` of a value, and the ``bound`` on it.
    """
    found: dict[str, dict[str, Any]] = {}
    undo: list[tuple[Any, str, Any]] = []
    seen: set[int] = set()
    try:
        for space, embedder in model.spaces.items() if kind != "none" else ():
            before = {**embedder.tables}
            tables = {}
            for name, table in before.items():
                tables[name] = _stored(table, narrow=kind == "fp16")
                path = f"spaces/{space}/tables/{name}"
                found[path] = _facts(table, tables[name])
            undo.append((embedder, "tables", before))
            embedder.tables = tables
            for name, similarity in embedder.similarities.items():
                if id(similarity) in seen:  # spaces share it
                    continue
                seen.add(id(similarity))
                for side in ("users", "items"):
                    table = getattr(similarity, side)
                    path = f"spaces/{space}/similarities/{name}/{side}"
                    made = _stored(table, narrow=True)
                    found[path] = _facts(table, made)
                    undo.append((similarity, side, table))
                    setattr(similarity, side, made)
        yield found
    finally:
        for part, attribute, value in reversed(undo):
            setattr(part, attribute, value)


def _stored(table: tf.Variable, *, narrow: bool) -> Stored:
    """narrow: as half floats whatever its width."""
    values: Floats = table.numpy()
    return Halves(values) if narrow or values.shape[-1] <= NARROW else Int8Rows(values)


def _facts(table: tf.Variable, made: Stored) -> dict[str, Any]:
    values: Floats = table.numpy()
    worst = 0.0
    for begin in range(0, len(values), BLOCK):
        own = values[begin : begin + BLOCK]
        error = np.abs(own - made.rows(begin, begin + len(own)))
        worst = max(worst, float(error.max(initial=0.0)))
    return {
        "stored": made.stored,
        "shape": list(values.shape),
        "largest_error": worst,
        "bound": made.bound(),
    }
