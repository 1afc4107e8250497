"""Small days in Taobao's format with a taste to learn, and the nightly job on them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from at4ctr import faults
from at4ctr.data.days import Periods
from at4ctr.registry import Ledger
from export.publishing import staging
from pipelines import nightly
from pipelines.night.chain import Settings

CHECKOUT = Path(__file__).resolve().parents[2]
BEGIN = date(2017, 11, 25)
FIRST, SECOND, WORSE, NEXT = 3, 4, 5, 6  # nights, by their day
CALENDAR = Periods(utc_offset_hours=8)
USERS, ITEMS, ROWS = 60, 40, 900
RECIPE = (
    "data.history=5 data.window=false embedding.dimension=4 "
    "fit.batch_size=128 fit.learning_rate=0.02 fit.epochs=3 fit.checkpoint_every=5 "
    "fit.checkpoint_share=1"
)
GATE = (
    "auc_loss=0.1 entropy_rise=0.2 pcoc=0.5 segment_pcoc=0.9 segment_share=0.3 clicks=50 users=10"
)
CHAIN = {"config": "fm", "set": RECIPE, "utc_offset_hours": "8", "model_gate": GATE}


class Chain(NamedTuple):
    """root: after a first night, a good and a worse one. held, before: copies from before the first
    was blessed, and from before the second."""

    root: Path
    held: Path
    before: Path
    codes: list[int]


def moved(chain, root):
    """A copy of a chain, which knows where its log is now."""
    shutil.copytree(chain, root)
    snapshot = root / "registry" / "ctr" / "nightly.json"
    if not snapshot.exists():  # it is not begun
        return root
    old = json.loads(snapshot.read_text())["settings"]["asked"]["data"]
    for path in (snapshot, *root.glob("runs/nightly/*/dt=*/attempt-*/config.json")):
        path.write_text(path.read_text().replace(old, str(root / "data" / "taobao")))
        if (found := path.with_name("run.json")).exists():
            settings = Settings.from_json(json.loads(path.read_text()), "")
            found.write_text(
                json.dumps(json.loads(found.read_text()) | {"settings": settings.digest})
            )
    return root


def call(capsys, arguments):
    """Exit code and the one JSON object that a command prints."""
    code = nightly.main(arguments)
    out = capsys.readouterr().out
    value = json.loads(out)
    assert out.count("\n") == 1
    assert value["exit"] == code
    return code, value


def dated(number):
    return BEGIN + timedelta(number)


def deliver(root, number, *, worse=False, rows=ROWS):
    """A day's log. Users and items have one of two tastes, which is the item's category, and meet
    where it is the same; worse: until the evening they meet where it is not."""
    rng = np.random.default_rng([5, number])
    begin = CALENDAR.begin(dated(number))
    time = np.sort(rng.integers(begin, begin + 86_400, rows))
    user = rng.integers(0, USERS + 3 * number, rows)
    item = rng.integers(0, ITEMS // 2, rows) * 2 + user % 2
    if worse:
        item = np.where(time < begin + 64_800, item ^ 1, item)
    lines = [
        f"{u + 1000},{i + 7},{i % 2 + 1},pv,{t}\n" for u, i, t in zip(user, item, time, strict=True)
    ]
    folder = root / "data" / "taobao" / f"dt={dated(number)}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "part-00000.csv").write_text("".join(lines))
    (folder / "_SIMULATED").touch()
    (folder / "_SUCCESS").touch()
    return folder


def flags(root, number=None, **given):
    """Flags of a night of a day, in a folder of its own."""
    places = {k: str(root / p) for k, p in (("runs", "runs/nightly"), ("serving", "serving"),
                                            ("registry", "registry"))}  # fmt: skip
    given = {**places, **({} if number is None else {"date": str(dated(number))}), **given}
    return [f"--{k}" if v is True else f"--{k}={v}" for k, v in given.items()] + ["--json"]


def begun(root, number, **given):
    """Flags of the first night."""
    return flags(root, number, data=str(root / "data" / "taobao"), **CHAIN, **given)


def cut(monkeypatch, capsys, arguments, point):
    """Runs a command whose disk fails at a point."""
    faults.reset()
    with monkeypatch.context() as patch:
        patch.setenv(faults.VARIABLE, f"{point}:eio")
        code, value = call(capsys, arguments)
    assert code == 75
    return value


def killed(root, arguments, fault):
    """Runs a command in a process of its own that a fault ends; its exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.nightly", *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "AT4CTR_FAULT": fault},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def published(root):
    """Version -> the content digest that the ledger tells, which has one entry a version."""
    entries = [
        e for e in Ledger(root / "registry" / "ledger.jsonl").entries() if e.kind == "published"
    ]
    found = {e.version: e.facts["content"] for e in entries}
    assert len(found) == len(entries)
    return found


def sound(root):
    """What is there to be served is whole, and nothing else is there; the versions."""
    serving = root / "serving" / "ctr"
    names = {p.name for p in serving.iterdir()} if serving.is_dir() else set()
    versions = {n for n in names if n.isdecimal()}
    for name in versions:
        staging.check(serving / name)
    published(root)
    return sorted(map(int, versions))


def record(root, number, attempt=1):
    folder = root / "runs" / "nightly" / "ctr" / f"dt={dated(number)}" / f"attempt-{attempt:02d}"
    return folder, json.loads((folder / "run.json").read_text())


def audit(root, versions):
    """What holds at every instant, whatever was killed or refused: what was live is whole and still
    there, every record is whole, the ledger is sound, nobody who is dead holds a lock."""
    assert {*versions} <= {*sound(root)}
    places = ("runs/**/attempt-*/*.json", "runs/**/stats/*.json", "registry/**/*.json")
    for path in (p for place in places for p in root.glob(place) if p.name[0] != "."):
        json.loads(path.read_text())
    for lock in (*root.rglob("*lock"), *root.glob("registry/ledger.jsonl")):
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def ended(root):
    """All that commands leave, but what tells of moments, processes and crashes."""
    names = {str(p.relative_to(root)) for part in ("runs", "serving", "registry")
             for p in (root / part).rglob("*")}  # fmt: skip
    told = {}
    for path in sorted(root.glob("runs/nightly/*/dt=*/attempt-*/*.json")):
        name, text = str(path.relative_to(root)), path.read_text().replace(str(root), "")
        if path.name in ("gate.json", "stats.json", "anomalies.json"):
            told[name] = text
        elif path.name == "run.json":
            value, keys = (
                json.loads(text),
                ("stage", "version", "parent", "window", "inputs", "rows"),
            )
            outcome = {k: value["outcome"][k] for k in ("name", "exit", "sentence")}
            told[name] = {"outcome": outcome, **{k: value.get(k) for k in keys}}
    book = [(e.kind, e.version, {k: v for k, v in e.facts.items() if k != "manifest"})
            for e in Ledger(root / "registry" / "ledger.jsonl").entries()]  # fmt: skip
    kept = sorted(n for n in names if "/tensorboard/" not in n and ".torn-" not in n)
    return {"versions": sound(root), "ledger": book, "told": told, "names": kept}
