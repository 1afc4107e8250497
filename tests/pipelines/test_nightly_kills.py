"""A night that is stopped between its stages, again and again, ends as the undisturbed one.

Two of the faults kill a real process, which loads TensorFlow anew: one with a checkpoint half kept,
one with a version half published. The others are raised in this process, which is much cheaper.
`make soak-nightly` kills a process at every point.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

from pipelines import nightly
from tests.pipelines.nights import (
    CHECKOUT,
    SECOND,
    WORSE,
    audit,
    call,
    cut,
    dated,
    flags,
    killed,
    moved,
    published,
    record,
    sound,
)

FAULTS = (
    "night.trained.before:kill",
    "night.evaluated.before",
    "publish.renamed:kill",
    "night.published.after",
)


def test_every_kill_leaves_what_was_live_and_the_end_is_the_same(
    chain, tmp_path, monkeypatch, capsys
):
    after = chain.root
    root = moved(chain.before, tmp_path / "killed")
    versions = sound(root)
    for fault in FAULTS:
        if fault.endswith("kill"):
            code, said = killed(root, flags(root, SECOND), fault)
            assert code == -signal.SIGKILL, (fault, said[-2000:])
        else:
            cut(monkeypatch, capsys, flags(root, SECOND), fault)
        audit(root, versions)
    assert nightly.main(flags(root, SECOND)) == 0
    assert published(root) == published(after)
    assert len(list(root.rglob("run.json"))) == 2  # nothing was trained twice
    assert not [p for p in root.rglob(".*") if "tensorboard" not in p.parts]
    (one, mine), (other, theirs) = record(root, SECOND), record(after, SECOND)
    assert one.name == other.name == "attempt-01"
    assert mine["inputs"] == theirs["inputs"]
    for name in ("gate.json", "anomalies.json", "stats.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_sigterm_stops_and_the_night_can_be_taken_up_again(chain, tmp_path):
    root = moved(chain.before, tmp_path / "stopped")
    shutil.rmtree(root / "data/taobao" / f"dt={dated(SECOND)}")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.nightly", *flags(root, SECOND, wait_minutes=60)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = root / "runs/nightly/ctr" / f"dt={dated(SECOND)}" / "attempt-01/log.jsonl"
    end = time.monotonic() + 1800
    while time.monotonic() < end and not (log.is_file() and "waiting for" in log.read_text()):
        time.sleep(0.1)
    process.terminate()
    out, _ = process.communicate(timeout=1800)
    assert process.returncode == 75
    value = json.loads(out)
    assert "stopped" in value["sentence"]
    assert (value["outcome"], value["retryable"]) == ("FAILED", True)
    assert (log.parent / "report.html").is_file()
    assert record(root, SECOND)[1]["stage"] == "WAIT_DATA"
    assert not (root / "runs/nightly/ctr/.lock").exists()


def test_an_error_after_the_publication_takes_nothing_back(copied, monkeypatch, capsys):
    blessing = flags(copied, WORSE, bless=True, reason="a test")
    cut(monkeypatch, capsys, blessing, "night.published.after")
    assert record(copied, WORSE)[1]["outcome"]["name"] == "PUBLISHED"
    code, value = call(capsys, flags(copied, WORSE))
    assert (code, value["already"], value["version"]) == (0, True, 2017113001)
