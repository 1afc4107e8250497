"""``make reproduce`` as a user runs it, on a tiny log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from absl import flags

from at4ctr.analysis.tables import Row
from at4ctr.errors import InputError
from at4ctr.heads import single
from pipelines import reproduce, train
from pipelines.tables import bodies, reports
from pipelines.tables import plans as _paper
from pipelines.tables import printed as _printed
from pipelines.tables.page import Page
from pipelines.tables.queue import Queue
from pipelines.tables.reports import Report
from tests.conftest import slow
from tests.pipelines.test_main_job import CHECKOUT, call, command

SMALL = "data.simulate_rows=8000 fit.batch_size=256 embedding.dimension=4"
GIVEN = {"dataset": "taobao", "recipes": "widedeep,widedeep+uim", "seeds": "2", "set": SMALL}


def finished(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/*/*Z/metrics.json"))


def own_children(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Interrupted after its first run, with the second under way, and started again."""
    folder = tmp_path_factory.mktemp("reproduce")
    running = subprocess.Popen(
        command("reproduce", **GIVEN),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while running.poll() is None and not list(folder.glob("runs/taobao-widedeep+uim/*Z")):
        time.sleep(0.02)
    first = [(p, p.stat().st_mtime_ns) for p in finished(folder)]
    children = own_children(running.pid)
    running.send_signal(signal.SIGTERM)
    said = running.communicate()[1]
    assert running.returncode == 130, said[-3000:]
    assert len(first) == 1
    assert children
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    done = call(folder, "reproduce", **GIVEN)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, first, done


def test_a_killed_queue_goes_on_where_it_was(job):
    folder, ((path, when),), done = job
    assert "4 runs, 1 of them finished before" in done.stderr
    assert path.stat().st_mtime_ns == when
    assert len(finished(folder)) == 4
    assert len(list(folder.glob("runs/*/*Z"))) == 4


def test_the_report_says_how_it_was_made(job):
    folder, _, done = job
    text = (folder / "docs/results/taobao/comparison.md").read_text()
    assert text == done.stdout
    assert text.startswith("# taobao (simulated log): widedeep, widedeep+uim\n")
    assert f'`make reproduce DATASET=taobao SEEDS=2 RECIPES=widedeep,widedeep+uim SET="{SMALL}"`' \
        in text  # fmt: skip
    assert "widedeep+uim − widedeep | click | AUC" in text
    assert "widedeep+uim − widedeep | click | log loss" in text
    assert "over seeds and users" in text
    assert "Not complete" not in text
    assert "## Missing" not in text
    assert "the split and the negatives are fixed" in text
    assert "the 3 tests of this table" in text
    seeds = {json.loads(p.with_name("config.json").read_text())["experiment"]["seed"]
             for p in finished(folder)}  # fmt: skip
    assert seeds == {1, 2}
    commits = {json.loads(p.read_text())["commit"] or "unknown" for p in finished(folder)}
    assert all(commit in text for commit in commits)
    assert not list(folder.glob("runs/*/*Z/export"))


def test_finished_runs_are_reused(job):
    folder, _, done = job
    again = call(folder, "reproduce", **GIVEN)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "4 runs, 4 of them finished before" in again.stderr
    assert again.stdout == done.stdout


@pytest.fixture
def inside(job, monkeypatch):
    """This process in the job's folder, with its flags."""
    monkeypatch.chdir(job[0])
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    flags.FLAGS(["reproduce", f"--dataset={GIVEN['dataset']}", f"--set={SMALL}"])
    return job[0]


def report(plan, seeds=2) -> tuple[str, Queue]:
    found = reproduce.work(plan, seeds)
    queue = Queue(reproduce.root_of(plan), "taobao")
    queue.run(found.jobs.values(), lambda: None)
    made = Report(plan, found.stores, seeds, "make reproduce", Path("out"))
    path = made.write(reproduce.folders(plan.cells, found, queue), found.missing(queue))
    return path.read_text(), queue


@pytest.mark.usefixtures("inside")
def test_a_failing_cell_is_missing_and_the_others_are_there():
    cells = (
        _paper.Cell("WideDeep", "widedeep", paper=(0.8733, 0.2233)),
        _paper.Cell("wild", "widedeep", ("fit.learning_rate=1e30", "fit.epochs=9"), "WideDeep"),
        _paper.Cell("nobody", "widdeep", base="WideDeep"),
    )
    plan = _paper.Plan("table9", "results", "two that fail", cells)
    text, queue = report(plan, seeds=1)
    (why,) = queue.failures.values()
    assert "finite" in why
    assert "**Not complete: 1 of 3 runs.**" in text
    assert "| wild | **0 of 1** | – |" in text
    assert "| nobody | **0 of 1** | – |" in text
    assert "0.8733" in text
    assert "paper's columns" in text
    missing = text[text.index("## Missing") :]
    assert f"- wild, seed 1: {why}" in missing
    assert "- nobody: unknown recipe (CONFIG) 'widdeep': did you mean widedeep" in missing


def test_relevance_of_finished_runs(inside):
    cells = tuple(_paper.Cell(r, r) for r in ("widedeep", "widedeep+uim"))
    text, queue = report(_paper.Plan("fig5", "relevance", "Fig. 5", cells))
    assert not queue.failures
    assert "![Fig. 5](fig5.png)" in text
    assert "| widedeep+uim | " in text
    for kind in ("png", "svg"):
        assert (inside / "out" / f"fig5.{kind}").stat().st_size > 1000


def test_rates_sweeps_and_costs_of_finished_runs(inside):
    """The same runs stand for several settings: only the reports are looked at."""
    pair = ("widedeep", "widedeep+uim")
    cells = tuple(
        _paper.Cell(f"{r}, {w}", r, x=w, group=r) for w in _printed.RATES for r in pair
    )  # fmt: skip
    text, _ = report(_paper.Plan("fig2", "rates", "Fig. 2", cells))
    assert text.count("| 4 |") == len(_printed.RATES)
    text, _ = report(_paper.Plan("table5", "cost", "Table 5", cells))
    assert "| 1.0 | " in text
    assert " | 4 | 230.2 | – | 39.5 |" in text
    assert "Industry log" in text
    sweep = _paper.figure3("widedeep")
    swept = tuple(
        _paper.Cell(
            c.label, c.recipe, ("auxiliaries.uim.weight=0.1",) * bool(c.base), c.base, x=c.x
        )
        for c in sweep.cells
    )
    text, queue = report(_paper.Plan("fig3", "sweep", "Fig. 3", swept))
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert sum(row.count("**") for row in table) == 2
    assert "chosen on validation" in text
    assert "weight of UIM" in (inside / "out/fig3.svg").read_text()
    assert len(queue.folders) == 4


@pytest.mark.usefixtures("inside")
def test_a_choice_needs_every_run_of_its_group():
    """The second trial of the second method cannot be: the first method's winner stands alone."""
    bad = ("fit.learning_rate=-1",)
    plan = _paper.figure3("widedeep")
    few = tuple(c for c in plan.cells if c.x in (0.0, 0.1))
    wild = replace(few[1], label="wild", overrides=(*bad, *few[1].overrides), x=1.0)
    text, _ = report(replace(plan, cells=(*few, wild)))
    assert "λ is not decided" in text
    assert "| 0.1 | " in text
    cells = (
        _paper.Cell("a", "widedeep", group="one"),
        _paper.Cell("b", "widedeep+uim", group="two"),
        _paper.Cell("c", "widedeep", bad, group="two"),
    )
    text, _ = report(_paper.Plan("tuning", "tuning", "Trials", cells), seeds=1)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.count("**") for row in rows[1:]] == [2, 0, 0]
    assert "1 to 2 trials of every method" in text
    assert "Not decided, because trials are missing: two." in text
    assert "- c: fit.learning_rate is -1.0" in text
    assert "test split" not in text
    for path in Path("runs/tuning").glob("*/*Z/metrics.json"):
        assert "auc" not in json.loads(path.read_text())


def test_the_commits_of_the_runs_are_listed():
    assert reports._commits([]) == ""
    assert reports._commits([{"commit": "abc"}] * 2) == "Commit abc."
    assert reports._commits([{"commit": "b+"}, {"commit": "a"}, {}, {"commit": "a"}]) == (
        "**Runs of 3 commits: a (2), b+ (1), unknown (1).**"
    )


def test_the_champion_meets_the_best_on_validation_of_those_with_every_seed():
    """On the rows' numbers alone: the opponent of the higher test AUC is not taken."""
    scores = {"champion": (0.7, 0.7), "best": (0.8, 0.5), "tested": (0.6, 0.9), "few": (0.9, 0.9)}
    cells = tuple(_paper.Cell(name, "widedeep") for name in scores)
    plan = _paper.Plan("t", "results", "T", cells, champion="champion")
    rows = [
        Row(name, {s: {"auc": test, "validation": {"auc": val}} for s in (1, 2)[: 1 + (val < 0.9)]})
        for name, (val, test) in scores.items()
    ]
    said, pairs = bodies.best_other(Page(plan, {}, 2, Path("out")), rows, rows[0])
    assert said.endswith("by validation AUC is best (of those with all their seeds).")
    assert pairs == [(rows[0], rows[1])]


@slow
@pytest.mark.usefixtures("inside")
def test_external_says_what_was_prepared_and_how_long_was_trained(monkeypatch):
    monkeypatch.setitem(_printed.AQCL, "taobao", {"widedeep": 0.6})
    monkeypatch.setattr(_paper, "PROTOCOLS", _paper.PROTOCOLS[:1] + _paper.PROTOCOLS[4:5])
    plan = _paper.external("taobao")
    flags.FLAGS(["reproduce", "--dataset=taobao", f"--set={SMALL} fit.epochs=2"])
    text, queue = report(plan, seeds=1)
    assert not queue.failures
    assert text.count("| 1 |\n") == 2
    assert "At most 2 epochs, 1 evaluations on validation in each; stopped after 1 without" in text
    assert "- every protocol: the log is simulated" in text
    for folder in queue.folders.values():
        e, _, _ = train.load_snapshot(folder / "config.json")
        assert (e.fit.epochs, e.fit.patience, e.fit.learning_rate) == (2, 1, 0.001)
        assert isinstance(e.head, single.Config)
        assert (e.head.dropout, e.spaces["main"].l2) == (0.2, 0.001)


@pytest.mark.usefixtures("inside")
def test_a_report_that_fails_stops_no_run(capsys):
    plan = _paper.recipes(["widedeep", "widedeep+uim"])
    found = reproduce.work(plan, 2)
    queue = Queue(train.RUNS, "taobao")

    def write() -> None:
        raise RuntimeError("no\nink")

    queue.run(found.jobs.values(), reproduce._after_each_seed(found, queue, write))
    assert len(queue.folders) == 4
    said = [x for x in capsys.readouterr().err.splitlines() if "report" in x]
    assert said == ["the report is not written yet: RuntimeError: no ink"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("seed=3", "seed is set by the number of SEEDS"),
        (f"{SMALL} data.negative_rate=0.5", "negative_rate is set by a cell of table5"),
    ],
)
def test_what_a_plan_sets_is_not_the_users_to_set(given, said):
    flags.FLAGS(["reproduce", "--dataset=taobao", f"--set={given}"])
    with pytest.raises(InputError, match=said):
        reproduce.work(_paper.table5("din"), 1)


def test_a_misspelt_recipe_is_refused_before_anything_runs(tmp_path):
    done = call(tmp_path, "reproduce", dataset="taobao", recipes="widedeep,widedep", set=SMALL)
    assert done.returncode == 2
    assert "did you mean widedeep" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--table=7"], "unknown TABLE '7': known: 2, 3, 4, 5, aqcl2, "),
        (["--fig=7"], "unknown FIG '7': known: 2, 3, 4, 5, aqcl_codewords, "),
        (["--table=2", "--fig=3"], "expected one of them"),
        (["--table=2", "--backbone=din"], "names its own backbones"),
        (["--backbone=din"], "without a table or figure"),
        (["--recipes="], "RECIPES is empty"),
        (["--table=2", "--recipes=din"], "RECIPES=din is given beside TABLE=2"),
        (["--fig=3", "--recipes=din,fm"], "RECIPES=din,fm is given beside FIG=3"),
    ],
)
def test_misuse_is_refused_in_one_sentence(given, said):
    default = f"--recipes={reproduce.RECIPES}"
    flags.FLAGS(["reproduce", "--table=", "--fig=", "--backbone=", default, *given])
    with pytest.raises(InputError, match=said):
        reproduce.chosen_plan()
