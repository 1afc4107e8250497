"""SIGTERM and Ctrl-C: at once, after a training's step, or while the main thread is blocked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from at4ctr import stopping
from at4ctr.data.store import Store
from tests.conftest import slow
from tests.data import toy_store
from tests.model import job

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 300


def run(body: str) -> tuple[int, str]:
    """Exit status and standard error of a process that sends itself SIGTERM."""
    code = f"import os, signal, sys, time\nfrom at4ctr import stopping\n{body}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stderr


def test_outside_of_a_training_it_is_raised_at_once():
    status, said = run(
        "try:\n"
        "  with stopping.on_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(3600)\n"
        "except stopping.Stopped as stopped:\n"
        "  print(stopped, file=sys.stderr)\n"
        "  sys.exit(stopping.STATUS)\n"
    )
    assert (status, said) == (
        143,
        "stopped by SIGTERM: run the same command again to continue\n",
    )


def test_a_training_goes_on_to_its_end_where_it_never_asks():
    status, said = run(
        "try:\n"
        "  with stopping.on_signals(), stopping.deferred():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert stopping.wanted()\n"
        "    print('went on', file=sys.stderr)\n"
        "except stopping.Stopped:\n"
        "  sys.exit(stopping.STATUS)\n"
    )
    assert (status, said) == (143, "went on\n")


def test_a_main_thread_that_is_blocked_is_ended():
    """In a lock of C, which no signal interrupts, as in a collective of TensorFlow."""
    status, said = run(
        "import ctypes, threading\n"
        "stopping.GRACE_SECONDS = 0.05\n"
        "lock, c = ctypes.create_string_buffer(64), ctypes.CDLL(None)\n"
        "with stopping.on_signals(), stopping.deferred():\n"
        "  c.pthread_mutex_lock(lock)\n"
        "  threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "  c.pthread_mutex_lock(lock)\n"
    )
    assert status == 143
    assert said == (
        "stopped by SIGTERM while it was busy, without a new checkpoint: run the same command "
        "again to continue\n"
    )


def test_a_handler_that_another_library_installs_is_replaced():
    status, _ = run(
        "import ctypes\n"
        "with stopping.on_signals():\n"
        "  try:\n"
        "    ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(1))  # ignores it\n"
        "    while True:\n"
        "      os.kill(os.getpid(), signal.SIGTERM)\n"
        "      time.sleep(0.05)\n"
        "  except stopping.Stopped:\n"
        "    sys.exit(5)\n"
    )
    assert status == 5


def test_a_stop_that_has_begun_is_not_cut_short():
    status, _ = run(
        "stopping.GRACE_SECONDS = 0.05\n"
        "with stopping.on_signals():\n"
        "  try:\n"
        "    with stopping.deferred():\n"
        "      os.kill(os.getpid(), signal.SIGTERM)\n"
        "      stopping.act()\n"
        "      time.sleep(0.5)\n"
        "  except stopping.Stopped:\n"
        "    pass\n"
        "sys.exit(5)\n"
    )
    assert status == 5


def test_the_handler_that_was_there_comes_back():
    numbers = (signal.SIGTERM, signal.SIGINT)
    kept = [signal.getsignal(n) for n in numbers]
    with stopping.on_signals():
        assert not {signal.getsignal(n) for n in numbers} & {*kept}
    assert [signal.getsignal(n) for n in numbers] == kept


def test_one_interrupt_waits_for_the_step_and_a_second_one_does_not():
    status, said = run(
        "try:\n"
        "  with stopping.on_signals(), stopping.deferred():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    assert stopping.wanted()\n"
        "    print('went on', file=sys.stderr, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(3600)\n"
        "except KeyboardInterrupt:\n"
        "  sys.exit(5)\n"
    )
    assert (status, said) == (5, f"{stopping.SECOND.decode()}went on\n")


def test_an_interrupt_outside_of_a_training_stops_at_once():
    status, said = run(
        "from pipelines.main import main\n"
        "def body():\n"
        "  with stopping.on_signals():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(3600)\n"
        "main(body)\n"
    )
    assert status == 130
    assert said.splitlines()[-1] == "interrupted: run the same command again to continue"


def test_a_second_interrupt_ends_a_main_thread_that_is_blocked():
    status, said = run(
        "import ctypes, threading\n"
        "stopping.SECOND_SECONDS = 0.05\n"
        "lock, c = ctypes.create_string_buffer(64), ctypes.CDLL(None)\n"
        "with stopping.on_signals(), stopping.deferred():\n"
        "  c.pthread_mutex_lock(lock)\n"
        "  for after in (0.2, 0.5):\n"
        "    threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "  c.pthread_mutex_lock(lock)\n"
    )
    assert status == 130
    assert said == (
        "interrupted while it was busy, without a new checkpoint: run the same command again to "
        "continue\n"
    )


def test_an_interrupt_that_is_ignored_stays_ignored():
    """As in a shell's job in the background."""
    status, said = run(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with stopping.on_signals():\n"
        "  os.kill(os.getpid(), signal.SIGINT)\n"
        "assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN\n"
    )
    assert (status, said) == (0, "")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    path = tmp_path_factory.mktemp("store") / "toy"
    toy_store.make(path, users=60)
    return Store.open(path)


@pytest.mark.parametrize(
    ("number", "says"),
    [(signal.SIGTERM, "stopped by SIGTERM"), (signal.SIGINT, "interrupted")],
)
def test_a_training_stops_after_its_step_and_goes_on_to_the_same_bits(
    store, tmp_path, number, says
):
    whole = job.trainer(store, tmp_path / "whole", auxiliaries={})
    whole.train()
    made = job.trainer(store, tmp_path / "run", auxiliaries={})
    step = made._step

    def asked(batch):
        if made.cursor.step == 4:
            os.kill(os.getpid(), number)
        return step(batch)

    made._step = asked
    with (
        stopping.on_signals(),
        pytest.raises(stopping.Stopped, match=f"^{says} after step 5, whose checkpoint is saved"),
        stopping.deferred(),
    ):
        made.train()
    assert (tmp_path / "run" / "checkpoints" / "step-000000005").is_dir()
    again = job.trainer(store, tmp_path / "run", auxiliaries={})
    again.train()
    assert job.fingerprint(again) == job.fingerprint(whole)


@pytest.mark.parametrize("when", [pytest.param("before", marks=slow), "within"])
def test_a_stop_around_an_evaluation_repeats_it(store, tmp_path, when):
    """At the end of the first epoch, or at the step that an evaluation follows."""
    fit = replace(job.FIT, evaluations=2)
    named: dict[str, Any] = {"auxiliaries": {}, "config": fit, "validate": "store"}
    whole = job.trainer(store, tmp_path / "whole", **named)
    whole.train()
    made = job.trainer(store, tmp_path / "run", **named)
    step, calls = made._step, []
    validate: Any = made.validate

    def stepped(batch):
        if when == "before" and made.cursor.step == middle - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch)

    def validated():
        calls.append(made.cursor.step)
        if when == "within" and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate()

    middle = -(-made.feed.steps(0) // 2)
    made._step, made.validate = stepped, validated
    with (
        stopping.on_signals(),
        pytest.raises(stopping.Stopped, match="whose checkpoint is saved"),
        stopping.deferred(),
    ):
        made.train()
    assert made.cursor.due
    assert calls == ([] if when == "before" else [middle, made.feed.steps(0)])
    again = job.trainer(store, tmp_path / "run", **named)
    again.train()
    assert job.fingerprint(again) == job.fingerprint(whole)


def test_an_error_after_sigterm_keeps_its_own_sentence():
    status, said = run(
        "try:\n"
        "    with stopping.on_signals(), stopping.deferred():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        raise RuntimeError('the disk is full')\n"
        "except BaseException as error:\n"
        "    print(repr(error.__context__ or error), file=sys.stderr)\n"
        "    sys.exit(2)\n"
    )
    assert status == 2
    assert "the disk is full" in said
