"""When a version is loaded, loaded again, waited for and given up; no model is needed for that."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

from export.server.tensors import invalid
from export.server.versions import Patience, State, Versions

FILES = {
    "saved_model.pb": b"graph",
    "variables/variables.index": b"index",
    "assets/user.txt": b"100\n101\n102\n",
}
PATIENCE = Patience(retries=2, retry_seconds=60.0, settle_seconds=10.0)


class Loaded:
    def __init__(self, version: int, vocabulary: bytes) -> None:
        self.version, self.vocabulary, self.open = version, vocabulary, True

    def close(self) -> None:
        self.open = False


class Place:
    """A folder of versions, what was loaded from it, and a clock that stands still."""

    def __init__(self, base: Path) -> None:
        self.base, self.now = base, 0.0
        self.lines: list[str] = []
        self.loads: list[Loaded] = []
        self.meanwhile = lambda _: None  # happens while a version is loaded
        load: Any = self._load
        self.versions = Versions("ctr", base, load, self.lines.append, PATIENCE, lambda: self.now)

    def _load(self, folder: Path, version: int) -> Any:
        made = Loaded(version, (folder / "assets" / "user.txt").read_bytes())
        self.loads.append(made)
        self.meanwhile(folder)
        return made

    def poll(self, seconds: float = 0.0) -> int | None:
        self.now += seconds
        self.versions.poll()
        return self.versions.serving

    def status(self, version: int) -> tuple[int, str]:
        found = self.versions.statuses("ctr")[version]
        return found.state, found.text

    @property
    def vocabulary(self) -> bytes:
        with self.versions.use("ctr") as loaded:
            return cast(Loaded, loaded).vocabulary


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def write(folder: Path, files: dict[str, bytes] = FILES, *, manifest: bool = True) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if manifest:
        listed = {n: hashlib.sha256(data).hexdigest() for n, data in FILES.items()}
        (folder / "MANIFEST.json").write_text(json.dumps({"files": listed}))
    return folder


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("part", [None, b"", b"10"])
def test_a_copy_that_is_not_whole_is_served_once_it_is(place, name, part):
    """Each file missing, empty or cut; the manifest is there."""
    left = {n: part if n == name else data for n, data in FILES.items()}
    folder = write(place.base / "1", {n: d for n, d in left.items() if d is not None})
    assert place.poll() is place.poll(1000.0) is None
    state, text = place.status(1)
    assert state == State.START
    assert name in text
    assert len(place.lines) == 1
    assert place.loads == []
    write(folder)
    assert place.poll() == 1
    assert place.vocabulary == FILES["assets/user.txt"]


def test_a_manifest_that_is_cut_is_waited_for(place):
    folder = write(place.base / "1")
    whole = (folder / "MANIFEST.json").read_bytes()
    (folder / "MANIFEST.json").write_bytes(whole[:40])
    assert place.poll() is None
    assert "no whole manifest" in place.status(1)[1]
    (folder / "MANIFEST.json").write_bytes(whole)
    assert place.poll() == 1


def test_lines_that_were_swapped_are_never_served(place):
    write(place.base / "1")
    assert place.poll() == 1
    write(place.base / "2", FILES | {"assets/user.txt": b"101\n100\n102\n"})
    for _ in range(5):
        assert place.poll(1000.0) == 1
    assert "assets/user.txt has SHA-256" in place.status(2)[1]
    assert [made.version for made in place.loads] == [1]


def test_without_a_manifest_files_must_stay_as_they_are(place):
    folder = write(place.base / "1", manifest=False)
    cut = FILES["assets/user.txt"][:6]
    (folder / "assets" / "user.txt").write_bytes(cut)
    assert place.poll() is None
    assert "unchanged for 10 s" in place.status(1)[1]
    assert place.poll(9.0) is None
    (folder / "assets" / "user.txt").write_bytes(cut + b"\n")
    assert place.poll(1.0) is place.poll(9.0) is None  # counted from the change
    assert place.poll(1.0) == 1
    # The pause was longer than anybody waits: what was loaded goes on until the rest is there.
    write(folder, manifest=False)
    assert place.poll() == place.poll(9.0) == 1
    assert place.vocabulary == cut + b"\n"
    first = place.loads[0]
    assert place.poll(1.0) == 1
    assert place.vocabulary == FILES["assets/user.txt"]
    assert not first.open
    assert place.status(1) == (State.AVAILABLE, "")


def test_files_that_change_while_they_are_loaded_are_loaded_again(place):
    folder = write(place.base / "1", manifest=False)
    changes = [b"100\n", b"100\n101\n"]

    def meanwhile(_: Path) -> None:
        if changes:
            (folder / "assets" / "user.txt").write_bytes(changes.pop(0))

    place.meanwhile = meanwhile
    served = [place.poll(10.0) for _ in range(8)]
    assert served[-1] == 1
    assert place.vocabulary == b"100\n101\n"
    assert [made.open for made in place.loads] == [False, False, True]


def test_a_served_version_that_is_damaged_goes_on_as_it_was_loaded(place):
    folder = write(place.base / "1")
    assert place.poll() == 1
    (folder / "assets" / "user.txt").write_bytes(b"")
    assert place.poll() == 1
    state, text = place.status(1)
    assert state == State.AVAILABLE
    assert "assets/user.txt" in text
    assert "goes on" in text
    write(folder)
    assert place.poll() == 1
    assert place.status(1) == (State.AVAILABLE, "")
    os.chmod(folder / "saved_model.pb", 0o600)
    assert place.poll() == 1
    assert len(place.loads) == 1  # the same bytes are not loaded twice


def test_a_load_that_fails_is_tried_again_a_bounded_number_of_times(place):
    write(place.base / "1")
    assert place.poll() == 1
    folder = write(place.base / "2")

    def broken(_: Path) -> None:
        raise invalid("no room for it")

    place.meanwhile = broken
    states = []
    for _ in range(10):
        assert place.poll() == place.poll(59.0) == 1
        states.append(place.status(2)[0])
        place.now += 1.0
    assert [made.version for made in place.loads] == [1, 2, 2, 2]
    assert states[:2] == [State.LOADING] * 2
    assert set(states[2:]) == {State.END}
    assert "no room for it (try 3 of 3" in place.status(2)[1]
    os.utime(folder / "saved_model.pb")  # its files change: from the start
    place.poll()
    assert "try 1 of 3" in place.status(2)[1]
    place.meanwhile = lambda _: None
    assert place.poll(59.0) == 1
    assert place.poll(1.0) == 2
    assert place.status(2) == (State.AVAILABLE, "")


def test_a_file_whose_permission_is_mended_is_tried_at_once(place):
    folder = write(place.base / "1")

    def denied(_: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "saved_model.pb"))

    place.meanwhile = denied
    assert place.poll() is None
    assert "saved_model.pb: Permission denied (try 1" in place.status(1)[1]
    place.meanwhile = lambda _: None
    os.chmod(folder / "saved_model.pb", 0o600)
    assert place.poll() == 1


def test_a_folder_that_cannot_be_read_stops_no_other(place, monkeypatch):
    scan, denied = os.scandir, {place.base / "9", place.base / "3" / "assets"}

    def scandir(path):
        if Path(path) in denied:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    write(place.base / "1")
    for name in ("9", "3"):
        write(place.base / name)
    assert place.poll() == 1
    write(place.base / "2")
    assert place.poll() == 2
    for version, where in ((9, "9"), (3, "3/assets")):
        state, text = place.status(version)
        assert state == State.START
        assert f"{place.base / where} cannot be read (Permission denied)" in text
        assert sum(f"version {version} waits" in line for line in place.lines) == 1
    denied.add(place.base / "2")  # what serves goes on
    assert place.poll() == 2
    assert "goes on" in place.status(2)[1]
    denied.clear()
    assert place.poll() == 9


def test_a_base_that_cannot_be_read_is_said_once(place, monkeypatch):
    write(place.base / "1")
    assert place.poll() == 1

    def listdir(path):
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", listdir)
        assert place.poll() == place.poll() == 1
    assert sum("cannot read" in line for line in place.lines) == 1
    assert place.poll() == 1


@pytest.mark.parametrize("order", [("7", "007"), ("007", "7")])
def test_of_two_folders_of_one_number_it_is_said_which_is_served(place, order):
    for name in order:
        write(place.base / name)
    assert place.poll() == 7
    text = "7 is served; 007 has the same number and is not"
    assert place.status(7) == (State.AVAILABLE, text)
    place.poll()
    assert sum(text in line for line in place.lines) == 1


def test_while_the_newest_cannot_be_served_the_next_newest_is(place):
    write(place.base / "1")
    write(place.base / "2")
    newest = write(place.base / "3")
    (newest / "saved_model.pb").unlink()
    assert place.poll() == 2
    write(newest)
    assert place.poll() == 3
    for path in sorted(newest.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert place.poll() == 3  # its folder is there still
    newest.rmdir()
    assert place.poll() == 2


def test_a_folder_that_goes_while_it_is_waited_for_ends(place):
    (place.base / "5").mkdir()
    assert place.poll() is None
    assert place.status(5) == (State.START, "waits: saved_model.pb is missing")
    (place.base / "5").rmdir()
    assert place.poll() is None
    assert place.status(5) == (State.END, "its folder is gone")
