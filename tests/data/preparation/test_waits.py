"""Labels that are reported late: waits and labels at a cutoff against a loop over the rows."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from at4ctr.data import days
from at4ctr.data.days import Window
from at4ctr.data.engines.duck import Engine
from at4ctr.data.mapped.config import Mapped
from at4ctr.data.mapped.rows import Rows
from at4ctr.data.nights import increment
from at4ctr.data.preparation import waits
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Label, Schema, Table
from tests.oracles import waits as oracle

DAY, START = 86_400, 1_699_920_000  # a midnight
LABEL = Label("conversion", within="click")


@dataclass(frozen=True)
class Log(Mapped):
    """Impressions of a few shops."""

    wait_by: str = "shop"
    wait_days: float = 1.0

    def schema(self):
        return Schema(
            tables=(Table("user"), Table("item"), Table("shop"), Table("place")),
            features=(
                Feature("user", "profile", "user"),
                Feature("item", "item", "item"),
                Feature("shop", "context", "shop"),
                Feature("place", "context", "place"),
            ),
            labels=(Label("click", sampled=True), LABEL),
        )

    def impressions(self):
        return Rows(
            files="part-shown.csv",
            time="at",
            labels={"click": "clicked", "conversion": "converted <> ''"},
            reported={"conversion": "converted"},
            columns={"user": "who", "item": "sku", "shop": "shop", "place": "row"},
        )


def drawn(number=3000, span=8):
    """Rows (user, item, shop, row, time, click, report): shop 0 reports at once, shop 1 within
    hours, shop 2 at midnight, shop 3 has hardly a conversion."""
    rng = np.random.default_rng(7)
    rows = []
    for row in range(number):
        shop = int(rng.integers(4))
        time = START + int(rng.integers(span * DAY))
        click = bool(rng.random() < 0.7)
        converts = click and rng.random() < (0.01 if shop == 3 else 0.5)
        report = [time, time + int(rng.integers(4 * 3600)), time // DAY * DAY + DAY, time][shop]
        seen = report if converts else -1
        rows.append((int(rng.integers(20)), int(rng.integers(10)), shop, row, time, click, seen))
    return rows


def write(folder, rows):
    folder.mkdir(parents=True)
    with (folder / "part-shown.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("who", "sku", "shop", "row", "at", "clicked", "converted"))
        out.writerows((*r[:5], int(r[5]), "" if r[6] < 0 else r[6]) for r in rows)
    return folder


def expected(rows, longest, cutoff, until):
    """row -> label; the waits by shop."""
    steps = waits.candidates(longest)
    clicks = [r for r in rows if r[5]]

    def wait(chosen, least):
        times, reports = [r[4] for r in chosen], [r[6] for r in chosen]
        return oracle.wait_of(times, reports, cutoff, longest, 0.1, steps, least)

    pooled = wait(clicks, 1)
    by = {s: wait([r for r in clicks if r[2] == s], waits.LEAST) for s in range(4)}
    by = {s: pooled if w is None else w for s, w in by.items()}
    labels = {r[3]: oracle.label(r[5], r[4], r[6], by[r[2]], until(r[4]), longest) for r in rows}
    return labels, by


def stored(store, rows, splits):
    """row -> conversion label of the splits' rows."""
    places = {row[3]: row for row in rows}
    ids = [int(x) for x in store.vocabulary_path("place").read_text().split()]
    found = {}
    for split in splits:
        reader = Reader(store, split, batch_size=500, history=1, drop_remainder=False)
        for batch in reader.dataset(0):
            for place, label in zip(batch["place"].numpy(), batch["label_conversion"].numpy(),
                                    strict=True):  # fmt: skip
                if place >= 2:
                    found[ids[place - 2]] = int(label)
    assert set(found) <= set(places)
    return found


def compared(found, labels):
    assert Counter(found.values())[-2] > 50
    assert found == {row: -1 if labels[row] is None else labels[row] for row in found}


def test_a_store_has_the_labels_of_each_cutoff(tmp_path):
    rows = drawn()
    config = Log(raw=str(write(tmp_path / "raw", rows)), protocol="paper")
    store = Store.open(prepare(config, tmp_path / "data"), config.schema(), config.preparation())
    times = [r[4] for r in rows]
    span = max(times) - min(times)
    test = round(max(times) - 0.2 * span)
    validation = round(test - 0.1 * span)
    labels, by = expected(
        rows, DAY, validation,
        lambda t: max(times) + 1 if t >= test else test if t >= validation else validation,
    )  # fmt: skip
    assert by[0] == 0 < by[1] < by[2] == DAY
    found = stored(store, rows, ("train", "validation", "test"))
    assert len(found) == len(rows)
    compared(found, labels)
    assert any("values of shop wait" in note for note in store.manifest["notes"])


def test_a_night_knows_what_was_reported_before_its_cutoff(tmp_path):
    rows = drawn(span=4)
    for number in range(4):
        begin = START + number * DAY
        folder = tmp_path / "log" / f"dt={datetime.fromtimestamp(begin, UTC).date()}"
        write(folder, [r for r in rows if begin <= r[4] < begin + DAY])
        (folder / "_SUCCESS").touch()
    found = days.find(tmp_path / "log", days.dates(tmp_path / "log"))
    window = Window(START, START + 3 * DAY, START + 4 * DAY)
    night = increment.build(Log(), found, window, None, tmp_path / "night")
    labels, by = expected(
        rows, DAY, window.cutoff, lambda t: window.cutoff if t < window.cutoff else window.end
    )
    assert by[0] == 0 < by[2]
    store = Store.open(night.store)
    assert store.counts("test")["rows"] > 100
    compared(stored(store, rows, ("train",)), labels)
    with pytest.raises(InputError, match=r"wait_days is 3, and the rows to learn from span 3\.00"):
        increment.build(Log(wait_days=3.0), found, window, None, tmp_path / "other")


def labels_of(folder, columns, wait, until, longest):
    with Engine(Path(tempfile.mkdtemp(dir=folder))) as engine:
        engine.register("given", pa.table(columns))
        empty = "NULL::TINYINT AS label_conversion"
        engine.execute(f"CREATE TABLE impressions AS SELECT *, {empty} FROM given")
        engine.execute("CREATE TABLE waits AS SELECT 1::BIGINT AS wait_key, 0::BIGINT AS wait")
        waits.as_known(engine, LABEL, "true", "shop", str(until), longest, wait)
        found = engine.arrow("SELECT label_conversion AS y FROM impressions ORDER BY ord")
        return found.column("y").to_pylist()


def test_rows_at_a_boundary(tmp_path):
    """Of (row, report) with a wait of 10, L of 20 and a cutoff at 100."""
    cases = [
        ((90, None), -2), ((90, 91), -2), ((89, None), 0), ((89, 99), 1), ((89, 100), 0),
        ((70, 90), 1), ((70, 91), 0), ((99, 99), -2), ((100, 100), -2), ((20, 200), 0),
    ]  # fmt: skip
    columns = {
        "ord": list(range(len(cases))),
        "shop": [2] * len(cases),
        "timestamp": [time for (time, _), _ in cases],
        "reported_conversion": pa.array([report for (_, report), _ in cases], pa.int64()),
    }
    assert labels_of(tmp_path, columns, 10, 100, 20) == [label for _, label in cases]
    columns["shop"] = [1] * len(cases)  # which has a wait of 0
    assert labels_of(tmp_path, columns, 10, 100, 20)[:2] == [0, 1]
    assert labels_of(tmp_path, columns, 10, 100, 20)[7:9] == [1, -2]


def chosen(folder, rows, at):
    """Shop -> wait at a cutoff, and the wait of all."""
    columns = {
        "shop": [r[2] for r in rows],
        "timestamp": [r[4] for r in rows],
        "clicked": [r[5] for r in rows],
        "reported_conversion": pa.array([r[6] if r[6] >= 0 else None for r in rows], pa.int64()),
    }
    with Engine(Path(tempfile.mkdtemp(dir=folder))) as engine:
        engine.register("given", pa.table(columns))
        engine.execute("CREATE TABLE impressions AS SELECT * FROM given")
        pooled = waits.choose(engine, "conversion", "clicked", "shop", at, DAY, 0.1)
        return dict(engine.rows("SELECT wait_key, wait FROM waits")), pooled


def test_waits_are_chosen_by_what_was_known_at_the_cutoff(tmp_path):
    rows, at = drawn(), START + 5 * DAY
    found = chosen(tmp_path, rows, at)
    assert found[0] == expected(rows, DAY, at, lambda _: at)[1]
    later = [(*r[:6], -1 if r[6] >= at else r[6]) for r in rows if r[4] < at]
    assert chosen(tmp_path, later, at) == found
    assert chosen(tmp_path, rows[:3], at)[1] == DAY  # no conversion is old enough


def test_logs_that_do_not_fit_are_refused(tmp_path):
    rows = drawn(300)
    config = Log(raw=str(write(tmp_path / "raw", rows)))
    with pytest.raises(InputError, match=r"data\.wait_by"):
        prepare(replace(config, wait_by="brand"), tmp_path / "data")
    with pytest.raises(InputError, match="wait_days is 8, and the rows to learn from span"):
        prepare(replace(config, wait_days=8.0), tmp_path / "data")
    rows[5] = (*rows[5][:5], True, rows[5][4] - 1)
    early = replace(config, raw=str(write(tmp_path / "early", rows)))
    with pytest.raises(InputError, match="expected a report at or after the row"):
        prepare(early, tmp_path / "data")
