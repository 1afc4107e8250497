"""Searches the fields of a recipe on validation: ``make tune``.

``make tune DATASET=tafeng CONFIG=din+nip TUNE="auxiliaries.nip.weight=log:0.001:1" TRIALS=30``: the
study lies in ``runs/tune/<dataset>-<recipe>-<hash>/``. The same command goes on where it was, with
more TRIALS too. It ends with ``report.md`` there.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from absl import flags

import configs
from at4ctr import runs
from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from pipelines import train
from pipelines.main import main
from pipelines.tables.jobs import Workshop
from pipelines.tuning import page, recipe
from pipelines.tuning import space as spaces_of
from pipelines.tuning.space import Space
from pipelines.tuning.study import Study

flags.DEFINE_string("tune", "", f"fields and the values they may take: '{spaces_of.EXAMPLE}'")
flags.DEFINE_integer("trials", 30, "number of trials", lower_bound=1)
flags.DEFINE_float("minutes", 0, "no trial starts that would not end in time; 0: no limit",
                   lower_bound=0)  # fmt: skip
flags.DEFINE_string("save", "", "write the result as the recipe configs/<save>.py")


def watch_of(e: Experiment, store: Store) -> str:
    """The validation metric by which an experiment is judged; InputError where there is none."""
    if not store.counts("validation")["rows"]:
        raise InputError(
            f"store {store.path} has no validation row, so no trial can be judged; expected a "
            "validation split; hold out rows"
        )
    return e.fit.watch or f"{e.evaluated[0]}.auc"


def demand_free(assignments: str, spaces: tuple[Space, ...]) -> None:
    """InputError where SET sets what TUNE searches, or the metric that judges is searched."""
    fixed = {a.partition("=")[0] for a in train.words(assignments)}
    for space in spaces:
        if space.field in fixed:
            raise InputError(
                f"SET and TUNE both name {space.field}; expected each field in one of them; drop "
                "it from one"
            )
        of_store = space.field.startswith("data.") and space.field[5:] not in Options.READING
        if of_store or space.field in ("fit.watch", "seed", "data.raw"):
            raise InputError(
                f"TUNE names {space.field}, by which trials would not be comparable, as they would "
                "be judged on other rows or in another way; expected another field; set it by SET"
            )


def folder_of(root: Path, dataset: str, name: str, *identity: str) -> Path:
    """The folder of a search, which the same request finds again."""
    text = "\0".join(identity)
    return root / f"{dataset}-{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _command() -> str:
    f = flags.FLAGS
    given = {"DATASET": f.dataset, "CONFIG": f.config, "SET": f.set, "TUNE": f.tune,
             "TRIALS": str(f.trials), "JOBS": str(f.jobs) if f.jobs > 1 else "",
             "MINUTES": f"{f.minutes:g}" if f.minutes else "", "SAVE": f.save}  # fmt: skip
    words = [f'{k}="{v}"' if k in ("SET", "TUNE") else f"{k}={v}" for k, v in given.items() if v]
    return " ".join(["make tune", *words, *(["RAW=…"] if f.raw else [])])


def _main() -> None:
    f = flags.FLAGS
    began = time.monotonic()
    name = f.config or configs.dataset(f.dataset).RECIPE
    spaces = spaces_of.parse(f.tune)
    demand_free(f.set, spaces)
    if f.save:
        recipe.demand_name(f.save)
    e = train.experiment(f.dataset, name, f.raw, f.set)
    spaces_of.demand_fit(spaces, e)
    store = train.open_store(e.data)
    watch = watch_of(e, store)
    tuned = sorted(f"{s.field}={s.distribution}" for s in spaces)
    folder = folder_of(train.RUNS / "tune", f.dataset, name, store.path.name, f.set, *tuned)
    folder.mkdir(parents=True, exist_ok=True)

    def more_time(mean: float | None) -> bool:
        passed = time.monotonic() - began
        return not f.minutes or passed + (mean or 0.0) <= 60 * f.minutes

    with runs.locked(folder):
        study = Study(
            name=name,
            folder=folder,
            recipe=name,
            spaces=spaces,
            workshop=Workshop(f.dataset, f.raw, folder / "trials"),
            watch=watch,
            trials=f.trials,
            fixed=train.words(f.set),
            own=spaces_of.own_values(spaces, e),
            parallel=f.jobs,
            more_time=more_time,
        )
        print(f"{folder}: {len(study.ended)} of {f.trials} trials ended before", file=sys.stderr)
        try:
            study.run()
        finally:
            path = _write(study, name, simulated=store.simulated)
        print(path.read_text(), end="")
        if f.save and study.best is not None:
            print(_save(study, name))


def _write(study: Study, name: str, *, simulated: bool) -> Path:
    f = flags.FLAGS
    best = study.best
    command = page.train_command(f.dataset, name, f.raw, study.overrides(best)) if best else ""
    title = f"{f.dataset}: search of {name} on validation"
    return page.write(study, title, _command(), command, f.set, simulated=simulated)


def _save(study: Study, name: str) -> str:
    """Writes the recipe file of the best trial; a line that says so."""
    f, best = flags.FLAGS, study.best
    assert best is not None
    path = recipe.write(
        f.save,
        name,
        study.overrides(best),
        dataset=f.dataset,
        command=_command(),
        reason=f"It has the best validation {study.watch} of {len(study.ended)} trials, "
        f"{best.value:.4f}.",
    )
    raw = f' RAW="{f.raw}"' if f.raw else ""
    return f"recipe: {path}; make train DATASET={f.dataset} CONFIG={f.save}{raw}"


if __name__ == "__main__":
    main(_main)
