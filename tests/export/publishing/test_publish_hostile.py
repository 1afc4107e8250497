"""What strangers and disks may do: refused in one sentence, and nothing is changed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import zipfile
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from at4ctr.errors import InputError
from export.publishing import publish, staging
from tests import publishing
from tests.publishing import AT, damage, ledger, offer, perform, serving, state


@pytest.fixture
def root(tmp_path):
    """Three versions of three days, each the parent of the next."""
    parent = None
    for day in (1, 2, 3):
        parent = offer(tmp_path, day, parent=parent).version
    return tmp_path


def flip(folder):
    damage(folder / "saved_model.pb")


def link(folder):
    (folder / "assets/item.txt").unlink()
    (folder / "assets/item.txt").symlink_to(folder / "SIGNATURES.md")


def folder_link(folder):
    shutil.move(folder / "assets", folder.parent / "elsewhere")
    (folder / "assets").symlink_to(folder.parent / "elsewhere")


def fifo(folder):
    os.mkfifo(folder / "assets/more.txt")


def named(path):
    """A manifest that names a file outside."""

    def change(folder):
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        manifest["files"][path] = "0" * 64
        (folder / "MANIFEST.json").write_text(json.dumps(manifest))

    change.__name__ = path
    return change


def pickled(folder):
    (folder / "model.pkl").write_bytes(pickle.dumps({"weights": [1, 2]}))
    publishing.seal(folder)


def pickled_graph(folder):
    (folder / "saved_model.pb").write_bytes(pickle.dumps({"weights": [1, 2]}))
    publishing.seal(folder)


def keras(folder):
    layer = {"class_name": "Lambda", "config": {"function": "import os; os.system('id')"}}
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(layer))
    publishing.seal(folder)


def keras_graph(folder):
    keras(folder)
    (folder / "model.keras").replace(folder / "saved_model.pb")
    publishing.seal(folder)


def python_op(folder):
    with (folder / "saved_model.pb").open("ab") as file:
        file.write(b"EagerPyFunc")
    publishing.seal(folder)


def unnamed(folder):
    (folder / "assets/more.txt").write_text("x")


def hidden(folder):
    (folder / "assets/.more.txt").write_text("x")
    publishing.seal(folder)


def missing(folder):
    (folder / "variables/variables.index").unlink()


def none(folder):
    (folder / "MANIFEST.json").unlink()


def damaged(folder):
    (folder / "MANIFEST.json").write_text('{"files": {"saved_model.pb": 3}}')


HOSTILE = {
    flip: "saved_model.pb has SHA-256",
    link: "assets/item.txt is a symbolic link",
    folder_link: "assets is a symbolic link",
    fifo: "neither file nor folder",
    named("../../secret"): "leads out of it",
    named("assets/../../../secret"): "leads out of it",
    named("/outside"): "leads out of it",
    named("variables/variables.data-00009-of-00010"): "is missing",
    pickled: "'model.pkl' is there; .* no pickle",
    pickled_graph: "begins with",
    keras: "'model.keras' is there",
    keras_graph: "begins with b'PK",
    python_op: "holds PyFunc",
    unnamed: "more.txt is not in MANIFEST.json",
    hidden: "'assets/.more.txt' is there",
    missing: "variables.index is missing",
    none: "MANIFEST.json is missing",
    damaged: "MANIFEST.json is damaged",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"), HOSTILE.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_a_hostile_folder_is_refused_and_nothing_changes(change, says, root):
    before = state(root)
    staged = publishing.export(root / "hostile", 9)
    change(staged)
    with pytest.raises(InputError, match=says) as refused:
        perform(root, {"do": "publish", "staged": staged, "day": "2017-12-09"})
    assert not isinstance(refused.value, publish.RetryError)
    assert "\n" not in str(refused.value)
    assert state(root) == before


def test_every_single_bit_counts(root):
    staged = publishing.export(root / "export-4", 4)
    for name in publishing.FILES:
        damage(staged / name, 8 * 20 + 3)
        with pytest.raises(InputError, match=f"{name} has SHA-256"):
            staging.check(staged)
        damage(staged / name, 8 * 20 + 3)
    staging.check(staged)


def test_the_parent_must_have_been_published(root):
    with pytest.raises(InputError, match=r"2017113001 .* was never published"):
        offer(root, 4, parent=2017113001)
    perform(root, {"do": "rollback"})
    with pytest.raises(InputError, match=r"2017120301 .* was rolled back"):
        offer(root, 4, parent=2017120301)
    assert offer(root, 4, parent=2017120201).live


def test_a_disk_that_is_99_percent_full_is_one_sentence(root, monkeypatch):
    before = state(root)
    usage = SimpleNamespace(total=100 << 20, used=99 << 20, free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"1,048,576 bytes free; expected .* free some space"):
        offer(root, 4)
    assert publish.gc(serving(root), ledger=ledger(root), at=AT, keep=1)  # which makes room
    monkeypatch.undo()
    assert offer(root, 4).live
    assert before["folders"].keys() - state(root)["folders"].keys() == {"2017120101"}


def test_another_file_system_is_refused(root, monkeypatch):
    def elsewhere(path, target):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path), None, str(target))

    before = state(root)
    monkeypatch.setattr(Path, "rename", elsewhere)
    with pytest.raises(InputError, match="expected one file system"):
        offer(root, 4)
    monkeypatch.undo()
    perform(root, {"do": "reconcile"})
    assert state(root) == before


def test_a_folder_without_permission_is_one_sentence(root):
    place = root / "serving" / "file"
    place.write_text("")
    with pytest.raises(InputError, match="correct the permissions"):
        publish.publish(root / "export-1", place, date(2017, 12, 4), ledger=ledger(root), at=AT)
