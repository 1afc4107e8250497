"""The page about a log of one's own: its example, pasted as it stands, up to a store."""

import re
import runpy
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest

import configs
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.data import toy_log

CHECKOUT = Path(__file__).resolve().parents[3]
PAGE, README = CHECKOUT / "docs" / "own_log.md", CHECKOUT / "README.md"


def blocks(page):
    """The Python of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def method(text, name):
    """The body of a method that returns at once, up to a blank line."""
    (found,) = re.findall(rf"def {name}\(.*?\n(        return.*?)(?:\n\n|\Z)", text, re.DOTALL)
    return found.strip()


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The page's dataset, with its log written into the working folder."""
    script, recipe = blocks(PAGE)
    monkeypatch.chdir(tmp_path)
    for file, text in (("make_log.py", script), ("recipes/mylog.py", recipe)):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    runpy.run_path("make_log.py")
    monkeypatch.setattr(configs, "__path__", [*configs.__path__, str(tmp_path / "recipes")])
    yield configs.dataset("mylog")
    toy_log.forget("mylog")


def rows(name):
    return pyarrow.csv.read_csv(Path("mylog") / name).to_pylist()


def test_the_page_s_example_runs_as_it_is_pasted(made, tmp_path):
    store = Store.open(prepare(made(raw="mylog"), tmp_path / "data"))
    shown, clicks, orders = (rows(f"{n}.csv") for n in ("shown", "clicks", "orders"))
    assert store.manifest["counts"]["behaviours"] == len(clicks) + len(orders)
    counts = [store.counts(s) for s in ("train", "validation", "test")]
    assert sum(c["rows"] for c in counts) == len(shown)
    for label, column in (("click", "clicked"), ("conversion", "ordered")):
        found = sum(c["labels"][label]["positives"] for c in counts)
        assert found == sum(row[column] for row in shown)
    assert store.vectors()["item"].shape == (store.rows("item"), 8)
    assert set(store.manifest["numbers"]) == {"age", "price", "rate"}
    ages = np.load(store.path / "numbers" / "age.npy")
    assert np.isnan(ages).sum() == 12  # of 60 people
    part = store.read("train", store.groups("train"))
    assert set(part.instances["weight"].tolist()) == {0.5, 1.0}
    words = ["", "?", *store.vocabulary_path("event").read_text().split()]
    found = np.bincount(part.behaviours["event"], minlength=len(words))
    assert dict(zip(words, found.tolist(), strict=True)) == {
        "": 0, "?": 0, "click": len(clicks), "order": len(orders)
    }  # fmt: skip


@pytest.mark.usefixtures("made")
def test_the_readme_s_example_reads_the_same_log(tmp_path):
    (short,) = blocks(README)
    for name in ("impressions", "behaviours"):
        assert method(short, name) == method(blocks(PAGE)[1], name)
    (tmp_path / "recipes" / "short.py").write_text(short)
    store = Store.open(prepare(configs.dataset("short")(raw="mylog"), tmp_path / "data"))
    toy_log.forget("short")
    shown = rows("shown.csv")
    counts = [store.counts(s) for s in ("train", "validation", "test")]
    assert sum(c["rows"] for c in counts) == len(shown)
    assert set(store.manifest["numbers"]) == {"rate"}
    for label, column in (("click", "clicked"), ("conversion", "ordered")):
        found = sum(c["labels"][label]["positives"] for c in counts)
        assert found == sum(row[column] for row in shown)
    weights = store.read("train", store.groups("train")).instances["weight"]
    assert set(weights.tolist()) == {0.5, 1.0}


def test_one_file_may_hold_both_histories(made, tmp_path, monkeypatch):
    clicks, _ = made().behaviours()
    mapping = "rows.csv", {**clicks.columns, "event": "kind"}
    lines = [f"{r['uid']},{r['sku']},{r['ts']},{kind}" for n, kind in
             (("clicks", "click"), ("orders", "order")) for r in rows(f"{n}.csv")]  # fmt: skip
    Path("mylog/rows.csv").write_text("\n".join(["uid,sku,ts,kind", *lines, "u1,1,1700000000,x"]))
    both = tuple(type(clicks)(*mapping, time="ts", where=f"kind = '{k}'")
                 for k in ("click", "order"))  # fmt: skip
    monkeypatch.setattr(made, "behaviours", lambda _: both)
    store = Store.open(prepare(made(raw="mylog"), tmp_path / "data"))
    assert store.manifest["counts"]["behaviours"] == len(lines)
    assert store.manifest["counts"]["dropped"]["no behaviour"] == 1


def test_histories_of_other_columns_are_refused(made, tmp_path, monkeypatch):
    clicks, orders = made().behaviours()
    other = type(orders)("orders.csv", {**orders.columns, "age": "NULL"}, time="ts")
    monkeypatch.setattr(made, "users", lambda _: None)
    monkeypatch.setattr(made, "behaviours", lambda _: (clicks, other))
    with pytest.raises(
        InputError,
        match=r"behaviours\(\) gives the columns event, item, user and "
        r"behaviours 2\(\) gives age, event, item, user; expected the same of all",
    ):
        prepare(made(raw="mylog"), tmp_path / "data")
