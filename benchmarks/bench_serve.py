"""The local server under concurrent clients: latency, requests a second, errors.

python -m benchmarks.bench_serve [--export runs/latest/export/1] [--seconds 60] [--clients 4]
One server process (``export.server.serve``) on this machine and ``--clients`` threads that ask
by gRPC without a pause, for 1, 32 and 512 candidates of one user each: by ``candidates``, and by
``serving_default`` with the user repeated. Requests are built before the clock starts, from the
export's golden rows. One JSON line per load; an answer that is not finite is an error.
Clients and server share the cores, so a figure is that of the machine and not of the server alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import export.quiet  # noqa: F401  # isort: skip  (before TensorFlow loads)
import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from at4ctr.errors import InputError

PREDICT = "/tensorflow.serving.PredictionService/Predict"
SIZES = (1, 32, 512)
SIGNATURES = ("candidates", "serving_default")
START_SECONDS = 120.0


@contextmanager
def server(version: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """A server of the version's folder and its gRPC address."""
    command = [sys.executable, "-m", "export.server.serve", f"--model={version.parent}", "--port=0"]
    with subprocess.Popen(
        [*command, "--rest_port=0"], stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout
        try:
            address = ""
            for line in started.stdout:
                if found := re.search(r"gRPC (\S+)", line):
                    address = found[1]
                if "cannot be served" in line:
                    raise InputError(line.strip())
                if "is available" in line:
                    break
            yield address, started
        finally:
            started.terminate()
            started.communicate()


def stored(version: Path) -> dict[str, Any]:
    """The golden request of ``candidates``."""
    file = version / "assets.extra" / "golden" / "candidates.json"
    if not file.is_file():
        raise InputError(
            f"--export {version} has no golden rows; expected a version's folder, such as "
            "runs/latest/export/1; train a model first"
        )
    return json.loads(file.read_text(encoding="utf-8"))["inputs"]


def request(
    inputs: dict[str, Any], item: set[str], single: set[str], signature: str, size: int
) -> bytes:
    """A request of one user with ``size`` candidates. item, single: as ``kinds`` gives them."""
    message = predict_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = "ctr", signature
    for name, value in inputs.items():
        array = np.array(value)
        if name in item:
            array = np.resize(array, (size, *array.shape[1:]))
        elif signature == "serving_default":
            array = np.repeat(array if name in single else array[None], size, 0)
        dtype = tf.int64 if array.dtype.kind == "i" else tf.string
        message.inputs[name].CopyFrom(tf.make_tensor_proto(array, dtype))
    return message.SerializeToString()


def kinds(version: Path) -> tuple[set[str], set[str]]:
    """The inputs that differ among a user's candidates, and those of the user that are [1]."""
    manifest = json.loads((version / "MANIFEST.json").read_text(encoding="utf-8"))
    features = manifest["schema"]["features"]
    item = {f["name"] for f in features if f["group"] in ("item", "context")}
    return item, {f["name"] for f in features if f["group"] == "profile" and not f["length"]}


def load(address: str, body: bytes, size: int, clients: int, seconds: float) -> dict[str, Any]:
    """``clients`` threads, each with a connection of its own, ask for ``seconds``."""
    times: list[list[float]] = [[] for _ in range(clients)]
    errors: list[str] = []
    until = time.perf_counter() + seconds

    def run(mine: list[float]) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(address, options) as channel:
            ask = channel.unary_unary(PREDICT)
            while (begin := time.perf_counter()) < until:
                try:
                    answer = ask(body, timeout=60)
                    mine.append(time.perf_counter() - begin)
                    check(answer, size)
                except (grpc.RpcError, ValueError) as error:
                    errors.append(str(error)[:200])

    threads = [threading.Thread(target=run, args=(mine,)) for mine in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = 1e3 * np.array([t for mine in times for t in mine])
    p50, p99 = (round(float(np.percentile(every, q)), 2) if every.size else None for q in (50, 99))
    figures = {"requests": len(every), "errors": len(errors), "p50_ms": p50, "p99_ms": p99}
    return figures | {"requests_per_s": round(len(every) / seconds, 1), "first_error": errors[:1]}


def check(answer: bytes, size: int) -> None:
    found = tf.make_ndarray(predict_pb2.PredictResponse.FromString(answer).outputs["probability"])
    if found.shape != (size,) or not np.isfinite(found).all():
        raise ValueError(f"an answer of shape {found.shape}; expected {size} finite numbers")


def seconds_of(process: subprocess.Popen) -> float:
    """CPU of a running process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", type=Path, default=Path("runs/latest/export/1"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of all loads together")
    parser.add_argument("--clients", type=int, default=4)
    args = parser.parse_args()
    loads = [(signature, size) for signature in SIGNATURES for size in SIZES]
    failed = 0
    try:
        inputs = stored(args.export)
        item, single = kinds(args.export)
        with server(args.export) as (address, process):
            for signature, size in loads:
                body = request(inputs, item, single, signature, size)
                load(address, body, size, 1, 0.5)  # warm
                spent = seconds_of(process)
                found = load(address, body, size, args.clients, args.seconds / len(loads))
                spent = seconds_of(process) - spent
                failed += found["errors"]
                cpu = {"server_cpu_ms": round(1e3 * spent / max(found["requests"], 1), 2)}
                head = {"load": signature, "candidates": size, "clients": args.clients}
                print(json.dumps({**head, **found, **cpu, "load_1min": os.getloadavg()[0]}))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(json.dumps({"server_peak_mb": peak, "export": str(args.export)}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
