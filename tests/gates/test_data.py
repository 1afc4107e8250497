"""Seeded faults: each in a sound day of a simulated log, each to be caught under its own name."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from at4ctr.data.simulation.world import DAY
from at4ctr.errors import InputError
from at4ctr.gates.anomaly import Anomaly, Thresholds
from at4ctr.gates.data import check, rejected
from tests.gates import days
from tests.gates.false_alarms import judged

LIMITS = Thresholds()
LAST = 14  # the day that is spoiled, a Saturday; what stands before it is its history


class Log:
    """15 clean days, counted; `spoiled` judges another table in the place of the last."""

    def __init__(self, folder):
        self.folder = folder
        self.tables = days.simulated(folder, LAST + 1)
        stats, _ = days.history(folder, self.tables[:LAST])
        self.before, self.today = stats, self.tables[LAST]
        self.vocabulary = folder / "vocabulary"

    def count(self, table, **options):
        with contextlib.redirect_stderr(io.StringIO()):
            return days.counted(self.folder, table, LAST, self.vocabulary, **options)

    def spoiled(self, table, before=None, **options):
        return check(self.count(table, **options), self.before if before is None else before,
                     LIMITS)  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return Log(tmp_path_factory.mktemp("log"))


def names(anomalies, severity="reject"):
    return {a.name for a in anomalies if a.severity == severity}


def put(table, column, values):
    return table.set_column(table.column_names.index(column), column, values)


def some(table, share, seed=0):
    return np.random.default_rng(seed).random(table.num_rows) < share


def shown(table):
    return table["click"].is_valid().to_numpy()


def test_a_clean_day_has_no_anomaly(log):
    assert log.spoiled(log.today) == []


def test_a_missing_column(log):
    found = log.spoiled(log.today.drop_columns(["category"]))
    assert names(found) == {"schema"}
    assert "category" in found[0].sentence


def test_a_column_of_the_wrong_type(log):
    text = pc.binary_join_element_wise("c", pc.cast(log.today["category"], pa.string()), "")
    found = log.spoiled(put(log.today, "category", text))
    assert names(found) == {"schema"}
    assert "whole number" in found[0].sentence


def test_a_feature_that_the_day_before_did_not_have(log):
    today = log.count(log.today)
    relation = today.relations["log"]
    less = {k: v for k, v in relation.columns.items() if k != "type"}
    past = {**today.relations, "log": replace(relation, columns=less)}
    last = replace(today, begin=today.begin - DAY, relations=past)
    found = check(today, [last], LIMITS)
    assert ("schema", "log.type") in {(a.name, a.where) for a in found}


def test_a_feature_is_checked_once_enough_days_have_it(log):
    def without(day):
        relation = day.relations["log"]
        less = {k: v for k, v in relation.columns.items() if k != "category"}
        return replace(day, relations={**day.relations, "log": replace(relation, columns=less)})

    gone = put(log.today, "category", pa.nulls(log.today.num_rows, pa.int64()))
    old, new = log.before[: -LIMITS.fewest], log.before[-LIMITS.fewest :]
    found = log.spoiled(gone, [*map(without, old), *new])
    assert ("nulls", "log.category") in {(a.name, a.where) for a in found}


def test_half_of_the_rows(log):
    found = log.spoiled(log.today.filter(pa.array(some(log.today, 0.5))))
    assert names(found) == {"rows"}


def test_half_of_the_rows_on_a_strong_weekday(log):
    """Half a Saturday is nearly a weekday's number of rows; the other Saturdays tell."""
    assert log.before[7].relations["log"].rows > 1.1 * log.before[10].relations["log"].rows
    half = log.spoiled(log.today.filter(pa.array(some(log.today, 0.5, seed=1))))
    assert "rows" in names(half)


def test_no_row_at_all(log):
    found = log.spoiled(log.today.slice(0, 0))
    assert names(found) & {"rows", "schema"}


def test_doubled_rows(log):
    assert names(log.spoiled(log.today, parts=2)) >= {"duplicates", "rows"}


def test_a_tenth_of_the_rows_twice(log):
    twice = log.today.filter(pa.array(some(log.today, 0.1)))
    assert names(log.spoiled(pa.concat_tables([log.today, twice]))) == {"duplicates"}


def test_clicks_as_rows_of_their_own(log):
    """Every click stands beside its impression, which says that there was none."""
    clicked = log.today.filter(pc.equal(log.today["click"], 1))
    none = put(clicked, "click", pa.array(np.zeros(clicked.num_rows, np.int8)))
    found = log.spoiled(pa.concat_tables([log.today, none]))
    assert names(found) == {"duplicates"}
    assert "(0% of those in the label too)" in found[0].sentence


def test_half_of_the_clicks(log):
    clicks = log.today["click"].to_numpy(zero_copy_only=False).copy()
    clicks[some(log.today, 0.5) & shown(log.today)] *= 0
    click = pa.array(clicks, mask=~shown(log.today))
    assert names(log.spoiled(put(log.today, "click", pc.cast(click, pa.int8())))) == {"click_rate"}


def test_twice_the_clicks_is_no_sampling(log):
    """At w = 0.45 the odds fit 1/w; the rows without click are as many as ever."""
    clicks = log.today["click"].to_numpy(zero_copy_only=False).copy()
    more = some(log.today, np.nansum(clicks) / np.nansum(clicks == 0)) & shown(log.today)
    clicks[more] = 1
    click = pc.cast(pa.array(clicks, mask=~shown(log.today)), pa.int8())
    assert names(log.spoiled(put(log.today, "click", click), rate=0.45)) == {"click_rate"}


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_w_applied_twice(log, rate):
    drop = ~some(log.today, rate) & (log.today["click"].to_numpy(zero_copy_only=False) == 0)
    found = log.spoiled(log.today.filter(pa.array(~drop)), rate=rate)
    assert "sampled_twice" in names(found)
    assert "click_rate" not in names(found)
    said = next(a for a in found if a.name == "sampled_twice").sentence
    assert f"1/w = {1 / rate:.2f}" in said


def test_sampling_of_a_log_that_is_not_to_be_sampled_is_no_double_sampling(log):
    drop = ~some(log.today, 0.5) & (log.today["click"].to_numpy(zero_copy_only=False) == 0)
    found = names(log.spoiled(log.today.filter(pa.array(~drop)), rate=1.0))
    assert "click_rate" in found
    assert "sampled_twice" not in found


def test_missing_values(log):
    gone = some(log.today, 0.15)
    category = pa.array(log.today["category"].to_numpy(), mask=gone)
    found = log.spoiled(put(log.today, "category", category))
    assert names(found) == {"nulls"}
    assert {a.where for a in found} == {"log.category", "impressions.category"}


def test_an_id_numbered_anew(log):
    """The unknown ids jump; so do the values of a column of few, but not under that name alone."""
    item = pc.add(log.today["item"], pa.scalar(10_000_019, pa.int64()))
    found = log.spoiled(put(log.today, "item", item))
    assert {a.where for a in found if a.name == "unknown_ids"} == {"log.item", "impressions.item"}


def test_unknown_ids_without_a_history(log):
    item = pc.add(log.today["item"], pa.scalar(10_000_019, pa.int64()))
    found = log.spoiled(put(log.today, "item", item), before=[])
    assert names(found) == {"unknown_ids"}
    assert names(found, "note") == {"history"}


def test_a_shifted_distribution(log):
    category = log.today["category"].to_numpy().copy()
    common = np.bincount(category).argmax()
    category[some(log.today, 0.25)] = common
    found = log.spoiled(put(log.today, "category", pa.array(category)))
    assert names(found) == {"drift"}
    assert all(f"'{common}'" in a.sentence for a in found), "the value that grew is named"


@pytest.mark.parametrize("hours", [8, -8, 1, -5])
def test_a_shifted_clock(log, hours):
    time = pc.add(log.today["timestamp"], pa.scalar(hours * 3600, pa.int64()))
    found = log.spoiled(put(log.today, "timestamp", time))
    assert names(found) == {"clock_shift"}
    for anomaly in found:
        assert anomaly.found == hours
        assert f"(UTC{hours:+d})" in anomaly.sentence
        assert "the clock is wrong" in anomaly.sentence


def test_a_day_cut_at_another_midnight(log):
    """The timestamps are right; the folder holds what another zone calls the day."""
    two = pa.concat_tables([log.tables[LAST - 1], log.today])
    time, begin = two["timestamp"].to_numpy(), days.begin(LAST) - 8 * 3600
    found = log.spoiled(two.filter(pa.array((time >= begin) & (time < begin + DAY))))
    assert "clock_shift" in names(found)
    assert all("another midnight" in a.sentence for a in found if a.name == "clock_shift")


def test_a_clock_that_turns_inside_the_day(log):
    """All timestamps stay in the day, as where a day is written by its own wrong clock."""
    time = log.today["timestamp"].to_numpy()
    turned = days.begin(LAST) + (time - days.begin(LAST) + 8 * 3600) % DAY
    found = log.spoiled(put(log.today, "timestamp", pa.array(turned)))
    assert names(found) == {"clock_shift"}
    assert {a.found for a in found} == {8}


@pytest.mark.parametrize("back", [1, 3, 7])
def test_the_rows_of_another_day(log, back):
    found = log.spoiled(log.tables[LAST - back])
    assert "wrong_day" in names(found)
    assert "clock_shift" not in names(found)


def test_some_rows_of_another_day(log):
    other = log.tables[LAST - 2].filter(pa.array(some(log.tables[LAST - 2], 0.1)))
    assert names(log.spoiled(pa.concat_tables([log.today, other]))) == {"wrong_day"}


def test_hours_without_rows_warn(log):
    time = (log.today["timestamp"].to_numpy() - days.begin(LAST)) // 3600
    found = log.spoiled(log.today.filter(pa.array((time < 19) | (time >= 22))))
    assert "hours" in names(found, "warn")


def test_little_history_is_said(log):
    found = log.spoiled(log.today, before=log.before[-2:])
    assert [(a.severity, a.name) for a in found] == [("note", "history")]
    assert not rejected(found)
    assert "2 days" in found[0].sentence


def test_days_that_do_not_count_are_no_history(log):
    today = log.count(log.today)
    odd = [replace(log.before[0], dataset="another"), replace(log.before[1], refusal="refused"),
           replace(log.before[2], begin=today.begin), today]  # fmt: skip
    (note,) = check(today, odd, LIMITS)
    assert note.name == "history"
    assert note.sentence.startswith("0 days")


def test_the_order_of_the_history_is_of_no_effect(log):
    spoiled = log.count(log.today.filter(pa.array(some(log.today, 0.5))))
    assert check(spoiled, log.before[::-1], LIMITS) == check(spoiled, log.before, LIMITS)


def test_one_odd_day_before_does_not_hide_the_next(log):
    half = log.count(log.today.filter(pa.array(some(log.today, 0.45))))
    odd = replace(half, begin=log.before[-2].begin, end=log.before[-2].end)
    before = [*log.before[:-2], odd, log.before[-1]]
    assert "rows" in names(check(half, before, LIMITS))
    assert check(log.count(log.today), before, LIMITS) == []


def test_anomalies_go_round(log):
    for anomaly in log.spoiled(log.today, parts=2):
        text = json.dumps(anomaly.to_json(), allow_nan=False)
        assert Anomaly.from_json(json.loads(text)) == anomaly


def test_thresholds_that_make_no_sense_are_refused():
    for wrong in ({"rows": -1}, {"nulls": float("nan")}, {"fewest": 0}):
        with pytest.raises(InputError):
            Thresholds(**wrong)
    with pytest.raises(InputError, match="unknown anomaly"):
        Anomaly.from_json({"severity": "reject", "name": "clickrate", "where": "", "sentence": ""})


def test_thirty_clean_days(tmp_path):
    """No false alarm; `false_alarms.json` has the full count over 300 days."""
    with contextlib.redirect_stderr(io.StringIO()):
        found = judged(tmp_path, 30, seed=3)
    assert {day: a for day, a in found.items() if rejected(a)} == {}
