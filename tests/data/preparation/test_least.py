"""Least counts of ids against a plain count of what training sees."""

from collections import Counter
from dataclasses import replace
from datetime import UTC

import pyarrow.parquet as pq
import pytest

from at4ctr.data.dataset import SPLITS
from at4ctr.data.datasets import aliccp, taobao
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import Schema, Table
from tests.data.preparation.test_prepare import read, rows_of, written
from tests.data.toy_log import START, mylog_of, tables, write
from tests.oracles import prepare as oracle

LEAST = {"user": 32, "item": 4}


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_ids_below_the_least_count_share_the_unknown_row(tmp_path, protocol):
    rows = rows_of(3, items=400)
    config = taobao.Config(
        raw=written(rows, tmp_path / "log.csv"), protocol=protocol, user_least=32, item_least=4
    )
    store, _, found = read(prepare(config, tmp_path))
    truth = oracle.behaviours(rows)
    seen = oracle.seen_by_training(truth, oracle.last_k(truth)["train"])
    if protocol == "paper":
        seen = {(u, k) for u in truth for k in range(len(truth[u]))}
    counts = {"user": Counter(u for u, _ in seen), "item": Counter(truth[u][k][0] for u, k in seen)}
    said = "\n".join(store.manifest["notes"])
    for table, least in LEAST.items():
        kept = sorted((r for r, n in counts[table].items() if n >= least),
                      key=lambda r: (-counts[table][r], r))  # fmt: skip
        assert 0 < len(kept) < len(counts[table])
        assert least in counts[table].values()  # the bound itself is met
        assert store.vocabulary_path(table).read_text().split() == [str(r) for r in kept]
        assert store.rows(table) == len(kept) + 2
        number = {raw: k + 2 for k, raw in enumerate(kept)}
        raws = pq.read_table(store.path / "dims" / f"{table}.parquet").column(table).to_pylist()
        assert store.ids(table).tolist() == [number.get(raw, 1) for raw in raws]
        rare = len(counts[table]) - len(kept)
        assert store.manifest["rare"][table] == rare
        values = [u if table == "user" else i for u in found for _, i, _, _ in found[u]["train"]]
        share = sum(v not in number for v in values) / len(values)
        assert (
            f"{rare} ids of table '{table}' were seen fewer than {least} times in training and "
            f"share the unknown row, beside {len(kept)} that have rows of their own; of "
            f"{len(values):,} training rows {share:.2%} have one in '{table}'" in said
        )
        for split in SPLITS:
            pairs = [(u, i) for u in found for _, i, _, _ in found[u][split]]
            unknown = sum((u if table == "user" else i) not in number for u, i in pairs)
            assert store.counts(split)["unknown"][table] == unknown
    plain = Store.open(prepare(replace(config, user_least=1, item_least=1), tmp_path))
    assert plain.path != store.path
    assert plain.rows("category") == store.rows("category")
    assert plain.manifest["rare"] == {}


@pytest.fixture
def mylog(tmp_path, monkeypatch):
    yield from mylog_of(tmp_path, monkeypatch)


def test_a_table_of_a_mapping_has_a_least_count(mylog, tmp_path, monkeypatch):
    """Of impressions: an item counts as the candidate of training rows and as a behaviour that one
    of them sees."""
    given = mylog().schema()
    rarely = [replace(t, least=6) if t.name == "item" else t for t in given.tables]
    monkeypatch.setattr(mylog, "schema", lambda _: replace(given, tables=tuple(rarely)))
    logs = tables(300)
    store = Store.open(prepare(mylog(raw=write(tmp_path / "raw", "parquet", logs)), tmp_path))
    shown = logs["shown"].to_pylist()
    done = [r for n in ("done-1", "done-2") for r in logs[n].to_pylist() if r["event"] != "scroll"]
    times = sorted(r["at"] // 1000 for r in shown)
    validation = times[0] + (times[-1] - times[0]) * (1 - mylog.test_share - mylog.validation_share)
    train = [r for r in shown if r["at"] // 1000 < validation]
    assert len(train) == store.counts("train")["rows"]
    last = {r["who"]: max(o["at"] // 1000 for o in train if o["who"] == r["who"]) for r in train}
    counts = Counter(r["sku"] for r in train)
    counts += Counter(
        r["sku"] for r in done
        if r["moment"].replace(tzinfo=UTC).timestamp() < last.get(r["who"], START)
    )  # fmt: skip
    kept = sorted((i for i, n in counts.items() if n >= 6), key=lambda i: (-counts[i], i))
    assert store.vocabulary_path("item").read_text().split() == [str(i) for i in kept]
    assert store.manifest["rare"] == {"item": len(counts) - len(kept)}
    assert 0 < len(kept) < len(counts)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Schema((Table("a", least=0),), ()), "table 'a' has least=0; expected at least 1"),
        (
            lambda: Schema((Table("a", buckets=9, least=2),), ()),
            "least=2 and 9 hash buckets; .*write buckets=0",
        ),
        (lambda: taobao.Config(item_least=0), "item_least is 0; expected at least 1"),
        (lambda: aliccp.Config(user_least=2), "least=2 and 1 hash buckets"),
    ],
)
def test_least_counts_that_mean_nothing_are_refused(made, said):
    with pytest.raises(InputError, match=said):
        made()


def test_a_least_count_that_the_schema_does_not_follow_is_refused(mylog):
    with pytest.raises(InputError, match=r"item_least is 3, and table 'item' .* has least=1; .*"
                       r"write Table\('item', least=3\)"):  # fmt: skip
        mylog(item_least=3)
