"""Commands of the nightly job on small chains, each with what it leaves undisturbed, run in
processes that may be killed: warm ones, which begin with TensorFlow loaded, or whole ones."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from at4ctr import faults
from export import verify
from pipelines import nightly
from pipelines.night import backfill, job
from tests.pipelines import nights
from tests.pipelines.nights import FIRST, NEXT, SECOND, WORSE, dated, flags

BLESSED = {"bless": True, "reason": "a test"}
ADOPTED = {"adopt": True, "reason": "a wider gate", "data_gate": "rows=0.5"}
PROCESSES = multiprocessing.get_context("fork")
V1, V2 = 2017112801, 2017112901
LONGEST = 600.0  # seconds that a command may take
LOADED = (backfill, job)  # and with them TensorFlow


@dataclass(frozen=True)
class Scene:
    """A command on a chain. words: its arguments, by the chain's folder. points: that it passes.

    exit, end: what it gives and leaves undisturbed. seconds: it took so long.
    """

    start: Path
    words: Callable[[Path], list[str]]
    points: tuple[str, ...]
    exit: int
    end: dict[str, Any]
    seconds: float

    @property
    def live(self) -> list[int]:
        """The versions at its start."""
        return nights.sound(self.start)


def begin(root: Path, words: list[str], fault: str = "", *, cold: bool = False) -> BaseProcess:
    """The nightly command as the leader of a group of processes. cold: TensorFlow is not loaded.

    Where a fault hangs it, it says so by the file ``hangs``.
    """
    process = PROCESSES.Process(target=_night, args=(root, words, fault, cold))
    process.start()
    return process


def _night(root: Path, words: list[str], fault: str, cold: bool) -> None:
    os.setsid()
    with (root / "said.txt").open("ab") as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
    os.environ[faults.VARIABLE] = fault
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if cold:
        os.chdir(nights.CHECKOUT)
        os.execv(sys.executable, [sys.executable, "-m", "pipelines.nightly", *words])
    hang = faults._hang

    def hanging() -> NoReturn:
        (root / "hangs").touch()
        hang()

    faults._hang = hanging
    sys.exit(nightly.main(words))


def ends(process: BaseProcess) -> int:
    """The exit code; negative of a signal."""
    code = within(process, LONGEST)
    if code is None:
        kill(process, group=True)
        raise AssertionError(f"a command was not done after {LONGEST} s")
    return code


def within(process: BaseProcess, seconds: float) -> int | None:
    """The exit code, or None where it goes on; `join` would take a whole process for ended."""
    end = time.monotonic() + seconds
    while process.exitcode is None and (left := end - time.monotonic()) > 0:
        time.sleep(min(0.02, left))
    return process.exitcode


def kill(process: BaseProcess, *, group: bool) -> None:
    """group: its own children too, which otherwise go on without it."""
    assert process.pid is not None
    if group:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def run(root: Path, words: list[str], fault: str = "") -> int:
    return ends(begin(root, words, fault))


def served(root: Path) -> bool:
    """Whether TensorFlow loads what is live, and it answers its golden requests."""
    live = root / "serving" / "ctr" / str(max(nights.sound(root)))
    process = PROCESSES.Process(target=_served, args=(live,))
    process.start()
    return ends(process) == 0


def _served(folder: Path) -> None:
    with (folder.parents[2] / "said.txt").open("a") as said:
        lines = list(verify.run(folder))
        print(*(line for _, line in lines), sep="\n", file=said)
    sys.exit(not all(passed for passed, _ in lines))


@cache
def loading() -> float:
    """Seconds until a whole process has loaded TensorFlow."""
    began = time.monotonic()
    command = [sys.executable, "-c", "from pipelines.night import job"]
    subprocess.run(command, cwd=nights.CHECKOUT, check=True)
    return time.monotonic() - began


def scenes(folder: Path) -> dict[str, Scene]:
    """Every command, and chains for them: it takes ten nights."""
    one, two, three, x = (folder / name for name in ("one", "two", "three", "x"))
    found = _nights(folder, one, two)
    refused, late, orphan = (shutil.copytree(one, folder / n) for n in ("odd", "late", "orphan"))
    nights.deliver(refused, SECOND, rows=90)
    shutil.rmtree(late / "data/taobao" / f"dt={dated(SECOND)}")
    shutil.rmtree(nights.record(orphan, FIRST)[0] / "data/state")
    for start, name, code in ((refused, "rejected", 11), (late, "skipped", 10),
                              (orphan, "failed", 2)):  # fmt: skip
        found[name] = _scene(start, x, _passed(name), _words(SECOND), code)
    back = _words(None, "rollback", to=V1, reason="worse")
    found["rollback"] = _scene(two, folder / "back", _named("rollback."), back)
    found["next"] = _scene(folder / "back", x, (), _words(NEXT))
    again = _words(None, "rollback", to=V2, reason="a mistake")
    found["restore"] = _scene(folder / "back", x, _named("restore."), again)
    nights.moved(two, three)
    assert run(three, flags(three, WORSE)) == 12
    assert run(three, flags(three, WORSE, **BLESSED)) == 0
    found["gc"] = _scene(three, x, _named("gc."), _words(None, "gc", keep=1))
    return found


def _nights(folder: Path, one: Path, two: Path) -> dict[str, Scene]:
    """Of the first two nights; one, two: the chain after them."""
    bare, held, judged, x = (folder / name for name in ("bare", "held", "judged", "x"))
    for number in range(NEXT + 1):
        nights.deliver(bare, number, worse=number == WORSE)
    found = {"first": _scene(bare, held, _passed("hold"), lambda r: nights.begun(r, FIRST), 12)}
    found["bless"] = _scene(held, one, ("accept.recorded",), _words(FIRST, **BLESSED))
    judging = _passed("planned", "wait_data", "data_ok", "training", "trained", "exported",
                      "infra_ok", "evaluated")  # fmt: skip
    found["night"] = _scene(one, two, judging, _words(SECOND))
    nights.moved(one, judged)  # a night that is taken up again
    assert run(judged, flags(judged, SECOND), "night.evaluated.after:eio") == 75
    publishing = (*_passed("blessed", "published"), *_named("publish."), *_named("ledger."))
    found["publishing"] = _scene(judged, x, publishing, _words(SECOND))
    assert found["publishing"].end == found["night"].end
    found["adopt"] = _scene(one, x, ("adopt.recorded",), _words(SECOND, **ADOPTED))
    return found


def _words(number: int | None, *command: str, **asked: Any) -> Callable[[Path], list[str]]:
    return lambda root: [*command, *flags(root, number, **asked)]


def _passed(*stages: str) -> tuple[str, ...]:
    return tuple(f"night.{stage}.{when}" for stage in stages for when in ("before", "after"))


def _named(beginning: str) -> tuple[str, ...]:
    return tuple(p for p in faults.known() if p.startswith(beginning))


def _scene(
    start: Path,
    end: Path,
    points: tuple[str, ...],
    words: Callable[[Path], list[str]],
    code: int = 0,
) -> Scene:
    """Runs a command undisturbed, on a copy that is left in ``end``."""
    shutil.rmtree(end, ignore_errors=True)
    nights.moved(start, end)
    began = time.monotonic()
    found = run(end, words(end))
    seconds = time.monotonic() - began
    assert found == code, (end / "said.txt").read_text()[-3000:]
    return Scene(start, words, points, code, nights.ended(end), seconds)
