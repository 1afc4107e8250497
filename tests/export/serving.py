"""A server of ``export.server.serve`` in a process of its own, and the versions it serves."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from export import saved_model
from tests.export import T, model, toy

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0  # seconds until a process that should do something has failed


class Server:
    """Started on free ports. ``lines``: what it printed."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "export.server.serve", f"--model={folder}"]
        command += ["--port=0", "--rest_port=0", "--poll_seconds=0.1", "--tf_threads=1", *options]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        atexit.register(self.process.kill)  # where a test failed and did not stop it
        self.lines: list[str] = []
        self.met: set[str] = set()  # lines that were waited for
        threading.Thread(target=self._read, daemon=True).start()
        ports = re.search(r"gRPC (\S+)  REST (\S+)", self.wait("gRPC"))
        assert ports
        self.grpc, self.rest = ports.groups()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def wait(self, pattern: str) -> str:
        """The first line with ``pattern``. A version that cannot be served ends the wait."""
        pattern = f"{pattern}|cannot be served"
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for line in list(self.lines):
                if re.search(pattern, line) and line not in self.met:
                    self.met.add(line)
                    return line
            assert self.process.poll() is None, self.lines
            time.sleep(0.02)
        raise AssertionError(f"no line with {pattern!r} in {self.lines}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def export(folder: Path, versions: int) -> None:
    """``folder/1``, ``folder/2``, …: DIN of different weights on the toy store."""
    store = toy(folder.parent / f"{folder.name}_store")
    for seed in range(3, 3 + versions):
        saved_model.save(model(store, seed=seed), store, folder, history=T, facts={})


def publish(version: Path, folder: Path, number: int) -> Path:
    """A copy under another number, there at once or not at all."""
    staged = folder / f".{number}"
    shutil.copytree(version, staged)
    os.rename(staged, folder / str(number))
    return folder / str(number)


def golden(version: Path, signature: str = "serving_default") -> dict:
    return json.loads((version / "assets.extra" / "golden" / f"{signature}.json").read_text())
