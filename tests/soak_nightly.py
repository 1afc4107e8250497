"""Faults around a whole night: python -m tests.soak_nightly OUT.json [--kinds kill,enospc,eio,hang]
[--kills 60] [--seed 0] [--jobs 1], as make soak-nightly does.

Every point that the nightly job declares is struck once with each kind, in a command that passes
it; and nights are killed at random instants, alone or with their children, as often as luck has it.
After every fault what is live is whole and every record can be read, and the same command, run to
its end, leaves what it leaves undisturbed. OUT.json has what became of each; the same command goes
on where it was stopped, and does what failed again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from at4ctr import faults
from at4ctr.durable import write_json
from tests.pipelines import nights, scenes
from tests.pipelines.nights import NEXT, flags
from tests.pipelines.scenes import Scene

KINDS = ("kill", "enospc", "eio", "hang")
LOCKED = ("publish.journal", "publish.renamed", "ledger.half")  # a rollback waits for them
DONE = ("publish.renamed", "ledger.half", "night.published.before")  # the version is there
HANGS = ("night.data_ok.before", "night.trained.after", "publish.copied", *LOCKED, DONE[-1])
AGAIN, COLD, GROUP, SERVED = 0.5, 0.25, 0.5, 0.3  # of kills: how many get another, …

Task = tuple[str, ...]  # kind and what it needs
Scenes = Mapping[str, Scene]


def struck(of: Scenes, root: Path, name: str, fault: str) -> dict[str, Any]:
    """A command with a fault, and the same command again."""
    scene = of[name]
    words = _copied(scene, root)
    code = scenes.run(root, words, fault)
    expected = {-signal.SIGKILL if fault.endswith("kill") else 75}
    if name in ("failed", "gc"):  # what failed is said all the same; gc deletes what it can
        expected.add(scene.exit)
    assert code in expected, f"exit {code}"
    nights.audit(root, sorted({*scene.live} & {*scene.end["versions"]}))
    assert nights.sound(root)[-1:] in (scene.live[-1:], scene.end["versions"][-1:])
    _finish(scene, root, words)
    return {"command": name, "fault": fault, "exit": code}


def hung(of: Scenes, root: Path, fault: str) -> dict[str, Any]:
    """A night hangs; another one is refused, the live version is rolled back, then it is ended."""
    point, end = fault.removesuffix(":hang"), of["next"].end
    nights.moved(of["rollback"].start, root)
    before, words = nights.sound(root), flags(root, NEXT)
    night = scenes.begin(root, words, fault)
    try:
        while not (root / "hangs").exists():
            assert night.is_alive(), f"exit {night.exitcode} without hanging"
            time.sleep(0.05)
        assert scenes.run(root, words) == 75, "a second night was not refused"
        assert scenes.run(root, ["status", *flags(root)]) == 0
        rollback = scenes.begin(root, ["rollback", *flags(root, reason="it was worse")])
        waits = scenes.within(rollback, 10) is None
        assert waits == (point in LOCKED), f"rollback {rollback.exitcode}"
        os.kill(night.pid or 0, signal.SIGTERM)
        code = scenes.ends(night)
    finally:
        scenes.kill(night, group=True)
    assert (code, scenes.ends(rollback)) == (75, 0)
    nights.audit(root, before[:1])
    back, again = nights.sound(root), scenes.run(root, words)
    assert (back, again) == ((before, 2) if point in DONE else (before[:1], 0))
    nights.audit(root, before[:1])
    if again == 0:
        contents = {v: f["content"] for k, v, f in end["ledger"] if k == "published"}
        assert nights.published(root) == contents
    return {"command": "next", "fault": fault, "exit": code, "again": again}


def killed(of: Scenes, root: Path, seed: str) -> dict[str, Any]:
    """A night, killed at random instants, then run to its end."""
    draw, scene = random.Random(seed), of["night"]
    words, kills = _copied(scene, root), list[dict[str, Any]]()
    while True:
        cold, group = draw.random() < COLD, draw.random() < GROUP
        seconds = draw.uniform(0, scene.seconds + (scenes.loading() if cold else 0))
        night = scenes.begin(root, words, cold=cold)
        code = scenes.within(night, seconds)
        if code is not None:  # it was quicker
            assert code == scene.exit, f"exit {code}"
            break
        scenes.kill(night, group=group)
        nights.audit(root, scene.live)
        assert scenes.run(root, ["status", *flags(root)]) == 0
        answers = scenes.served(root) if draw.random() < SERVED else None
        assert answers is not False, "what is live does not answer"
        kills.append({"cold": cold, "group": group, "after": _stage(root), "served": answers})
        if draw.random() >= AGAIN:
            break
    _finish(scene, root, words)
    assert scenes.served(root)
    return {"command": "night", "round": seed, "kills": kills}


DOES: dict[str, Callable[..., dict[str, Any]]] = {"struck": struck, "hung": hung, "killed": killed}


def _copied(scene: Scene, root: Path) -> list[str]:
    nights.moved(scene.start, root)
    return scene.words(root)


def _finish(scene: Scene, root: Path, words: list[str]) -> None:
    """The same command again gives and leaves what it does undisturbed."""
    code = scenes.run(root, words)
    assert code == scene.exit, f"the rerun's exit is {code}, not {scene.exit}"
    nights.audit(root, scene.end["versions"])
    found = nights.ended(root)
    for part, expected in scene.end.items():
        assert found[part] == expected, f"{part}: {found[part]} is not {expected}"


def _stage(root: Path) -> str:
    """What the second night had reached."""
    try:
        found = nights.record(root, nights.SECOND)[1]
    except FileNotFoundError:
        return "nothing"
    return str((found["outcome"] or {}).get("name") or found["stage"])


def tasks(of: Scenes, kinds: list[str]) -> Iterator[Task]:
    """Every point with every kind, in a command that passes it."""
    for kind in (k for k in kinds if k != "hang"):
        for name, scene in of.items():
            yield from (("struck", name, f"{point}:{kind}") for point in scene.points)
    if "hang" in kinds:
        yield from (("hung", f"{point}:hang") for point in HANGS)


def work(of: Scenes, given: list[Task], folder: Path, results: Queue[Any]) -> None:
    """Does tasks one after another, each in a folder of its own."""
    for number, (kind, *words) in enumerate(given):
        root = folder / str(number)
        began = time.monotonic()
        try:
            found = DOES[kind](of, root, *words) | {"same": True}
        except Exception:
            said = "".join(p.read_text()[-1500:] for p in root.glob("said.txt"))
            found = {"same": False, "error": traceback.format_exc()[-3000:], "said": said}
        shutil.rmtree(root, ignore_errors=True)
        results.put(found | {"task": [kind, *words], "seconds": round(time.monotonic() - began, 1)})


def soak(out: Path, kinds: list[str], kills: int, seed: int, jobs: int) -> dict[str, Any]:
    """Does what OUT.json does not hold yet; what it holds then."""
    each = json.loads(out.read_text())["each"] if out.exists() else []
    each = [r for r in each if r["same"]]
    done = {tuple(r["task"]) for r in each}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print("running every command undisturbed", file=sys.stderr)
        of = scenes.scenes(folder / "scenes")
        points = {p for scene in of.values() for p in scene.points}
        assert points == {*faults.known()}, points ^ {*faults.known()}
        left = [t for t in tasks(of, kinds) if t not in done]
        rounds = sum(len(r.get("kills", ())) for r in each)
        first = sum(r["task"][0] == "killed" for r in each)
        left += [("killed", f"{seed}-{first + k}") for k in range(round(0.8 * (kills - rounds)))]
        results: Queue[Any] = scenes.PROCESSES.Queue()
        workers = [
            scenes.PROCESSES.Process(target=work, args=(of, part, folder / f"w{k}", results))
            for k, part in enumerate(left[k::jobs] for k in range(jobs))
        ]
        for worker in workers:
            worker.start()
        began = time.monotonic()
        for number in range(1, len(left) + 1):
            each.append(results.get())
            write_json(out, summary(each, kinds, seed))
            ahead = (time.monotonic() - began) / number * (len(left) - number)
            said = "" if each[-1]["same"] else f": {each[-1]['error']}\n{each[-1]['said']}"
            print(f"{number} of {len(left)}, {ahead:.0f} s left: {each[-1]['task']}{said}",
                  file=sys.stderr, flush=True)  # fmt: skip
    return summary(each, kinds, seed)


def summary(each: list[dict[str, Any]], kinds: list[str], seed: int) -> dict[str, Any]:
    faulty = [r for r in each if r["task"][0] != "killed"]
    rounds = [r for r in each if r["task"][0] == "killed"]
    hit = [kill for r in rounds for kill in r.get("kills", ())]
    by_kind = {kind: [r for r in faulty if r["task"][-1].endswith(f":{kind}")] for kind in kinds}
    return {
        "command": f"python -m tests.soak_nightly OUT.json --kinds {','.join(kinds)} "
                   f"--kills {len(hit)} --seed {seed}",
        "faults": {k: {"done": len(v), "as undisturbed": sum(r["same"] for r in v)}
                   for k, v in by_kind.items()},
        "random kills": {
            "nights": len(rounds), "as undisturbed": sum(r["same"] for r in rounds),
            "kills": len(hit), "without its children": sum(not k["group"] for k in hit),
            "with TensorFlow's loading": sum(k["cold"] for k in hit),
            "after": dict(Counter(k["after"] for k in hit)),
            "loads of the live version": sum(bool(k["served"]) for k in hit) + len(rounds),
        },
        "each": each,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak_nightly", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    o = parser.parse_args()
    found = soak(o.out, o.kinds.split(","), o.kills, o.seed, o.jobs)
    bad = sum(not r["same"] for r in found["each"])
    print(json.dumps({k: v for k, v in found.items() if k != "each"}, indent=2))
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
