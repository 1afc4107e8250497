"""Run folders: taken up, never shared, and the latest is pointed to."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from at4ctr import runs
from at4ctr.durable import write_json
from at4ctr.errors import InputError

A, B = (
    {"experiment": {"seed": 1}, "units": [200, 80]},
    {"experiment": {"seed": 2}, "units": [200, 80]},
)


def finish(path: Path) -> None:
    write_json(path / runs.METRICS, {"auc": 0.5})


def test_an_unfinished_run_of_the_same_snapshot_is_taken_up(tmp_path):
    first = runs.open_run(tmp_path, "taobao-din", A)
    assert json.loads((first / runs.SNAPSHOT).read_text()) == A
    assert first.parent == tmp_path / "taobao-din"
    assert runs.open_run(tmp_path, "taobao-din", dict(reversed(A.items()))) == first


def test_another_experiment_or_a_finished_run_is_not(tmp_path):
    first = runs.open_run(tmp_path, "taobao-din", A)
    second = runs.open_run(tmp_path, "taobao-din", B)
    other = runs.open_run(tmp_path, "taobao-widedeep", A)
    assert len({first, second, other}) == 3
    assert runs.open_run(tmp_path, "taobao-din", A) == first
    finish(first)
    again = runs.open_run(tmp_path, "taobao-din", A)
    assert again not in (first, second)
    assert (first / runs.METRICS).exists()
    assert not (again / runs.METRICS).exists()


@pytest.mark.parametrize("content", ['{"experiment"', "", "[1]"])
def test_a_broken_snapshot_is_left_alone(tmp_path, content):
    first = runs.open_run(tmp_path, "x", A)
    (first / runs.SNAPSHOT).write_text(content)
    assert runs.open_run(tmp_path, "x", A) != first
    assert (first / runs.SNAPSHOT).read_text() == content


HOLD = """
import sys, pathlib
from at4ctr import runs
with runs.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    folder = runs.open_run(tmp_path, "x", A)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="in use by another process"), runs.locked(folder):
            pass
        holder.kill()
        holder.wait()
    with runs.locked(folder):
        pass
    with runs.locked(folder):
        pass


def test_latest_points_to_the_last_one_finished(tmp_path):
    for snapshot in (A, B):
        path = runs.open_run(tmp_path, "x", snapshot)
        runs.point_latest(tmp_path, path)
        assert (tmp_path / "latest").resolve() == path.resolve()
    assert not (tmp_path / "latest").readlink().is_absolute()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "x"]


def test_log_lines_are_appended_to_the_file(tmp_path):
    path = tmp_path / "train.log"
    before = list(logging.getLogger("at4ctr").handlers)  # pytest's own, while a caplog is in use
    for word in ("one", "two"):
        with runs.logging_to(path):
            logging.getLogger("at4ctr.somewhere").info("%s", word)
    logging.getLogger("at4ctr.somewhere").warning("outside")
    lines = path.read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["one", "two"]
    assert logging.getLogger("at4ctr").handlers == before


def test_a_page_that_was_written_does_not_mark_the_commit(tmp_path, monkeypatch):
    def git(*words):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *name, *words], cwd=tmp_path, check=True, capture_output=True)

    files = [tmp_path / name for name in ("at4ctr/runs.py", "docs/results/table.md")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("1")
    git("init", "-q")
    monkeypatch.setattr(runs, "__file__", str(files[0]))
    git("add", ".")
    git("commit", "-qm", "first")
    clean = runs.commit()
    assert len(clean) == 12
    files[1].write_text("2")
    assert runs.commit() == clean
    files[0].write_text("2")
    assert runs.commit() == f"{clean}+"
