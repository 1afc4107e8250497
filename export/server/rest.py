"""REST: the paths, bodies and statuses of TensorFlow Serving's HTTP API, for ``:predict``."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import socketserver
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import numpy as np
from google.protobuf import json_format
from grpc import StatusCode as Code
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

from at4ctr.errors import InputError
from export.server import metrics, scan, tensors
from export.server.connections import Connections
from export.server.http1 import METHODS, Bounds, ClosedError, HttpError, Reader
from export.server.rpc import Model
from export.server.tensors import Arrays, RefusedError, invalid

ROUTE = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/:]+))?"
    r"(?P<what>:[a-z]+|/metadata)?"
)
STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.NOT_FOUND: 404,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}  # any other is 500
JSON = "application/json"
Answer = tuple[int, bytes, str]  # status, body and its type
DISCARDED_SECONDS = 10  # reading on after a refusal, so that the client comes to read the answer
REFUSED_SECONDS = 1  # to send a refusal from the thread that accepts


@dataclass(frozen=True)
class Traffic:
    """connections: at a time; of_one: of these, from one address.
    request_seconds: for a request to arrive, head and body, and for its answer to be read."""

    connections: int = 256
    of_one: int = 128
    request_seconds: float = 60.0


class Server(socketserver.ThreadingTCPServer):
    """A thread a connection, as many as ``Connections`` lets in."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], model: Model, traffic: Traffic) -> None:
        self.model = model
        self.bounds = Bounds(model.limits.request_bytes, traffic.request_seconds)
        self.connections = Connections(traffic.connections, traffic.of_one)
        self.condition = threading.Condition()
        self.active = 0  # requests
        self.stopping = False
        super().__init__(address, Handler)
        self.server_port = int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.connections.admit(request, client_address[0]):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.settimeout(REFUSED_SECONDS)
            text = "the server has no connection free; try again later"
            request.sendall(message(503, error_of(text), last=True))
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Reports no error of a client that went away."""

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Inside, an answer is under way, for which ``stop`` waits."""
        with self.condition:
            self.active += 1
        try:
            yield
        finally:
            with self.condition:
                self.active -= 1
                self.condition.notify_all()

    def stop(self, seconds: float) -> None:
        """Takes no more connections and waits for the answers under way."""
        self.stopping = True
        self.shutdown()
        with self.condition:
            self.condition.wait_for(lambda: not self.active, seconds)
        self.server_close()


class Handler(socketserver.BaseRequestHandler):
    """A connection: requests one after the other, until one asks to close it or is refused."""

    server: Server
    request: socket.socket

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.connections = self.server.connections
        self.path = self.command = ""

    def handle(self) -> None:
        reader = Reader(self.request, self.server.bounds)
        last = False
        while not last:
            try:
                asked = reader.read()
            except HttpError as error:
                self._refuse(error, reader.method)
                return
            except ClosedError:
                return
            if not self.connections.answering(self.request):
                return
            self.command, self.path = asked.method, asked.target
            with self.server.answering():
                act = self._get if asked.method == "GET" else self._post
                status, body, kind = act(asked.body)
                last = asked.last or self.server.stopping
                self.connections.waiting(self.request)
                self._send(message(status, body, kind, last=last))

    def _get(self, body: bytes) -> Answer:
        del body
        if self.path == metrics.PATH:
            page = self.server.model.metrics.page().encode()
            return 200, page, "text/plain; version=0.0.4"
        return self._answer("Get", self._read)

    def _read(self) -> Any:
        spec, what = self._route()
        if what == "/metadata":
            return metadata_json(self.server.model.metadata(spec))
        if what:
            raise invalid(f"malformed request: GET {self.path[:80]}")
        return plain(self.server.model.status(spec))

    def _post(self, body: bytes) -> Answer:
        return self._answer("Predict", lambda: self._predict(body))

    def _predict(self, body: bytes) -> Any:
        spec, what = self._route()
        if what != ":predict":
            raise invalid(f"malformed request: POST {self.path[:80]}; expected …:predict")
        limits = self.server.model.limits
        with self.server.model.use(spec) as servable:
            scan.check(body, limits, servable.most_inputs)
            request = tensors.parse_json(body)
            name = servable.signature(request.get("signature_name", ""))
            arrays = tensors.from_json(request, servable.inputs(name))
            outputs = servable.predict(name, arrays, limits)
        return answer_json(outputs, rows="instances" in request)

    def _route(self) -> tuple[Any, str]:
        """The ModelSpec that the path names, and what follows it."""
        found = ROUTE.fullmatch(self.path.partition("?")[0])
        if found is None:
            raise invalid(
                f"malformed request: {self.command} {self.path[:80]}; expected /v1/models/<model>"
                "[/versions/<number>], then :predict, /metadata or nothing"
            )
        spec = model_pb2.ModelSpec(name=found["name"])
        if found["version"]:
            spec.version.value = int(found["version"])
        if found["label"]:
            spec.version_label = found["label"]
        return spec, found["what"] or ""

    def _answer(self, api: str, act: Any) -> Answer:
        begin, code, status, text = time.perf_counter(), Code.OK, 200, ""
        try:
            text = json.dumps(act(), indent=None, ensure_ascii=False)
        except RefusedError as error:
            code, status = error.code, STATUS.get(error.code, 500)
            text = json.dumps({"error": error.text}, ensure_ascii=False)
        except Exception as error:  # a defect of this server: it says so and stays up
            traceback.print_exc()
            code, status = Code.INTERNAL, 500
            text = json.dumps({"error": f"{type(error).__name__}: {error}"})
        seconds = time.perf_counter() - begin
        model = self.server.model
        model.metrics.add(model.versions.name, code.name, api, "REST", seconds)
        return status, text.encode("utf-8", "replace"), JSON

    def _send(self, data: bytes) -> None:
        self.request.settimeout(self.server.bounds.seconds)  # for the whole of it
        self.request.sendall(data)

    def _refuse(self, error: HttpError, method: str) -> None:
        """Answers a request that was not read to its end, then reads and discards the rest."""
        model = self.server.model
        model.metrics.add(model.versions.name, Code.INVALID_ARGUMENT.name, "Predict", "REST", 0.0)
        answer = message(error.status, error_of(error.text), last=True, head=method == "HEAD")
        self._send(answer)
        self.request.settimeout(1.0)
        until = time.monotonic() + DISCARDED_SECONDS
        self.request.shutdown(socket.SHUT_WR)
        while time.monotonic() < until and self.request.recv(1 << 16):
            pass


def error_of(text: str) -> bytes:
    return json.dumps({"error": text}, ensure_ascii=False).encode("utf-8", "replace")


def message(status: int, body: bytes, kind: str = JSON, *, last: bool, head: bool = False) -> bytes:
    """An answer's bytes. last: the connection is closed after it. head: to HEAD, without body."""
    fields = {
        "Server": "at4ctr",
        "Date": formatdate(usegmt=True),
        "Content-Type": kind,
        "Content-Length": str(len(body)),
    }
    fields |= {"Allow": ", ".join(METHODS)} if status == 405 else {}
    fields |= {"Connection": "close"} if last else {}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if head else body)


def answer_json(outputs: Arrays, *, rows: bool) -> dict[str, Any]:
    """REST's answer: ``predictions``, an entry a row, or ``outputs``, a list a name."""
    values = {name: values_of(found) for name, found in outputs.items()}
    if len(values) == 1:
        (one,) = values.values()
        return {"predictions" if rows else "outputs": one}
    if not rows:
        return {"outputs": values}
    each = zip(*values.values(), strict=True)
    return {"predictions": [dict(zip(values, row, strict=True)) for row in each]}


def values_of(found: np.ndarray) -> Any:
    """Nested lists. A float32 has the fewest decimals that read back as the same number."""
    if found.dtype == np.float32:
        return found.astype(str).astype(np.float64).tolist()
    return found.tolist()


def plain(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def metadata_json(response: Any) -> dict[str, Any]:
    """As TensorFlow Serving prints it: the packed signatures, unpacked."""
    held = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(held)
    return {
        "model_spec": plain(response.model_spec),
        "metadata": {"signature_def": plain(held)},
    }


def serve(model: Model, host: str, port: int, traffic: Traffic) -> Server:
    """A server that accepts connections in a thread. Raises InputError where the port is taken."""
    try:
        server = Server((host, port), model, traffic)
    except OSError as error:
        raise InputError(
            f"REST cannot listen at {host}:{port} ({error.strerror}); expected a free port; "
            "give another by --rest_port, or 0 for any"
        ) from error
    threading.Thread(target=server.serve_forever, args=(0.1,), name="rest", daemon=True).start()
    return server
