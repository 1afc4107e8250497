"""Deterministic bytes of a SavedModel: names that TensorFlow numbers by process are numbered by
export."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import Message
from tensorflow.core.protobuf import saved_model_pb2

GRAPH, FINGERPRINT = "saved_model.pb", "fingerprint.pb"
USER_NAME = "_user_specified_name"  # of what a function captures: a number of this process
NUMBERED = re.compile(r"(.+)_(\d+)$")
UNREAD = "___redundant_placeholder"  # after a loop's condition: its name for what it does not read


def rewrite(folder: Path, defaults: Mapping[str, Mapping[str, np.ndarray]]) -> Any:
    """Rewrites a SavedModel's graph and returns its signatures.

    Functions are named in the order in which they were made, not by how many this process had made
    before, and the file is serialized in a fixed order, so that equal graphs are equal bytes.
    ``SignatureDef.defaults`` gets defaults[signature][input]. TensorFlow's own fingerprint file, a
    hash of names and a random number, is deleted: the manifest has the SHA-256 of every file.
    """
    model = saved_model_pb2.SavedModel.FromString((folder / GRAPH).read_bytes())
    (meta,) = model.meta_graphs
    functions = meta.graph_def.library.function
    names = _names([f.signature.name for f in functions])
    _rename(model, names)
    for function in functions:
        for captured in function.arg_attr.values():
            if captured.attr[USER_NAME].s.isdigit():
                del captured.attr[USER_NAME]
    functions.sort(key=lambda f: f.signature.name)
    for name, values in defaults.items():
        for key, value in values.items():
            dtype = tf.as_dtype(meta.signature_def[name].inputs[key].dtype)
            proto = tf.make_tensor_proto(value, dtype, value.shape)
            meta.signature_def[name].defaults[key].CopyFrom(proto)
    (folder / GRAPH).write_bytes(model.SerializeToString(deterministic=True))
    (folder / FINGERPRINT).unlink(missing_ok=True)
    return meta.signature_def


def _names(found: list[str]) -> dict[str, str]:
    """Old name -> new: the part before the number, and the function's place among all numbers."""
    numbered = [(m[1], int(m[2]), m[0]) for m in map(NUMBERED.fullmatch, found) if m]
    order = sorted(numbered, key=lambda n: (n[1], n[0]))
    return {old: f"{stem}_{place}" for place, (stem, _, old) in enumerate(order)}


def _rename(message: Message, names: Mapping[str, str]) -> None:
    """Every text and every map's key in a message that is such a name."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _rename_map(value, field, names)
        elif field.message_type is not None:
            for one in value if _repeated(field) else [value]:
                _rename(one, names)
        elif field.cpp_type == field.CPPTYPE_STRING:
            if _repeated(field):
                value[:] = [_renamed(v, names) for v in value]
            else:
                setattr(message, field.name, _renamed(value, names))


def _rename_map(entries: Any, field: Any, names: Mapping[str, str]) -> None:
    of = field.message_type.fields_by_name["value"]
    for key in list(entries):
        if of.message_type is not None:
            _rename(entries[key], names)
            if key in names:
                entries[names[key]].CopyFrom(entries[key])
                del entries[key]
        elif of.cpp_type == of.CPPTYPE_STRING:
            entries[key] = _renamed(entries[key], names)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, bytes):
        text = value.decode("utf-8", "replace")
        return names[text].encode() if text in names else value
    if UNREAD in value:
        return _unread(value, names)
    return names.get(value, value)


def _unread(value: str, names: Mapping[str, str]) -> str:
    """An argument that holds a function's name, in lower case."""
    head, _, tail = value.partition(UNREAD)
    for old, new in names.items():
        if head.endswith(old.lower()):
            return head[: len(head) - len(old)] + new.lower() + UNREAD + tail
    return value


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == 3
