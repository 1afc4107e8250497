"""trivago: a hand-made log against a literal recomputation, bad logs, and the real sample."""

import csv
import gzip
import math
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets.trivago import CONTEXT, Config
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.conftest import shared_data
from tests.data.datasets.test_amazon_beauty import decoded

COLUMNS = ["user_id", "session_id", "timestamp", "step", "action_type", "reference", "platform",
           "city", "device", "current_filters", "impressions", "prices"]  # fmt: skip
ITEM_ACTIONS = {"interaction item image", "interaction item info", "interaction item rating",
                "interaction item deals", "search for item", "clickout item"}  # fmt: skip
CLICK, IMAGE = "clickout item", "interaction item image"
START = 1_541_548_800


def action(user, session, time, kind, reference, shown="", prices="", city="Berlin, Germany"):
    return [
        user,
        session,
        START + time,
        1,
        kind,
        reference,
        "DE",
        city,
        "mobile",
        "",
        shown,
        prices,
    ]


LOG = [
    action("u1", "s1", 0, IMAGE, 11),
    action("u1", "s1", 5, "filter selection", "Hotel"),
    action("u1", "s1", 9, "interaction item info", "unknown"),
    action("u1", "s1", 10, IMAGE, 12),
    action("u1", "s1", 20, IMAGE, 13),
    action("u1", "s1", 20, CLICK, 12, "11|12|13", "50|100|200"),
    action("u1", "s1", 20, "interaction item deals", 14),
    action("u1", "s1", 30, CLICK, 13, "13|12", "210|100"),
    action("u1", "s2", 40, CLICK, 12, "12|15", "0|5", city=""),  # a new session: no history
    action("u2", "s3", 41, CLICK, 99, "11|12", "1|2"),  # not shown
    action("u2", "s3", 60, IMAGE, 11),
    action("u2", "s3", 70, CLICK, 12, "11|12|13", "10|20|30"),
    action("u2", "s3", 100, CLICK, 11, "11|12", "10|20", city="Paris, France"),
    action("u3", "s4", 90, "search for item", 12),
]


def write(path, rows, header=COLUMNS):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def expected(log, by, validation, test):
    """Every instance, read off the log: literal loops, and no SQL."""
    found = []
    for row in log:
        user, session, time, _, kind, reference, platform, city, device, _, shown, prices = row
        ids = shown.split("|")
        if kind != CLICK or str(reference) not in ids:
            continue
        past = [
            int(r[5])
            for r in log
            if r[4] in ITEM_ACTIONS and r[5] != "unknown" and int(r[2]) < int(time)
            and (r[1] == session if by == "session" else r[0] == user)
        ]  # fmt: skip
        split = "test" if time >= test else "validation" if time >= validation else "train"
        for place, (item, price) in enumerate(zip(ids, prices.split("|"), strict=True), 1):
            bucket = math.floor(4 * math.log2(max(float(price), 1)))
            owner = session if by == "session" else user
            found.append((split, owner, int(item), int(item == str(reference)), tuple(past),
                          str(place), str(bucket), platform, device, city))  # fmt: skip
    return sorted(found)


def instances(store):
    """The same, from a store."""
    frame = decoded(store)
    for f in CONTEXT:
        ids = np.concatenate([store.read(s, store.groups(s)).instances[f] for s in SPLITS])
        words = ["", "?", *store.vocabulary_path(f).read_text(encoding="utf-8").splitlines()]
        frame[f] = [words[k] for k in ids]
    columns = ["split", "user", "item", "label", "seen", *CONTEXT]
    return sorted(tuple(row) for row in frame[columns].itertuples(index=False))


@pytest.mark.parametrize("by", ["session", "user"])
def test_every_instance_is_what_the_log_says(tmp_path, by):
    write(tmp_path / "train.csv", LOG)
    options = {"by": by, "protocol": "paper", "test_from": "2018-11-07T00:01:10",
               "validation_from": "2018-11-07T00:00:35"}  # fmt: skip
    store = Store.open(prepare(Config(raw=str(tmp_path), **options), tmp_path / "data"))
    rows = expected(LOG, by, START + 35, START + 70)
    assert instances(store) == rows
    assert len(rows) == 12
    seen = {r[4] for r in rows if r[0] == "train"}  # neither the click nor its second is seen
    assert seen == {(11, 12), (11, 12, 13, 12, 14)}
    assert store.manifest["counts"]["dropped"]["no behaviour"] == 2
    assert len(store.ids(by)) == {"session": 4, "user": 3}[by]
    actions = store.read("test", store.groups("test")).behaviours["action"]
    words = store.vocabulary_path("action").read_text().splitlines()
    done = Counter(r[4] for r in LOG if r[4] in ITEM_ACTIONS and r[5] != "unknown")
    assert Counter(words[k - 2] for k in actions) <= done


def test_the_end_of_the_time_is_test(tmp_path):
    write(tmp_path / "train.csv", LOG)
    config = Config(raw=str(tmp_path / "train.csv"), protocol="paper", test_share=0.3,
                    validation_share=0.45)  # fmt: skip
    store = Store.open(prepare(config, tmp_path / "data"))  # clicks from second 20 to 100
    assert instances(store) == expected(LOG, "session", START + 40, START + 76)


def test_a_sessions_id_is_not_told(tmp_path):
    schema = Config().schema()
    assert schema.served("profile") == ()
    assert [f.name for f in Config(by="user").schema().served("profile")] == ["user"]
    write(tmp_path / "train.csv", LOG)
    store = Store.open(prepare(Config(raw=str(tmp_path)), tmp_path / "data"))
    assert set(store.ids("session")) == {2}


def test_properties_are_the_items(tmp_path):
    write(tmp_path / "train.csv", LOG)
    told = [["11", "WiFi|Pool"], ["12", "Bar"], ["12", "Gym"], ["77", "Spa"], ["13", ""]]
    write(tmp_path / "item_metadata.csv", told, ["item_id", "properties"])
    config = Config(raw=str(tmp_path), properties=True, protocol="paper")
    store = Store.open(prepare(config, tmp_path / "data"))
    items = pq.read_table(store.path / "dims" / "item.parquet").to_pylist()
    found = {row["item"]: row["properties"] for row in items}
    assert found == {11: ["WiFi", "Pool"], 12: ["Bar"], 13: [], 14: None, 15: None, 99: None}
    (tmp_path / "item_metadata.csv").unlink()
    with pytest.raises(InputError, match=r"holds no item_metadata.csv\*"):
        prepare(config, tmp_path / "data")


@pytest.mark.parametrize(("row", "says"), [
    (action("u1", "s1", 20, CLICK, 12, "11|12|13", "50|100"),
     "line 4 has lists of 3 in 'shown' and 2 in 'euros'"),
    (action("u1", "s1", 20, CLICK, 12, "12|", "50|100"), "line 4 has nothing as 'item'"),
    (action("u1", "s1", 20, CLICK, 12, "12|x", "50|100"), "line 4 has 'x' as 'item' .*whole"),
    (action("u1", "s1", 20, CLICK, 12, "12|13", "50|dear"), "'dear'.* to DOUBLE"),
    (action("u1", "s1", 20, IMAGE, "Hotel"), "line 4 has 'Hotel' as 'item'"),
    (action("u1", "", 20, IMAGE, 12), "line 4 has nothing as 'session'"),
    (action("u1", "s1", 10**12, IMAGE, 12), "line 4 has .* as 'timestamp'.*unit='milliseconds'"),
    (action("u1", "s1", 20, IMAGE, 12)[:-1], "line 4 has 11 column"),
])  # fmt: skip
def test_a_bad_row_is_refused_with_file_and_line(tmp_path, row, says):
    write(tmp_path / "train.csv", [*LOG[:2], row, *LOG[2:]])
    with pytest.raises(InputError, match=rf"train.csv.*{says}|{says}") as caught:
        prepare(Config(raw=str(tmp_path)), tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_log_are_refused(tmp_path):
    def refused(says):
        with pytest.raises(InputError, match=says) as caught:
            prepare(Config(raw=str(tmp_path)), tmp_path / "data")
        assert "\n" not in str(caught.value)

    refused(r"holds no train.csv\*")
    write(tmp_path / "train.csv", [r[:-1] for r in LOG], COLUMNS[:-1])
    refused(r"prices.*its columns are user_id, session_id")
    whole = gzip.compress((tmp_path / "train.csv").read_bytes())
    (tmp_path / "train.csv.gz").write_bytes(whole)
    refused("holds both train.csv and train.csv.gz")
    (tmp_path / "train.csv").unlink()
    (tmp_path / "train.csv.gz").write_bytes(whole[:-20])
    refused("train.csv.gz.*gzip")
    with pytest.raises(InputError, match=r"'sesion'.*did you mean session"):
        Config(by="sesion")  # type: ignore[arg-type]


def test_the_real_sample(tmp_path):
    path = shared_data("trivago/train.csv.gz")
    raw = pd.read_csv(path, dtype=str, keep_default_na=False)
    clicks = raw[raw.action_type == CLICK]
    shown = clicks.impressions.str.split("|")
    pages = [(r, s) for r, s in zip(clicks.reference, shown, strict=True) if r in s]
    store = Store.open(prepare(Config(raw=str(path.parent)), tmp_path))
    counts = [store.counts(split) for split in SPLITS]
    assert sum(c["rows"] for c in counts) == sum(len(s) for _, s in pages)
    assert sum(c["labels"]["click"]["positives"] for c in counts) == len(pages)
    read = [store.read(split, store.groups(split)).instances for split in SPLITS]
    position, label = (np.concatenate([r[f] for r in read]) for f in ("position", "label_click"))
    words = np.array([0, 0, *map(int, store.vocabulary_path("position").read_text().split())])
    assert Counter(words[position[label == 1]]) == Counter(1 + s.index(r) for r, s in pages)
    assert Counter(words[position]) == Counter(k + 1 for _, s in pages for k in range(len(s)))
    known = raw.action_type.isin(ITEM_ACTIONS) & (raw.reference != "unknown")
    assert store.manifest["counts"]["behaviours"] == known.sum()
    if path.stat().st_size == 1_478_580:  # the sample that the figures are of
        assert [(c["rows"], c["labels"]["click"]["positives"]) for c in counts] == [
            (131_408, 5_729), (22_806, 1_002), (63_575, 2_749)
        ]  # fmt: skip


def test_the_real_histories(tmp_path):
    path = shared_data("trivago/train.csv.gz")
    store = Store.open(prepare(Config(raw=str(path.parent)), tmp_path))
    raw = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = decoded(store, every=40)
    some = rows[rows.seen.notna() & (rows.label == 1)]
    assert len(some) > 100
    sessions = dict(list(raw.groupby("session_id")))
    for row in some.itertuples():
        log = sessions[row.user].astype({"timestamp": int})
        own = log[(log.action_type == CLICK) & (log.reference == str(row.item))]
        real = log[log.action_type.isin(ITEM_ACTIONS) & (log.reference != "unknown")]
        pasts = [real[real.timestamp < t].reference.astype(int) for t in own.timestamp]
        assert row.seen in [tuple(p) for p in pasts]
