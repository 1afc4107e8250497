"""A chain that stands still says so, and what a quiet terminal shows."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from datetime import date, timedelta

import pytest

from pipelines.night import job, logs, operate, still, textfile
from pipelines.night.attempt import Attempt
from pipelines.night.places import Places

DAY = date(2017, 11, 25)


def record(day, outcome, version=None):
    """As much of ``run.json`` as the record of a night needs."""
    return {"form": 2, "model": "ctr", "date": str(day), "stage": "PLANNED", "version": version,
            "stages": [{"stage": "PUBLISHED", "at": "2017-12-01T00:00:00Z", "seconds": 1.0}],
            "blessed": None, "window": [0, 1, 2], "rows": {"train": 7},
            "outcome": outcome and {"name": outcome, "exit": 0, "sentence": "said"}}  # fmt: skip


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function that writes a chain of (days after `DAY`, outcome, version), and its `Places`."""
    monkeypatch.chdir(tmp_path)
    places = Places("ctr")

    def make(nights, logs_of=range(8), **asked):
        for number, outcome, version in nights:
            folder = places.night(DAY + timedelta(number)) / "attempt-01"
            folder.mkdir(parents=True)
            value = record(DAY + timedelta(number), outcome, version)
            (folder / "run.json").write_text(json.dumps(value))
        for number in logs_of:
            folder = tmp_path / "log" / f"dt={DAY + timedelta(number)}"
            folder.mkdir(parents=True)
            (folder / "part-0.csv").write_text("1\n")
            (folder / "_SUCCESS").touch()
        places.snapshot.parent.mkdir(parents=True)
        value = {"settings": {"asked": {"data": "log", **asked}}}
        places.snapshot.write_text(json.dumps(value))
        return places

    return make


STILL = [(0, "PUBLISHED", 2017112501), (1, "REJECTED", None), (2, "HOLD", None),
         (3, "SKIPPED", None)]  # fmt: skip


def test_a_chain_that_stands_still_says_for_how_long_and_why(made):
    places = made(STILL)
    said = (
        "the chain has stood still for 3 nights (1 SKIPPED, 1 HOLD, 1 REJECTED), since the version "
        "of 2017-11-25"
    )
    assert str(still.of(places)) == said
    found = operate.status(places)
    assert found.text.splitlines()[-1] == found.value["still"] == said
    assert 'at4ctr_nightly_nights_without_version{model="ctr"} 3' in list(
        textfile.lines(places, None)
    )


@pytest.mark.parametrize(
    ("nights", "asked", "number"),
    [
        (STILL[:3], {}, 2),  # two nights are fewer than three
        (STILL, {"still_nights": "4"}, 3),
        (STILL, {"still_nights": "0"}, 3),
        ([*STILL, (4, None, None)], {"still_nights": "4"}, 3),  # at work, or killed: none yet
        ([*STILL, (4, "PUBLISHED", 2017112901)], {}, 0),
    ],
)
def test_a_chain_that_moves_says_nothing(made, nights, asked, number):
    found = still.of(made(nights, **asked))
    assert (found.nights, str(found)) == (number, "")


def test_what_was_rolled_back_is_no_version():
    newest = [record(DAY, "PUBLISHED", 2), record(DAY, "HOLD"), record(DAY, "PUBLISHED", 1)]
    found = still.count(newest, {2}, 1)
    assert (found.nights, dict(found.outcomes)) == (2, {"ROLLED BACK": 1, "HOLD": 1})
    assert "since" not in str(still.count(newest, {1, 2}, 1))
    assert str(still.count(newest[1:2], set(), 1)) == (
        "the chain has stood still for 1 night (1 HOLD), and has no version"
    )


def test_a_mistyped_date_counts_nowhere_and_is_named(made):
    places = made([*STILL[:2], (9, "SKIPPED", None), (9999, "SKIPPED", None)])
    found = operate.status(places)
    wrong = str(DAY + timedelta(9999))
    assert found.value["mistyped"] == [wrong]
    assert [n["date"][-2:] for n in found.value["nights"]] == ["25", "26", "04"]
    assert f"are near: {wrong}; if mistyped" in found.text
    assert still.of(places).nights == 2


def test_a_log_that_has_not_come_for_months_is_no_mistake(made):
    nights = [*STILL[:1], *((n, "SKIPPED", None) for n in range(1, 100, 9))]
    assert operate.status(made(nights, logs_of=range(1))).value["mistyped"] == []


def test_without_any_log_no_date_is_mistyped(made):
    assert operate.status(made(STILL, logs_of=())).value["mistyped"] == []


def test_status_tells_rows_of_the_log_from_rows_trained(made):
    places = made(STILL[:1])
    folder = places.night(DAY) / "attempt-01"
    (folder / "config.json").write_text(json.dumps({"periods": {"days": 2}}))
    stats = {str(DAY - timedelta(n)): {"relations": {"log": {"rows": 10**n}}} for n in range(4)}
    (folder / "stats.json").write_text(json.dumps(stats))
    found = operate.status(places)
    (row,) = found.value["nights"]
    assert (row["log_rows"], row["trained_rows"]) == (11, 7)  # of the last two days
    head, line = found.text.splitlines()[1:3]
    assert line[head.index("log rows") :].split()[:2] == ["11", "7"]


@pytest.mark.parametrize(("ends", "of", "what"), [("HOLD", "model", "publish it"),
                                                  ("REJECTED", "model", "publish it"),
                                                  ("REJECTED", "data", "accept the log"),
                                                  ("PUBLISHED", None, "")])  # fmt: skip
def test_the_verdict_is_the_last_line_behind_the_command_that_overrules_it(
    tmp_path, ends, of, what
):
    (tmp_path / "report.html").touch()
    words = Places("ctr", registry=tmp_path / "r x").command(DAY)
    value = {"date": str(DAY), "outcome": ends, "of": of, "sentence": "why", "already": False,
             "still": "the chain has stood still"}  # fmt: skip
    report, *command, last = job.text(Attempt(tmp_path, {"command": words}), value)
    assert report == f"report: {tmp_path}/report.html"
    assert last == f"2017-11-25 {ends}: why; the chain has stood still"
    (said, line), *_ = [*(c.split(": ", 1) for c in command), ("", "")]
    assert said == (what and f"to {what} all the same")
    given = shlex.split(line)
    assert given == ([*words, "--bless", "--reason", "why this is right"] if what else [])


@pytest.mark.parametrize("verbose", [False, True])
def test_a_quiet_terminal_has_stages_and_warnings_and_the_file_has_all(tmp_path, capsys, verbose):
    path, before = tmp_path / "log.jsonl", [*logging.getLogger("at4ctr").handlers]
    with logs.to_terminal(verbose=verbose), logs.to_file(path):
        line = logs.stage("2017-12-01", "TRAINED", 41.23, {"rows": {"train": 1, "test": 2000}})
        logs.log.info("%s", line, extra=logs.SHOWN)
        logs.log.info("a detail")
        logs.log.warning("an oddity")
        print("prepare: rows\r\nprepare: warning: odd", file=sys.stderr)
    shown = [line, "an oddity", "prepare: warning: odd"]
    assert line == "2017-12-01 TRAINED      41.2 s  train 1 row, test 2,000 rows"
    said = capsys.readouterr().err.splitlines()
    if verbose:
        assert said[:3] == [line, "a detail", "an oddity"]
        assert "prepare: warning: odd" in said
    else:
        assert said == shown
        kept = [json.loads(x)["message"] for x in path.read_text().splitlines()]
        assert kept == [line, "a detail", "an oddity", "prepare: rows", "prepare: warning: odd"]
    assert logging.getLogger("at4ctr").handlers == before
