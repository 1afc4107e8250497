"""What an operator meets beside a night's own course: lost files, others' rights, wrong words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from at4ctr.registry import Ledger
from pipelines import nightly
from pipelines.night import attempt, places
from tests.pipelines.nights import (
    CHECKOUT,
    FIRST,
    NEXT,
    SECOND,
    WORSE,
    call,
    cut,
    dated,
    deliver,
    flags,
    record,
    sound,
)

V1, V2 = 2017112801, 2017112901


def rows(value):
    return {night["date"]: night for night in value["nights"]}


def test_a_lost_snapshot_is_taken_from_the_newest_night_and_never_from_defaults(
    copied, monkeypatch, capsys
):
    snapshot = copied / "registry/ctr/nightly.json"
    before = json.loads(snapshot.read_text())["settings"]
    snapshot.unlink()
    code, value = call(capsys, flags(copied, NEXT))
    assert code == 2
    assert "nightly.json is missing" in value["error"]
    assert not snapshot.exists()
    newest, _ = record(copied, WORSE)
    config = newest / "config.json"  # of a chain that was copied: its log lies elsewhere now
    config.write_text(json.dumps(before))
    asked = flags(copied, NEXT, adopt=True, reason="the disk was lost")
    cut(monkeypatch, capsys, asked, "night.planned.after")
    assert json.loads(snapshot.read_text())["settings"] == before
    told = Ledger(copied / "registry/ledger.jsonl").entries()[-1]
    assert told.facts == {
        "reason": "the disk was lost",
        "adopted": f"dt={dated(WORSE)}/attempt-01's",
    }


def test_a_killed_night_is_not_said_to_be_at_work(copied, monkeypatch, capsys):
    cut(monkeypatch, capsys, flags(copied, NEXT), "night.wait_data.after")
    folder, found = record(copied, NEXT)
    (folder / "run.json").write_text(json.dumps({**found, "outcome": None}))
    day, status = str(dated(NEXT)), ["status", *flags(copied)]
    there = places.Places("ctr", runs=copied / "runs" / "nightly")
    with there.locked():
        assert there.busy
        assert rows(call(capsys, status)[1])[day]["outcome"] == "at work"
    assert not there.busy
    (there.nights / ".lock").touch()  # as a killed job leaves it
    killed = rows(call(capsys, status)[1])[day]
    assert killed["outcome"] == "KILLED"
    assert f"reached WAIT_DATA; go on with --date={day}" in killed["reason"]


def test_a_day_that_an_earlier_night_accepted_is_accepted_for_the_next(copied, monkeypatch, capsys):
    deliver(copied, NEXT, rows=90)
    deliver(copied, NEXT + 1)
    for number in (NEXT, NEXT + 1):
        code, value = call(capsys, flags(copied, number))
        assert (code, f"the log of {dated(NEXT)} is refused" in value["sentence"]) == (11, True)
    blessed = flags(copied, NEXT, bless=True, reason="a holiday")
    cut(monkeypatch, capsys, blessed, "night.data_ok.after")
    told = Ledger(copied / "registry/ledger.jsonl").entries()[-1]
    assert told.facts["days"] == [str(dated(NEXT))]
    cut(monkeypatch, capsys, flags(copied, NEXT + 1), "night.data_ok.after")
    assert record(copied, NEXT + 1, 2)[1]["stage"] == "DATA_OK"


def test_a_user_without_a_name_may_roll_back(copied, monkeypatch, capsys):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert call(capsys, ["rollback", *flags(copied, reason="complaints")])[0] == 0
    told = Ledger(copied / "registry/ledger.jsonl").entries()[-1]
    assert told.facts["by"] == f"uid {os.getuid()}"
    assert sound(copied) == [V1]


def test_a_rollback_beside_a_damaged_ledger_says_what_is_live(copied, capsys):
    ledger = copied / "registry/ledger.jsonl"
    ledger.write_text(ledger.read_text().replace("the first", "the worst", 1))
    code, value = call(capsys, ["rollback", *flags(copied, reason="complaints")])
    assert code == 2
    assert f"{V1} is live, which is not recorded yet: " in value["error"]
    code, value = call(capsys, ["status", *flags(copied)])
    assert (code, value["live"]) == (2, V1)
    assert "ledger" in value["ledger"]
    assert rows(value)[str(dated(SECOND))]["outcome"] == "ROLLED BACK"


def test_an_attempt_that_was_renamed_is_none(copied):
    folder, _ = record(copied, WORSE)
    folder.rename(folder.with_name("attempt-01.old"))
    for number in (2, 99, 100):
        shutil.copytree(
            folder.with_name("attempt-01.old"), folder.with_name(f"attempt-{number:02d}")
        )
    there = places.Places("ctr", runs=copied / "runs" / "nightly")
    found = [a.folder.name for a in attempt.attempts(there, dated(WORSE))]
    assert found == ["attempt-02", "attempt-99", "attempt-100"]
    begun = attempt.begin(there, dated(WORSE), {}, {})
    assert begun.folder.name == "attempt-101"


def test_a_textfile_that_cannot_be_written_changes_no_outcome(copied, capsys):
    (copied / "blocked").write_text("")
    asked = flags(copied, SECOND, metrics_file=copied / "blocked" / "at4ctr.prom")
    assert call(capsys, asked)[0] == 0


def test_a_terminal_of_ascii_loses_no_exit_code(copied):
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.nightly", "status", *flags(copied)[:-1]],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "REJECTED" in done.stdout


def test_what_cannot_be_meant_is_refused(copied, capsys):
    code, value = call(capsys, flags(copied, SECOND, bless=True, reason="sure"))
    assert code == 2
    assert "PUBLISHED by the gate itself" in value["error"]
    assert call(capsys, flags(copied, FIRST, bless=True, reason="the first"))[0] == 0
    code, value = call(capsys, ["status", *flags(copied, model="ctrr")])
    assert code == 2
    assert "ctr" in value["error"]


@pytest.mark.parametrize("of", ["parent", "incumbent"])
def test_a_model_whose_rival_was_rolled_back_meanwhile_is_not_published(copied, of):
    folder, found = record(copied, WORSE)
    night = flags(copied, WORSE, bless=True, reason="no matter")
    other = {"parent": None, "cold": True} if of == "incumbent" else {"incumbent": None}
    (folder / "run.json").write_text(json.dumps({**found, **other}))
    assert nightly.main(["rollback", *flags(copied, reason="complaints")]) == 0
    assert nightly.main(night) == 75
    assert sound(copied) == [V1]
