"""Searches: spaces, studies on processes that take no time, plans, rankings, recipe files; and one
real study and one real search on a tiny log."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy import stats

import configs
from at4ctr import config
from at4ctr.analysis.tables import Row
from at4ctr.config import Experiment
from at4ctr.errors import InputError
from pipelines import tune
from pipelines.tables.queue import Job
from pipelines.tuning import budget, page, recipe, space
from pipelines.tuning.ranking import Entry, Ranking, answer
from pipelines.tuning.space import Space
from pipelines.tuning.study import Study
from tests.pipelines.test_main_job import call

SMALL = "data.simulate_rows=8000 fit.batch_size=256 embedding.dimension=4 fit.evaluations=2"


def experiment(name: str = "din+nip") -> Experiment:
    return configs.recipe(name, configs.dataset("taobao")())


def test_every_form_of_a_space():
    found = space.parse(space.EXAMPLE + " auxiliaries.nip.weight=0.1:0.5 head.units='80,40|(8,)'")
    assert found == (
        Space("fit.learning_rate", "log", 0.0003, 0.01),
        Space("head.dropout", "choice", choices=("0", "0.1", "0.2")),
        Space("data.history", "int", 10, 50),
        Space("auxiliaries.nip.weight", "uniform", 0.1, 0.5),
        Space("head.units", "choice", choices=("80,40", "(8,)")),
    )
    space.demand_fit(found, experiment())
    values = {"fit.learning_rate": 0.00123456, "head.dropout": "0.1", "data.history": 12,
              "auxiliaries.nip.weight": 0.25, "head.units": "(8,)"}  # fmt: skip
    said = space.quoted(space.assignments(found, values))
    changed = config.override(experiment(), shlex.split(said))
    assert changed.fit.learning_rate == 0.001235
    assert (changed.head.dropout, changed.head.units) == (0.1, (8,))
    assert (changed.data.history, changed.auxiliaries["nip"].weight) == (12, 0.25)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "TUNE is empty"),
        ("fit.learning_rate", "expected field=values"),
        ("fit.learning_rate=0.1", "expected log:low:high"),
        ("fit.learning_rate=exp:0.1:1", "expected log:low:high"),
        ("fit.learning_rate=log:0:1", "expected 0 < low < high"),
        ("fit.learning_rate=0.2:0.1", "expected low < high"),
        ("fit.learning_rate=0.2:x", "'x' is a limit; expected a finite number"),
        ("data.history=int:1.5:3", "'1.5' is a limit; expected a whole number"),
        ("head.dropout=0|0", "stands twice"),
        ("head.dropout=0:1 head.dropout=0|1", "TUNE names head.dropout twice"),
        ("fit.rate=0.1:1", "TUNE cannot set fit.rate to 0.1: unknown field"),
        ("head.dropout=0|lots", "TUNE cannot set head.dropout to lots"),
        ("fit.epochs=1:4", "write fit.epochs=int:1:4"),
        ("fit.optimizer=adam|sgd", "TUNE cannot set fit.optimizer to sgd"),
    ],
)
def test_a_space_that_cannot_be_is_refused_before_the_first_trial(text, why):
    with pytest.raises(InputError) as error:
        space.demand_fit(space.parse(text), experiment())
    assert why in str(error.value)


def test_what_set_fixes_or_what_judges_is_not_searched():
    for text, why in (("head.dropout=0:1", "SET and TUNE both name"), ("seed=0|1", "comparable")):
        with pytest.raises(InputError, match=why):
            tune.demand_free("head.dropout=0.1", space.parse(text))


def test_the_recipes_own_values():
    spaces = space.parse("auxiliaries.nip.weight=log:0.001:1 fit.optimizer=adam|lazy_adam")
    own = {"auxiliaries.nip.weight": 0.01, "fit.optimizer": "lazy_adam"}
    assert space.own_values(spaces, experiment()) == own
    assert space.own_values(space.parse("auxiliaries.nip.weight=log:0.1:1"), experiment()) is None


RUN = """
import json, os, pathlib, signal, sys, time
x = float(sys.argv[2])
folder = pathlib.Path(sys.argv[1]) / "toy-din" / (str(time.time_ns()) + "Z")
folder.mkdir(parents=True)
(folder / "config.json").write_text(sys.argv[3])
(folder / "checkpoints").mkdir()
pathlib.Path(sys.argv[4]).open("a").write(f"{x}\\n")
if x > 8.5:
    sys.exit("error: too much")
gate = pathlib.Path("killed")
if gate.exists():
    gate.unlink()
    os.kill(os.getpid(), signal.SIGKILL)
for step in (1, 2, 3):
    curve = {"watch": "click.auc", "values": [(k, x / 10 + k / 100) for k in range(1, step + 1)]}
    (folder / "aside").write_text(json.dumps(curve))
    (folder / "aside").rename(folder / "validation.json")
    began = time.time()
    while step == 1 and x < 3 and time.time() < began + 20:
        time.sleep(0.01)  # until it is pruned
metrics = {"seconds": 2.0, "train_seconds": 1.0}
(folder / "predictions.parquet").touch()
(folder / "metrics.json").write_text(json.dumps(metrics))
"""


RISING = (Space("x", "int", 0, 8),)


@dataclass(frozen=True)
class Quick(Job):
    def command(self) -> list[str]:
        a = self.arguments
        return [sys.executable, "-c", RUN, a["root"], a["x"], json.dumps(self.snapshot), a["log"]]


class Toy:
    """Makes jobs whose value rises with x; those below 3 wait to be pruned, above 8.5 they fail."""

    dataset = "toy"

    def __init__(self, folder: Path) -> None:
        self.trials, self.log = folder / "trials", folder / "order"

    def job(self, label, recipe, assignments):
        x = " ".join(assignments).partition("x=")[2]
        fit = {"epochs": 1, "evaluations": 3}
        snapshot = {"store": "s", "experiment": {"data": {}, "fit": fit, "x": x}, "recipe": recipe}
        given = {"root": str(self.trials), "x": x, "log": str(self.log), "config": recipe}
        return Quick(label, given, snapshot), None

    @property
    def order(self) -> list[float]:
        return [float(x) for x in self.log.read_text().split()]


def study(folder: Path, trials: int, spaces=RISING, own=None):
    toy: Any = Toy(folder)
    return Study("toy", folder, "din", spaces, toy, "click.auc", trials, own=own)


def test_a_study_prunes_and_keeps_no_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = study(tmp_path, 6, own={"x": 5})
    found.run()
    ended = {t.params["x"]: t for t in found.ended}
    assert found.workshop.order[0] == 5
    assert found.workshop.order == list(dict.fromkeys(found.workshop.order))  # each value once
    assert found.best.params["x"] == max(ended)
    assert found.best.value == pytest.approx(max(ended) / 10 + 0.03)
    low = [t for x, t in ended.items() if x < 3]
    assert low
    assert all(t.state == TrialState.PRUNED for t in low)
    assert not list(tmp_path.glob("trials/toy-din/*/checkpoints"))
    text = page.write(found, "toy", "make tune", "make train", "", simulated=False).read_text()
    assert text.count("| pruned |") == sum(t.state == TrialState.PRUNED for t in found.ended)
    assert (tmp_path / "history.png").stat().st_size > 1000


def test_a_killed_study_goes_on_with_the_trial_that_was_running(tmp_path, monkeypatch):
    """Everything was killed after a trial had begun; another trial's process was killed alone."""
    monkeypatch.chdir(tmp_path)
    spaces = (Space("x", "uniform", 4, 8),)
    lost = study(tmp_path, 3, spaces)._ask()
    again = study(tmp_path, 3, spaces)
    Path("killed").touch()
    again.run()
    assert again.workshop.order[0] == pytest.approx(lost.params["x"], rel=1e-3)
    assert [t.number for t in again.ended] == [0, 1, 2]
    killed = [t for t in again.ended if t.state == TrialState.FAIL]
    assert {t.params["x"] for t in killed} == {lost.params["x"]}
    last = study(tmp_path, 3, spaces)
    last.run()
    assert len(last.ended) == 3
    assert not [t for t in last.ended if t.state == TrialState.FAIL]
    assert lost.params["x"] in [t.params["x"] for t in last.ended]
    finished = last.workshop.order
    study(tmp_path, 3, spaces).run()
    assert last.workshop.order == finished


def test_a_study_of_failures_ends_and_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no trial of toy finished.*too much"):
        study(tmp_path, 9, (Space("x", "int", 9, 99),)).run()
    assert len(Toy(tmp_path).order) == 3


def test_importance_finds_the_field_that_matters(tmp_path):
    spaces = (Space("x", "uniform", 0, 1), Space("y", "uniform", 0, 1), Space("z", "int", 0, 9))
    found = study(tmp_path, 20, spaces)
    draws = np.random.default_rng(1).uniform(size=(20, 2))
    for x, y in draws:
        trial = optuna.trial.create_trial(
            params={"x": x, "y": y, "z": 4},
            distributions={s.field: s.distribution for s in spaces},
            value=x + 0.05 * y,
        )
        found.optuna.add_trial(trial)
    shares = page.importance(found)
    assert shares["x"] > 0.8 > shares["y"]


@pytest.mark.parametrize(("minutes", "parallel"), [(600, 1), (60, 2), (30, 1), (12, 1), (1, 1)])
def test_the_plan_fits_and_uses_what_is_left(minutes, parallel):
    plan = budget.plan(60 * minutes, 30.0, 5, 3, parallel)
    task = 45.0
    cost = 5 * plan.trials * task + 3 * task  # alone, together
    cost += plan.seeds * (30 + (plan.finalists + 1) * task)
    assert plan.total(5) == pytest.approx(cost)
    if plan != budget.Plan(1, 1, 2, 30.0):  # the least there is
        assert cost <= 60 * minutes * parallel
        assert plan.trials == budget.MOST_TRIALS or cost + 5 * task > 60 * minutes * parallel
    assert (minutes > 1) == (plan.trials > 1 or plan.seeds == 3)


def test_the_budget_survives_a_kill(tmp_path):
    path = tmp_path / "budget.json"
    first = budget.Clock(path, 10)
    first.save()
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({"spent": kept["spent"] + 240.0}))
    assert 300 < budget.Clock(path, 10).left <= 360


def ranking(sign: int = 1) -> Ranking:
    rng = np.random.default_rng(0)
    base = 0.7 + 0.01 * rng.normal(size=4)
    gains = {"good": 0.01, "noise": 0.0, "bad": -0.05}
    seeds = range(1, 5)
    values = {"base": base}
    values |= {k: base + sign * (g + 0.001 * rng.normal(size=4)) for k, g in gains.items()}
    rows = {
        name: Row(name, {s: {"auc": v, "validation": {"auc": v}, "train_seconds": 2.0 + len(name)}
                         for s, v in zip(seeds, found, strict=True)})
        for name, found in values.items()
    }  # fmt: skip
    entries = [Entry(k, f"din+{k}", seed0=float(0.7 + sign * g)) for k, g in gains.items()]
    entries.append(Entry("never run", "din+x", seed0=0.7 - sign * 0.1))
    return Ranking(Entry("base", "din", seed0=0.7), entries, rows, "auc", sign, 4)


@pytest.mark.parametrize("sign", [1, -1])
def test_ranks_by_paired_gains(sign):
    found = ranking(sign)
    assert [e.label for e in found.ranked] == ["good", "noise", "bad", "never run"]
    assert found.winner is not None
    assert found.winner.label == "good"
    assert {e.label for e in found.never_better()} == {"bad", "never run"}
    assert answer(found).startswith("**good** helps")
    values = {k: np.array([r["auc"] for r in row.runs.values()]) for k, row in found.runs.items()}
    d = sign * (values["good"] - values["base"])
    low, high = stats.t.interval(0.95, 3, d.mean(), d.std(ddof=1) / 2)
    line = next(x for x in found.table("click.auc") if "| good |" in x)
    assert f"| {d.mean():+.4f} [{low:+.4f}, {high:+.4f}] |" in line
    assert "| × 1.00 |" in line
    none = Ranking(found.base, found.entries[1:], found.runs, "auc", sign, 4)
    assert none.winner is None
    assert "the base is the recipe to use" in answer(none)


def test_the_recipe_file_runs(tmp_path):
    path = recipe.write(
        "din_found", "din+nip", ("auxiliaries.nip.weight=0.03", "data.history=20"),
        dataset="taobao", command='make tune TUNE="a=b"', reason="Why.", folder=tmp_path,
    )  # fmt: skip
    scope: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    made = scope["experiment"](configs.dataset("taobao")())
    assert (made.auxiliaries["nip"].weight, made.data.history) == (0.03, 20)
    recipe.demand_name("din_found", tmp_path)  # a later command may write it anew
    assert max(map(len, path.read_text().splitlines())) <= 100


@pytest.mark.parametrize("name", ["din", "taobao", "9lives", "_hidden", "class", "a-b", "esmm"])
def test_a_name_that_is_taken_or_is_none_is_refused(name):
    with pytest.raises(InputError, match="SAVE="):
        recipe.demand_name(name)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    given = {"dataset": "taobao", "config": "widedeep+uim", "set": SMALL, "trials": "2",
             "tune": "auxiliaries.uim.weight=log:0.01:1 data.history=int:5:20"}  # fmt: skip
    done = call(folder, "tune", **given)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, given, done


def test_a_real_study_reads_no_test_row(real):
    folder, _, done = real
    (place,) = folder.glob("runs/tune/taobao-widedeep+uim-*")
    ended = sorted(place.glob("trials/taobao-*/*Z/metrics.json"))
    assert ended
    for path in ended:
        metrics = json.loads(path.read_text())
        assert "auc" not in metrics
        assert "auc" in metrics["validation"]
        assert not list(path.parent.glob("reliability*"))
        assert metrics["exported"] is False
    assert [p.name for p in folder.glob("runs/*")] == ["tune"]  # no table takes it for a run
    assert done.stdout == (place / "report.md").read_text()
    assert "2 of 2 trials" in done.stdout


def test_a_real_study_is_not_trained_twice(real):
    folder, given, done = real
    runs = sorted(folder.glob("runs/tune/*/trials/taobao-*/*Z"))
    again = call(folder, "tune", **given)
    assert again.stdout == done.stdout
    assert "2 of 2 trials ended before" in again.stderr
    assert sorted(folder.glob("runs/tune/*/trials/taobao-*/*Z")) == runs


def test_a_search_without_time_says_what_it_would_try(real):
    """Of one base run: what is refused, the plan, and a page that is not complete."""
    folder = real[0]
    done = call(folder, "search", dataset="taobao", config="widedeep", set=SMALL, minutes="0.01",
                tasks="uim,path_augmenting")  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "path_augmenting is not tried: path_augmenting needs paths" in done.stderr
    assert "plan: tasks 1, trials of each 1," in done.stderr
    assert "**Not complete" in done.stdout
    assert "- uim: no trial of it began in time" in done.stdout
    assert "make train DATASET=taobao CONFIG=widedeep" in done.stdout
