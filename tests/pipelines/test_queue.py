"""The queue on runs that take no time: order, reuse, failures, claims; real processes."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from at4ctr import runs
from pipelines.tables.claims import ASIDE, Claims, Ledger, held, identity
from pipelines.tables.queue import THREADS, Job, Queue, shares

RUN = """
import fcntl, json, os, pathlib, signal, sys, time
folder = pathlib.Path("runs") / sys.argv[1] / (str(time.time_ns()) + "Z")
folder.mkdir(parents=True)
(folder / "config.json").write_text(sys.argv[2])
with (folder / ".lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with open("order", "a") as order:
        print(sys.argv[3], file=order)
    gate = pathlib.Path("gate")
    while gate.exists():
        time.sleep(0.01)
    if "fails" in sys.argv[3]:
        sys.exit("error: no luck")
    if "dies" in sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
    if "another" in sys.argv[3]:
        (folder / "config.json").write_text("{}")
    metrics = {"auc": 0.5, "validation": {"auc": 0.75}, "seconds": 60.0}
    (folder / "predictions.parquet").touch()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if "late" in sys.argv[3]:
        sys.exit("error: after the end")
"""


@dataclass(frozen=True)
class Quick(Job):
    """A run as the queue sees one: it makes its folder, holds its lock, leaves metrics."""

    def command(self) -> list[str]:
        snapshot = json.dumps(self.snapshot)
        return [sys.executable, "-c", RUN, f"toy-{self.recipe}", snapshot, self.label]


def job(label: str, number: int = 0, raw: str = "") -> Quick:
    experiment = {"data": {"raw": raw, "history": 5}, "seed": number, "label": label}
    return Quick(label, {"config": "din"}, {"store": "abc", "experiment": experiment, "recipe": ""})


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipelines.tables.queue.LATER", 0.05)
    return tmp_path


def run(jobs, parallel=1) -> Queue:
    queue = Queue(Path("runs"), "toy", parallel)
    queue.run(jobs, lambda: None)
    return queue


def order() -> list[str]:
    return Path("order").read_text().split("\n")[:-1]


@pytest.mark.usefixtures("place")
def test_in_order_and_reused():
    jobs = [job(name) for name in "bac"]
    assert len(run(jobs).folders) == 3
    assert order() == ["b", "a", "c"]
    again = run([*jobs, job("new")])
    assert order() == ["b", "a", "c", "new"]
    assert len(again.folders) == 4


def test_a_run_without_predictions_is_trained_again_but_a_trial_has_none(place):
    one = job("a")
    (folder,) = run([one]).folders.values()
    (place / folder / "predictions.parquet").unlink()
    trial = dataclasses.replace(one, arguments={**one.arguments, "trial": "runs"})
    assert run([trial]).folders == {one.key: folder}
    assert order() == ["a"]
    run([one])
    assert order() == ["a", "a"]


@pytest.mark.usefixtures("place")
def test_the_same_snapshot_is_run_once_whatever_its_log_is_called():
    run([job("a"), job("b"), job("a", raw="elsewhere"), job("a", 1)], parallel=3)
    assert sorted(order()) == ["a", "a", "b"]


@pytest.mark.usefixtures("place")
def test_a_failing_run_stops_nobody_and_is_tried_again(capfd):
    jobs = [job("fails"), job("works")]
    queue = run(jobs)
    assert order() == ["fails", "works"]
    assert set(queue.folders) == {jobs[1].key}
    assert queue.failures[jobs[0].key].startswith("no luck (")
    assert "1/2 runs  fails: FAILED: no luck" in capfd.readouterr().err
    run(jobs)
    assert order() == ["fails", "works", "fails"]


@pytest.mark.usefixtures("place")
def test_the_queue_tells_validation_alone_and_the_time_left(capfd):
    run([job("a"), job("b"), job("c")])
    lines = [x for x in capfd.readouterr().err.splitlines() if "/3 runs " in x]
    assert lines == [
        "1/3 runs  a: validation AUC 0.7500, 60 s  about 2 min left",
        "2/3 runs  b: validation AUC 0.7500, 60 s  about 1 min left",
        "3/3 runs  c: validation AUC 0.7500, 60 s  about 0 min left",
    ]


@pytest.mark.usefixtures("place")
def test_what_a_run_finished_elsewhere_leaves_to_do_is_told(capfd):
    """Another command finishes b while this queue, started before, comes to it."""
    jobs = [job("a"), job("b"), job("c")]

    def ended() -> None:
        if len(order()) == 1:
            subprocess.run(jobs[1].command(), check=True)

    Path("order").touch()
    Queue(Path("runs"), "toy").run(jobs, ended)
    assert order() == ["a", "b", "c"]
    assert "b: validation AUC 0.7500, 60 s  about 1 min left" in capfd.readouterr().err


@pytest.mark.usefixtures("place")
def test_a_killed_run_says_by_what_and_stops_nobody():
    jobs = [job("dies"), job("works")]
    queue = run(jobs)
    assert queue.failures[jobs[0].key].startswith(
        "killed by signal 9 (out of memory?); run the same command to go on ("
    )
    assert set(queue.folders) == {jobs[1].key}


@pytest.mark.usefixtures("place")
def test_a_run_of_another_experiment_is_none_of_this_one():
    one = job("another")
    assert "did the raw log change?" in run([one]).failures[one.key]


@pytest.mark.usefixtures("place")
def test_a_finished_run_counts_whatever_became_of_its_process():
    one = job("late")
    queue = run([one])
    assert not queue.failures
    assert set(queue.folders) == {one.key}


def test_the_newest_finished_run_is_used(place):
    one = job("a")
    names = ["20260102T000000-10Z", "20260102T000000-2Z", "20260102T000000Z", "20260101T000000Z"]
    for recipe, name in zip("abzz", names, strict=True):
        folder = place / "runs" / f"toy-{recipe}" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(one.snapshot))
        (folder / "metrics.json").write_text("{}")
    ledger = Ledger(Path("runs"), "toy")
    ledger.refresh()
    found = ledger.finished(one.key)
    assert found is not None
    assert found.name == names[0]


def test_looking_for_a_lock_makes_no_file_and_holds_up_no_run(place):
    """Lookers do not see one another; who wants the folder waits until they have looked."""
    lock = place / ".lock"
    assert not held(lock)
    assert not lock.exists()
    lock.touch()
    with lock.open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        assert not held(lock)
        threading.Timer(0.2, fcntl.flock, (looker, fcntl.LOCK_UN)).start()
        with runs.locked(place):
            assert held(lock)
    assert not held(lock)


@pytest.mark.usefixtures("place")
def test_every_job_ends_with_a_call():
    queue, counts = Queue(Path("runs"), "toy"), []
    queue.run([job("a"), job("fails")], lambda: counts.append(len(queue.folders)))
    assert counts == [0, 1, 1]


def test_two_queues_do_not_train_the_same_run_twice(place):
    jobs = [job(name) for name in "abcd"]
    (place / "gate").touch()
    queues = [Queue(Path("runs"), "toy", 2), Queue(Path("runs"), "toy", 2)]
    first = subprocess.Popen([sys.executable, "-c", BESIDE], env=os.environ | path())
    try:
        while not (place / "order").exists() or len(order()) < 2:
            assert first.poll() is None
        opener = threading.Timer(0.3, (place / "gate").unlink)
        opener.start()
        queues[0].run(jobs, lambda: None)
    finally:
        assert first.wait(1800) == 0
    assert sorted(order()) == list("abcd")
    assert len(queues[0].folders) == 4


BESIDE = """
from pathlib import Path
from pipelines.tables.queue import Queue
from tests.pipelines.test_queue import job
queue = Queue(Path("runs"), "toy", 2)
queue.run([job(name) for name in "abcd"], lambda: None)
assert len(queue.folders) == 4
"""


def path() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def test_orphans_keep_claim_and_place_and_their_results_are_used(place, capfd):
    """The queue was killed hard: its runs go on, and the next queue waits for them."""
    (place / "gate").touch()
    first = subprocess.Popen([sys.executable, "-c", BESIDE], env=os.environ | path())
    while not (place / "order").exists() or len(order()) < 2:
        assert first.poll() is None
    assert not list(Claims(Path("runs"), "toy").orphans())
    first.kill()
    first.wait()
    orphans = list(Claims(Path("runs"), "toy").orphans())
    assert sorted(o.label for o in orphans) == sorted(order())
    assert not list(Claims(Path("runs"), "other").orphans())
    begun: list[str] = []

    def opened() -> None:
        begun.extend(order())
        (place / "gate").unlink()

    threading.Timer(1.0, opened).start()
    assert len(run([job(name) for name in "abcd"], parallel=2).folders) == 4
    assert sorted(begun) == ["a", "b"]  # c and d had no place
    assert sorted(order()) == list("abcd")
    pids = ", ".join(str(o.pid) for o in orphans)
    assert f"2 runs of a killed command are still training (processes {pids})" \
        in capfd.readouterr().err  # fmt: skip


def test_a_run_of_another_command_is_waited_for(place):
    """A plain training process has no claim, only the lock of its run's folder."""
    (place / "gate").touch()
    one = job("a")
    other = subprocess.Popen(one.command())
    while not (place / "order").exists():
        assert other.poll() is None
    threading.Timer(0.3, (place / "gate").unlink).start()
    queue = run([one])
    assert other.wait(1800) == 0
    assert order() == ["a"]
    assert len(queue.folders) == 1


def test_a_finished_run_leaves_no_log_and_a_failed_one_does(place):
    jobs = [job("a"), job("fails")]
    run(jobs)
    left = {p.stem for p in (place / "runs" / ASIDE).glob("*.log")}
    assert left == {jobs[1].key}


def test_shares_of_the_cores(monkeypatch):
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert shares(1) == {}
    assert set(shares(3).values()) == {"2"}
    assert set(shares(99).values()) == {"1"}
    monkeypatch.setenv(THREADS[0], "5")
    assert THREADS[0] not in shares(2)


def test_identity_is_of_what_matters():
    base = {"store": "s", "recipe": "a", "experiment": {"data": {"raw": "x", "history": 5}}}
    other = {"store": "s", "recipe": "b", "experiment": {"data": {"raw": "y", "history": 5}}}
    changed = {"store": "s", "recipe": "a", "experiment": {"data": {"raw": "x", "history": 6}}}
    assert identity(base) == identity(other) != identity(changed)
    assert identity(base | {"store": "t"}) != identity(base)
    data = {"raw": "x", "history": 5}
    quantised = {**base, "experiment": {"data": data, "export": {"quantize": "int8"}}}
    assert identity(quantised) == identity(base)  # its weights are the same


def test_identity_is_that_of_runs_from_before_the_curve_had_points():
    before = {"store": "s", "experiment": {"data": {"raw": "x"}, "fit": {"epochs": 1}}}
    now = {"store": "s", "experiment": {"data": {"raw": "x"},
                                        "fit": {"epochs": 1, "curve_points": 5}}}  # fmt: skip
    longer = {"store": "s", "experiment": {"data": {"raw": "x"},
                                           "fit": {"epochs": 2, "curve_points": 5}}}  # fmt: skip
    assert identity(before) == identity(now) != identity(longer)
