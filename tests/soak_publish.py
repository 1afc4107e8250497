"""Random kills around publishing: python -m tests.soak_publish --kills 500 [--seed 0].

Rounds of publish, publish twice at once, rollback, restoring and gc, each in a process that gets
SIGKILL at a random instant, and so does often enough the one that repeats it. After every kill a
version is live and every version whole; after the last run everything is as a model of a few lines
says, which knows no crashes. All the while a reader, as a server does, takes the newest version and
reads it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from at4ctr.errors import InputError
from export.publishing import publish, staging
from tests.publishing import audit, export, ledger, perform, serving, state

FIRST = date(2017, 12, 1)
LEFT = (".staging-", ".deleted-", ".journal", ".lock", ".publisher")


class Model:
    """What the folder shall be: numbers alone."""

    def __init__(self) -> None:
        self.visible: list[int] = []
        self.hidden: set[int] = set()
        self.buried: set[int] = set()  # and those that were deleted after it
        self.parents: dict[int, int | None] = {}
        self.events: list[tuple[str, int]] = []

    def publish(self, version: int, parent: int | None) -> None:
        self.visible = sorted({*self.visible, version})
        self.parents[version] = parent
        self.events.append(("published", version))

    def rollback(self, to: int) -> None:
        if to in self.hidden:
            self.visible = sorted({*self.visible, to})
            self.hidden.remove(to)
            self.buried.remove(to)
            self.events.append(("restored", to))
        gone = {v for v in self.visible if v > to}
        self.visible = [v for v in self.visible if v <= to]
        self.hidden |= gone
        self.buried |= gone
        self.events += [("rolled back", v) for v in gone]

    def gc(self, keep: int) -> None:
        live = self.visible[-1]
        kept = {*self.visible[-max(keep, 2) :], self.parents[live]}
        gone = {v for v in self.visible if v not in kept} | {v for v in self.hidden if v < live}
        self.visible = [v for v in self.visible if v in kept]
        self.hidden -= gone
        self.events += [("deleted", v) for v in gone]


class Soak:
    """A folder that is published into, and the model of what it shall be."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.draw, self.model = root, random.Random(seed), Model()
        self.kills = self.struck = self.days = 0
        self.slowest = 0.01  # seconds of an undisturbed command, as seen so far

    def round(self) -> None:
        """One command, killed as often as luck has it, then run to its end."""
        kind = self.draw.choice(
            ["publish", "publish", "publish", "twice", "rollback", "restore", "gc"]
        )
        if len(self.model.visible) < 2:
            kind = "publish"
        if kind == "restore" and not self.model.hidden:
            kind = "rollback"
        if kind in ("publish", "twice"):
            commands = [self._publication()] * (2 if kind == "twice" else 1)
        elif kind in ("rollback", "restore"):
            known = self.model.visible[-3:-1] if kind == "rollback" else sorted(self.model.hidden)
            to = self.draw.choice(known)
            commands = [{"do": "rollback", "to": to}]
            self.model.rollback(to)
        else:
            keep = self.draw.randint(1, 4)
            commands = [{"do": "gc", "keep": keep}]
            self.model.gc(keep)
        self._disturbed(commands)
        self._compare()

    def _publication(self) -> dict[str, Any]:
        self.days += 1
        day = FIRST + timedelta(days=self.days)
        staged = export(self.root / "exports" / str(self.days), self.days)
        parent = self.model.visible[-1] if self.model.visible else None
        version = (day.year * 10_000 + day.month * 100 + day.day) * 100 + 1
        self.model.publish(version, parent)
        return {"do": "publish", "staged": str(staged), "day": day.isoformat(), "parent": parent}

    def _disturbed(self, commands: list[dict[str, Any]]) -> None:
        while True:
            children = [fork(partial(perform, self.root, command)) for command in commands]
            time.sleep(self.draw.uniform(0, 1.2 * self.slowest))
            os.kill(children[0], signal.SIGKILL)
            self.kills += 1
            codes = [os.waitpid(child, 0)[1] for child in children]
            if any(c not in (0, signal.SIGKILL) for c in codes):
                raise AssertionError(f"{commands} ended with {codes}")
            self.struck += codes[0] == signal.SIGKILL
            audit(self.root)
            if self.draw.random() < 0.6:
                break
        begin = time.monotonic()
        perform(self.root, commands[0])
        self.slowest = 0.9 * self.slowest + 0.1 * (time.monotonic() - begin)

    def _compare(self) -> None:
        """The folder and the ledger against the model."""
        audit(self.root)
        found, model = state(self.root), self.model
        folders = {str(v) for v in model.visible} | {f".rolledback-{v}" for v in model.hidden}
        assert set(found["folders"]) == folders, (found["folders"], folders)
        assert not [n for n in found["files"] if n.startswith(LEFT)], found["files"]
        tombs = {f"TOMBSTONE-{v}.json" for v in model.buried}
        assert set(found["files"]) == tombs
        recorded = sorted((kind, version) for kind, version, _ in found["ledger"])
        assert recorded == sorted(model.events)
        for kind, version, facts in found["ledger"]:
            if kind == "published":
                assert facts["parent"] == model.parents[version]
        for path in (self.root / "exports").iterdir():
            shutil.rmtree(path)


def fork(work: Callable[[], Any]) -> int:
    """A child that does one thing and ends without cleaning up after its parent."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # who waits for whom
            work()
        code = 0
    except BaseException as error:
        print(f"child: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def read_on(root: Path) -> None:
    """As a server: the newest version, read whole; only one that left meanwhile may fail."""
    place, seen, parent = serving(root), 0, os.getppid()
    while os.getppid() == parent and not (root / "stop").exists():
        version = publish.live(place)
        if version is None:
            assert not seen, "the folder became empty"
            continue
        try:
            staging.check(place / str(version))
        except (InputError, OSError) as error:
            if publish.live(place) == version:
                raise AssertionError(f"version {version} was live and not whole") from error
        seen += 1
        time.sleep(0.002)
    (root / "seen").write_text(str(seen))


def soak(kills: int, seed: int) -> dict[str, Any]:
    """Runs until so many kills met a process at work; what was seen."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        begin, run = time.monotonic(), Soak(root, seed)
        reader = fork(lambda: read_on(root))
        while run.struck < kills:
            run.round()
        (root / "stop").touch()
        if os.waitpid(reader, 0)[1]:
            raise AssertionError("the reader met a version that was live and not whole")
        entries = len(ledger(root).entries())
        done = Counter(kind for kind, _ in run.model.events)
        torn = len(list((root / "registry").glob("*.torn-*")))
        return {
            "killed at work": run.struck,
            "killed too late": run.kills - run.struck,
            "versions": done["published"],
            "rolled back": done["rolled back"],
            "restored": done["restored"],
            "deleted": done["deleted"],
            "ledger entries": entries,
            "torn ends kept": torn,
            "reads of the live version": int((root / "seen").read_text()),
            "seconds": round(time.monotonic() - begin, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak_publish", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(soak(options.kills, options.seed)))


if __name__ == "__main__":
    main()
