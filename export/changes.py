"""How far a quantised model's answers lie from those of the float32 model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from at4ctr.errors import InputError
from at4ctr.model.quantized import Config

Golden = Mapping[str, Mapping[str, Any]]  # signature -> a golden request with its ``outputs``
BEFORE = "unquantized"  # in a golden request: the answers of the float32 model


def demanded(options: Config, plain: Golden, rows: Golden) -> dict[str, float]:
    """The largest changes, as `largest` gives them.

    Raises InputError where a probability changes by more than ``options.largest_change``.
    """
    found = largest(plain, rows)
    for name, change in found.items():
        if name.startswith("probability") and not change <= options.largest_change:
            raise InputError(
                f"export.quantize={options.quantize} changes {name} of a golden row by "
                f"{change:.3g}; expected at most export.largest_change={options.largest_change:g}; "
                "set export.quantize=fp16 or none, or a larger bound"
            )
    return found


def facts(
    options: Config, changes: Mapping[str, float], tables: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """``quantization`` of a manifest: the kind, the bound, the changes, and each served table.

    tables: as `at4ctr.model.quantized.quantized` yields them.
    """
    return {
        "kind": options.quantize,
        "bound": options.largest_change,
        "largest_change": dict(changes),
        "tables": {path: dict(own) for path, own in tables.items()},
    }


def largest(plain: Golden, rows: Golden) -> dict[str, float]:
    """Output -> the largest |difference| over the golden rows of all signatures."""
    found: dict[str, float] = {}
    for signature, row in rows.items():
        for name, values in row["outputs"].items():
            before = np.array(plain[signature]["outputs"][name], np.float64)
            change = float(np.abs(np.array(values, np.float64) - before).max())
            found[name] = max(found.get(name, 0.0), change)
    return found


def beside(rows: Golden, plain: Golden) -> dict[str, dict[str, Any]]:
    """Golden requests with both models' answers."""
    return {name: {**row, BEFORE: plain[name]["outputs"]} for name, row in rows.items()}
