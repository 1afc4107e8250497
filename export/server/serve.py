"""A local PredictionService over an exported model: python -m export.server.serve --model=FOLDER

It serves gRPC and REST with TensorFlow Serving's official protos, paths, version rule and warm-up,
over a TF1-style session. It takes the place of TensorFlow Serving in tests and in development;
docs/serving.md says what it cannot prove. SIGTERM and SIGINT stop it after the answers under way.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import export.quiet  # noqa: F401  # isort: skip  (before TensorFlow loads)
from at4ctr.errors import InputError
from export.server import rest, rpc
from export.server.aside import SWITCH_SECONDS
from export.server.metrics import Metrics
from export.server.servable import GRAPHS, Servable
from export.server.tensors import Limits
from export.server.versions import Patience, Versions
from export.streams import ignoring_closed_pipes

GRACE_SECONDS = 15.0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m export.server.serve", description=__doc__)
    limits, patience, traffic = Limits(), Patience(), rest.Traffic()
    add = made.add_argument
    add("--model", type=Path, required=True, help="the folder of versions, such as runs/x/export")
    add("--name", default="ctr", help="of the model, in requests (default: ctr)")
    add("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    add("--port", type=int, default=8500, help="of gRPC; 0 for any (default: 8500)")
    add("--rest_port", type=int, default=8501, help="of REST; 0 for any (default: 8501)")
    add("--poll_seconds", type=float, default=1.0, help="between looks at the folder (default: 1)")
    add(
        "--load_retries",
        type=int,
        default=patience.retries,
        help=f"of a version whose load fails (default: {patience.retries})",
    )
    add(
        "--retry_seconds",
        type=float,
        default=patience.retry_seconds,
        help=f"between two loads of a version that failed (default: {patience.retry_seconds:g})",
    )
    add(
        "--settle_seconds",
        type=float,
        default=patience.settle_seconds,
        help="that the files of a version without MANIFEST.json must stay unchanged before it is "
        f"loaded (default: {patience.settle_seconds:g})",
    )
    add("--threads", type=int, default=8, help="requests answered at a time by gRPC (default: 8)")
    add("--tf_threads", type=int, default=0, help="of TensorFlow (default: 0, one a core)")
    add(
        "--max_rows",
        type=int,
        default=limits.rows,
        help=f"of a request's batch, or candidates (default: {limits.rows})",
    )
    add(
        "--max_history",
        type=int,
        default=limits.history,
        help=f"behaviours of a request's history (default: {limits.history})",
    )
    add(
        "--max_request_mb",
        type=int,
        default=limits.request_bytes >> 20,
        help=f"of one request (default: {limits.request_bytes >> 20})",
    )
    add(
        "--max_connections",
        type=int,
        default=traffic.connections,
        help=f"of REST at a time (default: {traffic.connections})",
    )
    add(
        "--max_connections_of_one",
        type=int,
        default=traffic.of_one,
        help=f"of REST at a time from one address (default: {traffic.of_one})",
    )
    add(
        "--request_seconds",
        type=float,
        default=traffic.request_seconds,
        help="for a REST request to arrive whole, and for its answer to be read "
        f"(default: {traffic.request_seconds:g})",
    )
    add(
        "--negative_ids",
        action="store_true",
        help="answer ids below -1, which a log of signed keys has",
    )
    return made


def check(options: argparse.Namespace) -> None:
    """Refuses a folder of no versions and numbers out of range."""
    folder = options.model
    if not folder.is_dir():
        raise InputError(
            f"--model {folder} is no folder; expected one that holds numbered versions, such as "
            "runs/latest/export; train a model first"
        )
    if any((folder / graph).is_file() for graph in GRAPHS):
        raise InputError(
            f"--model {folder} is itself a version; expected the folder above it; give "
            f"--model={folder.parent}"
        )
    least = {"poll_seconds": 0.01, "threads": 1, "tf_threads": 0, "max_history": 1}
    least |= {"max_rows": 1, "max_request_mb": 1, "port": 0, "rest_port": 0}
    least |= {"max_connections": 1, "max_connections_of_one": 1, "request_seconds": 0.01}
    least |= {"load_retries": 0, "retry_seconds": 0.01, "settle_seconds": 0}
    for name, bound in least.items():
        if (value := getattr(options, name)) < bound:
            raise InputError(f"--{name} is {value}; expected at least {bound}; give a larger one")
    if options.max_request_mb > rpc.LARGEST >> 20:
        raise InputError(
            f"--max_request_mb is {options.max_request_mb}; gRPC takes at most "
            f"{rpc.LARGEST >> 20}; give a smaller one"
        )


def say(line: str) -> None:
    print(f"serve: {line}", flush=True)


def run(options: argparse.Namespace, stopped: threading.Event) -> None:
    """Serves until ``stopped`` is set."""
    check(options)
    limits = Limits(
        rows=options.max_rows,
        history=options.max_history,
        request_bytes=options.max_request_mb << 20,
        negative_ids=options.negative_ids,
    )

    def load(folder: Path, version: int) -> Servable:
        beside = versions.serving is not None
        made = Servable(folder, version, options.tf_threads, beside=beside)
        try:
            count = made.warm_up(folder)
        except BaseException:
            made.close()
            raise
        say(f"version {version}: {count} warm-up requests replayed")
        return made

    patience = Patience(options.load_retries, options.retry_seconds, options.settle_seconds)
    traffic = rest.Traffic(
        options.max_connections, options.max_connections_of_one, options.request_seconds
    )
    versions = Versions(options.name, options.model, load, say, patience)
    model = rpc.Model(versions, limits, Metrics())
    grpc_server, port = rpc.serve(model, options.host, options.port, options.threads)
    try:
        web = rest.serve(model, options.host, options.rest_port, traffic)
    except InputError:
        grpc_server.stop(0)
        raise
    where = f"gRPC {options.host}:{port}  REST {options.host}:{web.server_port}"
    say(f"{where}  model {options.name} from {options.model}")
    versions.start(options.poll_seconds)
    if not versions.serving:
        say(f"no version of {options.model} can be served yet; waiting for one")
    stopped.wait()
    say("stopping")
    grpc_server.stop(GRACE_SECONDS).wait()
    web.stop(GRACE_SECONDS)
    versions.stop()
    say("stopped")


@ignoring_closed_pipes()
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    sys.setswitchinterval(SWITCH_SECONDS)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        run(options, stopped)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
