"""Latency of the live version while the local server loads a large one beside it.

python -m benchmarks.bench_loading [--run runs/latest] [--gb 1.0] [--rounds 5] [--clients 2]
    [--candidates 32] [--every 0.05] [--quantize none] [--out benchmarks/served.md]

Version 1 is the run's model. Version 2 is the same model with random rows added to its table of
items until that has ``--gb`` GB of float32. Each client asks by gRPC every ``--every`` seconds.
A round measures version 1 alone for as long as the last load took, at least 10 s, and then while
version 2 is loaded, from its appearance until it serves. Between rounds version 2 is taken away.
The table replaces the part ``loading`` of the page.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import at4ctr  # noqa: F401  # isort: skip  (before TensorFlow loads)

import grpc
import numpy as np
import tensorflow as tf

from at4ctr import runs
from at4ctr.errors import InputError
from at4ctr.model.quantized import Config, Kind
from benchmarks import pages
from benchmarks.bench_serve import PREDICT, check, kinds, request, stored
from export import saved_model
from pipelines.assembly import Assembly
from pipelines.train import load_snapshot, open_store

ROOT = Path(__file__).resolve().parents[1]
WAIT_SECONDS = 600.0
LEAST_SECONDS = 10.0
WORST = 2.0  # the aim: how many times the live version's p99 may be while another is loaded


class Server:
    """``export.server.serve`` of a folder of versions, and what it says."""

    def __init__(self, folder: Path) -> None:
        words = [sys.executable, "-m", "export.server.serve", f"--model={folder}"]
        words += ["--port=0", "--rest_port=0", "--poll_seconds=0.2"]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        found = re.search(r"gRPC (\S+)", self.wait("gRPC"))
        self.address = found[1] if found else ""

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line.strip())

    def wait(self, text: str) -> str:
        """The next line that holds the text. Raises InputError where none comes in time."""
        until = time.monotonic() + WAIT_SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                break
            if text in line:
                return line
            if "cannot be served" in line:
                raise InputError(line)
        raise InputError(
            f"the server did not say {text!r} in {WAIT_SECONDS:g} s; expected it; look at what "
            "python -m export.server.serve says of the version"
        )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@dataclass
class Window:
    """Milliseconds of the requests that began within it, and its seconds."""

    times: np.ndarray
    seconds: float

    def quantile(self, q: float) -> float:
        return float(np.percentile(self.times, q)) if self.times.size else float("nan")


class Clients:
    """Threads that ask at a steady pace and keep when each request began and how long it took."""

    def __init__(self, address: str, body: bytes, size: int, count: int, every: float) -> None:
        self.errors: list[str] = []
        self._begun: list[tuple[float, float]] = []
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(address, body, size, every, k * every / count))
            for k in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, address: str, body: bytes, size: int, every: float, first: float) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(address, options) as channel:
            ask, due = channel.unary_unary(PREDICT), time.perf_counter() + first
            while not self._stopping.wait(max(0.0, due - time.perf_counter())):
                begin = time.perf_counter()
                try:
                    answer = ask(body, timeout=60)
                    self._begun.append((begin, time.perf_counter() - begin))
                    check(answer, size)
                except (grpc.RpcError, ValueError) as error:
                    self.errors.append(str(error)[:200])
                due = max(due + every, time.perf_counter())

    @contextmanager
    def window(self) -> Iterator[list[Window]]:
        """A list that holds the window's figures after the block."""
        found: list[Window] = []
        begin = time.perf_counter()
        yield found
        end = time.perf_counter()
        time.sleep(0.5)  # so that a request that began within it is answered
        own = [1e3 * taken for at, taken in list(self._begun) if begin <= at < end]
        found.append(Window(np.array(own), end - begin))

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def versions(run: Path, folder: Path, gb: float, kind: Kind) -> tuple[Path, Path]:
    """Version 1, and version 2 under a name that no server looks at."""
    e, _, name = load_snapshot(run / runs.SNAPSHOT)
    store = open_store(e.data, name)
    model = Assembly(e, store).restored(run)
    options = Config(quantize=kind, largest_change=1.0)
    said: dict[str, Any] = {"history": e.data.history, "facts": {}, "options": options}
    live = saved_model.save(model, store, folder, version=1, **said)
    for embedder in model.spaces.values():
        table = embedder.tables[store.schema.item_id.table]
        rows = max(int(gb * 1e9 / 4 / embedder.dimension) - table.shape[0], 1)
        more = np.random.default_rng(0).random((rows, embedder.dimension), np.float32) - 0.5
        grown = tf.Variable(tf.concat([table, 0.1 * more], 0))
        embedder.tables[store.schema.item_id.table] = grown
    large = saved_model.save(model, store, folder, version=2, **said)
    return live, large.rename(folder / ".large")


def rounds(args: argparse.Namespace, folder: Path) -> tuple[list[dict[str, float]], int]:
    """The figures of each round, and the bytes of version 2."""
    live, large = versions(args.run, folder, args.gb, args.quantize)
    size = sum(p.stat().st_size for p in large.rglob("*") if p.is_file())
    item, single = kinds(live)
    body = request(stored(live), item, single, "candidates", args.candidates)
    server = Server(folder)
    found: list[dict[str, float]] = []
    try:
        server.wait("version 1 is available")
        clients = Clients(server.address, body, args.candidates, args.clients, args.every)
        try:
            time.sleep(3)  # warm
            seconds = LEAST_SECONDS
            for _ in range(args.rounds):
                load = os.getloadavg()[0]
                with clients.window() as alone:
                    time.sleep(seconds)
                with clients.window() as loading:
                    large.rename(folder / "2")
                    server.wait("version 2 is available")
                seconds = max(LEAST_SECONDS, loading[0].seconds)
                server.wait("version 1 is unloaded")
                (folder / "2").rename(large)
                server.wait("version 1 is available")
                server.wait("version 2 is unloaded")
                found.append(figures(alone[0], loading[0]) | {"load": load})
                print(found[-1], flush=True)
        finally:
            clients.stop()
        if clients.errors:
            raise InputError(
                f"{len(clients.errors)} requests failed, the first with {clients.errors[0]!r}; "
                "expected an answer to each; look at what the server says"
            )
    finally:
        server.stop()
        shutil.rmtree(large, ignore_errors=True)
    return found, size


def figures(alone: Window, loading: Window) -> dict[str, float]:
    return {
        "requests": float(alone.times.size),
        "alone_p50": alone.quantile(50),
        "alone_p99": alone.quantile(99),
        "requests_while_loading": float(loading.times.size),
        "loading_p50": loading.quantile(50),
        "loading_p99": loading.quantile(99),
        "seconds": loading.seconds,
        "ratio": loading.quantile(99) / alone.quantile(99),
    }


def table(found: list[dict[str, float]], size: int, command: str) -> str:
    """Markdown."""
    ratio = float(np.median([f["ratio"] for f in found]))
    lines = [
        f"`{command}`, {time.strftime('%Y-%m-%d', time.gmtime())}: version 2 has {size / 1e9:.2f} "
        f"GB; server and clients on {os.cpu_count()} cores. *load* is that of the machine. p99 "
        f"while loading is {ratio:.2f} times that alone (median of {len(found)} rounds); the aim "
        f"is at most {WORST:g}.",
        "",
        "| round | load | alone: requests, p50, p99 (ms) | while loading: requests, p50, p99 (ms) "
        "| p99 ratio | load took, s |",
        "|---|---|---|---|---|---|",
    ]
    for k, f in enumerate(found, 1):
        alone = f"{f['requests']:.0f}, {f['alone_p50']:.1f}, {f['alone_p99']:.1f}"
        loading = f"{f['requests_while_loading']:.0f}, {f['loading_p50']:.1f}, "
        loading += f"{f['loading_p99']:.1f}"
        tail = f"{f['ratio']:.2f} | {f['seconds']:.1f}"
        lines.append(f"| {k} | {f['load']:.1f} | {alone} | {loading} | {tail} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/latest"))
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("--every", type=float, default=0.05, help="seconds between a client's asks")
    parser.add_argument("--quantize", choices=("none", "int8", "fp16"), default="none")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "served.md")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            found, size = rounds(args, Path(scratch))
        command = f"python -m benchmarks.bench_loading --gb {args.gb:g} --rounds {args.rounds}"
        command += (
            f" --clients {args.clients} --candidates {args.candidates} --every {args.every:g}"
        )
        command += f" --quantize {args.quantize}" if args.quantize != "none" else ""
        made = table(found, size, command)
        print(made)
        pages.rewrite(args.out, "loading", made)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
