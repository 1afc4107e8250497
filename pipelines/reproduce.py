"""Trains the models that a table or figure of a paper compares, and writes its report.

``make reproduce TABLE=2 DATASET=tafeng SEEDS=5``. TABLE is 2 to 5, ``external`` or ``tuning``, FIG
is 2 to 5, and both also take the names of ``tables.multitask``, ``aqcl``, ``ads``, ``pretrained``
and ``training``. RECIPES compares any recipes instead. One queue trains seed by seed. Finished runs
are reused, a killed command goes on where it was, and the report is written anew after every seed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from absl import flags

from at4ctr.data.store import Store
from at4ctr.errors import InputError
from pipelines import train
from pipelines.main import main
from pipelines.tables import ads, aqcl, multitask, pretrained, training
from pipelines.tables import plans as _paper
from pipelines.tables.jobs import Workshop
from pipelines.tables.plans import Cell, Plan
from pipelines.tables.queue import Job, Queue
from pipelines.tables.reports import Report

TRIALS = train.RUNS / "tuning"
PLANS: tuple[Any, ...] = (multitask, aqcl, ads, pretrained, training)  # of one subject each
RECIPES = "widedeep,widedeep+uim,din,din+uim+nip"
flags.DEFINE_string(
    "table", "", f"one of {', '.join((*_paper.TABLES, *(t for m in PLANS for t in m.TABLES)))}"
)
flags.DEFINE_string(
    "fig", "", f"one of {', '.join((*_paper.FIGURES, *(f for m in PLANS for f in m.FIGURES)))}"
)
flags.DEFINE_list("recipes", RECIPES, "what to compare where neither table nor fig is given")
flags.DEFINE_string("backbone", "", "of tables 3 and 5 and the figures; empty: the plan's own")
flags.DEFINE_integer("seeds", 5, "runs of each cell (tuning: always 1)", lower_bound=1)
flags.DEFINE_string("out", "docs/results", "where the report goes")


@dataclass
class Work:
    """The work of a plan: its jobs by (label, seed), seed after seed; the stores of the cells that
    can be run, by label; and why the other cells cannot."""

    jobs: dict[tuple[str, int], Job] = field(default_factory=dict)
    stores: dict[str, Store] = field(default_factory=dict)
    refused: dict[str, InputError] = field(default_factory=dict)

    def missing(self, queue: Queue) -> dict[str, str]:
        """Label of a cell or run -> why it gave nothing."""
        found = {label: str(error) for label, error in self.refused.items()}
        failed = (job for job in self.jobs.values() if job.key in queue.failures)
        return found | {job.label: queue.failures[job.key] for job in failed}


def chosen_plan() -> Plan:
    """The plan that the flags name. Its name includes the backbone if BACKBONE is not the plan's
    own."""
    f = flags.FLAGS
    if not (f.table or f.fig):
        if f.backbone:
            raise InputError(
                f"BACKBONE={f.backbone} is given without a table or figure; expected it with "
                "TABLE=3, TABLE=5 or FIG=2 to 5; name recipes by RECIPES"
            )
        return _paper.recipes(f.recipes)
    if f.recipes not in ([], RECIPES.split(",")):
        raise InputError(
            f"RECIPES={','.join(f.recipes)} is given beside {'TABLE' if f.table else 'FIG'}="
            f"{f.table or f.fig}, which names its own recipes; expected one of the two; drop one"
        )
    for module in PLANS:
        if f.table in module.TABLES or f.fig in module.FIGURES:
            _demand_alone()
            return module.plan(f.dataset, f.table, f.fig)
    others = [t for m in PLANS for t in m.TABLES], [g for m in PLANS for g in m.FIGURES]
    plan = _paper.plan(f.dataset, f.table, f.fig, f.backbone, *others)
    return replace(plan, name=f"{plan.name}-{f.backbone}") if f.backbone else plan


def _demand_alone() -> None:
    """InputError where a table or figure that stands alone is named beside another choice."""
    f = flags.FLAGS
    if (f.table and f.fig) or f.backbone:
        other = f"FIG={f.fig}" if f.table and f.fig else f"BACKBONE={f.backbone}"
        raise InputError(
            f"{other} is given beside {f'TABLE={f.table}' if f.table else f'FIG={f.fig}'}, which "
            "stands alone; expected one of them; drop the other"
        )


def _demand_free(plan: Plan, assignments: str) -> None:
    """InputError where the user sets what the plan itself sets."""
    taken = {a.partition("=")[0] for cell in plan.cells for a in cell.overrides}
    for assignment in train.words(assignments):
        field_name = assignment.partition("=")[0]
        if field_name in taken or field_name == "seed":
            whose = "the number of SEEDS" if field_name == "seed" else f"a cell of {plan.name}"
            raise InputError(
                f"SET names {assignment!r}, but {field_name} is set by {whose}; expected fields "
                "that are the same for every run; drop it from SET"
            )


def work(plan: Plan, seeds: int) -> Work:
    """Prepares the stores and makes the jobs."""
    f = flags.FLAGS
    _demand_free(plan, f.set)
    found = Work()
    workshop = Workshop(f.dataset, f.raw, root_of(plan) if plan.kind == "tuning" else None)
    for seed in _seeds(plan, seeds):
        for cell in plan.cells:
            if cell.label in found.refused:
                continue
            chosen = (*plan.defaults, f.set, *cell.overrides, f"seed={seed}")
            try:
                job, store = workshop.job(f"{cell.label}, seed {seed}", cell.recipe, chosen)
            except InputError as error:
                found.refused[cell.label] = error
                continue
            found.stores[cell.label] = store
            found.jobs[cell.label, seed] = job
    return found


def root_of(plan: Plan) -> Path:
    """Where a plan's runs lie. Trials lie with those of ``make tune``, because they read no test
    row."""
    return TRIALS if plan.kind == "tuning" else train.RUNS


def _seeds(plan: Plan, count: int) -> range:
    """The seeds, from 1 on. Seed 0 is for tuning alone, so that no result comes from a run that
    chose its settings."""
    return range(1) if plan.kind == "tuning" else range(1, count + 1)


def command(seeds: int) -> str:
    """The command that makes the report, without RAW, which differs from machine to machine."""
    f = flags.FLAGS
    recipes = "" if f.recipes == RECIPES.split(",") else ",".join(f.recipes)
    given = {"TABLE": f.table, "FIG": f.fig, "DATASET": f.dataset}
    given |= {} if f.table == "tuning" else {"SEEDS": str(seeds)}
    given |= {"RECIPES": recipes, "BACKBONE": f.backbone, "JOBS": str(f.jobs) if f.jobs > 1 else ""}
    words = [f"{name}={value}" for name, value in given.items() if value]
    words += [f'SET="{f.set}"'] if f.set else []
    return " ".join(["make reproduce", *words, *(["RAW=…"] if f.raw else [])])


def complete(found: Work, queue: Queue) -> int:
    """How many seeds have no run left to wait for."""
    ended = dict.fromkeys({seed for _, seed in found.jobs}, True)
    for (_, seed), job in found.jobs.items():
        ended[seed] = ended[seed] and queue.has_ended(job)
    return sum(ended.values())


def folders(cells: Sequence[Cell], found: Work, queue: Queue) -> dict[str, dict[int, Path]]:
    """Label -> seed -> finished run."""
    result: dict[str, dict[int, Path]] = {cell.label: {} for cell in cells}
    for (label, seed), job in found.jobs.items():
        if job.key in queue.folders:
            result[label][seed] = queue.folders[job.key]
    return result


def _main() -> None:
    f = flags.FLAGS
    plan = chosen_plan()
    seeds = 1 if plan.kind == "tuning" else f.seeds
    found = work(plan, seeds)
    if found.refused and (not found.stores or plan.name == "comparison"):
        raise next(iter(found.refused.values()))  # a misspelt name: before anything runs
    for label, error in found.refused.items():
        print(f"{label} cannot run: {error}", file=sys.stderr)
    queue = Queue(root_of(plan), f.dataset, f.jobs)
    report = Report(plan, found.stores, seeds, command(seeds), Path(f.out) / f.dataset)

    def write() -> Path:
        return report.write(folders(plan.cells, found, queue), found.missing(queue))

    queue.run(found.jobs.values(), _after_each_seed(found, queue, write))
    path = write()
    print(path.read_text(), end="")
    _demand_all(found.missing(queue), path)


def _after_each_seed(found: Work, queue: Queue, write: Callable[[], object]) -> Callable[[], None]:
    """Called after every job: writes the report when a seed is complete.

    An error of the writing is printed and stops no training. The last report is written elsewhere.
    """
    written = 0

    def ended() -> None:
        nonlocal written
        if (now := complete(found, queue)) > written:
            written = now
            try:
                write()
            except Exception as error:
                said = " ".join(str(error).split())
                print(f"the report is not written yet: {type(error).__name__}: {said}",
                      file=sys.stderr)  # fmt: skip

    return ended


def _demand_all(missing: Mapping[str, str], path: Path) -> None:
    """Lists what is missing; InputError where anything is."""
    for label, why in missing.items():
        print(f"missing: {label}: {why}", file=sys.stderr)
    if missing:
        raise InputError(
            f"{path} lacks what {len(missing)} of its rows or runs should give, the lines above "
            "say which and why; expected every run to finish; mend it and run the same command "
            "again, which trains only what is missing"
        )


if __name__ == "__main__":
    main(_main)
