"""gRPC: PredictionService and ModelService of TensorFlow Serving, on its official stubs."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import tensorflow as tf
from grpc import StatusCode as Code
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from at4ctr.errors import InputError
from export.server.metrics import Metrics
from export.server.servable import Servable
from export.server.tensors import Limits, RefusedError, invalid
from export.server.versions import Versions

LARGEST = (1 << 31) - 1  # bytes of a message that gRPC can take
SHOWN = 1000  # characters of an error, which travels in a header


class Model:
    """The model behind both protocols, gRPC and REST."""

    def __init__(self, versions: Versions, limits: Limits, metrics: Metrics) -> None:
        self.versions, self.limits, self.metrics = versions, limits, metrics

    def use(self, spec: Any) -> Any:
        """A context with the servable of a ModelSpec."""
        return self.versions.use(spec.name, version_of(spec))

    def status(self, spec: Any) -> Any:
        """GetModelStatusResponse."""
        response = get_model_status_pb2.GetModelStatusResponse()
        for number, found in self.versions.statuses(spec.name, version_of(spec)).items():
            one = response.model_version_status.add(version=number, state=found.state)
            one.status.error_code, one.status.error_message = found.code, found.text
        return response

    def metadata(self, spec: Any) -> Any:
        """GetModelMetadataResponse with the signatures."""
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        held = get_model_metadata_pb2.SignatureDefMap()
        with self.use(spec) as servable:
            for name, definition in servable.signatures.items():
                held.signature_def[name].CopyFrom(definition)
            describe(response.model_spec, spec.name, servable)
        response.metadata["signature_def"].Pack(held)
        return response


def version_of(spec: Any) -> int | None:
    """The version that a ModelSpec asks for; None for the latest."""
    if not spec.name:
        raise invalid("model_spec has no name; expected the model's")
    if spec.WhichOneof("version_choice") == "version_label":
        raise invalid(f"unknown version label {spec.version_label[:60]!r}; none is set here")
    return spec.version.value if spec.HasField("version") else None


def describe(spec: Any, name: str, servable: Servable, signature: str = "") -> None:
    """Fills an answer's ModelSpec."""
    spec.name, spec.signature_name = name, signature
    spec.version.value = servable.version


def _unserved(name: str) -> Callable[..., Any]:
    """A method that TensorFlow Serving has and this server does not."""

    def refuse(*_: Any) -> Any:
        raise RefusedError(
            Code.UNIMPLEMENTED,
            f"{name} is not served here; expected Predict, GetModelMetadata or GetModelStatus",
        )

    return refuse


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model: Model) -> None:
        self.model = model

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        with self.model.use(request.model_spec) as servable:
            name = servable.signature(request.model_spec.signature_name)
            arrays = servable.arrays(name, request.inputs, self.model.limits)
            outputs = servable.predict(name, arrays, self.model.limits, list(request.output_filter))
            response = predict_pb2.PredictResponse()
            describe(response.model_spec, request.model_spec.name, servable, name)
        for key, value in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        if list(request.metadata_field) != ["signature_def"]:
            raise invalid("metadata_field must be signature_def, which alone there is")
        return self.model.metadata(request.model_spec)

    Classify = _unserved("Classify")
    Regress = _unserved("Regress")
    MultiInference = _unserved("MultiInference")


class Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, model: Model) -> None:
        self.model = model

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        return self.model.status(request.model_spec)

    HandleReloadConfigRequest = _unserved("HandleReloadConfigRequest")


class Guard(grpc.ServerInterceptor):
    """Between the wire and a service: parsing, refusals, metrics.

    Without it gRPC would answer a request that it cannot parse with INTERNAL. Here the status is
    INVALID_ARGUMENT, as the fault is the caller's. gRPC itself refuses a request that is too large,
    unread, with RESOURCE_EXHAUSTED.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def intercept_service(self, continuation: Callable, details: Any) -> Any:
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        api = details.method.rsplit("/", 1)[-1]

        def guarded(data: bytes, context: Any) -> Any:
            begin, code, text = time.perf_counter(), Code.OK, ""
            try:
                request = self._parse(handler.request_deserializer, data, api)
                return handler.unary_unary(request, context)
            except RefusedError as error:
                code, text = error.code, error.text
            except Exception as error:  # a defect of this server: it says so and stays up
                traceback.print_exc()
                code, text = Code.INTERNAL, f"{type(error).__name__}: {error}"
            finally:
                seconds = time.perf_counter() - begin
                self.model.metrics.add(self.model.versions.name, code.name, api, "GRPC", seconds)
            return context.abort(code, text[:SHOWN])

        return grpc.unary_unary_rpc_method_handler(
            guarded, request_deserializer=None, response_serializer=handler.response_serializer
        )

    def _parse(self, parse: Callable[[bytes], Any], data: bytes, api: str) -> Any:
        try:
            return parse(data)
        except Exception as error:  # protobuf's DecodeError, by the runtime's own class
            raise invalid(f"the bytes are no {api} request") from error


def serve(model: Model, host: str, port: int, threads: int) -> tuple[grpc.Server, int]:
    """A started server and its port. Raises InputError where the port is taken."""
    server = grpc.server(
        futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
        interceptors=[Guard(model)],
        options=[
            ("grpc.max_receive_message_length", model.limits.request_bytes),
            ("grpc.max_send_message_length", LARGEST),
            ("grpc.so_reuseport", 0),  # a second server on the port is a mistake
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(model), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(model), server)
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise InputError(
            f"gRPC cannot listen at {host}:{port} (taken, or no address of this machine); "
            "expected a free port; give another by --port, or 0 for any"
        ) from error
    server.start()
    return server, bound
