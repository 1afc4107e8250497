"""Ids that nights give a row once their counts over all nights reach a table's least count."""

from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from at4ctr.data.datasets import taobao
from at4ctr.data.store import Store
from tests.data import day_log
from tests.oracles import increment as oracle

NIGHTS, T, LEAST = 4, 6, 9
CONFIG = taobao.Config(history=T, negatives=2, seed=3, item_least=LEAST)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The days' folder, of each night the rows that it can know, and of each day all its rows."""
    root = tmp_path_factory.mktemp("log")
    rows = [day_log.deliver(root, n, day_log.taobao_rows(0, n)) for n in range(NIGHTS)]
    windows = zip(rows, day_log.windows(NIGHTS), strict=True)
    timely = [[r for r in day if r[4] >= w.begin] for day, w in windows]
    return root, [[r for day in timely[: n + 1] for r in day] for n in range(NIGHTS)], rows


@pytest.fixture(scope="module")
def chain(log, tmp_path_factory):
    return day_log.chain(CONFIG, log[0], NIGHTS, tmp_path_factory.mktemp("chain"))


def window_counts(rows, window):
    """Item -> how often the training rows of a window have it, or see it as one of its own rows.

    Every behaviour is a row; one without a past is none, but a later row of its user sees it."""
    begin, cutoff, _ = window
    counts = Counter()
    for sequence in oracle.sequences(rows, window, T).values():
        cuts = [sum(o[3] < e[3] for o in sequence) for e in sequence]
        pairs = zip(sequence, cuts, strict=True)
        trained = [begin <= e[3] < cutoff and cut >= 1 for e, cut in pairs]
        seen = max((cut for cut, own in zip(cuts, trained, strict=True) if own), default=0)
        counts.update(e[0] for k, e in enumerate(sequence)
                      if e[3] >= begin and (trained[k] or k < seen))  # fmt: skip
    return counts


def test_an_id_has_a_row_from_the_night_on_which_its_count_is_reached(chain, log):
    known, total, later = [], Counter(), 0
    for night, (made, rows) in enumerate(zip(chain, log[1], strict=True)):
        before = Counter(total)
        total += window_counts(rows, made.window)
        new = [i for i, n in total.items() if n >= LEAST and i not in known]
        later += sum(0 < before[i] < LEAST for i in new)
        order = {i: total[i] for i in new}
        known = known + sorted(new, key=lambda i: (-order[i], i))
        assert day_log.vocabularies(made)["item"] == known
        pending = pq.read_table(made.state / "pending" / "item.parquet").to_pylist()
        rare = {i: n for i, n in total.items() if i not in known}
        assert {r["raw"]: r["n"] for r in pending} == rare
        assert rare or night == 0
        assert Store.open(made.store).manifest["rare"] == {"item": len(rare)}
    assert later >= 5  # ids whose rows two nights or more have counted together


def test_an_unadmitted_item_is_unknown_wherever_it_stands(chain):
    for made in chain:
        store = Store.open(made.store)
        ids = day_log.vocabularies(made)["item"]
        number = {raw: k + 2 for k, raw in enumerate(ids)}
        raws = pq.read_table(made.store / "dims" / "item.parquet").column("item").to_pylist()
        assert store.ids("item").tolist() == [number.get(raw, 1) for raw in raws]
        assert store.counts("train")["unknown"]["item"] > 0


def test_other_tables_and_all_rows_are_as_without_it(chain, log, tmp_path):
    plain = day_log.chain(replace(CONFIG, item_least=1), log[0], 1, tmp_path)
    for made, other in zip(chain, plain, strict=False):
        assert day_log.decoded(made.store, T) == day_log.decoded(other.store, T)
        found, expected = day_log.vocabularies(made), day_log.vocabularies(other)
        assert found["user"] == expected["user"]
        assert found["category"] == expected["category"]
        assert set(found["item"]) < set(expected["item"])
        assert not (other.state / "pending").exists()


def test_a_night_that_spans_a_refused_one_counts_its_rows_once(log, chain, tmp_path):
    window = chain[2].window._replace(begin=chain[0].window.cutoff)
    made = day_log.night(CONFIG, log[0], window, chain[0].state, tmp_path / "night")
    rows = log[1][0] + [r for day in log[2][1:3] for r in day if r[4] >= window.begin]
    expected = window_counts(log[1][0], chain[0].window) + window_counts(rows, window)
    known = set(day_log.vocabularies(made)["item"])
    pending = pq.read_table(made.state / "pending" / "item.parquet").to_pylist()
    assert {r["raw"]: r["n"] for r in pending} == {
        i: n for i, n in expected.items() if i not in known
    }
    assert {i for i, n in expected.items() if n >= LEAST} == known
