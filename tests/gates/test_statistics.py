"""A day's counts against pandas, the formats they come from, and what is refused."""

import json
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from at4ctr.data.datasets import taobao
from at4ctr.data.mapped.config import Mapped
from at4ctr.data.mapped.rows import Rows
from at4ctr.data.simulation.world import DAY
from at4ctr.errors import InputError
from at4ctr.gates import counting, statistics
from at4ctr.gates.anomaly import Thresholds
from at4ctr.gates.data import check
from at4ctr.gates.statistics import Stats
from at4ctr.schema import Feature, Schema, Table
from tests.gates import days

BEGIN, END = days.begin(0), days.begin(1)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A day of a small world with strays, missing values and repeated rows."""
    rng = np.random.default_rng(0)
    found = days.simulated(tmp_path_factory.mktemp("world"), 3, rows=1500)[1]
    frame = found.to_pandas()
    frame["timestamp"] -= DAY
    stray = rng.random(len(frame)) < 0.02
    frame.loc[stray, "timestamp"] += rng.integers(-3 * DAY, 3 * DAY, stray.sum())
    frame.loc[rng.random(len(frame)) < 0.1, "category"] = None
    frame = pd.concat([frame, frame.sample(40, random_state=1)])
    return pa.Table.from_pandas(frame, schema=found.schema, preserve_index=False)


@pytest.fixture(scope="module")
def vocabulary(table, tmp_path_factory):
    half = {n: table[n].drop_null().unique()[::2]
            for n in ("user", "item", "category", "type")}  # fmt: skip
    return days.known(tmp_path_factory.mktemp("known"), half)


@pytest.fixture(scope="module")
def stats(table, vocabulary, tmp_path_factory):
    return days.counted(tmp_path_factory.mktemp("day"), table, 0, vocabulary)


def rows_of(table, relation):
    frame = table.to_pandas()
    shown = frame["click"].notna()
    return frame[shown].drop(columns="type") if relation == "impressions" else frame[
        ~shown].drop(columns=["click", "position"])  # fmt: skip


@pytest.mark.parametrize("relation", ["log", "impressions"])
def test_counts_are_those_of_pandas(stats, table, relation):
    frame, found = rows_of(table, relation), stats.relations[relation]
    time = frame["timestamp"]
    assert (found.rows, found.users) == (len(frame), frame["user"].nunique())
    assert found.duplicates == frame.duplicated().sum() > 0
    no_label = [c for c in frame if c != "click"]
    assert found.events == len(frame.drop_duplicates(no_label))
    assert found.clicks == (frame["click"].sum() if relation == "impressions" else None)
    assert (found.first, found.last) == (time.min(), time.max())
    assert (found.early, found.late) == ((time < BEGIN).sum(), (time >= END).sum())
    hour = (time - BEGIN) // 3600
    assert found.hours == tuple((hour == h).sum() for h in range(-24, 48))
    per_day = ((time - BEGIN) // DAY).value_counts()
    assert dict(found.days) == per_day.to_dict()


@pytest.mark.parametrize("relation", ["log", "impressions"])
def test_features_are_those_of_pandas(stats, table, vocabulary, relation):
    frame, found = rows_of(table, relation), stats.relations[relation].columns
    own = {"log": "type", "impressions": "position"}[relation]
    assert set(found) == {"user", "item", "category", own}
    for name, column in found.items():
        values = frame[name].dropna()
        assert (column.nulls, column.values) == (frame[name].isna().sum(), len(values))
        assert sum(column.buckets) == column.values
        assert len(column.buckets) == counting.BUCKETS
        if name == "position":
            assert column.unknown is None, "a hashed table knows every id"
            continue
        known = set(pq.read_table(vocabulary / f"{name}.parquet")["raw"].to_pylist())
        assert column.unknown == (~values.isin(known)).sum() > 0
        counts = values.astype("int64" if name != "type" else str).value_counts()
        assert column.top[0][1] == counts.max()
        assert len(column.top) == min(counting.TOP, counts.size)
        assert all(counts[type(counts.index[0])(value)] == n for value, n in column.top)


def test_buckets_belong_to_the_value_alone(stats, table, tmp_path):
    """Another day with the same values has them in the same buckets; regular ids lie apart."""
    again = days.counted(tmp_path, table.slice(0, 400), 5)
    for name, column in again.relations["log"].columns.items():
        whole = stats.relations["log"].columns[name].buckets
        assert all(a <= b for a, b in zip(column.buckets, whole, strict=True))
    number = pa.array(np.arange(table.num_rows) * 64)
    regular = table.set_column(table.column_names.index("item"), "item", number)
    buckets = days.counted(tmp_path, regular, 6).relations["log"].columns["item"].buckets
    assert min(buckets) > 0


def test_parts_together_are_the_day(table, stats, vocabulary, tmp_path):
    for part in range(3):
        pq.write_table(table.slice(part * 900, 900 if part < 2 else None),
                       tmp_path / f"part-{part}.parquet")  # fmt: skip
    files = sorted(tmp_path.glob("*.parquet"))
    assert statistics.of(days.Config(), files[::-1], BEGIN, END, vocabulary) == stats


def test_statistics_go_round_and_stay_small(stats):
    text = json.dumps(stats.to_json(), allow_nan=False)
    assert Stats.from_json(json.loads(text)) == stats
    assert len(text) < 10_000
    with pytest.raises(InputError, match="does not hold a day's statistics"):
        Stats.from_json({"dataset": "days"})


def behaviours(path, frame):
    columns = ["user", "item", "category", "type", "timestamp"]
    frame[columns].to_csv(path, header=False, index=False)
    return path


@pytest.fixture
def log(table):
    frame = rows_of(table, "log")[["user", "item", "category", "type", "timestamp"]].dropna()
    return frame.astype({"category": "int64"}).drop_duplicates()


def test_taobao_csv(log, tmp_path):
    """Rows that `load` drops as duplicates are counted; two equal parts are half duplicates."""
    base = taobao.Config(window=False)
    twice = pd.concat([log, log.head(100)])
    one = behaviours(tmp_path / "part-0.csv", twice)
    found = statistics.of(base, [one], BEGIN, END)
    assert found.relations["log"].rows == len(log)
    assert found.relations["log"].duplicates == found.dropped["duplicates"] == 100
    assert "impressions" not in found.relations
    other = behaviours(tmp_path / "part-1.csv", log)
    found = statistics.of(base, [one, other], BEGIN, END)
    assert found.relations["log"].duplicates == len(log) + 100
    assert "duplicates" in {a.name for a in check(found, [], Thresholds())}


@pytest.mark.parametrize("spoil", ["column", "type", "header", "empty"])
def test_what_load_refuses_is_an_anomaly_of_the_schema(log, tmp_path, spoil):
    path = behaviours(tmp_path / "part-0.csv", log)
    lines = path.read_text().splitlines(keepends=True)
    spoiled = {
        "column": [line.partition(",")[2] for line in lines],
        "type": [*lines[:5], lines[5].replace(",", "x,", 1), *lines[6:]],
        "header": ["user,item,category,type,timestamp\n", *lines],
        "empty": [],
    }[spoil]
    path.write_text("".join(spoiled))
    found = statistics.of(taobao.Config(window=False), [path], BEGIN, END)
    assert found.refusal
    (anomaly,) = check(found, [], Thresholds())
    assert (anomaly.severity, anomaly.name) == ("reject", "schema")
    assert found.refusal in anomaly.sentence
    assert Stats.from_json(json.loads(json.dumps(found.to_json()))) == found


@dataclass(frozen=True)
class Listed(Mapped):
    """Impressions with a list of tags, and no behaviours."""

    def schema(self):
        return Schema(
            (Table("user"), Table("item"), Table("tag", "string")),
            (Feature("user", "profile", "user"), Feature("item", "item", "item"),
             Feature("tags", "item", "tag", length=3)),
        )  # fmt: skip

    def impressions(self):
        columns = {"user": '"user"', "item": "item", "tags": "string_split(tags, '|')"}
        return Rows("*.parquet", columns, '"timestamp"', labels={"click": "click"})


def test_lists_are_counted_entry_by_entry(tmp_path):
    path = tmp_path / "part-0.parquet"
    pq.write_table(
        pa.table({"user": [1, 1, 2], "item": [5, 6, 7], "tags": ["a|b", "", "b|c|d"],
                  "timestamp": [BEGIN, BEGIN + 1, END], "click": [1, 0, 0]}), path)  # fmt: skip
    known = days.known(tmp_path / "known", {"user": pa.array([1]), "item": pa.array([5, 6]),
                                            "tag": pa.array(["a", "b"])})  # fmt: skip
    found = statistics.of(Listed(), [path], BEGIN, END, known).relations["impressions"]
    tags = found.columns["tags"]
    assert (tags.nulls, tags.values, tags.unknown) == (1, 5, 2)
    assert tags.top[0] == ("b", 2)
    assert (found.rows, found.clicks, found.late) == (3, 1, 1)


def test_wrong_types_after_reading_are_refused(tmp_path):
    """A dataset whose `load` checks nothing is checked after it."""

    @dataclass(frozen=True)
    class Careless(taobao.Config):
        def load(self, engine, source):
            engine.execute(
                f"CREATE TABLE log AS SELECT * REPLACE (CAST(item AS VARCHAR) AS item), "
                f"row_number() OVER () AS ord FROM read_parquet('{source.files[0]}')"
            )

    path = tmp_path / "part-0.parquet"
    row = {"user": [1], "item": [2], "category": [3], "type": ["pv"], "timestamp": [BEGIN]}
    pq.write_table(pa.table(row), path)
    found = statistics.of(Careless(), [path], BEGIN, END)
    assert "'item' of type VARCHAR; expected int64" in found.refusal
    pq.write_table(pa.table({k: v for k, v in row.items() if k != "item"}), path)
    assert "item" in statistics.of(Careless(), [path], BEGIN, END).refusal


def test_what_is_not_the_days_fault_is_raised(table, tmp_path):
    with pytest.raises(InputError, match="at least one file"):
        statistics.of(days.Config(), [], BEGIN, END)
    with pytest.raises(InputError, match="begin < end"):
        statistics.of(days.Config(), [tmp_path / "part-0.parquet"], END, BEGIN)
    with pytest.raises(InputError, match="expected the known ids of table 'user'"):
        days.counted(tmp_path, table, 0, tmp_path)

    @dataclass(frozen=True)
    class Starved(taobao.Config):
        def load(self, engine, source):
            del engine, source
            cause = duckdb.IOException("Could not write file: No space left on device")
            raise InputError("the step failed for want of disk") from cause

    with pytest.raises(InputError, match="want of disk"):
        statistics.of(Starved(), [tmp_path / "part-0.csv"], BEGIN, END)


def test_what_is_counted_lies_where_there_is_room(table, stats, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    path = tmp_path / "part-00000.parquet"
    pq.write_table(table, path)
    found = statistics.of(days.Config(), [path], BEGIN, END, scratch=tmp_path)
    assert found.relations["log"].rows == stats.relations["log"].rows
    assert list(tmp_path.iterdir()) == [path]


def test_rows_that_reading_leaves_out_are_told(stats):
    def day(number, gone):
        begin = BEGIN + number * DAY
        return replace(stats, begin=begin, end=begin + DAY, dropped={"window": gone})

    before = [day(k, 3 + k) for k in range(5)]
    assert "dropped" not in {a.name for a in check(day(6, 6), before, Thresholds())}
    found = {a.name: a for a in check(day(6, 900), before, Thresholds())}
    assert "'window'" in found["dropped"].sentence
