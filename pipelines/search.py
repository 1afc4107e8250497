"""Which auxiliary tasks help a log: ``make search``.

``make search DATASET=mylog CONFIG=din MINUTES=60`` first tries every auxiliary task alone, with the
same number of trials for its weight. Then it tries the best ones together. At last it compares the
base, the tasks and the combination on SEEDS other seeds. It ends with ``report.md`` in
``runs/search/<dataset>-<recipe>-<hash>``. The same command goes on where it was, and a larger
MINUTES adds what did not fit.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from absl import flags

from at4ctr import runs
from at4ctr.analysis.tables import Row
from at4ctr.config import Experiment
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.folders import modules
from pipelines import train, tune
from pipelines.assembly import Assembly
from pipelines.main import main
from pipelines.tables.claims import Ledger
from pipelines.tables.jobs import Workshop
from pipelines.tables.queue import Job, Queue
from pipelines.tuning import budget, page, ranking, recipe
from pipelines.tuning.budget import Clock, Plan
from pipelines.tuning.ranking import Entry, Ranking
from pipelines.tuning.space import Space
from pipelines.tuning.study import Study, best_of, sign_of

flags.FLAGS.set_default("minutes", 60.0)
flags.DEFINE_list("tasks", [], "auxiliary tasks to try; empty: all")
flags.DEFINE_integer("seeds", 3, "seeds of the last comparison", lower_bound=2)

LESS, MORE = 30, 10  # a weight is searched from its default divided by LESS to it times MORE


@dataclass
class Search:
    """One search: its place, and what is known so far.

    refused: task -> why it was not tried, or gave nothing.
    """

    base: str
    folder: Path
    e: Experiment
    store: Store
    clock: Clock
    refused: dict[str, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        f = flags.FLAGS
        self.fixed, self.jobs = train.words(f.set), f.jobs
        self.watch = tune.watch_of(self.e, self.store)
        self.sign = sign_of(self.watch)
        self.trials = Workshop(f.dataset, f.raw, self.folder / "trials")
        self.whole = Workshop(f.dataset, f.raw)
        self.start = Entry(self.base, self.base)

    @property
    def metric(self) -> str:
        """The path of the watched metric in a run's metrics."""
        label, _, metric = self.watch.rpartition(".")
        return metric if label == self.e.evaluated[0] else f"labels.{label}.{metric}"

    def candidates(self) -> list[str]:
        """The tasks that backbone and log can serve; the others are refused."""
        f = flags.FLAGS
        serving = Assembly(self.e, self.store).serving()
        found = []
        for task in f.tasks or modules("at4ctr.auxiliaries"):
            if task in self.e.auxiliaries:
                self.refused[task] = f"{self.base} has it already"
                continue
            try:
                e = train.experiment(f.dataset, f"{self.base}+{task}", f.raw, f.set)
                Assembly(e, self.store).training(serving)
            except InputError as error:
                if task not in modules("at4ctr.auxiliaries"):
                    raise
                self.refused[task] = str(error)
                continue
            found.append(task)
        return found

    def value_of_base(self) -> None:
        """Runs the base on seed 0 and, the first time, plans by its time."""
        job, _ = self.trials.job(f"{self.base}, base", self.base, self._set(()))
        folder = self._queue([job]).get(job.key)
        if folder is None:
            raise InputError(
                f"the base {self.base} gave no run, the line above says why; expected one; mend it "
                "and run the same command again"
            )
        self.start = replace(self.start, seed0=best_of(folder, self.sign))
        self.base_seconds = json.loads((folder / runs.METRICS).read_text())["seconds"]

    def _queue(self, jobs: Sequence[Job]) -> dict[str, Path]:
        """Identity -> folder of the trials that finished."""
        queue = Queue(self.folder / "trials", flags.FLAGS.dataset, self.jobs)
        queue.run(jobs, lambda: None)
        return queue.folders

    def _set(self, overrides: Sequence[str], *more: str) -> list[str]:
        return [shlex.quote(o) for o in (*self.fixed, *overrides, *more)]

    def plan(self, tasks: int) -> Plan:
        """The plan, printed in a line. It depends on MINUTES and the base run alone, so that the
        same command after a kill has the same one, and a larger MINUTES a larger one."""
        room = self.clock.budget - self.base_seconds
        p = budget.plan(room, self.base_seconds, tasks, flags.FLAGS.seeds, self.jobs)
        expected = p.total(tasks) / self.jobs / 60
        _say(
            f"plan: tasks {tasks}, trials of each {p.trials}, "
            f"combinations up to {budget.COMBINATIONS}, then {p.seeds} seeds of base, combination "
            f"and the best tasks ({p.finalists}); the base takes "
            f"{p.base:.0f} s and a task is taken to cost × {budget.TASK_COST}: about "
            f"{expected:.0f} min, {max(self.clock.left, 0) / 60:.0f} min are left"
        )
        return p

    def try_alone(self, tasks: Sequence[str], plan: Plan) -> None:
        """The trials of every task alone. A first round has one trial of each task, so that every
        task was tried even if the time ends early."""
        for trials in dict.fromkeys((1, plan.trials)):
            self.entries = []
            for task in tasks:
                if task not in self.refused:
                    self._try(task, trials, plan)

    def _try(self, task: str, trials: int, plan: Plan) -> None:
        f = flags.FLAGS
        name = f"{self.base}+{task}"
        e = train.experiment(f.dataset, name, f.raw, f.set)
        weight = e.auxiliaries[task].weight
        reserve = plan.final / self.jobs if trials > 1 else 0.0
        study = Study(
            name=name,
            folder=self.folder / task,
            recipe=name,
            spaces=(Space(_weight(task), "log", weight / LESS, weight * MORE),),
            workshop=self.trials,
            watch=self.watch,
            trials=trials,
            fixed=self.fixed,
            own={_weight(task): weight},
            parallel=self.jobs,
            more_time=lambda mean: self.clock.left - reserve >= (mean or plan.run),
        )
        try:
            study.run()
        except InputError as error:
            self.refused[task] = str(error)
            return
        best = study.best
        if best is None:
            self.refused[task] = "no trial of it began in time; expected more MINUTES"
            return
        overrides = study.overrides(best)[len(self.fixed) :]
        self.entries.append(Entry(task, name, overrides, best.value, len(study.ended)))

    def _better(self, a: float | None, b: float | None) -> bool:
        return a is not None and b is not None and self.sign * (a - b) > 0

    def try_together(self, plan: Plan) -> Entry | None:
        """The best set of two tasks or more among those that are better than the base on seed 0."""
        order = sorted(self.entries, key=lambda x: self.sign * (x.seed0 or 0.0), reverse=True)
        helpful = [x for x in order if self._better(x.seed0, self.start.seed0)]
        sizes = sorted({2, 3, len(helpful)} & set(range(2, len(helpful) + 1)))
        found: dict[str, tuple[Entry, Job]] = {}
        for size in sizes[: budget.COMBINATIONS]:
            names = [x.label for x in helpful[:size]]
            label = "+".join(names)
            overrides = tuple(o for x in helpful[:size] for o in x.overrides)
            entry = Entry(label, f"{self.base}+{label}", overrides)
            job, _ = self.trials.job(f"{entry.recipe}, seed 0", entry.recipe, self._set(overrides))
            found[label] = entry, job
        done = Ledger(self.folder / "trials", flags.FLAGS.dataset)
        done.refresh()
        new = [job for _, job in found.values() if done.finished(job.key) is None]
        jobs = [job for _, job in found.values()]
        if self.clock.left - plan.final / self.jobs < plan.run * len(new):
            jobs = [job for job in jobs if job not in new]
        if not jobs:
            return None
        folders = self._queue(jobs)
        known = [replace(entry, seed0=best_of(folders[job.key], self.sign))
                 for entry, job in found.values() if job.key in folders]  # fmt: skip
        known = [x for x in known if x.seed0 is not None]
        return max(known, key=lambda x: self.sign * (x.seed0 or 0.0), default=None)

    def compare(self, entries: Sequence[Entry], plan: Plan) -> None:
        """Whole runs of the entries on the seeds after 0, seed by seed, while there is time."""
        jobs: dict[tuple[str, int], Job] = {}
        for seed in range(1, plan.seeds + 1):
            for entry in entries:
                label = f"{entry.recipe}, seed {seed}"
                chosen = self._set(entry.overrides, f"seed={seed}")
                jobs[entry.label, seed], _ = self.whole.job(label, entry.recipe, chosen)
        queue = Queue(train.RUNS, flags.FLAGS.dataset, self.jobs)
        queue.total = len(jobs)
        waiting = self._in_time(list(jobs.values()), plan)
        queue.run((), lambda: None, lambda: next(waiting, None))
        for job in jobs.values():  # those of an earlier command, for which no time was needed
            if folder := queue.ledger.finished(job.key):
                queue.folders.setdefault(job.key, folder)
        for entry in entries:
            found = {s: _metrics(queue.folders[j.key]) for (label, s), j in jobs.items()
                     if label == entry.label and j.key in queue.folders}  # fmt: skip
            self.rows[entry.label] = Row(entry.label, found)
        for job in jobs.values():
            if job.key in queue.failures:
                self.refused[job.label] = queue.failures[job.key]

    def _in_time(self, jobs: Sequence[Job], plan: Plan) -> Iterator[Job]:
        for job in jobs:
            need = plan.base if job.recipe == self.base else plan.run
            if self.clock.left < need:
                _say(f"{job.label}: not started, {max(self.clock.left, 0):.0f} s are left")
                return
            yield job

    def ranking(self, seeds: int) -> Ranking:
        return Ranking(self.start, self.entries, self.rows, self.metric, self.sign, seeds)


def _weight(task: str) -> str:
    return f"auxiliaries.{task}.weight"


def _metrics(folder: Path) -> dict:
    found: dict = json.loads((folder / runs.METRICS).read_text())
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _command() -> str:
    f = flags.FLAGS
    given = {"DATASET": f.dataset, "CONFIG": f.config, "TASKS": ",".join(f.tasks),
             "MINUTES": f"{f.minutes:g}", "SEEDS": str(f.seeds),
             "JOBS": str(f.jobs) if f.jobs > 1 else "", "SAVE": f.save}  # fmt: skip
    words = [f"{k}={v}" for k, v in given.items() if v] + ([f'SET="{f.set}"'] if f.set else [])
    return " ".join(["make search", *words, *(["RAW=…"] if f.raw else [])])


def _write(search: Search, plan: Plan, *, together: bool) -> Path:
    f = flags.FLAGS
    found = search.ranking(plan.seeds)
    chosen = found.winner or search.start
    title = f"# {f.dataset}: which tasks help {search.base}"
    lines = [title + " (simulated log)" * search.store.simulated, "", f"`{_command()}`", ""]
    wanted = plan.seeds * len(search.rows)
    there = sum(len(row.runs) for row in search.rows.values())
    if there < wanted or not search.rows:
        missing = f"**Not complete: {there} of {wanted} runs of the last comparison.**"
        lines += [f"{missing} Run the same command with more MINUTES.", ""]
    overrides = (*search.fixed, *chosen.overrides)
    train_it = page.train_command(f.dataset, chosen.recipe, f.raw, overrides)
    lines += [ranking.answer(found), "", "```", train_it, "```", "", *found.table(search.watch)]
    lines += ["", ranking.NOTE]
    if not together:
        lines += ["", "Fewer than two tasks were better than the base on seed 0, or no time was "
                  "left, so none were tried together."]  # fmt: skip
    if never := found.never_better():
        lines += ["", "Never better than the base on the same seed: "
                  + ", ".join(x.label for x in never) + "."]  # fmt: skip
    lines += ["", f"A weight was searched from its default / {LESS} to its default × {MORE}, "
              f"log-uniformly, the default first; {plan.trials} trials of a task were planned; "
              f"{search.clock.spent / 60:.0f} of {f.minutes:g} minutes were used."]  # fmt: skip
    if search.refused:
        lines += ["", "## Not tried, or failed", ""]
        lines += [f"- {k}: {' '.join(why.split())}" for k, why in search.refused.items()]
    return page.write_text(search.folder / page.FILE, lines)


def _main() -> None:
    f = flags.FLAGS
    base = f.config or "din"
    if base in modules("configs"):
        raise InputError(
            f"CONFIG={base} is a file of configs, to which no task can be added by name; expected "
            "a backbone with or without tasks; write CONFIG=din"
        )
    if any(a.startswith(("seed=", "auxiliaries.")) for a in f.set.split()):
        raise InputError(
            f"SET={f.set!r} names seed or an auxiliary, which the search itself sets; expected "
            "other fields; drop it"
        )
    if f.save:
        recipe.demand_name(f.save)
    e = train.experiment(f.dataset, base, f.raw, f.set)
    store = train.open_store(e.data)
    asked = (store.path.name, f.set, *sorted(f.tasks))
    folder = tune.folder_of(train.RUNS / "search", f.dataset, base, *asked)
    folder.mkdir(parents=True, exist_ok=True)
    with runs.locked(folder):
        search = Search(base, folder, e, store, Clock(folder / "budget.json", f.minutes))
        try:
            path = _search(search)
        finally:
            search.clock.save()
        print(path.read_text(), end="")
        if f.save:
            print(_save(search))


def _search(search: Search) -> Path:
    tasks = search.candidates()
    for task, why in search.refused.items():
        _say(f"{task} is not tried: {why}")
    if not tasks:
        raise InputError(
            f"no auxiliary task can be tried on {search.base}, the lines above say why; expected "
            "one; choose another CONFIG or TASKS"
        )
    search.value_of_base()
    plan = search.plan(len(tasks))
    search.try_alone(tasks, plan)
    combination = search.try_together(plan)
    order = sorted(search.entries, key=lambda x: search.sign * (x.seed0 or 0.0), reverse=True)
    finalists = order[: plan.finalists]
    if combination is not None:
        finalists = [combination, *finalists]
        search.entries.append(combination)
    search.compare([search.start, *finalists], plan)
    return _write(search, plan, together=combination is not None)


def _save(search: Search) -> str:
    f = flags.FLAGS
    found = search.ranking(0)
    chosen = found.winner or search.start
    overrides = (*search.fixed, *chosen.overrides)
    path = recipe.write(
        f.save,
        chosen.recipe,
        overrides,
        dataset=f.dataset,
        command=_command(),
        reason=ranking.answer(found).replace("**", ""),
    )
    raw = f' RAW="{f.raw}"' if f.raw else ""
    return f"recipe: {path}; make train DATASET={f.dataset} CONFIG={f.save}{raw}"


if __name__ == "__main__":
    main(_main)
