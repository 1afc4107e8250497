"""A study: trials of one recipe within search spaces, each a process, judged on validation.

A trial is a process of ``pipelines.train --trial``, so that it can be ended at any time, its memory
is freed, and several may run side by side. The parent follows the curve that the process writes
(`fit.VALIDATION`), and ends with SIGTERM what the pruner gives up. Optuna's storage is an SQLite
file. A trial that was running when everything was killed is still RUNNING there, and is taken up.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, Trial, TrialState

from at4ctr import runs
from at4ctr.errors import InputError
from at4ctr.fit import VALIDATION, WATCHED
from pipelines.tables.claims import Ledger
from pipelines.tables.jobs import Workshop
from pipelines.tables.queue import KILLED, Job, Queue
from pipelines.tuning import space as spaces_of
from pipelines.tuning.space import Space

STORAGE = "study.db"
STARTUP = 10  # random trials before TPE models them; of a short study a third
REDUCTION = 3  # the best third at each rung goes on
HOPELESS = 3  # so many failures and nothing else end a study
RETRIED = "retried"  # numbers of failed trials that had another attempt


def sign_of(watch: str) -> int:
    """1 where a higher value of a watched metric is better, -1 where a lower one is."""
    return WATCHED[watch.rpartition(".")[2]]


def curve(folder: Path) -> list[float]:
    """The watched metric at each evaluation of a run; [] before the first one."""
    try:
        values = json.loads((folder / VALIDATION).read_text())["values"]
    except (OSError, ValueError):
        return []
    return [float(value) for _, value in values]


def best_of(folder: Path, sign: int) -> float | None:
    """The best watched value of a run; None where it was never defined."""
    values = curve(folder)
    return sign * max(sign * v for v in values) if values else None


@dataclass
class Study:
    """Trials of a recipe.

    folder: where the storage and ``trials/`` lie. fixed: overrides of every trial. watch: the
    validation metric that is optimised, as `fit.Fit.watch`. trials: how many are started, failed
    and pruned ones included. own: the recipe's own values, which the first trial has. more_time:
    whether another trial may start, given the mean seconds of a trial so far (None before the first
    one has ended).

    The sampler is TPE, with a seed made of the trial's number, so that a killed study draws the
    same values when it goes on. The pruner is asynchronous successive halving (Li et al. 2020,
    ASHA): with the evaluations 1, 3, 9, … as rungs, a trial goes on where its value is among the
    best third of the trials that reached the rung. It decides from the second trial on.
    """

    name: str
    folder: Path
    recipe: str
    spaces: Sequence[Space]
    workshop: Workshop
    watch: str
    trials: int
    fixed: Sequence[str] = ()
    own: Mapping[str, Any] | None = None
    parallel: int = 1
    more_time: Callable[[float | None], bool] = lambda _: True
    _active: dict[str, list[Trial]] = field(default_factory=dict)  # identity -> its trials
    _jobs: dict[str, Job] = field(default_factory=dict)
    _evaluations: dict[str, int] = field(default_factory=dict)  # identity -> those reported

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        self.sign = sign_of(self.watch)
        self.optuna = optuna.create_study(
            study_name="study",
            storage=f"sqlite:///{self.folder / STORAGE}",
            direction="maximize" if self.sign > 0 else "minimize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=1, reduction_factor=REDUCTION
            ),
            load_if_exists=True,
        )
        if self.own is not None and not self.optuna.get_trials(deepcopy=False):
            self.optuna.enqueue_trial(dict(self.own))
        self._retry()
        self._unfinished = self._of(TrialState.RUNNING)
        self.ledger = Ledger(self._root, self.workshop.dataset)

    @property
    def _root(self) -> Path:
        assert self.workshop.trials is not None
        return self.workshop.trials

    def _of(self, *states: TrialState) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=states)

    @property
    def ended(self) -> list[FrozenTrial]:
        """Trials that are over and were not replaced by another attempt at them."""
        found = self._of(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        retried = self.optuna.user_attrs.get(RETRIED, [])
        return [t for t in found if t.number not in retried]

    @property
    def best(self) -> FrozenTrial | None:
        """The finished trial of the best value; the first of equals, None where none finished."""
        found = [(self.sign * t.value, t) for t in self._of(TrialState.COMPLETE)
                 if t.value is not None]  # fmt: skip
        return max(found, key=lambda pair: pair[0])[1] if found else None

    @property
    def seconds(self) -> float | None:
        """Mean seconds of a finished trial."""
        found = [t.user_attrs["seconds"] for t in self._of(TrialState.COMPLETE)
                 if "seconds" in t.user_attrs]  # fmt: skip
        return sum(found) / len(found) if found else None

    def overrides(self, trial: FrozenTrial | Trial) -> tuple[str, ...]:
        """What a trial sets, the seed not included."""
        return (*self.fixed, *spaces_of.assignments(self.spaces, trial.params))

    def _retry(self) -> None:
        """Gives another attempt to trials whose process was killed from outside, and to all that
        failed where no trial did anything else."""
        ended = self.ended
        failed = [t for t in ended if t.state == TrialState.FAIL]
        for trial in failed:
            why = trial.user_attrs.get("why", "")
            if why.startswith(KILLED) or len(failed) == len(ended):
                self.optuna.enqueue_trial(trial.params)
                retried = self.optuna.user_attrs.get(RETRIED, [])
                self.optuna.set_user_attr(RETRIED, [*retried, trial.number])

    def run(self) -> None:
        """Runs what is left of the trials; InputError where none can run."""
        queue = Queue(self._root, self.workshop.dataset, self.parallel)
        queue.total = max(self.trials - len(self.ended), 0)
        queue.run((), lambda: None, lambda: self._next(queue), self._verdict)
        self._settle(queue)
        failed = self._of(TrialState.FAIL)
        if not self.best and failed:
            raise InputError(
                f"no trial of {self.name} finished; the last one says: "
                f"{failed[-1].user_attrs.get('why', 'nothing')}"
            )

    def _next(self, queue: Queue) -> Job | None:
        """The job of the next trial; None where none may start."""
        self._settle(queue)
        while (trial := self._ask()) is not None:
            label = f"{self.name}, trial {trial.number + 1}"
            try:
                job, _ = self.workshop.job(
                    label, self.recipe, [spaces_of.quoted(self.overrides(trial))]
                )
            except InputError as error:
                self._fail(trial, str(error))
                continue
            self._jobs[job.key] = job
            twins = self._active.setdefault(job.key, [])
            twins.append(trial)
            if queue.has_ended(job):
                self._settle(queue)
            elif len(twins) == 1:
                return job
        return None

    def _ask(self) -> Trial | None:
        if self._unfinished:
            return self._completed(Trial(self.optuna, self._unfinished.pop(0)._trial_id))
        ended = self.ended
        hopeless = len(ended) >= HOPELESS and all(t.state == TrialState.FAIL for t in ended)
        running = sum(map(len, self._active.values()))
        if hopeless or len(ended) + running >= self.trials:
            return None
        if not self.more_time(self.seconds):
            return None
        number = len(self.optuna.get_trials(deepcopy=False))
        self.optuna.sampler = optuna.samplers.TPESampler(
            n_startup_trials=max(2, min(STARTUP, self.trials // 3)),
            constant_liar=True,
            seed=number,
        )
        return self._completed(self.optuna.ask())

    def _completed(self, trial: Trial) -> Trial:
        """The trial with a value for each space, drawn where it has none yet."""
        for s in self.spaces:
            if s.kind == "choice":
                trial.suggest_categorical(s.field, s.choices)
            elif s.kind == "int":
                trial.suggest_int(s.field, int(s.low), int(s.high))
            else:
                trial.suggest_float(s.field, s.low, s.high, log=s.kind == "log")
        return trial

    def _verdict(self, job: Job) -> str:
        """Why a running trial should end: reports its curve, and asks the pruner."""
        self.ledger.refresh()
        folder = next(iter(self.ledger.unfinished(job.key)), None)
        values = curve(folder) if folder else []
        trial, known = self._active[job.key][0], self._evaluations.get(job.key, 0)
        self._evaluations[job.key] = len(values)
        fit = job.snapshot["experiment"]["fit"]
        for step in range(known + 1, len(values) + 1):
            given_up = self._report(trial, values[:step])
            if given_up and step < fit["epochs"] * fit["evaluations"]:
                return f"pruned after evaluation {step}, {self.watch} {values[step - 1]:.4f}"
        return ""

    def _report(self, trial: Trial, values: Sequence[float]) -> bool:
        """Gives Optuna the values of the evaluations that it does not know yet; whether the pruner
        gives the trial up. It is asked of every value, because it remembers only what it sees."""
        given_up = False
        known = self.optuna.get_trials(deepcopy=False)[trial.number].intermediate_values
        for step, value in enumerate(values, start=1):
            if step not in known:
                trial.report(value, step)
                given_up = trial.should_prune()
        return given_up

    def _settle(self, queue: Queue) -> None:
        """Tells Optuna how the trials of ended jobs ended."""
        for key in [k for k in self._active if queue.has_ended(self._jobs[k])]:
            trials = self._active.pop(key)
            for trial in trials:
                if key in queue.folders:
                    self._complete(trial, queue.folders[key])
                elif key in queue.stopped:
                    trial.set_user_attr("why", queue.stopped[key])
                    self.optuna.tell(trial, state=TrialState.PRUNED)
                else:
                    self._fail(trial, queue.failures[key])
            self.ledger.refresh()
            for folder in self.ledger.folders(key):  # weights of a trial serve nobody
                for heavy in ("checkpoints", "tensorboard"):
                    shutil.rmtree(folder / heavy, ignore_errors=True)

    def _complete(self, trial: Trial, folder: Path) -> None:
        metrics = json.loads((folder / runs.METRICS).read_text())
        for name in ("seconds", "train_seconds"):
            trial.set_user_attr(name, metrics[name])
        trial.set_user_attr("run", str(folder))
        self._report(trial, curve(folder))
        value = best_of(folder, self.sign)
        if value is None:
            self._fail(trial, f"{self.watch} is not defined on the validation rows")
        else:
            self.optuna.tell(trial, value)

    def _fail(self, trial: Trial, why: str) -> None:
        trial.set_user_attr("why", why)
        self.optuna.tell(trial, state=TrialState.FAIL)
