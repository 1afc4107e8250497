"""The schedules' own shell words: what they hand to the job, on every day of the week."""

import ast
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from datetime import date, timedelta
from pathlib import Path

import pytest

from pipelines import nightly

FOLDER = Path(nightly.__file__).parent / "schedule"
MONDAY = date(2017, 12, 4)
PYTHON = """#!/bin/bash
trap 'echo stopped >> {root}/calls; kill $!; exit 75' TERM
echo "$@" >> {root}/calls
case $* in *" gc"*) exit 0 ;; esac
if [ "$HANG" ]; then sleep 60 & wait $!; fi
exit ${{CODE:-0}}
"""


def crontab(number, hour=3):
    """What cron runs at an hour of a day, 1 for Monday: the lines whose weekdays hold it."""
    found = []
    for line in (FOLDER / "crontab").read_text().splitlines():
        if line.startswith(f"0 {hour} "):
            days, command = line.split(maxsplit=5)[4:]
            ranges = (d.split("-") for d in days.split(","))
            if any(int(r[0]) <= number % 7 <= int(r[-1]) for r in ranges):
                found.append(command.replace("\\%", "%"))
    (command,) = found
    return command


def service(number):
    """systemd runs ExecStartPost where ExecStart ended well, and nothing else counts as well."""
    del number
    lines = (FOLDER / "at4ctr-nightly.service").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line[:1].isalpha() and "=" in line)
    assert "SuccessExitStatus" not in values
    words = (values[key].replace("%%", "%").replace("$$", "$")
             for key in ("ExecStart", "ExecStartPost"))  # fmt: skip
    return " && ".join(f"({shlex.split(line)[2]})" for line in words)


def cronjob(number):
    del number
    _, _, text = (FOLDER / "cronjob.yaml").read_text().partition("- |\n")
    lines, _, _ = text.partition("volumeMounts:")
    return "\n".join(line.strip() for line in lines.splitlines())


@pytest.fixture
def place(tmp_path):
    """A folder whose ``python`` notes its words, and a ``date`` for the day that is asked."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text(PYTHON.format(root=tmp_path))
    python.chmod(0o755)
    return tmp_path


def ran(place, command, **given):
    """The process of a shell line."""
    path = f"{place}/.venv/bin:{os.environ['PATH']}"
    return subprocess.Popen(
        ["/bin/bash", "-c", command],
        cwd=place,
        stderr=subprocess.DEVNULL,
        env={"PATH": path, "AT4CTR": str(place), **given},
    )


def calls(place):
    """The words of each call of python so far, and that it was stopped."""
    return [line.split() for line in (place / "calls").read_text().splitlines()]


@pytest.mark.parametrize("schedule", [crontab, service, cronjob])
@pytest.mark.parametrize("number", range(1, 8))
def test_a_schedule_asks_for_yesterday_and_on_mondays_for_a_cold_start(schedule, number, place):
    today = MONDAY + timedelta(number - 1)
    clock = place / ".venv/bin/date"
    clock.write_text(f"""#!/bin/bash
[ "$1" = -d ] && [ "$2" = yesterday ] && shift 2 && set -- -d "{today - timedelta(1)}" "$@"
[ "$1" = -d ] || set -- -d "{today}" "$@"
exec {shutil.which("date")} "$@"
""")
    clock.chmod(0o755)
    assert ran(place, schedule(number)).wait() == 0
    words, gc = calls(place)
    assert words[:2] == gc[:2] == ["-m", "pipelines.nightly"]
    assert gc[2:] in (["gc"], ["gc", "--json"])
    flags = nightly.flag_values()
    assert flags(words[1:])[1:] == []  # no word beside the flags, which are all known
    assert flags.date == str(today - timedelta(1))
    assert flags.cold_start == (number == 1)
    assert flags.wait_minutes == 120


@pytest.mark.parametrize("schedule", [crontab, lambda number: crontab(number, 7), service, cronjob])
@pytest.mark.parametrize("code", [10, 12, 75])
def test_gc_follows_a_night_that_ended_with_0_alone_and_no_code_is_lost(schedule, code, place):
    assert ran(place, schedule(2), CODE=str(code)).wait() == code
    assert len(calls(place)) == 1
    assert "gc" not in calls(place)[0]


def test_the_pods_shell_hands_sigterm_on_and_waits(place):
    shell = ran(place, cronjob(2), HANG="1")
    while not ((place / "calls").is_file() and catches(shell.pid, signal.SIGTERM)):
        assert shell.poll() is None
        time.sleep(0.01)
    shell.send_signal(signal.SIGTERM)
    assert shell.wait(1800) == 75
    assert calls(place)[1:] == [["stopped"]]


def catches(pid, number):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = (line.split()[1] for line in lines if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_crons_watchdog_stops_a_night_that_hangs_before_the_next_line(place):
    command = crontab(2)
    assert "timeout -k 60 225m " in command
    assert ran(place, command.replace("225m", "1"), HANG="1").wait(1800) == 124
    assert " gc" not in (place / "calls").read_text()


def test_systemd_takes_the_units(tmp_path):
    """Of this system's version, as what another one does not know is no error but a warning."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    for unit in FOLDER.glob("at4ctr-nightly.*"):
        shutil.copy(unit, tmp_path)
    units = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True,
                          check=False)  # fmt: skip
    said = [line for line in done.stderr.splitlines()
            if str(tmp_path) in line or "at4ctr" in line]  # fmt: skip
    unknown = "Unknown key 'RestartMode'"  # before 254
    assert [line for line in said if unknown not in line] == []


def test_every_schedule_has_a_watchdog():
    """Longer than the waiting, shorter than a day."""
    unit = dict(line.split("=", 1) for line in (FOLDER / "at4ctr-nightly.service").read_text()
                .splitlines() if line.count("=") == 1 and line[0].isalpha())  # fmt: skip
    assert unit["TimeoutStartSec"] == "5h"
    assert unit["OnFailure"].endswith(".service")
    pod = (FOLDER / "cronjob.yaml").read_text()
    (seconds,) = (int(line.split()[1]) for line in pod.splitlines()
                  if "activeDeadlineSeconds" in line)  # fmt: skip
    assert 2 * 3600 < seconds < 86_400


def test_the_dag_runs_gc_after_its_night_and_limits_both():
    tree = ast.parse((FOLDER / "airflow_dag.py").read_text())
    tasks = {}
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        if getattr(call.func, "id", "") == "BashOperator":
            given = {k.arg: ast.unparse(k.value) for k in call.keywords}
            tasks[ast.literal_eval(given["task_id"])] = given
    assert {*tasks} == {"night", "gc"}
    assert all("timedelta(" in t["execution_timeout"] for t in tasks.values())
    assert json.dumps(ast.literal_eval(tasks["gc"]["bash_command"])).count(" gc ") == 1
    (after,) = (n for n in ast.walk(tree) if isinstance(n, ast.BinOp))
    assert isinstance(after.op, ast.RShift)
    assert ast.unparse(after.left) == "night"
