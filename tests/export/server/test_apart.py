"""Digests that another process computes are those of this one, and so are its errors."""

import hashlib
import sys

import pytest

from export.server import apart


def test_digests_are_of_every_file_by_its_path(tmp_path):
    files = {"a": b"x" * 300_000, "b/c d": b"", "b/ü": b"y"}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert apart.digests(tmp_path) == apart.read(tmp_path) == expected


@pytest.mark.parametrize("digests", [apart.digests, apart.read])
def test_a_folder_that_is_none_is_named(tmp_path, digests):
    with pytest.raises(FileNotFoundError) as raised:
        digests(tmp_path / "gone")
    assert raised.value.filename == str(tmp_path / "gone")


def test_a_process_that_dies_is_an_error_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="ended with 1"):
        apart.digests(tmp_path)
