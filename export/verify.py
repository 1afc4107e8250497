"""Verifies an exported version, with TensorFlow alone: python -m export.verify <folder>.

It reads MANIFEST.json and uses nothing of at4ctr. This process can import neither Keras nor at4ctr
once TensorFlow is loaded. With --like=<version> it also demands the graph of that version, such as
that of the backbone that was trained on the same data without auxiliary tasks.
"""

from __future__ import annotations

import argparse
import importlib.abc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from export import checks
from export.streams import ignoring_closed_pipes

FORBIDDEN = ("at4ctr", "tf_keras", "keras")
LIMIT_SECONDS = 600
BYTES_A_SECOND = 10_000_000  # of a version, which is hashed, loaded and read: further time by size


@dataclass(frozen=True)
class Report:
    """ok: every check passed. lines: one per check. seconds: of the whole process.

    answered: False where the process was killed or took too long, so that there is no result.
    """

    ok: bool
    lines: tuple[str, ...]
    seconds: float
    answered: bool = True


def verify(folder: Path, like: Path | None = None) -> Report:
    """Runs this module on a version's folder in a fresh process. like: see ``checks.like``."""
    begin = time.monotonic()
    limit = limit_of(Path(folder))
    command = [sys.executable, "-m", "export.verify", str(Path(folder).resolve())]
    command += [f"--like={Path(like).resolve()}"] if like else []
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).resolve().parents[1],
            env=dict(os.environ) | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        late = f"FAILED process: not done after {limit:,.2f} s"
        return Report(False, (late,), time.monotonic() - begin, answered=False)
    lines = tuple(done.stdout.splitlines())
    if done.returncode not in (0, 1):
        lines += (f"FAILED process: exit status {done.returncode}: {done.stderr[-500:]}",)
    seconds = time.monotonic() - begin
    return Report(done.returncode == 0, lines, seconds, answered=done.returncode >= 0)


def limit_of(folder: Path) -> float:
    """Seconds that the process may take: the larger the version, the more."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return LIMIT_SECONDS + size / BYTES_A_SECOND


def pending(folder: Path, like: Path | None) -> Iterator[tuple[str, Callable[[], str]]]:
    """Name and function of every check: it returns what it found, or raises."""
    manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    graph = checks.Graph.FromString((folder / "saved_model.pb").read_bytes())
    yield "files", lambda: checks.files(folder, manifest)
    yield "variables", lambda: checks.checkpoint(folder, manifest)
    yield "tables", lambda: checks.tables(manifest)
    yield "graph", lambda: checks.graph_variables(graph, manifest)
    yield "training-only inputs", lambda: checks.training_only(graph, manifest)
    yield "operations", lambda: checks.operations(graph)
    yield "defaults", lambda: checks.defaults(graph, manifest)
    if like is not None:
        yield "like", partial(checks.like, folder, like)
    begin = time.monotonic()
    loaded = tf.saved_model.load(str(folder))  # owns the variables: kept for as long as they are
    signatures = loaded.signatures
    seconds = time.monotonic() - begin
    yield "load", lambda: f"{seconds:.2f} s"
    yield "read variables", lambda: checks.read_variables(signatures, manifest)
    yield "signatures", lambda: checks.inputs(signatures, manifest)
    for name in checks.SIGNATURES:
        yield f"golden {name}", partial(checks.replay, folder, name, signatures, manifest)


class _Forbidden(importlib.abc.MetaPathFinder):
    """Refuses imports that a serving process must not need."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        del path, target
        if name.split(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(
                f"{name} was asked for after TensorFlow was loaded", name=name
            )


def run(folder: Path, like: Path | None = None) -> Iterator[tuple[bool, str]]:
    """(passed, line) of every check; one that cannot be run has failed."""
    checked = pending(folder, like)
    while True:
        name = "reading the version"
        try:
            name, check = next(checked)
            yield True, f"ok     {name}: {check()}"
        except StopIteration:
            return
        except Exception as error:  # whatever a damaged file makes TensorFlow raise
            text = " ".join(str(error).split())[:300] or type(error).__name__
            yield False, f"FAILED {name}: {text}"


@ignoring_closed_pipes()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m export.verify", description=__doc__)
    parser.add_argument("folder", type=Path, help="a version's folder, such as export/1")
    parser.add_argument("--like", type=Path, help="a version whose graph it must have")
    options = parser.parse_args(arguments)
    before = set(sys.modules)
    sys.meta_path.insert(0, _Forbidden())
    passed = True
    for good, line in run(options.folder, options.like):
        print(line, flush=True)
        passed &= good
    ours = {m for m in sys.modules if m.split(".")[0] == "at4ctr"} | {
        m for m in set(sys.modules) - before if m.split(".")[0] in FORBIDDEN
    }
    print(f"FAILED imports: {min(ours)}" if ours else "ok     imports: TensorFlow alone")
    return 0 if passed and not ours else 1


if __name__ == "__main__":
    sys.exit(main())
