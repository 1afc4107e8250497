"""Publishing: numbers, what is refused, rollback, retention; on a real SavedModel and on bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from at4ctr import registry
from at4ctr.errors import InputError
from export.publishing import journal, publish
from tests import publishing
from tests.publishing import (
    AT,
    CHECKOUT,
    audit,
    damage,
    ledger,
    offer,
    perform,
    process,
    serving,
    state,
)


@pytest.fixture
def root(tmp_path):
    """Three versions of three days, each the parent of the next."""
    parent = None
    for day in (1, 2, 3):
        parent = offer(tmp_path, day, parent=parent).version
    return tmp_path


class Times(tf.Module):
    """y = factor · x"""

    def __init__(self, factor):
        self.factor = tf.Variable(float(factor))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None])])
    def times(self, x):
        return {"y": x * self.factor}


days = st.dates(date(1970, 1, 1), date(2999, 12, 31))


@given(days, days, st.sets(st.integers(1, 98)), st.sets(st.integers(1, 98)))
def test_an_older_day_is_never_the_newest_and_no_number_comes_back(a, b, first, second):
    early, late = sorted((a, b))
    numbers = {publish.version_of(early, ()) - 1 + n for n in first}
    numbers |= {publish.version_of(late, ()) - 1 + n for n in second}
    made = publish.version_of(early, numbers)
    assert made not in numbers
    assert str(made).startswith(early.strftime("%Y%m%d"))
    assert early == late or made < publish.version_of(late, numbers)


def test_a_day_has_99_versions():
    assert publish.version_of(date(2017, 12, 1), range(2017120101, 2017120199)) == 2017120199
    with pytest.raises(InputError, match="at most 99"):
        publish.version_of(date(2017, 12, 1), [2017120199])


def test_the_same_again_does_nothing(root):
    before = state(root)
    again = [offer(root, 3) for _ in range(3)]
    assert {(p.version, p.already, p.live) for p in again} == {(2017120301, True, True)}
    assert state(root) == before


def test_other_content_of_the_day_gets_the_next_number(root):
    assert offer(root, 3, seed=33) == publish.Published(
        2017120302, serving(root) / "2017120302", already=False, live=True
    )


def test_a_backfill_is_not_live(root):
    made = offer(root, 2, seed=22, parent=2017120101)
    assert (made.version, made.live) == (2017120202, False)
    assert publish.live(serving(root)) == 2017120301


def test_file_times_and_the_clock_say_nothing(root):
    for back, version in enumerate(publish.versions(serving(root))):
        os.utime(serving(root) / str(version), (10**9 - back, 10**9 - back))
    assert publish.live(serving(root)) == 2017120301
    staged = publishing.export(root / "export-4", 4)
    made = publish.publish(
        staged, serving(root), date(2017, 12, 4), ledger=ledger(root), at="1999-01-01T00:00:00Z"
    )
    assert made.live
    assert publish.rollback(
        serving(root), ledger=ledger(root), at="1998-01-01T00:00:00Z", reason="r", by="me"
    ).live == 2017120301  # fmt: skip


def test_new_folders_are_on_disk_too(tmp_path, monkeypatch):
    """A folder whose own name was never fsynced could be gone with all that is in it."""
    synced, fsync = set(), os.fsync

    def record(handle):
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    root, staged = tmp_path / "new", publishing.export(tmp_path / "staged", 1)
    publish.publish(staged, serving(root), date(2017, 12, 1), ledger=ledger(root), at=AT)
    made = (tmp_path, root, serving(root).parent, serving(root), ledger(root).file.parent)
    assert {p.stat().st_ino for p in made} <= synced


def test_everything_is_on_disk_before_the_rename(root, monkeypatch):
    """fsync of every file and folder of the version comes before its rename, then its parent's."""
    synced, at_rename = [], {}
    fsync, rename = os.fsync, Path.rename

    def record(handle):
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    def note(path, target):
        if path.name.startswith(".staging-"):
            inside = {p.stat().st_ino for p in (path, *path.rglob("*"))}
            at_rename.update(missing=inside - set(synced), count=len(inside))
            synced.clear()
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(Path, "rename", note)
    offer(root, 4)
    assert at_rename == {"missing": set(), "count": len(publishing.FILES) + 6}
    assert synced[0] == serving(root).stat().st_ino


def test_a_real_model_is_served_throughout(tmp_path):
    """A SavedModel of TensorFlow's own, published beside a kill, loads and answers."""
    for number in (1, 2):
        module = Times(number)
        staged = tmp_path / f"export-{number}"
        tf.saved_model.save(module, str(staged), signatures=module.times)
        publishing.seal(staged)
    command = {"do": "publish", "day": "2017-12-01", "staged": str(tmp_path / "export-1")}
    perform(tmp_path, command)
    assert answer(serving(tmp_path)) == 2.0
    command |= {"staged": str(tmp_path / "export-2")}
    for point, expected in (("publish.journal", 2.0), ("publish.renamed", 4.0)):
        with process(tmp_path, command, f"{point}:kill") as running:
            assert running.wait(1800) < 0
        assert answer(serving(tmp_path)) == expected
    with process(tmp_path, {"do": "rollback"}, "rollback.renamed:kill") as running:
        assert running.wait(1800) < 0
    assert answer(serving(tmp_path)) == 2.0


def answer(place):
    loaded = tf.saved_model.load(str(place / str(publish.live(place))))
    return float(loaded.signatures["serving_default"](x=tf.constant([2.0]))["y"][0])


def test_publishing_needs_no_tensorflow():
    code = "import sys, export.publishing.publish; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0


def test_rollback_hides_with_a_tombstone_and_the_number_never_returns(root):
    assert perform(root, {"do": "rollback"}) == publish.RolledBack(2017120201, (2017120301,))
    tombstone = json.loads((serving(root) / "TOMBSTONE-2017120301.json").read_text())
    expected = {"version": 2017120301, "at": AT, "reason": "worse", "by": "me", "to": 2017120201}
    assert tombstone == expected
    assert offer(root, 3, seed=33, parent=2017120201).version == 2017120302
    with pytest.raises(InputError, match=r"2017120301 .* was rolled back"):
        offer(root, 3)
    audit(root)


def test_rollback_never_empties_the_folder(root):
    perform(root, {"do": "rollback", "to": 2017120101})
    before = state(root)
    again = r"; --to also takes what was rolled back: 2017120201, 2017120301$"
    with pytest.raises(InputError, match=f"never emptied.*{again}"):
        perform(root, {"do": "rollback"})
    with pytest.raises(InputError, match=f"no version 5; expected one of: 2017120101;.*{again}"):
        perform(root, {"do": "rollback", "to": 5})
    assert perform(root, {"do": "rollback", "to": 2017120101}).versions == ()
    assert state(root) == before


def turns(root):
    """What the ledger has of the versions in and out of service."""
    return [(e.kind, e.version) for e in ledger(root).entries() if e.kind in registry.TURNS]


def test_a_mistaken_rollback_is_taken_back_and_recorded(root):
    before = state(root)
    perform(root, {"do": "rollback", "to": 2017120101})
    found = perform(root, {"do": "rollback", "to": 2017120301})
    assert found == publish.RolledBack(2017120301, (), (2017120301,))
    assert publish.versions(serving(root)) == (2017120101, 2017120301)
    perform(root, {"do": "rollback", "to": 2017120201})  # and one between the others
    perform(root, {"do": "rollback", "to": 2017120301})
    after = state(root)
    assert (after["folders"], after["files"]) == (before["folders"], before["files"])
    two, three = 2017120201, 2017120301
    assert turns(root) == [
        *(("rolled back", two), ("rolled back", three), ("restored", three)),
        *(("restored", two), ("rolled back", three), ("restored", three)),
    ]
    assert ledger(root).entries()[-1].facts == {"reason": "worse", "by": "me", "to": three}
    assert offer(root, 3) == publish.Published(
        three, serving(root) / str(three), already=True, live=True
    )
    assert offer(root, 4, parent=three).live
    assert perform(root, {"do": "rollback"}).live == three
    audit(root)


@pytest.mark.parametrize("file", ["saved_model.pb", "MANIFEST.json"])
def test_what_was_rolled_back_and_is_damaged_is_not_restored(root, file):
    perform(root, {"do": "rollback"})
    hidden = serving(root) / ".rolledback-2017120301"
    damage(hidden / file)
    before = sorted(serving(root).iterdir()), ledger(root).entries()
    with pytest.raises(InputError, match=r"2017120301 is not whole|another MANIFEST.json"):
        perform(root, {"do": "rollback", "to": 2017120301})
    assert (sorted(serving(root).iterdir()), ledger(root).entries()) == before


def test_what_was_rolled_back_and_deleted_is_gone(root):
    perform(root, {"do": "rollback"})
    offer(root, 4, parent=2017120201)
    perform(root, {"do": "gc", "keep": 3})
    with pytest.raises(InputError, match=r"2017120301 any more \(it was rolled back and deleted\)"):
        perform(root, {"do": "rollback", "to": 2017120301})


def test_what_was_renamed_by_hand_is_recorded_as_restored(root):
    perform(root, {"do": "rollback"})
    (serving(root) / ".rolledback-2017120301").rename(serving(root) / "2017120301")
    perform(root, {"do": "reconcile"})
    assert turns(root)[1:] == [("restored", 2017120301)]
    assert "by hand" in ledger(root).entries()[-1].facts["reason"]
    assert offer(root, 4, parent=2017120301).live


def test_restoring_works_on_a_broken_ledger(root):
    perform(root, {"do": "rollback"})
    intact = ledger(root).file.read_bytes()
    damage(ledger(root).file)
    with pytest.raises(InputError, match=r"2017120301 is live, which is not recorded .*line 1"):
        perform(root, {"do": "rollback", "to": 2017120301})
    assert publish.live(serving(root)) == 2017120301
    ledger(root).file.write_bytes(intact)
    perform(root, {"do": "reconcile"})
    assert turns(root) == [("rolled back", 2017120301), ("restored", 2017120301)]


@pytest.mark.parametrize("lost_ledger", [False, True])
def test_a_lost_manifest_names_ways_out_that_work(root, tmp_path, lost_ledger):
    """The live version's, whether the ledger still knows it or not."""
    manifest = serving(root) / "2017120301" / "MANIFEST.json"
    manifest.unlink()
    if lost_ledger:
        ledger(root).file.unlink()
        with pytest.raises(InputError) as refused:
            perform(root, {"do": "reconcile"})
        for way in ("in service, unknown to the ledger and not whole: MANIFEST.json is missing",
                    "restore the file from the export", "or run rollback"):  # fmt: skip
            assert way in str(refused.value)
    aside = shutil.copytree(root, tmp_path / "other")
    perform(aside, {"do": "rollback"})  # one way
    perform(aside, {"do": "reconcile"})
    assert publish.live(serving(aside)) == 2017120201
    with pytest.raises(
        InputError, match=r"rolledback-2017120301 MANIFEST.json is missing.* export"
    ):
        perform(aside, {"do": "rollback", "to": 2017120301})
    for place in (manifest, serving(aside) / ".rolledback-2017120301" / "MANIFEST.json"):
        shutil.copy(root / "export-3" / "MANIFEST.json", place)  # the other
    perform(root, {"do": "reconcile"})
    assert offer(root, 3).already
    assert perform(aside, {"do": "rollback", "to": 2017120301}).live == 2017120301
    for each in (root, aside):
        audit(each)


def test_a_lost_manifest_of_an_older_version_names_a_way_out_that_works(root):
    ledger(root).file.unlink()
    (serving(root) / "2017120201" / "MANIFEST.json").unlink()
    with pytest.raises(InputError, match=r"or move \S+2017120201 elsewhere$"):
        perform(root, {"do": "reconcile"})
    (serving(root) / "2017120201").rename(root / "elsewhere")
    perform(root, {"do": "reconcile"})
    assert [e.version for e in ledger(root).entries()] == [2017120101, 2017120301]


@pytest.mark.parametrize("file", ["saved_model.pb", "MANIFEST.json"])
def test_rollback_to_a_damaged_version_is_refused(root, file):
    path = serving(root) / "2017120201" / file
    if file == "MANIFEST.json":
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | {"facts": {"auc": 0.9}}))
    else:
        damage(path)
    with pytest.raises(InputError, match=r"saved_model.pb has|another MANIFEST.json"):
        perform(root, {"do": "rollback"})
    assert publish.live(serving(root)) == 2017120301
    assert perform(root, {"do": "rollback", "to": 2017120101}).live == 2017120101


def test_rollback_needs_a_reason_and_works_on_a_broken_ledger(root):
    place, book = serving(root), ledger(root)
    with pytest.raises(InputError, match="reason"):
        publish.rollback(place, ledger=book, at=AT, reason=" ", by="me")
    intact = book.file.read_bytes()
    damage(book.file)
    with pytest.raises(InputError, match="line 1"):
        perform(root, {"do": "rollback"})
    assert publish.live(place) == 2017120201
    with pytest.raises(InputError, match="line 1"):
        offer(root, 4)
    book.file.write_bytes(intact)
    perform(root, {"do": "reconcile"})
    assert [e.version for e in book.entries() if e.kind == "rolled back"] == [2017120301]


def test_retention_keeps_the_live_the_previous_and_the_parent(root):
    for day, parent in ((4, 2017120301), (5, 2017120201)):
        offer(root, day, parent=parent)
    before = state(root)
    plan = publish.gc(serving(root), ledger=ledger(root), at=AT, keep=1, dry_run=True)
    assert state(root) == before
    size = sum(publishing.FILES.values()) + 3  # the graph's three first bytes
    assert [d.version for d in plan] == [2017120101, 2017120301]
    assert all(size < d.bytes < size + 2000 and f"{d.bytes:,} bytes" in str(d) for d in plan)
    assert perform(root, {"do": "gc", "keep": 1}) == plan
    assert publish.versions(serving(root)) == (2017120201, 2017120401, 2017120501)
    assert perform(root, {"do": "gc", "keep": 1}) == ()
    assert offer(root, 1).already  # deleted, and done all the same
    assert offer(root, 1, seed=11).version == 2017120102


def test_what_was_rolled_back_is_deleted_once_a_newer_version_is_live(root):
    perform(root, {"do": "rollback"})
    assert perform(root, {"do": "gc", "keep": 3}) == ()
    offer(root, 4, parent=2017120201)
    assert [d.folder.name for d in perform(root, {"do": "gc", "keep": 3})] == [
        ".rolledback-2017120301"
    ]
    assert (serving(root) / "TOMBSTONE-2017120301.json").exists()


def test_reconcile_records_what_the_ledger_does_not_know(root):
    night = {"parent": 6, "attempt": "dt=2017-12-01/attempt-01", "cutoff": 5}
    shutil.copytree(publishing.export(root / "first", 7, {"night": night}), serving(root) / "1")
    shutil.copytree(publishing.export(root / "other", 8), serving(root) / "2")
    perform(root, {"do": "reconcile"})
    entry, other = ledger(root).entries()[-2:]
    assert (entry.version, entry.facts["parent"]) == (1, 6)
    assert entry.facts["notes"] == {**night, "recovered": True}
    assert (other.facts["parent"], other.facts["notes"]) == (None, {"recovered": True})
    perform(root, {"do": "reconcile"})
    assert len(ledger(root).entries()) == 5


def test_a_lost_ledger_is_written_anew_from_the_folder(root):
    ledger(root).file.unlink()
    perform(root, {"do": "reconcile"})
    assert [e.version for e in ledger(root).entries()] == [2017120101, 2017120201, 2017120301]
    assert offer(root, 3).already


def test_a_version_that_was_not_published_is_named(root):
    (serving(root) / "9999999999").mkdir()
    with pytest.raises(InputError, match=r"9999999999 of .* not whole: MANIFEST.json"):
        perform(root, {"do": "reconcile"})


def test_a_damaged_journal_is_named(root):
    (serving(root) / journal.JOURNAL).write_text("[{")
    with pytest.raises(InputError, match=r"journal.json is damaged"):
        perform(root, {"do": "reconcile"})


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match=r"is no folder; .* publish first"):
        perform(tmp_path, {"do": "rollback"})


def test_another_user_can_read_what_was_published_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        found = offer(tmp_path, 1)
    finally:
        os.umask(before)
    modes = {p.stat().st_mode & 0o777 for p in found.folder.rglob("*") if p.is_file()}
    assert modes == {0o644}
    folders = [found.folder, *(p for p in found.folder.rglob("*") if p.is_dir())]
    assert {p.stat().st_mode & 0o777 for p in folders} == {0o755}
