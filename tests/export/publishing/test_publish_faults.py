"""A fault at every point of every command: what is live stays whole, and a rerun makes it good."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import pytest

from at4ctr import faults
from at4ctr.errors import InputError
from export.publishing import journal, publish
from tests import publishing
from tests.publishing import CHECKOUT, audit, perform, process, serving, state

POINTS = {
    "publish": [
        *("publish.begin", "publish.copying", "publish.copying:5", "publish.copied"),
        *("publish.synced", "publish.journal", "ledger.begin", "ledger.half", "ledger.written"),
        *("publish.renamed", "publish.recorded", "publish.done"),
    ],
    "rollback": [
        *("rollback.journal", "rollback.tombstone", "rollback.tombstone:2", "rollback.renamed"),
        *("rollback.renamed:2", "ledger.begin", "ledger.half:2", "ledger.written"),
        *("ledger.written:2", "rollback.recorded"),
    ],
    "restore": [
        *("rollback.journal", "restore.renamed", "restore.untombed", "rollback.tombstone"),
        *("rollback.renamed", "ledger.begin", "ledger.half:2", "ledger.written"),
        *("ledger.written:2", "rollback.recorded"),
    ],
    "gc": [
        *("gc.renamed", "gc.renamed:2", "gc.emptied", "gc.emptied:2", "ledger.begin"),
        *("ledger.half", "ledger.written:2", "gc.recorded", "gc.recorded:2"),
    ],
}
CASES = [(do, *point.split(":")) for do, points in POINTS.items() for point in points]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Five versions, the live one's parent the first, and a sixth export."""
    root = tmp_path_factory.mktemp("start")
    parents = [None, *[2017120101] * 4]
    for day, parent in enumerate(parents, 1):
        staged = publishing.export(root / f"export-{day}", day)
        command = {"do": "publish", "staged": staged, "day": f"2017-12-0{day}", "parent": parent}
        perform(root, command)
    publishing.export(root / "export-6", 6)
    return root


@pytest.fixture
def root(start, tmp_path):
    return shutil.copytree(start, tmp_path / "root")


def command(root, do):
    return {
        "publish": {
            "do": "publish",
            "staged": str(root / "export-6"),
            "day": "2017-12-06",
            "parent": 2017120501,
        },
        "rollback": {"do": "rollback", "to": 2017120201},
        "restore": {"do": "rollback", "to": 2017120401},
        "gc": {"do": "gc", "keep": 1},
    }[do]


def made(root, do):
    """Before a version is restored, that and the newer one are rolled back and a sixth is live."""
    if do == "restore":
        perform(root, {"do": "rollback", "to": 2017120301})
        perform(root, command(root, "publish") | {"parent": None})


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """What each command leaves when nothing happens."""
    found = {}
    for do in POINTS:
        root = shutil.copytree(start, tmp_path_factory.mktemp(do) / "root")
        made(root, do)
        perform(root, command(root, do))
        found[do] = state(root)
    return found


def test_every_point_is_tried():
    tried = {point.split(":")[0] for points in POINTS.values() for point in points}
    assert tried == {p for p in faults.known() if p.split(".")[0] in {*POINTS, "ledger"}}


def test_the_commands_do_what_they_say(undisturbed):
    assert max(undisturbed["publish"]["folders"]) == "2017120601"
    hidden = {f".rolledback-20171{day}01" for day in (203, 204, 205)}
    assert hidden | {"2017120101", "2017120201"} == set(undisturbed["rollback"]["folders"])
    shown = {f"20171{day}01" for day in (201, 202, 203, 204)}
    hidden = {".rolledback-2017120501", ".rolledback-2017120601"}
    assert shown | hidden == set(undisturbed["restore"]["folders"])
    assert set(undisturbed["gc"]["folders"]) == {"2017120101", "2017120401", "2017120501"}


@pytest.mark.parametrize("kind", ["kill", "enospc", "eio"])
@pytest.mark.parametrize(("do", "point", "nth"), [(*c, "1")[:3] for c in CASES])
def test_after_a_fault_the_rerun_gives_the_undisturbed_result(
    do, point, nth, kind, root, undisturbed, monkeypatch
):
    made(root, do)
    before = publish.live(serving(root))
    strike(root, command(root, do), f"{point}:{kind}:{nth}", monkeypatch)
    audit(root)
    after = max(int(n) for n in undisturbed[do]["folders"] if n.isdecimal())
    assert publish.live(serving(root)) in {before, after}
    perform(root, command(root, do))
    assert state(root) == undisturbed[do]


def strike(root, what, fault, monkeypatch):
    """Runs a command into a fault; a kill in a process of its own."""
    if ":kill" in fault:
        with process(root, what, fault) as running:
            assert running.wait(1800) == -signal.SIGKILL
        return
    monkeypatch.setenv(faults.VARIABLE, fault)
    faults.reset()
    with pytest.raises(publish.RetryError, match="run the same command again"):
        perform(root, what)
    monkeypatch.delenv(faults.VARIABLE)


def test_a_killed_rollback_by_default_is_finished_and_not_repeated(root):
    with process(root, {"do": "rollback"}, "rollback.renamed:kill") as running:
        assert running.wait(1800) == -signal.SIGKILL
    assert perform(root, {"do": "rollback"}).live == 2017120401
    assert publish.versions(serving(root))[-1] == 2017120401


def test_a_killed_rollback_is_reversed_by_the_next(root):
    """What it took out of service, recorded or not, is in service again."""
    for point in ("rollback.journal", "rollback.tombstone", "rollback.renamed", "ledger.written"):
        before = publish.live(serving(root))
        with process(root, {"do": "rollback"}, f"{point}:kill") as running:
            assert running.wait(60) == -signal.SIGKILL
        assert perform(root, {"do": "rollback", "to": before}).restored == (before,)
        audit(root)
        assert publish.live(serving(root)) == before


def test_a_full_disk_restores_what_it_cannot_record(root, monkeypatch):
    """Also what it could not record that it had taken out of service."""
    back = command(root, "rollback")
    strike(root, back, "rollback.journal:enospc", monkeypatch)
    for fault in ("rollback.journal:enospc", "ledger.begin:eio"):
        strike(root, {"do": "rollback", "to": 2017120501}, fault, monkeypatch)
        assert publish.live(serving(root)) == 2017120501
    perform(root, {"do": "rollback", "to": 2017120501})
    audit(root)
    assert {2017120101, 2017120201, 2017120501} == {*publish.versions(serving(root))}
    assert not (serving(root) / journal.JOURNAL).exists()


def test_a_hanging_publisher_stops_other_publishers_but_no_rollback(root):
    with process(root, command(root, "publish"), "publish.copied:hang") as running:
        try:
            while not list(serving(root).glob(".staging-*/MANIFEST.json")):
                assert running.poll() is None
            with pytest.raises(publish.RetryError, match="in use"):
                perform(root, command(root, "publish") | {"wait": False})
            assert perform(root, {"do": "rollback"}).live == 2017120401
        finally:
            running.kill()
    audit(root)
    with pytest.raises(InputError, match="rolled back"):
        perform(root, command(root, "publish"))
    assert perform(root, command(root, "publish") | {"parent": 2017120401}).live


def test_two_publishers_at_once_make_two_versions_or_one(root):
    other = publishing.export(root / "export-7", 7)
    commands = [command(root, "publish")] * 2 + [command(root, "publish") | {"staged": str(other)}]
    running = [process(root, c) for c in commands]
    for each in running:
        with each:
            assert each.wait(1800) == 0
    found = state(root)
    assert {n for n in found["folders"] if n > "2017120600"} == {"2017120601", "2017120602"}
    audit(root)


def test_kills_at_random_instants():
    """As ``make soak-publish`` does 500 times."""
    command = [sys.executable, "-m", "tests.soak_publish", "--kills", "25", "--seed", "3"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed at work"] >= 25
    assert found["reads of the live version"] > 0
