"""Exports of a few bytes with true manifests, and publishing commands without TensorFlow.

python -m tests.publishing ROOT '{"do": "publish", ...}' runs one in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from at4ctr import faults, registry
from at4ctr.data import disk
from at4ctr.errors import InputError
from at4ctr.registry import Ledger
from export.publishing import publish, staging

AT = "2017-12-02T03:00:00Z"
CHECKOUT = Path(__file__).resolve().parents[1]
FILES = {
    "saved_model.pb": 400,
    "fingerprint.pb": 60,
    "SIGNATURES.md": 100,
    "assets/item.txt": 300,
    "assets.extra/golden/serving_default.json": 50,
    "variables/variables.index": 80,
    "variables/variables.data-00000-of-00001": 5000,
}

Command = Mapping[str, Any]


def export(folder: Path, seed: int, facts: Mapping[str, Any] | None = None) -> Path:
    """An export folder whose bytes follow from ``seed``."""
    draw = random.Random(seed)
    for name, size in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        head = b"\x08\x01\x12" if name == "saved_model.pb" else b""
        (folder / name).write_bytes(head + draw.randbytes(size))
    seal(folder, facts)
    return folder


def seal(folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Writes MANIFEST.json for whatever the folder holds."""
    files = {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "MANIFEST.json"
    }
    (folder / "MANIFEST.json").write_text(json.dumps({"files": files, "facts": dict(facts or {})}))


def serving(root: Path) -> Path:
    return root / "serving" / "din"


def ledger(root: Path) -> Ledger:
    return Ledger(root / "registry" / "ledger.jsonl")


def perform(root: Path, command: Command) -> Any:
    """One command in this process."""
    place, book = serving(root), ledger(root)
    if command["do"] == "publish":
        day, parent = date.fromisoformat(command["day"]), command.get("parent")
        staged, wait = Path(command["staged"]), command.get("wait", True)
        return publish.publish(
            staged, place, day, ledger=book, at=AT, parent=parent, notes={"run": "r"}, wait=wait
        )
    if command["do"] == "rollback":
        to = command.get("to")
        return publish.rollback(place, ledger=book, at=AT, reason="worse", by="me", to=to)
    if command["do"] == "gc":
        return publish.gc(place, ledger=book, at=AT, keep=command["keep"])
    return publish.reconcile(place, ledger=book, at=AT)


def offer(root: Path, day: int, *, seed: int | None = None, parent: int | None = None) -> Any:
    """Publishes an export of that seed for a day of December 2017."""
    seed = day if seed is None else seed
    staged = export(root / f"export-{seed}", seed)
    command = {"do": "publish", "staged": staged, "day": f"2017-12-{day:02}", "parent": parent}
    return perform(root, command)


def damage(file: Path, bit: int = 800) -> None:
    """Turns one bit over."""
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def process(root: Path, command: Command, fault: str = "") -> subprocess.Popen:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.publishing", str(root), json.dumps(command)],
        cwd=CHECKOUT,
        env={faults.VARIABLE: fault, "PATH": ""},
        stdout=subprocess.DEVNULL,
    )


def state(root: Path) -> dict[str, Any]:
    """All that a command is to leave: folders by content, files, the ledger without its times."""
    folders, files = {}, {}
    for path in serving(root).iterdir():
        if path.is_dir():
            folders[path.name] = staging.check(path).content
        else:
            files[path.name] = path.read_text()
    book = [(e.kind, e.version, dict(e.facts)) for e in ledger(root).entries()]
    return {"folders": folders, "files": files, "ledger": book}


def audit(root: Path) -> None:
    """What holds at every instant, whoever was killed: versions are whole, one is live, the ledger
    is sound, publishes and deletes a version once, rolls it back and restores it by turns, no lock
    is left."""
    place = serving(root)
    if not place.exists():  # killed before the first command made it
        return
    for version in publish.versions(place):
        staging.check(place / str(version))
    entries = ledger(root).entries()
    counts = Counter((e.kind, e.version) for e in entries if e.kind in registry.ONCE)
    assert all(n == 1 for n in counts.values()), counts
    for each in {e.version for e in entries}:
        kinds = [e.kind for e in entries if e.version == each and e.kind in registry.TURNS]
        assert kinds == [registry.TURNS[k % 2] for k in range(len(kinds))], (each, kinds)
    assert publish.live(place) is not None or not any(e.kind == "published" for e in entries)
    for name in (".lock", ".publisher.lock"):
        with disk.locked(place / name, wait=False) as free:
            assert free, f"{name} is held by nobody alive"


def main() -> int:
    root, text = sys.argv[1:]
    faults.check()
    try:
        print(perform(Path(root), json.loads(text)))
    except InputError as error:
        print(error, file=sys.stderr)
        return 75 if isinstance(error, publish.RetryError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
