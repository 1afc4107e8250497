"""The ledger: a chain that shows every change, survives every crash, counts a version once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at4ctr import faults
from at4ctr.errors import InputError
from at4ctr.registry import Entry, Ledger

AT = "2017-12-02T03:00:00Z"
CHECKOUT = Path(__file__).resolve().parents[1]
SEVERAL = """
import sys
from at4ctr.registry import Entry, Ledger
for number in range(15):
    kind, own = ("published", number) if number % 2 else ("blessed", int(sys.argv[2]))
    facts = {"reason": "seen"}
    Ledger(sys.argv[1]).append(Entry(kind, "din", "2017-12-02T03:00:00Z", own, facts))
"""


def entry(version, kind="published", **facts):
    return Entry(kind, "din", AT, version, facts)


def filled(folder, count=4):
    book = Ledger(folder / "registry" / "ledger.jsonl")
    for version in range(1, count + 1):
        assert book.append(entry(version, note=f"ä {version}", parent=version - 1))
    return book


def test_what_is_added_is_read_in_order(tmp_path):
    book = Ledger(tmp_path / "a" / "ledger.jsonl")
    assert book.entries() == ()
    added = [
        entry(1, parent=None, notes={"auc": 0.1 + 0.2}),
        Entry("blessed", "din", AT, None, {"reason": "few clicks on a holiday"}),
        Entry("published", "dien", AT, 1),
        entry(1, "rolled back", reason="PCOC 1.4", by="me"),
        entry(1, "deleted"),
    ]
    assert all(book.append(e) for e in added)
    assert book.entries() == tuple(added)
    assert book.entries("dien") == (added[2],)


def test_a_version_is_rolled_back_and_restored_by_turns(tmp_path):
    book = filled(tmp_path)
    turns = [entry(1, kind, reason="r") for kind in ("rolled back", "restored") * 2]
    for turn in turns:
        assert book.append(turn)
        assert book.append(entry(2, turn.kind, reason="of another"))
        assert not book.append(entry(1, turn.kind, reason="again"))
    assert [e for e in book.entries()[4:] if e.version == 1] == turns


def test_a_version_has_one_entry_of_a_kind(tmp_path):
    book = filled(tmp_path)
    before = book.file.read_bytes()
    assert not book.append(entry(2, note="again"))
    assert book.file.read_bytes() == before
    blessed = Entry("blessed", "din", AT, 2, {"reason": "twice is meant"})
    assert book.append(blessed)
    assert book.append(blessed)


def test_the_chain_by_hand(tmp_path):
    """Against hashlib and json alone."""
    book, previous = filled(tmp_path), "0" * 64
    for line in book.file.read_bytes().splitlines():
        value = json.loads(line)
        assert value["previous"] == previous
        own = value.pop("sha256")
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == own
        previous = hashlib.sha256(line).hexdigest()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_changed_byte_of_an_earlier_line_is_named(tmp_path_factory, data):
    book = filled(tmp_path_factory.mktemp("ledger"))
    intact = book.file.read_bytes()
    place = data.draw(st.integers(0, len(intact) - 2))  # the last newline's loss is a torn line
    changed = bytearray(intact)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    book.file.write_bytes(changed)
    line = intact[:place].count(b"\n") + 1
    for touch in (book.entries, lambda: book.append(entry(9))):
        with pytest.raises(InputError, match=rf"line {line}, .*restore the file"):
            touch()
    assert book.file.read_bytes() == changed


@pytest.mark.parametrize(
    ("change", "line"), [("drop", 2), ("swap", 2), ("first", 1), ("insert", 3)]
)
def test_lines_cannot_be_dropped_swapped_or_inserted(tmp_path, change, line):
    book = filled(tmp_path)
    a, b, c, d = book.file.read_bytes().splitlines(keepends=True)
    lines = {"drop": [a, c, d], "swap": [a, c, b, d], "first": [b, c, d], "insert": [a, b, b, c]}
    book.file.write_bytes(b"".join(lines[change]))
    with pytest.raises(InputError, match=f"line {line}, does not follow"):
        book.entries()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_torn_end_is_kept_aside_and_the_ledger_goes_on(tmp_path_factory, data):
    book = filled(tmp_path_factory.mktemp("ledger"))
    *whole, last = book.file.read_bytes().splitlines(keepends=True)
    torn = last[: data.draw(st.integers(1, len(last) - 1))]
    torn = data.draw(st.sampled_from([torn, b"\0" * len(torn)]))  # half a line, or a hole
    book.file.write_bytes(b"".join(whole) + torn)
    assert [e.version for e in book.entries()] == [1, 2, 3]
    assert book.append(entry(4, note="anew"))
    assert [e.version for e in book.entries()] == [1, 2, 3, 4]
    (aside,) = book.file.parent.glob("ledger.jsonl.torn-*")
    assert aside.read_bytes() == torn


@pytest.mark.parametrize("kind", ["enospc", "eio"])
@pytest.mark.parametrize("point", ["ledger.begin", "ledger.half", "ledger.written"])
def test_a_disk_that_refuses_leaves_the_ledger_as_it_was(tmp_path, monkeypatch, point, kind):
    book = filled(tmp_path)
    before = book.file.read_bytes()
    monkeypatch.setenv(faults.VARIABLE, f"{point}:{kind}")
    faults.reset()
    with pytest.raises(OSError, match="injected"):
        book.append(entry(5))
    assert book.file.read_bytes() == before
    assert book.append(entry(5))


def test_writers_at_once_make_one_chain(tmp_path):
    file = tmp_path / "ledger.jsonl"
    running = [
        subprocess.Popen([sys.executable, "-c", SEVERAL, str(file), str(own)], cwd=CHECKOUT)
        for own in range(3)
    ]
    assert [each.wait(1800) for each in running] == [0, 0, 0]
    found = Ledger(file).entries()
    published = {e.version for e in found if e.kind == "published"}
    assert published == {1, 3, 5, 7, 9, 11, 13}
    assert len(found) == 7 + 3 * 8


def test_a_writer_is_alone_until_it_is_killed(tmp_path):
    book = filled(tmp_path)
    size = book.file.stat().st_size
    writer = [sys.executable, "-c", SEVERAL, str(book.file), "1"]
    environment = {**os.environ, faults.VARIABLE: "ledger.half:hang"}
    with subprocess.Popen(writer, cwd=CHECKOUT, env=environment) as running:
        try:
            while book.file.stat().st_size == size:
                assert running.poll() is None
            with book.file.open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert len(book.entries()) == 4
        finally:
            running.kill()
    assert book.append(entry(5))
    assert len(book.entries()) == 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "publised"}, "did you mean published"),
        ({"at": "2017-12-02"}, "not a time with its offset"),
        ({"at": "yesterday"}, "not a time with its offset"),
        ({"version": None}, "has no version"),
        ({"kind": "blessed"}, "has the reason None"),
        ({"kind": "rolled back", "facts": {"reason": "  "}}, "has the reason '  '"),
        ({"kind": "restored"}, "'restored' of din has the reason None"),
        ({"kind": "restored", "version": None, "facts": {"reason": "r"}}, "has no version"),
    ],
)
def test_what_is_no_entry_is_refused(change, says):
    with pytest.raises(InputError) as refused:
        Entry(**({"kind": "published", "model": "din", "at": AT, "version": 1} | change))
    assert says in str(refused.value)


def test_facts_that_are_no_json_add_nothing(tmp_path):
    book = filled(tmp_path)
    before = book.file.read_bytes()
    for wrong in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            book.append(entry(5, note=wrong))
    assert book.file.read_bytes() == before
