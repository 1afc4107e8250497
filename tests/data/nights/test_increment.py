"""Nights against plain loops over all raw rows, and against one built from all days at once."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from at4ctr.data import days
from at4ctr.data.datasets import taobao
from at4ctr.data.nights import increment
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.data import day_log
from tests.oracles import increment as oracle

NIGHTS, T = 5, 6
CONFIG = taobao.Config(history=T, negatives=2, seed=3)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The days' folder, and each day's rows in the order of delivery."""
    root = tmp_path_factory.mktemp("log")
    return root, [day_log.deliver(root, n, day_log.taobao_rows(0, n)) for n in range(NIGHTS)]


@pytest.fixture(scope="module")
def chain(log, tmp_path_factory):
    return day_log.chain(CONFIG, log[0], NIGHTS, tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def truth(log):
    """Of each night, the rows it can know: delivered by then, and in time for a window."""
    timely = [[r for r in rows if r[4] >= w.begin]
              for rows, w in zip(log[1], day_log.windows(NIGHTS), strict=True)]  # fmt: skip
    assert sum(map(len, timely)) < sum(map(len, log[1]))
    return [[r for rows in timely[: n + 1] for r in rows] for n in range(NIGHTS)]


def positives(found):
    return Counter((s, u, i, u31, tuple(e[0] for e in seen))
                   for (s, u, i, label, u31, _, seen, _), n in found.items()
                   for _ in range(n) if label)  # fmt: skip


def test_positives_are_the_oracles(chain, truth):
    for made, rows in zip(chain, truth, strict=True):
        expected = oracle.instances(rows, made.window, T, history=T, seed=3)
        assert positives(day_log.decoded(made.store, T)) == Counter(expected)
        assert {s for s, *_ in expected} == {"train", "test"}


def test_vocabularies_grow_as_the_oracles_and_never_change(chain, truth):
    known = {"user": [], "item": [], "category": []}
    for made, rows in zip(chain, truth, strict=True):
        grown = oracle.grown(known, rows, made.window, T)
        assert day_log.vocabularies(made) == grown
        assert all(grown[t][: len(ids)] == ids for t, ids in known.items())
        assert len(grown["item"]) > len(known["item"])
        known = grown


def test_the_future_enters_neither_vocabulary_nor_state(chain, truth):
    for made, rows in zip(chain, truth, strict=True):
        before = [r for r in rows if r[4] < made.window.cutoff]
        ids = {"user": {r[0] for r in before}, "item": {r[1] for r in before}}
        found = day_log.vocabularies(made)
        assert all(set(found[t]) <= raw for t, raw in ids.items())
        sequences = {}
        for user, item, _, _, time in sorted(before, key=lambda r: r[4]):
            sequences.setdefault(user, []).append((time, item))
        kept, users, items = (pq.read_table(made.state / f"{n}.parquet").to_pylist()
                              for n in ("behaviours", "users", "items"))  # fmt: skip
        assert {r["raw"]: list(zip(r["timestamp"], r["item"], strict=True)) for r in kept} == {
            u: s[-T:] for u, s in sequences.items()
        }
        assert {r["raw"]: r["n"] for r in users} == {u: len(s) for u, s in sequences.items()}
        first = oracle.categories(rows, made.window.cutoff)
        assert {r["raw"]: r["f_category"] for r in items} == first


def test_a_night_is_what_all_raw_days_at_once_give(truth, tmp_path):
    """Instances, negatives, uniforms, histories, attributes and state; of days without late rows,
    as a rebuild sees these where they belong, and a night that has passed does not."""
    root, by_day = tmp_path / "log", {}
    for row in truth[-1]:
        by_day.setdefault((row[4] - day_log.BEGIN) // days.DAY, []).append(row)
    for number, rows in sorted(by_day.items()):
        day_log.deliver(root, number, rows, parts=1)
    made = day_log.chain(CONFIG, root, NIGHTS, tmp_path / "chain")
    for number, night in enumerate(made):
        found = days.find(root, [day_log.dated(n) for n in range(number + 1)])
        again = increment.build(CONFIG, found, night.window, None, tmp_path / f"whole-{number}")
        assert day_log.decoded(again.store, T) == day_log.decoded(night.store, T)
        assert day_log.states(again) == day_log.states(night)


def test_negatives_come_from_their_own_side_of_the_cutoff(chain, truth):
    later = set()
    for made, rows in zip(chain, truth, strict=True):
        begin, cutoff, end = made.window
        items = {"train": {r[1] for r in rows if begin <= r[4] < cutoff},
                 "test": {r[1] for r in rows if cutoff <= r[4] < end}}  # fmt: skip
        later |= items["test"] - items["train"]
        drawn = [(k[0], k[2]) for k in day_log.decoded(made.store, T) if not k[3]]
        assert {split for split, _ in drawn} == {"train", "test"}
        assert all(item in items[split] for split, item in drawn)
    assert later  # so a leak of what is popular later would show


def test_no_history_reaches_its_own_second(tmp_path):
    """In a log whose item ids are the seconds."""
    for number in range(2):
        rows = [(u, t, c, k, t) for u, _, c, k, t in day_log.taobao_rows(7, number)]
        day_log.deliver(tmp_path / "log", number, rows)
    for made in day_log.chain(CONFIG, tmp_path / "log", 2, tmp_path / "nights"):
        found = [k for k in positives(day_log.decoded(made.store, T)) if k[4]]
        assert {k[0] for k in found} == {"train", "test"}
        assert all(max(seen) < item for _, _, item, _, seen in found)
        assert all(item < made.window.cutoff for s, _, item, _, _ in found if s == "train")


def test_a_rejected_night_is_spanned_and_each_row_is_trained_once(chain, log, truth, tmp_path):
    """Nights 1 and 2 were refused: the next begins where night 0 ended."""
    window = chain[3].window._replace(begin=chain[0].window.cutoff)
    made = day_log.night(CONFIG, log[0], window, chain[0].state, tmp_path / "night")
    last = day_log.night(CONFIG, log[0], chain[4].window, made.state, tmp_path / "last")
    trained = Counter()
    for night in (chain[0], made, last):
        found = positives(day_log.decoded(night.store, T))
        trained += Counter({k[1:4]: n for k, n in found.items() if k[0] == "train"})
    timely = [log[1][0], *(log[1][n] for n in (1, 2, 3)), truth[4][len(truth[3]) :]]
    rows = [r for n, rows in enumerate(timely) for r in rows
            if r[4] >= (day_log.BEGIN if n == 0 else chain[0].window.cutoff)]  # fmt: skip
    whole = chain[4].window._replace(begin=chain[0].window.begin)
    expected = oracle.instances(rows, whole, 10**6, history=T, seed=3)
    assert trained == Counter(k[1:4] for k in expected if k[0] == "train")
    assert max(trained.values()) == 1


def test_few_behaviours_today_do_not_decide_tomorrow(chain, log, truth, tmp_path):
    """min_behaviours is not asked, as it would count rows to come; min_history asks the past."""
    config = replace(CONFIG, min_behaviours=50)
    made = day_log.night(config, log[0], chain[0].window, None, tmp_path / "a")
    assert day_log.decoded(made.store, T) == day_log.decoded(chain[0].store, T)
    nights = day_log.chain(replace(CONFIG, min_history=9, history=4), log[0], 2, tmp_path / "b")
    for night, rows in zip(nights, truth, strict=False):
        expected = oracle.instances(rows, night.window, 9, history=4, least=9, seed=3)
        assert positives(day_log.decoded(night.store, 4)) == Counter(expected)


def test_halves_are_of_users_and_leave_the_rest(chain, log, tmp_path):
    made = day_log.night(CONFIG, log[0], chain[0].window, None, tmp_path / "n", halves=True)
    found, whole = (day_log.decoded(n.store, T) for n in (made, chain[0]))
    users = {s: {k[1] for k in found if k[0] == s} for s in ("validation", "test")}
    assert all(users.values())
    assert not users["validation"] & users["test"]
    assert 1 / 3 < len(users["validation"]) / len(users["test"]) < 3
    later = {("test", *k[1:]): n for k, n in positives(found).items() if k[0] != "train"}
    assert later == {k: n for k, n in positives(whole).items() if k[0] == "test"}
    same = {k: n for k, n in found.items() if k[0] == "train"}
    assert same == {k: n for k, n in whole.items() if k[0] == "train"}


def test_the_store_is_an_ordinary_one(chain):
    store = Store.open(chain[1].store, schema=CONFIG.schema())
    reader = Reader(store, "train", batch_size=32, history=T, shuffle=True)
    assert reader.batch(0, 0)["history_item"].shape == (32, T)
    assert not store.simulated
    assert store.manifest["inputs"][0]["name"] == f"dt={day_log.dated(0)}/part-00000.csv"


@pytest.mark.parametrize("moment", ["build_store", "write_json", "sync"])
def test_a_killed_night_is_absent_and_its_rerun_the_same(moment, chain, log, tmp_path):
    script = f"""
import os, signal, sys
from pathlib import Path
from at4ctr.data.nights import increment
from tests.data import day_log
from tests.data.nights.test_increment import CONFIG
increment.{moment} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
window, (log, parent, folder) = day_log.windows(2)[1], map(Path, sys.argv[1:])
day_log.night(CONFIG, log, window, parent, folder)
"""
    folder = tmp_path / "night"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *map(str, (log[0], chain[0].state, folder))]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()[-2000:]
    assert not folder.exists()
    made = day_log.night(CONFIG, log[0], chain[1].window, chain[0].state, folder)
    assert day_log.decoded(made.store, T) == day_log.decoded(chain[1].store, T)
    assert day_log.vocabularies(made) == day_log.vocabularies(chain[1])
    files = {n: (made.state / n).read_bytes() for n in ("behaviours.parquet", "users.parquet")}
    assert files == {n: (chain[1].state / n).read_bytes() for n in files}
    assert [p.name for p in tmp_path.iterdir()] == ["night"]


def test_the_same_night_twice_is_one(chain, log):
    written = {p: p.stat().st_mtime_ns for p in chain[2].folder.rglob("*")}
    again = day_log.night(CONFIG, log[0], chain[2].window, chain[1].state, chain[2].folder)
    assert again == chain[2] == increment.opened(chain[2].folder)
    assert written == {p: p.stat().st_mtime_ns for p in chain[2].folder.rglob("*")}
    with pytest.raises(InputError, match="holds a night of other days, options, window or parent"):
        day_log.night(CONFIG, log[0], chain[2].window, chain[1].state, chain[2].folder, halves=True)
