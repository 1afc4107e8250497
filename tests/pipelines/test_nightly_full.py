"""Disks that are full, real ones: what is live stays whole, and with room the same command ends as
on an empty disk."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from at4ctr.registry import Entry, Ledger
from export.publishing import publish, staging
from tests import publishing
from tests.pipelines.nights import (
    NEXT,
    SECOND,
    WORSE,
    audit,
    call,
    cut,
    flags,
    moved,
    published,
    record,
    sound,
)

V1, V2, V3 = 2017112801, 2017112901, 2017113001
ROOM = 120 << 20


class Disk:
    """A file system in memory, as large as it is told to be."""

    def __init__(self, path):
        self.path, self.ballast = path, path / "ballast"

    def resize(self, size):
        self.ballast.unlink(missing_ok=True)
        self._mount(f"remount,size={size}")

    def fill(self, left):
        """left: bytes that stay free."""
        found = os.statvfs(self.path)
        with self.ballast.open("ab") as file:
            file.write(bytes(max(found.f_bavail * found.f_frsize - left, 0)))

    def _mount(self, options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    if shutil.which("mount") is None or (said := disk._mount(f"size={ROOM}")).returncode:
        pytest.skip(f"no file system may be mounted here: {said.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk.path)], check=True)


def refused(capsys, arguments):
    """The one sentence with which a command gives up for want of room."""
    code, value = call(capsys, arguments)
    said = value.get("sentence") or value["error"]
    assert code == 75, said
    assert "free" in said
    assert "a file" not in said
    assert "\n" not in said
    return said


def test_a_night_on_a_disk_that_is_99_percent_full(chain, disk, monkeypatch, capfd):
    root = moved(chain.before, disk.path / "chain")
    words, kept = flags(root, SECOND), published(root)
    disk.resize(8 << 20)
    disk.fill(80 << 10)  # counting the day needs more
    refused(capfd, words)
    audit(root, [V1])
    disk.resize(ROOM)
    cut(monkeypatch, capfd, words, "night.training.after")
    disk.fill(60 << 10)  # two checkpoints
    assert "checkpoints" in refused(capfd, words)
    disk.fill(0)  # not even run.json
    assert "checkpoints" in refused(capfd, words)
    audit(root, [V1])
    assert published(root) == kept
    assert [p.name for p in (root / "serving/ctr").iterdir()] == [str(V1)]
    assert record(root, SECOND)[1]["stage"] == "TRAINING"
    assert "Traceback" not in capfd.readouterr().err
    disk.resize(ROOM)
    assert call(capfd, words)[0] == 0
    assert published(root) == published(chain.root)
    assert not [p for p in root.rglob(".*") if p.name.startswith((".run", ".tmp", ".data"))]


def test_a_serving_folder_on_a_full_disk(copied, disk, capsys):
    serving = shutil.copytree(copied / "serving", disk.path / "serving")
    words = flags(copied, WORSE, serving=serving)
    disk.fill(1 << 20)
    refused(capsys, [*words, "--bless", "--reason=a test"])
    assert publish.versions(serving / "ctr") == (V1, V2)
    assert not list(serving.rglob(".staging-*"))
    disk.resize(ROOM)
    assert call(capsys, words)[1]["version"] == V3


def test_a_registry_on_a_full_disk(copied, disk, monkeypatch, capsys):
    registry = shutil.copytree(copied / "registry", disk.path / "registry")
    ledger = Ledger(registry / "ledger.jsonl")
    words = flags(copied, WORSE, registry=registry)
    blessing = [*words, "--bless", "--reason=a test"]
    padded(ledger)
    disk.fill(0)
    refused(capsys, blessing)  # and nothing is published untold
    assert record(copied, WORSE)[1]["outcome"]["name"] == "REJECTED"
    disk.resize(ROOM)
    cut(monkeypatch, capsys, blessing, "night.blessed.after")
    padded(ledger)
    disk.fill(0)
    for _ in range(2):
        refused(capsys, words)
        assert call(capsys, ["status", *words])[1]["live"] == V3  # whole, recorded later
        assert max(e.version or 0 for e in ledger.entries()) == V2
    disk.resize(ROOM)
    assert call(capsys, words)[0] == 0
    assert [e.version for e in ledger.entries() if e.kind == "published"] == [V1, V2, V3]
    assert sound(copied) == [V1, V2, V3]


def padded(ledger):
    """Its last page is full, so that a line needs another one."""

    def entry(n):
        return Entry("blessed", "ctr", "2017-12-01T00:00:00Z", None, {"reason": "x" * n})

    ledger.append(entry(1))
    before = ledger.file.stat().st_size
    ledger.append(entry(1))
    line = ledger.file.stat().st_size - before
    left = -ledger.file.stat().st_size % 4096
    ledger.append(entry(left - line + 1 + (4096 if left < line else 0)))
    assert ledger.file.stat().st_size % 4096 == 0


def test_rollback_takes_effect_on_a_full_disk_and_gc_makes_room(chain, disk, monkeypatch, capsys):
    root = moved(chain.root, disk.path / "chain")
    assert call(capsys, flags(root, WORSE, bless=True, reason="a test"))[0] == 0
    cut(monkeypatch, capsys, flags(root, NEXT), "night.wait_data.after")
    ledger, heavy = Ledger(root / "registry/ledger.jsonl"), record(root, WORSE)[0] / "checkpoints"
    padded(ledger)
    disk.fill(0)
    rollback = ["rollback", *flags(root, reason="complaints")]
    for asked in ([], [f"--to={V2}"]):
        assert f"--to={V2}" in refused(capsys, [*rollback, *asked]) or asked
        assert sound(root) == [V1, V2]
        assert call(capsys, ["status", *flags(root)])[1]["live"] == V2
    assert "rolled back" not in {e.kind for e in ledger.entries()}
    code, value = call(capsys, ["gc", *flags(root, keep=1)])
    assert code == 0, value
    assert str(heavy) in value["files"]  # of the version that was rolled back
    assert not heavy.exists()
    assert [e.version for e in ledger.entries() if e.kind == "rolled back"] == [V3]
    audit(root, [V1, V2])


def test_what_a_rollback_could_not_record_is_recorded_with_room(disk):
    root, ledger = disk.path / "root", publishing.ledger(disk.path / "root")
    parent = None
    for day in range(1, 7):
        parent = publishing.offer(root, day, parent=parent).version
    for number, (reason, live) in enumerate((("worse", 5), ("not told", 4))):
        padded(ledger)
        disk.fill(0)
        asked = {"do": "rollback", "to": 2017120001 + 100 * live}
        with pytest.raises(publish.RetryError, match=f"{asked['to']} is live, unrecorded yet"):
            publishing.perform(root, asked)
        assert publish.live(publishing.serving(root)) == asked["to"]
        assert len([e for e in ledger.entries() if e.kind == "rolled back"]) == number
        if number == 0:
            disk.resize(ROOM)
            publishing.perform(root, asked)
        else:  # what is deleted makes the room for it
            assert publishing.perform(root, {"do": "gc", "keep": 1})
        told = [e for e in ledger.entries() if e.kind == "rolled back"][-1]
        assert told.version == 2017120001 + 100 * (live + 1)
        assert reason in told.facts["reason"]
        for version in publish.versions(publishing.serving(root)):
            staging.check(publishing.serving(root) / str(version))
