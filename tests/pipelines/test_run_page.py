"""A run's page: an honest verdict first, everything inside the file, the summary and commands."""

import json

import numpy as np
import pytest

from at4ctr import metrics
from at4ctr.data.store import Store
from at4ctr.evaluation import Predictions
from pipelines import measure
from pipelines.pages import run
from tests.data import toy_store
from tests.pipelines.test_nightly_report import Page

EVIL = "<script>alert('x')</script>\"&"


def compared(change, half=0.01):
    return {"auc": 0.6, "logloss": 0.5 - change, "normalized_entropy": 0.9, "change": change,
            "low": change - half, "high": change + half, "users": 40}  # fmt: skip


def metrics_of(constant=-0.05, popular=-0.03, **more):
    """The metrics of a run of one label whose log loss is 0.5."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    found = dict(metrics.report(labels, rng.normal(size=200)))
    return found | {
        "logloss": 0.5, "steps": 120, "best_step": 100, "seconds": 60.0, "train_seconds": 20.0,
        "exported": True, "validation": {"rows": 50, "auc": 0.7}, "segments": {
            "all": {"all": {"rows": 200, "clicks": 99, "users": 40, "small": False, "pcoc": 1.01,
                            "pcoc_interval": [0.9, 1.1], "ece": 0.02}}},
        "baselines": {"click": {"base rate": compared(constant),
                                "item popularity": compared(popular)}},
    } | more  # fmt: skip


@pytest.mark.parametrize(("constant", "popular", "css", "says"), [
    (-0.05, -0.03, "good", "Better than a constant and than item popularity"),
    (-0.05, -0.005, "held", "not shown to be better than item popularity"),
    (-0.05, 0.02, "held", "Better than a constant, worse than item popularity"),
    (-0.005, 0.02, "held", "Not shown to be better than a constant"),
    (0.005, 0.02, "held", "Not shown to be better than a constant"),
    (0.05, 0.07, "rejected", "Worse than a constant"),
])  # fmt: skip
def test_the_verdict_is_what_the_intervals_say(constant, popular, css, says):
    found = run.verdict(metrics_of(constant, popular), "click")
    assert found.css == css
    assert says in found.words
    assert found.said.startswith("The log loss of click on 200 test rows is 0.5000. A constant ")
    assert "not to be believed" not in found.said


@pytest.mark.parametrize(("constant", "popular", "says"), [
    (-0.1964, -0.03, "has 0.1964 more (95 %: 0.1864 to 0.2064), item popularity 0.0300 more (95 %: "
                     "0.0200 to 0.0400)."),
    (0.05, -0.03, "has 0.0500 less (95 %: 0.0400 to 0.0600), item popularity 0.0300 more (95 %: "
                  "0.0200 to 0.0400)."),
    (-0.004, 0.004, "has 0.0040 more (95 %: 0.0060 less to 0.0140 more), item popularity 0.0040 "
                    "less (95 %: 0.0140 less to 0.0060 more)."),
])  # fmt: skip
def test_the_verdict_says_how_far_each_baseline_is(constant, popular, says):
    found = run.verdict(metrics_of(constant, popular), "click")
    assert found.said.endswith(f"A constant (the base rate of training) {says}")


def test_few_users_are_not_judged():
    few = {name: {**compared(-0.05), "users": 29} for name in ("base rate", "item popularity")}
    found = run.verdict(metrics_of(baselines={"click": few}), "click")
    assert found.words == "Not judged: too few users"
    assert "Only 29 users" in found.said
    assert "below 30 the intervals are not to be believed" in found.said
    assert run.verdict(metrics_of(baselines={}), "click").words == "Not judged"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run's folder with metrics of one class of everything that the page shows."""
    root = tmp_path_factory.mktemp("run")
    toy_store.make(root / "store", users=30)
    manifest = json.loads((root / "store" / "manifest.json").read_text())
    split = {"rows": 7, "first": 1_700_000_000, "last": 1_700_000_100, "duplicates": 3,
             "history": 6, "lengths": [0, 2, 5, 1234]}  # fmt: skip
    manifest["counts"] |= {"users": 30, "items": 50, "dropped": {}}
    manifest |= {
        "dataset": EVIL,
        "notes": [EVIL],
        "inputs": [{"name": "shown.csv", "bytes": 12, "sha256": "ab" * 32}],
        "summary": {
            "impressions": True, "splits": dict.fromkeys(("train", "validation", "test"), split),
            "behaviours": {"rows": 99, "first": 0, "last": 1}, "missing": {"age": 0.125},
            "several": {"city": 4}, "left_out": {"of no split": 17},
            "doubts": ["the rows begin at 1970-01-01; look at the unit of time"],
        },
    }  # fmt: skip
    (root / "store" / "manifest.json").write_text(json.dumps(manifest))
    made = root / "runs" / "20260101T000000Z"
    made.mkdir(parents=True)
    (made / "config.json").write_text(json.dumps({"recipe": "din"}))
    rng = np.random.default_rng(0)
    labels, z = rng.integers(2, size=300), rng.normal(size=300)
    found = Predictions(labels, z, rng.integers(40, size=300), np.ones(300), None)
    every = {"click": measure.Measured(found, None, {}, {})}
    measure.draw(every, made, simulated=False, others={"click": {"item popularity": z / 2}})
    return made, Store.open(root / "store")


def test_the_page_is_whole_and_needs_nothing_beside_it(folder):
    made, store = folder
    path = run.write(made, store, metrics_of(too_few_steps="training takes 9 steps"))
    assert path == made / "report.html"
    assert [p.name for p in made.iterdir() if p.name.startswith(".")] == []
    text = path.read_text()
    page = Page(text)  # whose tags are balanced, without any handler of events
    assert all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert len(page.addresses) == 3  # ROC, reliability, segments
    assert all(page.alts)
    assert "script" not in page.tags
    assert EVIL in page.text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert text.count('<div class="scroll"') == text.count("<table")
    assert len(text) < 600_000


def test_the_page_says_what_was_read_and_what_to_do(folder):
    made, store = folder
    said = metrics_of(too_few_steps="training takes 9 steps")
    page = Page(run.write(made, store, said).read_text())
    order = [page.text.index(word) for word in (
        "Better than a constant and than item popularity", "Look at this first",
        "Training takes 9 steps.", "The rows begin at 1970-01-01", "Against the baselines",
        "ROC and reliability", "Metrics", "Segments", "The log that was read",
        "What to do with it")]  # fmt: skip
    assert order == sorted(order)
    for said in ("2023-11-14 22:13:20", "0, 2, 5, 1,234", "age: missing", "12.5%", "4 ids", "17"):
        assert said in page.texts
    for words in (f"make serve MODEL={made}/export", f"make eval RUN={made}",
                  f"--snapshot={made}/config.json"):  # fmt: skip
        assert words in page.text


def test_a_run_that_was_not_exported_is_not_served(folder):
    made, store = folder
    assert "make serve" not in run.write(made, store, metrics_of(exported=False)).read_text()
