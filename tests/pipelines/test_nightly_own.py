"""The page about nights of a log of one's own: its log and its file, pasted as they stand."""

import re
import runpy
import sys
from datetime import date, timedelta

import pyarrow.parquet as pq
import pytest

import configs
from at4ctr.data import days
from at4ctr.data.days import Periods
from at4ctr.data.nights import increment, state
from at4ctr.data.store import Store
from tests.data import toy_log
from tests.pipelines.nights import CHECKOUT

FIRST, NIGHTS, CHURN = date(2026, 1, 1), 4, 0.05
PAGE = CHECKOUT / "docs" / "nightly_own.md"


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The page's dataset, with a log of a few days in the working folder."""
    script, recipe = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "shop.py").write_text(recipe)
    (tmp_path / "make_days.py").write_text(script)
    monkeypatch.setattr(sys, "argv", ["make_days.py", "log", str(NIGHTS), str(CHURN)])
    runpy.run_path("make_days.py")
    monkeypatch.setattr(configs, "__path__", [*configs.__path__, str(tmp_path / "recipes")])
    yield configs.dataset("shop")
    toy_log.forget("shop")


def sold(day):
    """The items that were shown on a day."""
    return {*pq.read_table(f"log/dt={day}/part-shown.parquet")["sku"].to_pylist()}


def test_the_page_s_nights_wait_for_reports_and_forget_items_that_left(shop, tmp_path):
    data = shop(history=20, wait_by="seller", wait_days=0.5)
    calendar, dates = Periods(), [FIRST + timedelta(k) for k in range(NIGHTS)]
    since, parent, known = calendar.begin(FIRST), None, []
    for day in dates:
        window = calendar.window(day, since)
        found = days.find(tmp_path / "log", calendar.dates(window))
        made = increment.build(data, found, window, parent, tmp_path / str(day), expire_days=1)
        labels = Store.open(made.store).counts("train")["labels"]
        assert 0.85 < labels["conversion"]["known"] / labels["click"]["positives"] < 0.97
        known.append({*state.vocabularies(made.state)["item"].to_pylist()})
        since, parent = window.cutoff, made.state
    left = sold(dates[0]) - sold(dates[-2]) - sold(dates[-1])
    assert len(left) > 1.5 * CHURN * 2_000  # left after the first or the second day
    assert left <= known[0]
    assert left.isdisjoint(known[-1])
