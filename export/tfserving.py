"""Golden rows against a real TensorFlow Serving: python -m export.tfserving --export=VERSION

The server is at an address (``--server``, and ``--rest`` for its REST port), or in a Docker
container that serves the version's folder on local ports and is removed afterwards.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import export.quiet  # noqa: F401  # isort: skip  (before TensorFlow loads)
from at4ctr.errors import InputError
from export.client import TOLERANCE, connect, replay
from export.server.tensors import RefusedError
from export.streams import ignoring_closed_pipes

IMAGE = "tensorflow/serving:latest"
START_SECONDS = 120.0
LIMIT_SECONDS = 600


@contextmanager
def container(folder: Path, model: str, image: str) -> Iterator[tuple[str, str]]:
    """The gRPC and REST addresses of a server of one version's folder."""
    if shutil.which("docker") is None:
        raise InputError(
            "no --server is given and there is no docker; expected one of them; give "
            "--server=host:port of a TensorFlow Serving that serves this version"
        )
    inside = f"/models/{model}/{folder.name}"
    name = docker(
        *("run", "--detach", "--rm", "--env", f"MODEL_NAME={model}"),
        *("--volume", f"{folder.resolve()}:{inside}:ro"),
        *("--publish", "127.0.0.1::8500", "--publish", "127.0.0.1::8501", image),
    )
    try:
        yield docker("port", name, "8500/tcp"), docker("port", name, "8501/tcp")
    finally:
        docker("stop", "--time=5", name)


def docker(*arguments: str) -> str:
    """The first line that a docker command prints."""
    try:
        done = subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"docker {arguments[0]} took over {LIMIT_SECONDS} s") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise InputError(
            f"docker {arguments[0]} failed ({said}); expected a running docker; start it, or give "
            "--server=host:port of a TensorFlow Serving that serves this version"
        )
    return (done.stdout.split() or [""])[-1 if arguments[0] == "run" else 0]


def wait(protocol: str, server: str, model: str, seconds: float) -> None:
    """Until the server answers with an available version."""
    until = time.monotonic() + seconds
    while True:
        client = connect(protocol, server, model, 5.0)
        try:
            states = [s["state"] for s in client.status(None)["model_version_status"]]
            if "AVAILABLE" in states:
                return
            error = f"its versions are {', '.join(states)}"
        except InputError as found:
            error = str(found)
        finally:
            client.close()
        if time.monotonic() > until:
            raise InputError(f"{server} serves no version of {model} after {seconds:g} s: {error}")
        time.sleep(0.5)


def check(options: argparse.Namespace, addresses: dict[str, str], seconds: float) -> bool:
    """Whether golden rows get their answers by every protocol; prints a line each."""
    passed = True
    for protocol, server in addresses.items():
        wait(protocol, server, options.model, seconds)
        client = connect(protocol, server, options.model, 60.0)
        try:
            good, lines = replay(client, options.export, options.tolerance)
        finally:
            client.close()
        print("\n".join(f"{protocol} {line}" for line in lines), flush=True)
        passed &= good
    return passed


def run(options: argparse.Namespace) -> int:
    if not (options.export / "saved_model.pb").is_file():
        raise InputError(
            f"--export {options.export} is no exported version; expected its folder, such as "
            "runs/latest/export/1; train a model first"
        )
    if options.server:
        addresses = {"grpc": options.server} | ({"rest": options.rest} if options.rest else {})
        return 0 if check(options, addresses, 5.0) else 1
    with container(options.export, options.model, options.image) as (grpc, rest):
        return 0 if check(options, {"grpc": grpc, "rest": rest}, START_SECONDS) else 1


@ignoring_closed_pipes()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m export.tfserving", description=__doc__)
    parser.add_argument("--export", type=Path, required=True, help="such as runs/latest/export/1")
    parser.add_argument("--server", default="", help="host:port of gRPC; none: docker is used")
    parser.add_argument("--rest", default="", help="host:port of REST, checked too")
    parser.add_argument("--model", default="ctr", help="its name at the server (default: ctr)")
    parser.add_argument("--image", default=IMAGE, help=f"of docker (default: {IMAGE})")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    try:
        return run(parser.parse_args(arguments))
    except (InputError, RefusedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
