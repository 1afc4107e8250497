"""Asks a model server, TensorFlow Serving or ``make serve``: python -m export.client --request=…

It asks by gRPC, with TensorFlow Serving's official stubs, or by REST. Requests are written as REST
takes them; gRPC's tensors get their types from the server's own metadata.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import export.quiet  # noqa: F401  # isort: skip  (before TensorFlow loads)
import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from at4ctr.errors import InputError, unknown
from export.server import tensors
from export.server.tensors import Arrays
from export.streams import ignoring_closed_pipes

PORTS = {"grpc": 8500, "rest": 8501}
GOLDEN = Path("assets.extra") / "golden"
ANSWERS = ("outputs", "unquantized")  # of a golden row, which are no part of its request
PROBABILITY = "probability"  # an output, or what its name begins with, before _ and a label
SCORE = "score"  # an output that ranks
FILE = "golden:"  # before the path of a stored request
TOLERANCE = 1e-5  # of TensorFlow's kernels, which round by the machine and the batch


class Client(Protocol):
    """A connection to one model. version None means the latest."""

    def predict(self, request: Mapping[str, Any], version: int | None) -> Arrays: ...

    def status(self, version: int | None) -> dict[str, Any]: ...

    def metadata(self, version: int | None) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Grpc:
    """Every call ends after ``timeout`` seconds. Raises InputError for whatever is no answer."""

    def __init__(self, server: str, model: str, timeout: float) -> None:
        self.server, self.model, self.timeout = server, model, timeout
        largest = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        self.channel = grpc.insecure_channel(server, [*largest, ("grpc.enable_http_proxy", 0)])
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self._held: dict[int | None, Any] = {}

    def predict(self, request: Mapping[str, Any], version: int | None) -> Arrays:
        name = request.get("signature_name") or "serving_default"
        definition = self._signatures(version).signature_def
        if name not in definition:
            raise unknown("signature", name, [n for n in definition if not n.startswith("__")])
        signed = definition[name]
        arrays = tensors.from_json(request, tensors.specs(signed.inputs), signed.defaults)
        message = predict_pb2.PredictRequest()
        self._spec(message.model_spec, version)
        message.model_spec.signature_name = name
        for key, value in arrays.items():
            dtype = tf.as_dtype(signed.inputs[key].dtype)
            proto = tf.make_tensor_proto(value, dtype, value.shape)
            message.inputs[key].CopyFrom(proto)
        answer = self._call(self.predictions.Predict, message)
        return {key: tf.make_ndarray(value) for key, value in answer.outputs.items()}

    def status(self, version: int | None) -> dict[str, Any]:
        message = get_model_status_pb2.GetModelStatusRequest()
        self._spec(message.model_spec, version)
        return plain(self._call(self.models.GetModelStatus, message))

    def metadata(self, version: int | None) -> dict[str, Any]:
        return plain(self._signatures(version))

    def close(self) -> None:
        self.channel.close()

    def _signatures(self, version: int | None) -> Any:
        if version not in self._held:
            message = get_model_metadata_pb2.GetModelMetadataRequest(
                metadata_field=["signature_def"]
            )
            self._spec(message.model_spec, version)
            answer = self._call(self.predictions.GetModelMetadata, message)
            held = get_model_metadata_pb2.SignatureDefMap()
            answer.metadata["signature_def"].Unpack(held)
            self._held[version] = held
        return self._held[version]

    def _spec(self, spec: Any, version: int | None) -> None:
        spec.name = self.model
        if version is not None:
            spec.version.value = version

    def _call(self, method: Callable[..., Any], message: Any) -> Any:
        try:
            return method(message, timeout=self.timeout)
        except grpc.RpcError as error:
            raise InputError(
                f"{self.server} answers {error.code().name}: {error.details() or 'no reason'}"
            ) from error


class Rest:
    """Every call ends after ``timeout`` seconds. Raises InputError for whatever is no answer."""

    def __init__(self, server: str, model: str, timeout: float) -> None:
        self.server, self.model, self.timeout = server, model, timeout
        self.connection = http.client.HTTPConnection(server, timeout=timeout)

    def predict(self, request: Mapping[str, Any], version: int | None) -> Arrays:
        body = {key: value for key, value in request.items() if key not in ANSWERS}
        answer = self._ask("POST", version, ":predict", json.dumps(body).encode())
        found = answer.get("outputs", answer.get("predictions"))
        if isinstance(found, list) and found and isinstance(found[0], dict):
            found = {name: [row[name] for row in found] for name in found[0]}
        if not isinstance(found, dict):
            raise InputError(f"{self.server} answers no named outputs; expected some")
        return {name: np.array(values, np.float32) for name, values in found.items()}

    def status(self, version: int | None) -> dict[str, Any]:
        return self._ask("GET", version, "")

    def metadata(self, version: int | None) -> dict[str, Any]:
        return self._ask("GET", version, "/metadata")["metadata"]["signature_def"]

    def close(self) -> None:
        self.connection.close()

    def _ask(
        self, method: str, version: int | None, what: str, body: bytes | None = None
    ) -> dict[str, Any]:
        which = "" if version is None else f"/versions/{version}"
        head = {} if body is None else {"Content-Type": "application/json"}
        try:
            self.connection.request(method, f"/v1/models/{self.model}{which}{what}", body, head)
            response = self.connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            raise InputError(
                f"{self.server} cannot be asked by REST ({error}); expected a server there"
            ) from error
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise InputError(f"{self.server} answers {text[:100]!r}; expected JSON") from error
        if response.status != 200:
            raise InputError(f"{self.server} answers {response.status}: {answer.get('error')}")
        return answer


def connect(protocol: str, server: str, model: str, timeout: float) -> Client:
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"server is {server!r}; expected host:port, such as localhost:8500")
    return (Grpc if protocol == "grpc" else Rest)(server, model, timeout)


def plain(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def replay(client: Client, folder: Path, tolerance: float) -> tuple[bool, list[str]]:
    """Whether the server gives the answers stored with a version, and a line per signature.

    folder: of the version, which the server must serve under its number. A logit beyond ±1 may
    differ by ``tolerance`` times its size.
    """
    files = sorted((folder / GOLDEN).glob("*.json"))
    if not files or not folder.name.isdecimal():
        raise InputError(
            f"{folder} is no exported version with golden rows; expected one, such as "
            "runs/latest/export/1"
        )
    passed, lines = True, []
    for file in files:
        golden = load(f"{FILE}{file}")
        answer = client.predict(golden, int(folder.name))
        worst = 0.0
        for name, values in golden["outputs"].items():
            expected = np.array(values, np.float64)
            found = answer.get(name, np.zeros(0)).astype(np.float64)
            worst = max(worst, difference(found, expected))
        good = worst <= tolerance
        passed &= good
        rows = len(next(iter(golden["outputs"].values())))
        mark = "ok    " if good else "FAILED"
        lines.append(f"{mark} golden {file.stem}: {rows} rows, largest difference {worst:.2g}")
    return passed, lines


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest; beyond ±1, as a share of the expected value. Infinite where shapes differ."""
    if found.shape != expected.shape or not found.size or not np.isfinite(found).all():
        return float("inf")
    return float(np.max(np.abs(found - expected) / np.maximum(1.0, np.abs(expected))))


def load(text: str) -> dict[str, Any]:
    """A request: JSON, or ``golden:`` and the path of a file that holds it, or - for the input."""
    try:
        data = sys.stdin.read() if text == "-" else text
        if text.startswith(FILE):
            data = Path(text.removeprefix(FILE)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--request {text} cannot be read ({error}); expected JSON") from error
    return tensors.parse_json(data.encode())


def table(answer: Arrays, server: str, label: str = "") -> list[str]:
    """A line of each row with its probabilities and, where there is one, the score. Several columns
    have a first line of their names.

    label: the label to print the probabilities of; empty for all.
    """
    known = [name for name in sorted(answer) if name.split("_")[0] == PROBABILITY]
    if not known:
        raise InputError(
            f"{server} answers {', '.join(answer) or 'nothing'}; expected a probability; ask a "
            "model that make train exported"
        )
    names = [f"{PROBABILITY}_{label}"] if label else [*known, *({SCORE} & set(answer))]
    if names[0] not in known:
        raise _unknown_label(server, label, known)
    head = ["\t".join(names)] if len(names) > 1 else []
    columns = zip(*(answer[name] for name in names), strict=True)
    return head + ["\t".join(map(str, row)) for row in columns]


def _unknown_label(server: str, label: str, known: Sequence[str]) -> InputError:
    if list(known) == [PROBABILITY]:
        return InputError(
            f"{server} answers one probability, whose label has no name there, and --label is "
            f"{label!r}; expected no --label; leave it out"
        )
    return unknown("--label", label, [name.removeprefix(f"{PROBABILITY}_") for name in known])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m export.client", description=__doc__)
    add = made.add_argument
    add("--protocol", choices=sorted(PORTS), default="grpc")
    add("--server", default="", help="host:port (default: localhost:8500, of REST localhost:8501)")
    add("--model", default="ctr", help="its name at the server (default: ctr)")
    add("--version", type=int, help="of the model (default: the latest)")
    add("--timeout", type=float, default=10.0, help="seconds of a call (default: 10)")
    add("--tolerance", type=float, default=TOLERANCE, help=f"of --golden (default: {TOLERANCE:g})")
    add("--label", default="", help="of --request: the one to print (default: every one)")
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--request", help=f"JSON as REST takes it, {FILE}<file> that holds it, or - for the input"
    )
    what.add_argument("--golden", type=Path, help="an exported version: replay its golden rows")
    what.add_argument("--status", action="store_true", help="the states of the versions")
    what.add_argument("--metadata", action="store_true", help="the signatures")
    return made


def run(options: argparse.Namespace) -> int:
    """Prints the answer; for a request, a line of probabilities for each row. Returns 1 where
    golden rows differ."""
    server = options.server or f"localhost:{PORTS[options.protocol]}"
    client = connect(options.protocol, server, options.model, options.timeout)
    try:
        if options.golden:
            passed, lines = replay(client, options.golden, options.tolerance)
            print("\n".join(lines))
            return 0 if passed else 1
        if options.status or options.metadata:
            ask = client.status if options.status else client.metadata
            print(json.dumps(ask(options.version), indent=2))
            return 0
        answer = client.predict(load(options.request), options.version)
        print("\n".join(table(answer, server, options.label)))
        return 0
    finally:
        client.close()


@ignoring_closed_pipes()
def main(arguments: Sequence[str] | None = None) -> int:
    try:
        return run(parser().parse_args(arguments))
    except (InputError, tensors.RefusedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
