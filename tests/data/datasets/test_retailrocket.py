"""RetailRocket's funnel against pandas over the real events."""

import gzip

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets.retailrocket import Config
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.conftest import shared_data

DAY = 86_400


def labelled(events, click, conversion):
    """The views whose click window ends within the log, in (visitor, second, line) order."""
    last = events.second.max()
    times = {
        kind: rows.groupby(["visitorid", "itemid"]).second.apply(np.sort).to_dict()
        for kind, rows in events.groupby("event")
    }
    found = []
    for line, row in enumerate(events.itertuples()):
        if row.event != "view" or row.second + click > last:
            continue
        key = (row.visitorid, row.itemid)

        def within(kind, window, key=key, begin=row.second):
            after = times[kind].get(key, np.zeros(0))
            return int(((after >= begin) & (after <= begin + window)).any())

        clicked = within("addtocart", click)
        bought = within("transaction", conversion) if clicked else -1
        if row.second + conversion > last:
            bought = -2
        found.append((row.visitorid, row.second, line, row.itemid, clicked, bought))
    names = ["visitor", "second", "line", "item", "click", "conversion"]
    return pd.DataFrame(found, columns=names).sort_values(["visitor", "second", "line"])


def read(store):
    """Every row of a store: split, visitor, item, labels and the length of its history."""
    names = {t: pq.read_table(store.path / "dims" / f"{t}.parquet").column(0).to_numpy()
             for t in ("user", "item")}  # fmt: skip
    frames = []
    for split in SPLITS:
        rows = store.read(split, store.groups(split))
        frame = {
            "split": split,
            "visitor": names["user"][np.repeat(rows.users, rows.counts)],
            "item": names["item"][rows.instances["item"]],
            "click": rows.instances["label_click"],
            "conversion": rows.instances["label_conversion"],
            "cut": rows.instances["cut"],
        }
        frames.append(pd.DataFrame(frame))
    return pd.concat(frames)


@pytest.mark.parametrize(("hours", "days"), [(24.0, 7.0), (1.0, 0.5)])
def test_labels_of_the_real_events(tmp_path, hours, days):
    path = shared_data("retailrocket/events.csv.gz")
    events = pd.read_csv(path)
    events["second"] = events.timestamp // 1000
    expected = labelled(events, round(hours * 3600), round(days * DAY))
    config = Config(raw=str(path.parent), click_hours=hours, conversion_days=days)
    store = Store.open(prepare(config, tmp_path))
    first, last = expected.second.min(), expected.second.max()
    test = round(last - 0.2 * (last - first))
    validation = round(test - 0.1 * (last - first))
    by_visitor = events.groupby("visitorid").second.apply(np.sort).to_dict()
    expected["cut"] = [np.searchsorted(by_visitor[v], s)
                       for v, s in zip(expected.visitor, expected.second, strict=True)]  # fmt: skip
    expected["split"] = np.where(
        expected.second >= test,
        "test",
        np.where(expected.second >= validation, "validation", "train"),
    )
    columns = ["split", "visitor", "item", "click", "conversion", "cut"]
    found = read(store)[columns].sort_values(columns).reset_index(drop=True)
    wanted = expected[columns].sort_values(columns).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False)
    for split, rows in expected.groupby("split"):
        known = rows[rows.conversion >= 0]
        assert store.counts(split)["rows"] == len(rows)
        assert store.counts(split)["labels"] == {
            "click": {"known": len(rows), "positives": int(rows.click.sum())},
            "conversion": {"known": len(known), "positives": int(known.conversion.sum())},
        }


@pytest.mark.parametrize(("line", "says"), [
    ("1433221332117,7,like,5,", "line 3 has event 'like'; expected one of view, addtocart"),
    ("1433221332,7,view,5,", "line 3 has timestamp 1433221332; expected .* 13 digits"),
    ("1433221332117,x,view,5,", "line 3 has 'x' in column 'visitorid'"),
])  # fmt: skip
def test_bad_lines_are_refused(tmp_path, line, says):
    header = "timestamp,visitorid,event,itemid,transactionid"
    text = f"{header}\n1433221332000,7,view,5,\n{line}\n"
    with gzip.open(tmp_path / "events.csv.gz", "wt") as file:
        file.write(text)
    with pytest.raises(InputError, match=says):
        prepare(Config(raw=str(tmp_path)), tmp_path / "data")


@pytest.mark.parametrize(("options", "says"), [
    ({"click_hours": 0.0}, "click_hours is 0.0; expected a finite time above 0"),
    ({"conversion_days": float("inf")}, "conversion_days is inf"),
    ({"test_share": 1.0}, "test_share is 1.0"),
])  # fmt: skip
def test_bad_options_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        Config(**options)


def test_a_missing_log_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no events.csv; expected RetailRocket's"):
        prepare(Config(raw=str(tmp_path)), tmp_path / "data")
    text = "timestamp,visitorid,event,itemid,transactionid\n1433221332000,7,view,5,\n"
    (tmp_path / "events.csv").write_text(text)
    with pytest.raises(InputError, match="has 1 views, and none whose click window of 24 hours"):
        prepare(Config(raw=str(tmp_path)), tmp_path / "data")
