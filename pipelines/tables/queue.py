"""A queue of training runs: processes, a limited number at a time, each run once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from at4ctr import runs
from pipelines.measure import PREDICTIONS
from pipelines.tables.claims import ASIDE, Claims, Ledger, Orphan, held, identity

THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
KILLED = "killed by signal"  # how the reason of a killed process begins
TICK, LATER = 0.1, 3.0  # seconds between looks at the processes, and at another command's run


@dataclass(frozen=True)
class Job:
    """One run: ``arguments`` of ``pipelines.train``, and the snapshot that they give."""

    label: str
    arguments: Mapping[str, str] = field(hash=False, compare=False)
    snapshot: Mapping[str, Any] = field(hash=False, compare=False)

    @cached_property
    def key(self) -> str:
        return identity(self.snapshot)

    @property
    def recipe(self) -> str:
        return self.arguments["config"]

    def readable(self, folder: Path) -> bool:
        """Whether a finished run has what reports read: trials have no test rows to predict."""
        return "trial" in self.arguments or (folder / PREDICTIONS).exists()

    def command(self) -> list[str]:
        given = [f"--{name}={value}" for name, value in self.arguments.items()]
        return [sys.executable, "-m", "pipelines.train", "--noexport", "--predictions", *given]


@dataclass
class Running:
    job: Job
    process: subprocess.Popen
    log: Path
    began: float
    stopped: str = ""  # why the queue asked it to end


class Queue:
    """Runs jobs in order, ``parallel`` at a time; a failing one does not stop the others.

    Finished runs are reused, and jobs of one identity run once. A run that another command trains
    at the moment is left for later and then reused: a claim, held by the training process, keeps
    two queues from starting the same run. The same command resumes a killed queue, and
    ``pipelines.train`` resumes a killed process from its checkpoint. Processes that a killed queue
    left behind go on, and occupy places until they end.
    """

    def __init__(self, root: Path, dataset: str, parallel: int = 1) -> None:
        self.root, self.parallel = root, parallel
        self.ledger, self.claims = Ledger(root, dataset), Claims(root, dataset)
        self.folders: dict[str, Path] = {}  # identity -> finished run
        self.failures: dict[str, str] = {}  # identity -> why
        self.stopped: dict[str, str] = {}  # identity -> why the queue ended it before its time
        self.total = 0  # jobs to expect
        self._running: list[Running] = []
        self._orphans: list[Orphan] = []
        self._later: dict[str, float] = {}
        self._seconds: dict[str, list[float]] = {}  # recipe -> of its runs

    def has_ended(self, job: Job) -> bool:
        return any(job.key in x for x in (self.folders, self.failures, self.stopped))

    @property
    def _done(self) -> int:
        return len(self.folders) + len(self.failures) + len(self.stopped)

    def run(
        self,
        jobs: Iterable[Job],
        ended: Callable[[], None],
        more: Callable[[], Job | None] = lambda: None,
        stop: Callable[[Job], str] = lambda _: "",
    ) -> None:
        """Runs what is not finished.

        ended: called after every job; ``has_ended`` says which are.
        more: gives another job whenever a place is free and none waits; None where there is none
            now. It is asked again after every job.
        stop: why a running job should be ended before its time, "" where it should go on.
        """
        first: dict[str, Job] = {}
        for job in jobs:
            first.setdefault(job.key, job)
        unique = list(first.values())
        self.total = max(self.total, len(unique))
        self.ledger.refresh()
        for job in unique:
            self._reuse(job)
        waiting = [job for job in unique if not self.has_ended(job)]
        if unique:
            _say(f"{self.total} runs, {len(self.folders)} of them finished before")
        ended()
        (self.root / ASIDE).mkdir(parents=True, exist_ok=True)
        self._find_orphans()
        with _terminable():
            try:
                while self._fill(waiting, more) or self._running:
                    count = self._done
                    self._start(waiting)
                    self._end(stop)
                    self._collect(waiting)
                    if self._done > count:
                        ended()
                    else:
                        time.sleep(TICK)
            finally:
                self._stop()

    def _fill(self, waiting: list[Job], more: Callable[[], Job | None]) -> bool:
        """Asks for jobs for the free places; whether any waits."""
        while len(waiting) + len(self._running) < self.parallel:
            job = more()
            if job is None:
                break
            waiting.append(job)
        self.total = max(self.total, self._done + len(waiting) + len(self._running))
        return bool(waiting)

    def _end(self, stop: Callable[[Job], str]) -> None:
        """Asks the processes of jobs that should be stopped to end; they save where they are."""
        for one in self._running:
            if not one.stopped and (why := stop(one.job)):
                one.stopped = why
                one.process.terminate()

    def _reuse(self, job: Job) -> bool:
        folder = self.ledger.finished(job.key)
        if folder is not None and not job.readable(folder):
            folder = None  # of make train, which keeps no predictions: it is trained again
        if folder is not None:
            self.folders[job.key] = folder
            seconds = json.loads((folder / runs.METRICS).read_text()).get("seconds")
            self._seconds.setdefault(job.recipe, []).extend([seconds] if seconds else [])
        return folder is not None

    def _find_orphans(self) -> None:
        self._orphans = list(self.claims.orphans())
        if self._orphans:
            pids = ", ".join(str(o.pid) for o in self._orphans)
            _say(
                f"{len(self._orphans)} runs of a killed command are still training (processes "
                f"{pids}); each takes up a place until it ends"
            )

    def _start(self, waiting: list[Job]) -> None:
        """Fills the free places with the next jobs that no other command is running."""
        self._orphans = [o for o in self._orphans if held(o.claim)]
        for job in list(waiting):
            if len(self._running) + len(self._orphans) >= self.parallel:
                return
            if time.monotonic() < self._later.get(job.key, 0.0):
                continue
            claim = self.claims.take(job.key)
            self.ledger.refresh()
            if self._reuse(job):
                waiting.remove(job)
                self._report(job, waiting)
            elif claim is None or self.ledger.in_use(job.key):
                self._postpone(job)
            else:
                waiting.remove(job)
                self._spawn(job, claim)
            if claim is not None:
                os.close(claim)  # from here on the process holds it

    def _postpone(self, job: Job) -> None:
        if job.key not in self._later:
            _say(f"{job.label}: another process is training it; waiting for its result")
        self._later[job.key] = time.monotonic() + LATER

    def _spawn(self, job: Job, claim: int) -> None:
        log = self.root / ASIDE / f"{job.key}.log"
        with log.open("w") as said:
            process = subprocess.Popen(
                job.command(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=os.environ | shares(self.parallel),
                pass_fds=(claim,),
                start_new_session=True,  # Ctrl-C reaches this process, which stops the others
            )
        self.claims.sign(claim, process.pid, job.label)
        self._running.append(Running(job, process, log, time.monotonic()))
        _say(f"{job.label}: started ({log})")

    def _collect(self, waiting: list[Job]) -> None:
        for one in [r for r in self._running if r.process.poll() is not None]:
            self._running.remove(one)
            self.ledger.refresh()
            if self._reuse(one.job):  # finished, whatever happened to the process then
                if one.process.returncode == 0:
                    one.log.unlink(missing_ok=True)  # train.log in the run's folder has it all
            elif one.stopped:
                self.stopped[one.job.key] = one.stopped
                one.log.unlink(missing_ok=True)
            elif self.ledger.in_use(one.job.key):  # another process was quicker
                waiting.insert(0, one.job)
                self._postpone(one.job)
                continue
            else:
                self.failures[one.job.key] = f"{_reason(one)} ({one.log})"
            self._report(one.job, waiting)

    def _report(self, job: Job, waiting: Sequence[Job]) -> None:
        """One line: how many are done, what this one gave, and how long the rest will take.

        Of validation alone: nobody who watches a queue should choose by the test split.
        """
        line = f"{self._done}/{self.total} runs  {job.label}: "
        if job.key in self.failures:
            line += f"FAILED: {self.failures[job.key]}"
        elif job.key in self.stopped:
            line += self.stopped[job.key]
        else:
            metrics = json.loads((self.folders[job.key] / runs.METRICS).read_text())
            validation = metrics.get("validation")
            line += f"validation AUC {validation['auc']:.4f}, " if validation else ""
            line += f"{metrics.get('seconds', 0):.0f} s"
        left = self._left(waiting)
        _say(line + (f"  about {left / 60:.0f} min left" if left is not None else ""))

    def _left(self, waiting: Sequence[Job]) -> float | None:
        """Expected seconds: a recipe's own mean, and that of all for those not yet seen."""
        known = [s for seconds in self._seconds.values() for s in seconds]
        if not known:
            return None
        mean = sum(known) / len(known)
        now, left = time.monotonic(), 0.0
        passed = {r.job.key: now - r.began for r in self._running}
        for job in [*waiting, *(r.job for r in self._running)]:
            own = self._seconds.get(job.recipe)
            left += max((sum(own) / len(own) if own else mean) - passed.get(job.key, 0.0), 0.0)
        unasked = self.total - self._done - len(waiting) - len(self._running)
        return (left + mean * max(unasked, 0)) / self.parallel

    def _stop(self) -> None:
        """Ends the processes that are still running; their checkpoints stay."""
        for one in self._running:
            one.process.terminate()
        for one in self._running:
            try:
                one.process.wait(10)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
        self._running.clear()


def shares(parallel: int) -> dict[str, str]:
    """Environment that gives each of several processes its share of the cores.

    The user's own settings stand. TensorFlow heeds the first two; the third is for libraries that
    use OpenMP (its own CPU build does not).
    """
    if parallel == 1:
        return {}
    share = max(1, len(os.sched_getaffinity(0)) // parallel)
    return {name: str(share) for name in THREADS if name not in os.environ}


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM ends the command as Ctrl-C does."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    kept = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _reason(one: Running) -> str:
    """Why a process left no run: its last error line, else its last line."""
    code = one.process.returncode
    if code < 0:
        memory = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"{KILLED} {-code}{memory}; run the same command to go on"
    if code == 0:
        return "finished another experiment than was asked for (did the raw log change?)"
    lines = [line.strip() for line in one.log.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"ended with status {code}"])[-1]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
