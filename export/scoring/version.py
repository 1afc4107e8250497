"""An exported version as a function of raw values: its inputs by name, and its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.schema import AGES, MISSING, Schema, history_name, weights_name

MANIFEST, GRAPH = "MANIFEST.json", "saved_model.pb"
SIGNATURE = "serving_default"
EXPECTED = "expected a run, a folder of versions or a version; name one with RUN=, or train it"


@dataclass(frozen=True)
class Column:
    """A named input of the version.

    kind: ``int64``, ``string`` or ``float32``, of one value.
    depth: 0 for one value a row, 1 for a list, 2 for a list of lists.
    past: whether the outer list has one entry a behaviour.
    weighs: the input whose values it weighs; empty for none.
    """

    name: str
    kind: str
    depth: int
    past: bool = False
    weighs: str = ""

    @property
    def missing(self) -> int | str | float:
        """What stands for a value that is not there."""
        return float("nan") if self.kind == "float32" else MISSING[self.kind]

    @property
    def absent(self) -> np.ndarray:
        """The one row that stands for all where the whole column is not there."""
        dtype = object if self.kind == "string" else self.kind
        return np.full([1] + [0] * self.depth, self.missing, dtype)


@dataclass(frozen=True)
class Version:
    """An exported version, loaded.

    inputs: every input of ``serving_default`` by name.
    item: the input that every request has to name. first: the history input that says which
        behaviours are real; empty of a model without a history.
    outputs: the names of the answers, in the manifest's order.
    """

    path: Path
    manifest: Mapping[str, Any]
    inputs: Mapping[str, Column]
    item: str
    first: str
    outputs: tuple[str, ...]
    signature: Any

    @property
    def simulated(self) -> bool:
        """Whether the model learned from a simulated log."""
        return bool(self.manifest["simulated"])

    def answer(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Raw values [B, ...] of every input -> each output [B] float32."""
        kinds = {name: tf.as_dtype(column.kind) for name, column in self.inputs.items()}
        tensors = {name: tf.constant(arrays[name], kinds[name]) for name in self.inputs}
        found = self.signature(**tensors)
        return {name: found[name].numpy() for name in self.outputs}


def newest(folder: Path) -> Path:
    """The newest version of a run (``export/``) or of a folder of versions, or the version itself.

    Raises InputError where there is none.
    """
    if (folder / GRAPH).is_file():
        return folder
    for place in (folder / "export", folder):
        versions = [p for p in place.glob("*") if p.name.isdecimal() and (p / GRAPH).is_file()]
        if versions:
            return max(versions, key=lambda p: int(p.name))
    what = "holds no exported model" if folder.is_dir() else "does not exist"
    raise InputError(f"{folder} {what}; {EXPECTED} with make train")


def load(path: Path) -> Version:
    """Loads a version. Raises InputError where its manifest or graph cannot be read."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        schema, outputs = Schema.from_json(manifest["schema"]), tuple(manifest["outputs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"version {path} has no {MANIFEST} that can be read ({error}); expected one that make "
            "train or make nightly wrote; export the model again"
        ) from error
    try:
        signature = tf.saved_model.load(str(path)).signatures[SIGNATURE]
    except (OSError, KeyError, tf.errors.OpError) as error:
        raise InputError(
            f"version {path} cannot be loaded ({str(error)[:200]}); expected a SavedModel with the "
            f"signature {SIGNATURE}; export the model again"
        ) from error
    inputs = columns(schema, signature.structured_input_signature[1])
    past = [history_name(f.name) for f in schema.behaviour if history_name(f.name) in inputs]
    first = past[0] if past else ""
    return Version(path, manifest, inputs, schema.item_id.name, first, outputs, signature)


def columns(schema: Schema, specs: Mapping[str, tf.TensorSpec]) -> dict[str, Column]:
    """The inputs of a signature, in the order of their names."""
    past = {AGES, *(history_name(f.name) for f in schema.behaviour)}
    weighs = {weights_name(f.name): f.name for f in schema.features if f.weighted}
    return {
        name: Column(name, spec.dtype.name, spec.shape.rank - 1, name in past, weighs.get(name, ""))
        for name, spec in sorted(specs.items())
    }
