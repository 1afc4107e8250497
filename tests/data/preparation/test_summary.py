"""The summary of a log: counts as an own count finds them, and doubts where a join went wrong."""

import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from at4ctr.data import summary as words
from at4ctr.data.preparation import summary
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import MANIFEST, Store
from at4ctr.schema import Feature, Schema, Table
from tests.data.toy_log import mylog_of, tables, write

SPLITS = ("train", "validation", "test")


@pytest.fixture
def mylog(tmp_path, monkeypatch):
    yield from mylog_of(tmp_path, monkeypatch)


def repeated(logs):
    """The log with three impressions twice."""
    shown = logs["shown"]
    return logs | {"shown": pa.concat_tables([shown, shown.slice(40, 3)])}


def counted(logs, bounds):
    """What the summary must say, by plain Python over the raw tables."""
    shown = logs["shown"].to_pylist()
    done = [row for name in ("done-1", "done-2") for row in logs[name].to_pylist()
            if row["event"] != "scroll"]  # fmt: skip
    past = {}
    for row in done:
        past.setdefault(row["who"], []).append(seconds(row))
    found: dict[str, Any] = {
        s: {"rows": 0, "times": [], "lengths": [], "duplicates": 0} for s in SPLITS
    }
    seen = set()
    for row in shown:
        second = row["at"] // 1000
        split = SPLITS[sum(second >= b for b in bounds)]
        here = found[split]
        here["rows"] += 1
        here["times"].append(second)
        here["lengths"].append(sum(t < second for t in past.get(row["who"], [])))
        key = row["who"], row["sku"], second
        here["duplicates"] += key in seen
        seen.add(key)
    return found, done


def seconds(row):
    return int(np.datetime64(row["moment"], "s").astype(np.int64))


def test_the_summary_is_an_own_count(mylog, tmp_path, capsys):
    logs = repeated(tables())
    folder = write(tmp_path / "raw", "parquet", logs)
    config = mylog(raw=folder)
    path = prepare(config, tmp_path / "data")
    printed = capsys.readouterr().err
    manifest = Store.open(path).manifest
    shown = [t // 1000 for t in logs["shown"].column("at").to_pylist()]
    first, last = min(shown), max(shown)
    test = round(last - 0.25 * (last - first))
    expected, done = counted(logs, (round(test - 0.1 * (last - first)), test))
    found = manifest["summary"]
    for split in SPLITS:
        here, there = expected[split], found["splits"][split]
        assert there["rows"] == here["rows"] == manifest["counts"][split]["rows"] > 0
        assert (there["first"], there["last"]) == (min(here["times"]), max(here["times"]))
        assert there["duplicates"] == here["duplicates"]
        assert there["history"] == sum(n > 0 for n in here["lengths"])
        ordered = sorted(here["lengths"])
        places = [int(np.ceil(q * len(ordered))) - 1 for q in (0.1, 0.5, 0.9, 1.0)]
        assert there["lengths"] == [ordered[k] for k in places]
    assert sum(s["duplicates"] for s in found["splits"].values()) >= 3
    assert found["behaviours"] == {"rows": len(done), "first": min(map(seconds, done)),
                                   "last": max(map(seconds, done))}  # fmt: skip
    ages = {}
    for row in done:
        ages.setdefault(row["who"], set()).update([row["age"]] if row["age"] else [])
    users = {*ages, *logs["shown"].column("who").to_pylist()}
    assert found["several"]["age"] == sum(len(a) > 1 for a in ages.values())
    ageless = sum(not ages.get(u) for u in users) / len(users)
    assert found["missing"].get("age", 0) == pytest.approx(ageless, abs=1e-6)
    assert found["missing"]["genres"] > 0.2  # one in four items has none, and some stand nowhere
    assert found["impressions"] is True
    assert found["left_out"] == {}
    lines = words.lines(manifest)
    assert all(f"prepare: {line}\n" in printed for line in lines)
    rates = [f"{c['labels']['click']['positives'] / c['rows']:.2%}"
             for c in (manifest["counts"][s] for s in SPLITS)]  # fmt: skip
    assert any(all(rate in line for rate in rates) for line in lines)
    prepare(config, tmp_path / "data")
    assert capsys.readouterr().err == ""
    prepare(config, tmp_path / "data", again=True)
    assert [f"prepare: {line}" for line in lines] == capsys.readouterr().err.splitlines()
    old = json.loads((path / MANIFEST).read_text())
    del old["summary"]
    assert "prepared before summaries were kept" in words.lines(old)[0]


def test_impressions_that_are_no_row_are_counted_by_reason(mylog, tmp_path):
    logs = tables()
    folder = write(tmp_path / "raw", "parquet", logs)
    config = mylog(raw=folder, min_behaviours=1, min_history=5)
    found = Store.open(prepare(config, tmp_path / "data")).manifest
    rows = sum(found["counts"][s]["rows"] for s in SPLITS)
    reasons = found["summary"]["left_out"]
    assert sum(reasons.values()) == logs["shown"].num_rows - rows
    idle = [f"r{k}" for k in range(25, 30)]  # who do nothing
    gone = sum(w in idle for w in logs["shown"].column("who").to_pylist())
    assert [n for reason, n in reasons.items() if "min_behaviours" in reason] == [gone]
    assert all(s["lengths"][0] >= 5 for s in found["summary"]["splits"].values())


SCHEMA = Schema(
    tables=(Table("user"), Table("item")),
    features=(Feature("user", "profile", "user"), Feature("item", "item", "item")),
    history=("item",),
)
CONFIG: Any = SimpleNamespace(schema=lambda: SCHEMA)
DAY, BEGIN = 86_400, 1_700_000_000


def sound():
    """The summary and the counts of a log with nothing odd."""
    splits = {s: {"rows": 1000, "first": BEGIN + k * DAY, "last": BEGIN + (k + 1) * DAY,
                  "duplicates": 5, "history": 900, "lengths": [1, 2, 3, 4]}
              for k, s in enumerate(SPLITS)}  # fmt: skip
    counts = {s: {"rows": 1000, "labels": {"click": {"known": 1000, "positives": 100}},
                  "unknown": {"user": 50, "item": 20}} for s in SPLITS}  # fmt: skip
    past = {"rows": 10, "first": BEGIN - DAY, "last": BEGIN + DAY}
    held = {"impressions": True, "splits": splits, "behaviours": past, "missing": {"age": 0.5},
            "several": {}, "left_out": {}}  # fmt: skip
    return held, counts


def each(key, value):
    def change(held, counts):
        del counts
        for split in held["splits"].values():
            split[key] = value

    return change


def behaviours(first, last):
    return lambda held, _: held["behaviours"].update(first=first, last=last)


def test_a_sound_log_has_no_doubt():
    assert summary.doubts(CONFIG, *sound()) == []


@pytest.mark.parametrize(("change", "says"), [
    (each("history", 9), r"0\.90% of the rows have a history; expected at least 1%"),
    (each("duplicates", 101), r"10\.1% of the rows have user, item and time of another row"),
    (each("first", 1_700_000), "the rows begin at 1970-01-20 16:13:20 UTC.*unit of time"),
    (behaviours(1_699_000, 1_700_000), "the behaviours begin at 1970-01-20"),
    (behaviours(BEGIN - 900 * DAY, BEGIN - 500 * DAY), "the last behaviour is at 2022-07-"),
    (lambda held, _: held["missing"].update(age=0.995), "age is missing in 99.5%"),
    (lambda _, counts: counts["test"]["unknown"].update(item=901), r"90\.1% of the test rows"),
    (lambda _, counts: counts["test"]["labels"]["click"].update(positives=40),
     r"click is 1 in 10\.00% in train .* 4\.00% in test; expected rates within a factor of 2"),
])  # fmt: skip
def test_what_a_wrong_join_or_unit_does_is_a_doubt(change, says):
    held, counts = sound()
    change(held, counts)
    found = summary.doubts(CONFIG, held, counts)
    assert any(re.search(says, doubt) for doubt in found)
    assert all("; look" in doubt or "; compare" in doubt for doubt in found)


def test_a_log_without_a_history_or_times_has_no_doubt_of_them():
    held, counts = sound()
    for split in held["splits"].values():
        split.update(first=None, last=None, history=0)
    held["behaviours"].update(first=None, last=None)
    bare = Schema(tables=SCHEMA.tables, features=SCHEMA.features, history=())
    config: Any = SimpleNamespace(schema=lambda: bare)
    assert summary.doubts(config, held, counts) == []
