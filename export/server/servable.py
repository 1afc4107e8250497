"""One version of a model in a TF1-style session, as TensorFlow Serving holds it.

Only the graph computes an answer; neither Keras nor a Python function of the project takes part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from grpc import StatusCode as Code
from tensorflow_serving.apis import prediction_log_pb2

from export.server import tensors
from export.server.aside import aside
from export.server.tensors import Arrays, Limits, RefusedError, Spec

GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"
MOST_RECORDS = 1000  # of a warm-up file
DEFAULT = "serving_default"
FAILED = "assertion failed: "


class _Session(tf.compat.v1.Session):
    """Until it is ``live``, operations run one after the other in the thread that asks for them,
    and not in TensorFlow's threads, which answer requests. What is read before has a thread of the
    lowest priority."""

    live, reading = True, False

    def run(
        self, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None
    ) -> Any:
        if self.live:
            return super().run(fetches, feed_dict, options, run_metadata)
        own = tf.compat.v1.RunOptions(inter_op_thread_pool=-1)  # the caller's thread
        if self.reading:
            return aside(lambda: super(_Session, self).run(fetches, feed_dict, own, run_metadata))
        return super().run(fetches, feed_dict, own, run_metadata)


class Servable:
    """A loaded version. Threads may ask it at the same time."""

    def __init__(self, folder: Path, version: int, threads: int, *, beside: bool = False) -> None:
        """threads: of TensorFlow, within an operation and among them; 0 for one a core.

        beside: another version answers requests meanwhile, which loading and warming up must not
        delay.
        """
        self.version = version
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
        )
        graph = tf.Graph()
        self.session = _Session(graph=graph, config=config)
        self.session.live = not beside
        self.session.reading = True
        try:
            with graph.as_default():
                meta = tf.compat.v1.saved_model.load(self.session, ["serve"], str(folder))
        except BaseException:
            self.session.close()
            raise
        self.session.reading = False
        self.signatures = {
            name: definition
            for name, definition in meta.signature_def.items()
            if not name.startswith("__")
        }
        self._inputs = {n: tensors.specs(d.inputs) for n, d in self.signatures.items()}

    def signature(self, name: str) -> str:
        """The name of a signature that there is; "" is ``serving_default``.

        TensorFlow Serving answers FAILED_PRECONDITION by gRPC where this says INVALID_ARGUMENT.
        """
        name = name or DEFAULT
        if name not in self.signatures:
            known = ", ".join(sorted(self.signatures))
            raise tensors.invalid(f"unknown signature {name[:60]!r}; expected one of {known}")
        return name

    def inputs(self, signature: str) -> dict[str, Spec]:
        return self._inputs[signature]

    @property
    def most_inputs(self) -> int:
        """Of any signature."""
        return max(map(len, self._inputs.values()), default=0)

    def arrays(self, signature: str, protos: Mapping[str, Any], limits: Limits) -> Arrays:
        """TensorProtos as arrays; an input with a default in the signature may be left out.

        All inputs together hold at most as many values as a request may have bytes: one value in a
        proto may stand for a whole shape.
        """
        inputs, defaults = self.inputs(signature), self.signatures[signature].defaults
        tensors.names([*protos, *defaults], inputs)
        given = {name: protos[name] if name in protos else defaults[name] for name in inputs}
        shapes, left = {}, limits.request_bytes
        for name, spec in inputs.items():
            shapes[name] = tensors.shape_of(given[name], spec, left)
            left -= math.prod(shapes[name])
        tensors.check_shapes(shapes, inputs, signature, limits)
        return {name: tensors.from_proto(given[name], spec) for name, spec in inputs.items()}

    def predict(
        self, signature: str, arrays: Arrays, limits: Limits, only: Sequence[str] = ()
    ) -> Arrays:
        """The outputs by name. only: those that are asked for; none means all."""
        tensors.check(arrays, self.inputs(signature), signature, limits)
        definition = self.signatures[signature]
        for name in only:
            if name not in definition.outputs:
                known = ", ".join(sorted(definition.outputs))
                raise tensors.invalid(f"unknown output {name[:60]!r}; expected some of {known}")
        asked = only or sorted(definition.outputs)
        fetched = {name: definition.outputs[name].name for name in asked}
        feed = {definition.inputs[name].name: value for name, value in arrays.items()}
        try:
            outputs = self.session.run(fetched, feed)
        except tf.errors.OpError as error:
            raise RefusedError(_status(error.error_code), _reason(error.message)) from error
        if not any(value.size for value in outputs.values()):
            raise tensors.invalid("the request has no row; expected at least one")
        return outputs

    def warm_up(self, folder: Path) -> int:
        """Replays the version's warm-up requests, one after the other; returns their number.

        It must be called before the version serves, with or without such a file.

        Raises for a request that fails, a file that is no TFRecord of PredictionLog, and a file of
        more than 1,000 records; the version is then not served.
        """
        file = folder / WARM_UP
        count = 0
        records = tf.compat.v1.io.tf_record_iterator(str(file)) if file.is_file() else ()
        for record in records:
            count += 1
            if count > MOST_RECORDS:
                raise tensors.invalid(f"{WARM_UP} has more than {MOST_RECORDS:,} requests")
            self._replay(record, count)
        self.session.live = True
        return count

    def _replay(self, record: bytes, count: int) -> None:
        where = f"{WARM_UP}, request {count}"
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
        except Exception as error:  # protobuf's DecodeError, by the runtime's own class
            raise tensors.invalid(f"{where} is no PredictionLog") from error
        if log.WhichOneof("log_type") != "predict_log":
            raise tensors.invalid(
                f"{where} is a {log.WhichOneof('log_type')}; expected predict_log"
            )
        request = log.predict_log.request
        free = Limits(1 << 31, 1 << 31, 1 << 31, negative_ids=True)
        try:
            name = self.signature(request.model_spec.signature_name)
            self.predict(name, self.arrays(name, request.inputs, free), free)
        except RefusedError as error:
            raise RefusedError(error.code, f"{where}: {error.text}") from error

    def close(self) -> None:
        self.session.close()


def _status(number: int) -> Code:
    return next((c for c in Code if c.value[0] == number), Code.INTERNAL)


def _reason(message: str | None) -> str:
    """What a kernel said, without the graph's nodes."""
    lines = [line.strip() for line in (message or "").splitlines()]
    said = [
        s for s in lines if s and not s.startswith(("Graph execution error", "[[", "(", "Detect"))
    ]
    text = " ".join(said)
    if text.startswith(FAILED):  # its values stand in brackets
        text = re.sub(r"[][]", "", text.removeprefix(FAILED))
    return text[:500] or "the model cannot answer this request"
