"""Nights on a log of impressions, on a simulated one and on baskets by the week; and refusals."""

import importlib
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import configs
from at4ctr.data import days
from at4ctr.data.datasets import simulated, tafeng, taobao
from at4ctr.data.days import DAY, NoData, Periods, Window
from at4ctr.data.nights import increment, state
from at4ctr.data.simulation.world import START
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.data import day_log
from tests.data.datasets.test_tafeng import row, written
from tests.data.toy_log import RECIPE

T, NIGHTS = 5, 4


@pytest.fixture(scope="module")
def mylog(tmp_path_factory):
    """A user's own dataset, whose files are parts of a day."""
    folder, path = tmp_path_factory.mktemp("recipes"), configs.__path__
    text = RECIPE.replace('"shown.*"', '"part-shown.*"').replace('"done-*"', '"part-done*"')
    (folder / "daylog.py").write_text(text.replace('"catalogue.*"', '"part-catalogue.*"'))
    configs.__path__ = [*path, str(folder)]
    importlib.invalidate_caches()
    yield configs.dataset("daylog")
    configs.__path__ = path
    sys.modules.pop("configs.daylog")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Days of impressions and behaviours; who is asked for age says it once, or never."""
    root, shown, done = tmp_path_factory.mktemp("log"), [], []
    for number in range(NIGHTS):
        rng, begin = (
            np.random.default_rng([4, number]),
            day_log.CALENDAR.begin(day_log.dated(number)),
        )
        folder = root / f"dt={day_log.dated(number)}"
        folder.mkdir()
        at = begin + rng.integers(864, size=200) * 100
        new = {
            "who": [f"r{k}" for k in rng.integers(24 + 3 * number, size=200)],
            "sku": rng.integers(30 + 5 * number, size=200),
            "rank": rng.integers(5, size=200),
            "at": at * 1000,
            "clicked": rng.integers(2, size=200),
        }
        moment = begin + rng.integers(864, size=150) * 100
        old = {
            "who": [f"r{k}" for k in rng.integers(20 + 3 * number, size=150)],
            "sku": rng.integers(40 + 5 * number, size=150),
            "event": rng.choice(["view", "buy", "scroll"], 150),
            "age": [k if k > 26 else None for k in rng.integers(18, 30, 150).tolist()],
            "moment": moment.astype("datetime64[s]"),
        }
        genres = [f"g{(k + number) % 7}|h" for k in range(60)]  # change from day to day
        for name, table in (("shown", new), ("done", old),
                            ("catalogue", {"sku": np.arange(60), "genres": genres})):  # fmt: skip
            pq.write_table(pa.table(table), folder / f"part-{name}.parquet")
        (folder / "_SUCCESS").touch()
        shown += pa.table(new | {"time": at}).to_pylist()
        done += [r for r in pa.table(old | {"time": moment}).to_pylist() if r["event"] != "scroll"]
    return root, shown, sorted(done, key=lambda r: r["time"])


@pytest.fixture(scope="module")
def chain(mylog, log, tmp_path_factory):
    return day_log.chain(mylog(history=T), log[0], NIGHTS, tmp_path_factory.mktemp("chain"))


def test_impressions_are_what_the_log_says(chain, log):
    _, shown, done = log
    for made in chain:
        begin, cutoff, end = made.window
        expected = Counter()
        for r in (r for r in shown if begin <= r["time"] < end):
            past = [(b["sku"], b["event"]) for b in done
                    if b["who"] == r["who"] and b["time"] < r["time"]]  # fmt: skip
            split = "train" if r["time"] < cutoff else "test"
            expected[split, r["who"], r["sku"], r["clicked"], tuple(past[-T:])] += 1
        found = Counter()
        for (split, user, item, label, _, _, seen, _), n in day_log.decoded(made.store, T).items():
            found[split, user, item, label, seen] += n
        assert found == expected


def test_nights_are_what_all_raw_days_at_once_give(mylog, chain, log, tmp_path):
    """Attributes that change, and some that are said late, are among what is compared."""
    for number, night in enumerate(chain):
        found = days.find(log[0], [day_log.dated(n) for n in range(number + 1)])
        again = increment.build(
            mylog(history=T), found, night.window, None, tmp_path / f"whole-{number}"
        )
        assert day_log.decoded(again.store, T) == day_log.decoded(night.store, T)
        assert day_log.states(again) == day_log.states(night)


def test_vocabularies_grow_by_what_training_sees(chain, log):
    _, shown, done = log
    known = {"user": [], "slot": []}
    for made in chain:
        begin, cutoff, _ = made.window
        rows = [r for r in shown if begin <= r["time"] < cutoff]
        last = {r["who"]: max(o["time"] for o in rows if o["who"] == r["who"]) for r in rows}
        seen = Counter(r["who"] for r in rows)
        for user, time in last.items():
            past = [b["time"] for b in done if b["who"] == user and b["time"] < time]
            seen[user] += len([t for t in past if t >= begin])
            seen[user] += min(T, len([t for t in past if t < begin]))
        counts = {"user": seen, "slot": Counter(r["rank"] + 1 for r in rows)}
        found = day_log.vocabularies(made)
        for table, old in known.items():
            new = counts[table].keys() - set(old)
            assert found[table] == old + sorted(new, key=lambda v: (-counts[table][v], v))
            known[table] = found[table]


def test_the_simulated_log_keeps_its_truth_and_its_label(tmp_path):
    base = simulated.Config(raw=str(tmp_path / "raw"), users=200, items=300, categories=20,
                            rows=4_000, impressions=3_000, days=3, history=T)  # fmt: skip
    behaviours, impressions = (pq.read_table(f) for f in base.acquire().files)
    first, calendar = (
        datetime.fromtimestamp(START + 8 * 3600, UTC).date(),
        Periods(utc_offset_hours=8),
    )
    for number in range(3):
        folder = tmp_path / "log" / f"dt={first + timedelta(number)}"
        folder.mkdir(parents=True)
        for name, table in (("behaviours", behaviours), ("impressions", impressions)):
            day = (table.column("timestamp").to_numpy() - START) // DAY
            pq.write_table(table.filter(pa.array(day == number)), folder / f"part-{name}.parquet")
        (folder / "_SUCCESS").touch()
    since, parent = calendar.begin(first), None
    for number in range(3):
        window = calendar.window(first + timedelta(number), since)
        found = days.find(tmp_path / "log", calendar.dates(window))
        made = increment.build(base, found, window, parent, tmp_path / f"night-{number}")
        since, parent = window.cutoff, made.state
        store = Store.open(made.store)
        assert store.truth
        assert store.simulated
        times = impressions.column("timestamp").to_numpy()
        assert 0 < store.counts("train")["rows"] <= ((times >= window.begin)
                                                     & (times < window.cutoff)).sum()  # fmt: skip
    assert parent
    assert state.opened(parent).facts["simulated"]


def test_baskets_go_by_the_week(tmp_path):
    rng, first = np.random.default_rng(2), date(2000, 11, 6)
    for number in range(21):
        day = first + timedelta(number)
        folder = tmp_path / "log" / f"dt={day}"
        folder.mkdir(parents=True)
        text = f"{day.month}/{day.day}/{day.year}"
        rows = [row(text, f"{rng.integers(9):08}", f"{rng.integers(15):013}") for _ in range(30)]
        for part in range(2):
            written(folder / f"part-{part}.csv", rows[part::2])
        (folder / "_SUCCESS").touch()
    calendar, base = Periods(days=7), tafeng.Config(history=T)
    since, parent, nights = calendar.begin(first), None, []
    for week in range(3):
        window = calendar.window(first + timedelta(7 * week + 6), since)
        found = days.find(tmp_path / "log", calendar.dates(window))
        nights.append(increment.build(base, found, window, parent, tmp_path / f"week-{week}"))
        since, parent = window.cutoff, nights[-1].state
    whole = days.find(tmp_path / "log", [first + timedelta(n) for n in range(21)])
    again = increment.build(base, whole, nights[-1].window, None, tmp_path / "whole")
    assert day_log.decoded(again.store, T) == day_log.decoded(nights[-1].store, T)
    assert day_log.states(again) == day_log.states(nights[-1])
    assert Store.open(again.store).manifest["counts"]["dropped"]["duplicates"] > 0


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    for number in range(3):
        day_log.deliver(folder / "log", number, day_log.taobao_rows(1, number))
    made = day_log.night(taobao.Config(history=T), folder / "log", day_log.windows(1)[0], None,
                         folder / "night")  # fmt: skip
    return folder / "log", made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"types": True}, r"schema tables type is new; expected the parent's schema"),
        ({"seed": 9}, r"options seed was 0 and is 9; expected the parent's"),
        ({"history": T + 1}, r"keeps 5 behaviours of a user, and data.history is 6"),
        ({"protocol": "paper"}, r"protocol is 'paper'; expected 'strict' of a nightly"),
        ({"reject": "seen"}, r"reject is 'seen'; expected 'own' of a nightly"),
    ],
)
def test_another_log_than_the_parents_is_refused(plain, tmp_path, options, said):
    base = replace(taobao.Config(history=T), **options)
    with pytest.raises(InputError, match=said):
        day_log.night(base, plain[0], day_log.windows(2)[1], plain[1].state, tmp_path / "n")
    assert list(tmp_path.iterdir()) == []


def test_days_and_windows_out_of_order_are_refused(plain, tmp_path):
    root, parent = plain
    base, (_, window, later) = taobao.Config(history=T), day_log.windows(3)
    one, two = days.find(root, [day_log.dated(0), day_log.dated(1)])
    late = window._replace(begin=window.begin - 5)
    for given, of, said in (
        ([one, one, two], window, "stands twice in the days"),
        ([two, one], window, "2017-11-25 follows 2017-11-26"),
        ([one, two], later, "after the cutoff"),
        ([one, two], late, "before the cutoff"),
        (
            [one, two],
            Window(window.begin, window.cutoff, window.cutoff),
            "expected begin < cutoff < end",
        ),
    ):
        with pytest.raises(InputError, match=said):
            increment.build(base, given, of, parent.state, tmp_path / "n")
    with pytest.raises(NoData, match="no row in the evaluation window"):
        increment.build(base, [one], Window(window.begin, window.cutoff, window.end),
                        parent.state, tmp_path / "n")  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_state_is_refused(plain, tmp_path):
    broken = tmp_path / "state"
    broken.mkdir()
    for file in plain[1].state.rglob("*.*"):
        (broken / file.relative_to(plain[1].state)).parent.mkdir(exist_ok=True)
        (broken / file.relative_to(plain[1].state)).write_bytes(file.read_bytes())
    assert state.opened(broken).cutoff == plain[1].window.cutoff
    data = bytearray((broken / "items.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (broken / "items.parquet").write_bytes(data)
    with pytest.raises(InputError, match=r"items\.parquet is not the file that was written"):
        state.opened(broken)
    (broken / "items.parquet").unlink()
    with pytest.raises(InputError, match=r"lacks items.parquet"):
        state.opened(broken)
    with pytest.raises(InputError, match=r"lacks state.json"):
        state.opened(tmp_path / "none")
