"""Ids that training has not seen for some days leave the vocabularies, on logs whose ids come and
go, against plain loops."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from at4ctr.data.datasets import taobao
from at4ctr.data.days import DAY
from at4ctr.data.nights import increment
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.data import day_log
from tests.oracles import increment as oracle

NIGHTS, T, EXPIRE = 4, 6, 1
CONFIG = taobao.Config(history=T, negatives=1, seed=3)


def rows_of(number, rows=200):
    """A day: users 5n to 5n + 20 and items 12n to 12n + 30 of the n-th; some of both come back."""
    rng = np.random.default_rng([8, number])
    begin = day_log.CALENDAR.begin(day_log.dated(number))
    old = rng.random(rows) < 0.06
    user = np.where(old, 0, 5 * number) + rng.integers(20, size=rows)
    item = np.where(old, 0, 12 * number) + rng.integers(30, size=rows)
    time = begin + np.sort(rng.choice(DAY, rows, replace=False))
    return [(int(u) + 7, int(i) + 900, int(i) % 4, "pv", int(t))
            for u, i, t in zip(user, item, time, strict=True)]  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    root = tmp_path_factory.mktemp("log")
    return root, [day_log.deliver(root, n, rows_of(n)) for n in range(NIGHTS)]


def seen(rows, window):
    """Item -> the times at which the training rows of a window have it or see it."""
    begin, cutoff, _ = window
    found = {}
    for sequence in oracle.sequences(rows, window, T).values():
        cuts = [sum(o[3] < e[3] for o in sequence) for e in sequence]
        pairs = list(zip(sequence, cuts, strict=True))
        trained = [begin <= e[3] < cutoff and cut >= 1 for e, cut in pairs]
        last = max((cut for cut, own in zip(cuts, trained, strict=True) if own), default=0)
        for place, (event, own) in enumerate(zip(sequence, trained, strict=True)):
            if own or place < last:
                found.setdefault(event[0], []).append(event[3])
    return found


def nights(rows_by_day, least):
    """The vocabulary of items, what is pending, and what left, night after night."""
    known, pending = {}, {}
    for number, window in enumerate(day_log.windows(NIGHTS)):
        rows = [r for day in rows_by_day[: number + 1] for r in day]
        times, limit = seen(rows, window), window.cutoff - EXPIRE * DAY
        before = list(known)
        latest = {i: max([last, *times.get(i, ())]) for i, last in known.items()}
        known = {i: last for i, last in latest.items() if last >= limit}
        counts, last = Counter(), {}
        for item in times.keys() | pending.keys():
            n, when = pending.get(item, (0, 0))
            fresh = [t for t in times.get(item, ()) if least == 1 or number == 0
                     or t >= window.begin]  # fmt: skip
            counts[item] = n + len(fresh)
            last[item] = max([when, *times.get(item, ())])
        new = [i for i in counts if i not in before and last[i] >= limit]
        ready = [i for i in new if counts[i] >= least]
        known |= {i: last[i] for i in sorted(ready, key=lambda i: (-counts[i], i))}
        pending = {i: (counts[i], last[i]) for i in new if counts[i] < least}
        yield list(known), dict(pending), [i for i in before if i not in known]


@pytest.mark.parametrize("least", [1, 4])
def test_the_vocabulary_is_of_the_last_days(log, tmp_path, least):
    config = replace(CONFIG, item_least=least)
    made = day_log.chain(config, log[0], NIGHTS, tmp_path, expire_days=EXPIRE)
    gone, sizes, back, before = set(), [], 0, []
    for night, (known, pending, left) in zip(made, nights(log[1], least), strict=True):
        assert day_log.vocabularies(night)["item"] == known
        file = night.state / "pending" / "item.parquet"
        held = pq.read_table(file).to_pylist() if least > 1 else []
        assert {r["raw"]: (r["n"], r["last"]) for r in held} == pending
        back += len(gone & set(known))
        gone = (gone | set(left)) - set(known)
        sizes.append(len(known))
        store = Store.open(night.store)
        said = [n for n in store.manifest["notes"] if "table 'item' have left" in n]
        assert said[:1] == ([f"{len(left)} of {len(before)} ids of table 'item' have left the "
                             "vocabulary, as their last row or behaviour is too old; a model reads "
                             "them as unknown"] if left else [])  # fmt: skip
        before = known
        number = {raw: k + 2 for k, raw in enumerate(known)}
        raws = pq.read_table(night.store / "dims" / "item.parquet").column("item").to_pylist()
        assert store.ids("item").tolist() == [number.get(raw, 1) for raw in raws]
    assert len(gone) > 10
    assert back or least > 1  # some come back, as new ids
    distinct = {r[1] for day in log[1] for r in day}
    recent = [len({r[1] for day in log[1][max(0, n - EXPIRE) : n + 1] for r in day})
              for n in range(NIGHTS)]  # fmt: skip
    assert all(size <= bound for size, bound in zip(sizes, recent, strict=True))
    assert sizes[-1] < len(distinct) - 10


def test_rows_are_as_without_expiry_and_a_parent_without_times_is_seen_at_its_cutoff(log, tmp_path):
    plain = day_log.chain(CONFIG, log[0], 3, tmp_path / "plain")
    assert "last" not in pq.read_schema(plain[1].state / "vocabulary" / "item.parquet").names
    window, parent = plain[2].window, plain[1].state
    adopted = day_log.night(CONFIG, log[0], window, parent, tmp_path / "a", expire_days=2)
    assert day_log.vocabularies(adopted) == day_log.vocabularies(plain[2])
    short = day_log.night(CONFIG, log[0], window, parent, tmp_path / "b", expire_days=1)
    assert day_log.decoded(short.store, T) == day_log.decoded(plain[2].store, T)
    assert day_log.states(short) == day_log.states(plain[2])
    times = seen([r for day in log[1][:3] for r in day], window)
    expected = {i for i, at in times.items() if max(at) >= window.cutoff - DAY}
    assert set(day_log.vocabularies(short)["item"]) == expected
    with pytest.raises(InputError, match="holds a night of other days, options, window or parent"):
        day_log.night(CONFIG, log[0], window, parent, tmp_path / "a", expire_days=3)
    again = day_log.night(CONFIG, log[0], window, parent, tmp_path / "a", expire_days=2)
    assert increment.opened(again.folder) == adopted
