"""Requests as arrays, from REST's JSON and gRPC's TensorProto. Malformed ones are refused.

Requests are read as TensorFlow Serving reads them. `Limits` says where this is stricter.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from grpc import StatusCode as Code
from tensorflow.core.framework import types_pb2

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]
HISTORY = "history_"  # an input of this name holds one value per behaviour
WEIGHTS = "weights_"  # an input of this name weighs the several values of another one
PLAIN = ("signature_name", "instances", "inputs", "outputs")  # keys of a request; "outputs" unread


class RefusedError(Exception):
    """A request that gets no answer: a gRPC status and one sentence."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


def invalid(text: str) -> RefusedError:
    return RefusedError(Code.INVALID_ARGUMENT, text)


@dataclass(frozen=True)
class Spec:
    """dtype and shape of a named input or output; None where any size goes."""

    name: str
    dtype: tf.DType
    shape: tuple[int | None, ...]

    @property
    def text(self) -> str:
        sizes = ", ".join("?" if n is None else str(n) for n in self.shape)
        return f"{self.dtype.name} [{sizes}]"


@dataclass(frozen=True)
class Limits:
    """What this server refuses and TensorFlow Serving would answer.

    rows: of a batch, or candidates. history: behaviours (or values of one feature of a
    ``tf.Example``). Both bound the memory that an answer takes.
    request_bytes: of one request. negative_ids: whether an int64 may be below -1 (which stands for
    a missing value). Only a log of signed keys needs that.
    """

    rows: int = 4096
    history: int = 4096
    request_bytes: int = 16 << 20
    negative_ids: bool = False


def specs(named: Mapping[str, Any]) -> dict[str, Spec]:
    """Of a SignatureDef's ``inputs`` or ``outputs``, by name."""
    return {
        name: Spec(
            name,
            tf.as_dtype(info.dtype),
            tuple(None if d.size < 0 else d.size for d in info.tensor_shape.dim),
        )
        for name, info in sorted(named.items())
    }


def parse_json(text: bytes) -> dict[str, Any]:
    """A request's JSON object. NaN, a missing number, is a token of it; an infinity is refused."""

    def constant(name: str) -> float:
        if name == "NaN":
            return math.nan
        raise invalid(f"the request holds {name}; expected integers, texts and finite numbers")

    try:
        request = json.loads(text.decode(), parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the request is no JSON: {str(error)[:200]}") from error
    if not isinstance(request, dict):
        raise invalid(f"the request is a {type(request).__name__}; expected a JSON object")
    if wrong := sorted(request.keys() - set(PLAIN)):
        raise invalid(f"the request has the key {wrong[0]!r}; expected {', '.join(PLAIN[:3])}")
    if not isinstance(request.get("signature_name", ""), str):
        raise invalid("signature_name is no text; expected the name of a signature")
    if ("inputs" in request) == ("instances" in request):
        raise invalid("the request needs either 'inputs' (columns) or 'instances' (rows)")
    return request


def from_json(
    request: Mapping[str, Any], inputs: Mapping[str, Spec], optional: Iterable[str] = ()
) -> Arrays:
    """The arrays of ``inputs`` (a value per name) or ``instances`` (an object per row).

    Both may leave the name out where there is one input. optional: inputs that may be missing.
    """
    if "inputs" in request:
        named = request["inputs"]
        if not isinstance(named, dict) or _is_base64(named):
            named = {_only(inputs, "inputs"): named}
        names([*named, *optional], inputs)
        return {name: array(named[name], spec) for name, spec in inputs.items() if name in named}
    rows = request["instances"]
    if not isinstance(rows, list) or not rows:
        raise invalid("'instances' is empty or no list; expected one entry a row")
    if not isinstance(rows[0], dict) or _is_base64(rows[0]):
        name = _only(inputs, "instances")
        return {name: array(rows, inputs[name])}
    for i, row in enumerate(rows):
        if i and isinstance(row, dict) and row.keys() == rows[0].keys():
            continue
        if not isinstance(row, dict):
            raise invalid(
                f"instance {i} is a {type(row).__name__}; expected an object as the first"
            )
        names([*row, *optional], inputs, f"instance {i}: ")
        if row.keys() != rows[0].keys():
            raise invalid(f"instance {i} has other keys than the first; expected the same")
    given = {name: spec for name, spec in inputs.items() if name in rows[0]}
    return {name: array([row[name] for row in rows], spec) for name, spec in given.items()}


def names(found: Iterable[str], inputs: Mapping[str, Spec], where: str = "") -> None:
    """Refuses inputs that are missing or unknown."""
    found = set(found)
    if missing := sorted(set(inputs) - found):
        raise invalid(f"{where}missing input {missing[0]!r}; expected {', '.join(inputs)}")
    if extra := sorted(found - set(inputs)):
        raise invalid(f"{where}unknown input {extra[0]!r}; expected {', '.join(inputs)}")


def array(value: Any, spec: Spec) -> np.ndarray:
    """Nested lists as an array: as deep as their first entries, all of one size a level."""
    sizes: list[int] = []
    level = [value]
    while level and isinstance(level[0], list):
        size = len(level[0])
        if {*map(type, level)} != {list} or {*map(len, level)} != {size}:
            raise invalid(
                f"{spec.name} is ragged at depth {len(sizes)}: expected lists of {size} as the "
                f"first; pad with {_missing(spec)}"
            )
        sizes.append(size)
        level = list(itertools.chain.from_iterable(level))
    return _leaves(level, spec).reshape(sizes)


def _leaves(level: list[Any], spec: Spec) -> np.ndarray:
    """One type for all is checked at once, as there may be millions of values."""
    kinds = {*map(type, level)}
    plain = {int} if spec.dtype.is_integer else {int, float} if spec.dtype.is_floating else set()
    try:
        if kinds and kinds <= plain:
            return _array(level, spec)
    except OverflowError:
        pass  # the value is looked for below
    try:
        return _array([_leaf(v, spec) for v in level], spec)
    except OverflowError as error:
        raise invalid(
            f"{spec.name} holds a number that is too large; expected {spec.text}"
        ) from error


def _array(values: list[Any], spec: Spec) -> np.ndarray:
    with np.errstate(over="ignore"):  # to an infinity, which is refused
        return np.array(values, object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype)


def _missing(spec: Spec) -> str:
    if spec.dtype.is_floating:
        return "NaN"
    return "the empty text" if spec.dtype == tf.string else "-1"


def _leaf(value: Any, spec: Spec) -> Any:
    kinds: dict[str, type] = {"int64": int, "int32": int, "string": str, "bool": bool}
    if spec.dtype.is_floating and type(value) in (int, float):
        return value
    if spec.dtype == tf.string and _is_base64(value):
        return from_base64(value["b64"], spec.name)
    if type(value) is not kinds.get(spec.dtype.name):
        nested = {"dict": "an object", "list": "a list"}.get(type(value).__name__)
        found = nested or json.dumps(value)[:60]
        raise invalid(f"{spec.name} holds {found}; expected {spec.text}")
    if spec.dtype.is_integer and not spec.dtype.min <= value <= spec.dtype.max:
        raise invalid(f"{spec.name} holds {str(value)[:60]}; expected {spec.text}")
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def from_base64(text: Any, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise invalid(f"{name} holds no base64 in its b64: {error}") from error


def shape_of(proto: Any, spec: Spec, largest: int) -> tuple[int, ...]:
    """A TensorProto's sizes, before it is read. largest: values; a proto may claim more than it
    carries."""
    if proto.dtype != spec.dtype.as_datatype_enum:
        known = proto.dtype in types_pb2.DataType.values()
        found = types_pb2.DataType.Name(proto.dtype) if known else proto.dtype
        raise invalid(f"{spec.name} is {found}; expected {spec.text}")
    sizes = tuple(d.size for d in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(n < 0 for n in sizes):
        raise invalid(f"{spec.name} has an unknown shape; expected {spec.text}")
    if len(sizes) != len(spec.shape):
        raise invalid(f"{spec.name} has {len(sizes)} dimensions; expected {spec.text}")
    claimed = math.prod(sizes)
    if claimed > largest:
        raise invalid(f"{spec.name} claims {claimed:,} values; expected at most {largest:,}")
    for field, values in proto.ListFields():
        if field.name.endswith("_val") and len(values) > claimed:
            raise invalid(f"{spec.name} carries {len(values):,} values; expected {claimed:,}")
    return sizes


def from_proto(proto: Any, spec: Spec) -> np.ndarray:
    """A TensorProto's array, once ``shape_of`` let it pass."""
    try:
        found = tf.make_ndarray(proto)
    except (ValueError, TypeError) as error:
        raise invalid(f"{spec.name} is malformed: {str(error)[:200]}") from error
    sizes = tuple(d.size for d in proto.tensor_shape.dim)
    if found.shape != sizes:
        raise invalid(
            f"{spec.name} carries {found.size} values; expected {math.prod(sizes)} for {[*sizes]}"
        )
    return found


def check(arrays: Arrays, inputs: Mapping[str, Spec], signature: str, limits: Limits) -> None:
    """Refuses wrong ranks and sizes, sizes that differ, and what ``limits`` say."""
    check_shapes({name: arrays[name].shape for name in inputs}, inputs, signature, limits)
    for name, spec in inputs.items():
        _check_values(arrays[name], spec, limits)


def check_shapes(
    shapes: Mapping[str, Shape], inputs: Mapping[str, Spec], signature: str, limits: Limits
) -> None:
    """Refuses sizes that do not fit. One row stands for all rows; a feature without behaviours is
    missing, and so are weights without values."""
    for name, spec in inputs.items():
        _check_shape(shapes[name], spec)
    past = [name for name in inputs if name.startswith(HISTORY)]
    axis = 0 if signature == "candidates" else 1
    _same(shapes, past, axis, "behaviours", besides=0)
    for name in past:
        if (length := shapes[name][axis]) > limits.history:
            raise invalid(
                f"{name} has {length:,} behaviours; expected at most {limits.history:,}; "
                "send the latest ones"
            )
    for name in inputs:
        if name.startswith(WEIGHTS) and (of := name.removeprefix(WEIGHTS)) in inputs:
            _same(shapes, [of, name], -1, "values", besides=0)
    for name in inputs:
        rows = 0 if name in past and axis == 0 else shapes[name][0]
        if rows > limits.rows:
            raise invalid(f"{name} has {rows:,} rows; expected at most {limits.rows:,}; ask twice")
    if signature != "candidates":
        _same(shapes, list(inputs), 0, "rows", besides=1)


def _check_shape(sizes: Shape, spec: Spec) -> None:
    fits = len(sizes) == len(spec.shape) and all(
        n is None or n == size for n, size in zip(spec.shape, sizes, strict=True)
    )
    if not fits:
        raise invalid(f"{spec.name} has the shape {[*sizes]}; expected {spec.text}")


def _check_values(found: np.ndarray, spec: Spec, limits: Limits) -> None:
    if spec.dtype.is_floating:
        _check_numbers(found, spec.name, weighs=spec.name.startswith(WEIGHTS))
    if spec.name == "examples" and spec.dtype == tf.string:
        for i, text in enumerate(found.ravel()):
            _check_example(text, f"example {i}", limits)
    elif spec.dtype.is_integer and not limits.negative_ids and found.size:
        _check_ids(int(found.min()), spec.name)


def _check_numbers(found: np.ndarray, name: str, *, weighs: bool) -> None:
    """Refuses infinite numbers and negative weights. NaN is a missing number; a missing weight is
    1."""
    wrong = np.isinf(found) | (weighs & (found < 0))
    if wrong.any():
        what = "weights of at least 0" if weighs else "numbers"
        raise invalid(
            f"{name} holds {found[wrong][0]}; expected finite {what}, or NaN for a missing one"
        )


def _check_ids(least: int, name: str) -> None:
    if least < -1:
        raise invalid(f"{name} holds {least}; expected ids from 0, or -1 for a missing value")


def _check_example(text: Any, where: str, limits: Limits) -> None:
    data = text.encode() if isinstance(text, str) else text
    try:
        features = tf.train.Example.FromString(data).features.feature
    except Exception as error:  # protobuf's DecodeError, by the runtime's own class
        raise invalid(f"{where} is no serialized tf.Example") from error
    for name, feature in features.items():
        kind = feature.WhichOneof("kind")
        values = getattr(feature, kind).value if kind else ()
        if len(values) > limits.history:
            raise invalid(
                f"{where} has {len(values):,} values of {name}; expected at most {limits.history:,}"
            )
        if kind == "float_list":
            numbers, weighs = np.array(values, np.float32), name.startswith(WEIGHTS)
            _check_numbers(numbers, f"{where}: {name}", weighs=weighs)
        if kind == "int64_list" and values and not limits.negative_ids:
            _check_ids(min(values), f"{where}: {name}")


def _same(
    shapes: Mapping[str, Shape], of: list[str], axis: int, what: str, *, besides: int
) -> None:
    """Refuses sizes that differ, other than ``besides``."""
    sizes = {name: shapes[name][axis] for name in of}
    others = {name: size for name, size in sizes.items() if size != besides}
    first = next(iter(others), "")
    for name, size in others.items():
        if size != others[first]:
            raise invalid(f"{name} has {size} {what} and {first} {others[first]}; expected as many")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _only(inputs: Mapping[str, Spec], key: str) -> str:
    if len(inputs) > 1:
        raise invalid(f"'{key}' names no input; expected values for {', '.join(inputs)}")
    return next(iter(inputs))
