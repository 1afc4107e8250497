"""When a date gets another attempt, on which log, and what that is compared with."""

from __future__ import annotations

import dataclasses
import json
import tempfile

import numpy as np
import pyarrow as pa
import pytest

from at4ctr.data import days as days_of
from at4ctr.data.nights import increment
from at4ctr.data.store import Store
from at4ctr.schema import FIRST_ID, UNKNOWN
from pipelines.night import chain as chains
from pipelines.night import days, judge, learn, parents, places
from pipelines.night.report import build as nightly_report
from tests.pipelines import nights
from tests.pipelines.nights import FIRST, NEXT, SECOND, begun, call, cut, dated, flags, record

V1, V2 = 2017112801, 2017112901


def test_again_leaves_a_failed_attempt_and_a_cold_start_asks_the_live_model_in_its_own_ids(
    copied, monkeypatch, capsys
):
    asked = flags(copied, SECOND, again=True, cold_start=True)
    cut(monkeypatch, capsys, asked, "night.wait_data.after")
    code, value = call(capsys, asked)
    assert (code, value["attempt"].rsplit("/", 1)[-1]) == (0, "attempt-03")
    (first, _), (folder, found) = record(copied, SECOND), record(copied, SECOND, 3)
    assert (found["parent"]["version"], found["incumbent"]["version"]) == (V1, V2)
    live, asked = (json.loads((f / "metrics.json").read_text()) for f in (first, folder))
    assert asked["incumbent"]["auc"] == pytest.approx(live["candidate"]["auc"], abs=1e-6)
    assert asked["incumbent"]["auc"] != live["incumbent"]["auc"]
    assert found["cold"]
    assert asked["training"]["warm"] is None


def test_a_corrected_offset_counts_the_days_anew(tmp_path, monkeypatch, capsys):
    for number in range(FIRST + 1):
        nights.deliver(tmp_path, number)
    given = {**nights.CHAIN, "utc_offset_hours": "0", "data": tmp_path / "data/taobao"}
    code, value = call(capsys, flags(tmp_path, FIRST, **given))
    assert (code, value["of"]) == (11, "data")
    assert "utc_offset_hours" in value["sentence"]
    right = flags(tmp_path, FIRST, utc_offset_hours="8", adopt=True, reason="the log is UTC+8")
    cut(monkeypatch, capsys, right, "night.data_ok.after")
    assert record(tmp_path, FIRST, 2)[1]["stage"] == "DATA_OK"


def test_a_chain_begun_before_its_log_came_reads_all_of_it(tmp_path, monkeypatch, capsys):
    assert call(capsys, begun(tmp_path, FIRST))[0] == 10
    for number in range(FIRST + 1):
        nights.deliver(tmp_path, number)
    cut(monkeypatch, capsys, begun(tmp_path, FIRST), "night.wait_data.after")
    window = record(tmp_path, FIRST, 2)[1]["window"]
    assert window[0] == nights.CALENDAR.begin(dated(0))


def test_nothing_is_trained_on_that_the_gate_did_not_see(copied, monkeypatch, capsys):
    build = increment.build

    def late(*given, **named):
        nights.deliver(copied, NEXT, rows=nights.ROWS - 9)
        return build(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(increment, "build", late)
        code, value = call(capsys, flags(copied, NEXT))
    assert (code, value["of"]) == (75, "TRAINING")
    assert f"dt={dated(NEXT)}/part-00000.csv has changed" in value["sentence"]
    cut(monkeypatch, capsys, flags(copied, NEXT), "night.data_ok.after")
    assert record(copied, NEXT, 2)[1]["stage"] == "DATA_OK"


def test_days_are_counted_beside_the_runs_and_nothing_is_left(tmp_path, monkeypatch):
    nights.deliver(tmp_path, 0)
    settings = chains.made({**nights.CHAIN, "data": str(tmp_path / "data/taobao")})
    where = places.Places("ctr", tmp_path / "runs")
    left = where.nights / "stats" / "at4ctr-gate-killed"
    left.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    found = days_of.find(settings.data, [dated(0)])
    (counted,) = days.checked(where, settings, found, days.digests(found), None)
    assert counted.stats.relations["log"].rows == nights.ROWS
    assert [p.name for p in left.parent.iterdir()] == [f"dt={dated(0)}.json"]


@pytest.mark.parametrize("kind", [pa.string(), pa.int64()])
def test_ids_of_the_night_become_the_parents_own(kind):
    rng = np.random.default_rng(0)
    mine, night = (rng.permutation(50)[:30].tolist() for _ in range(2))
    texts = [pa.chunked_array([pa.array(v[:7]).cast(kind), pa.array(v[7:]).cast(kind)])
             for v in (mine, night)]  # fmt: skip
    found = learn.own_ids(*texts)
    assert found.dtype == np.int32
    assert found[:FIRST_ID].tolist() == list(range(FIRST_ID))
    expected = [FIRST_ID + mine.index(v) if v in mine else UNKNOWN for v in night]
    assert found[FIRST_ID:].tolist() == expected
    assert UNKNOWN in expected


def test_a_logit_that_is_no_number_holds_the_model(copied, monkeypatch):
    (before, _), (folder, _) = record(copied, FIRST), record(copied, SECOND)
    own, incumbent = parents.Parent(V2, folder, 0), parents.Parent(V1, before, 0)
    sound = learn.predicted

    def poisoned(*asked):
        found = sound(*asked)["click"]
        calibrated = found.calibrated.copy()
        calibrated[3] = np.nan
        return {"click": dataclasses.replace(found, calibrated=calibrated)}

    monkeypatch.setattr(learn, "predicted", poisoned)
    store = Store.open(folder / "data" / "store")
    verdict = judge.judge_night(own.settings(), store, own.state, incumbent, folder)
    assert verdict.decision == "HOLD"
    outcomes = {check.name: check.outcome for check in verdict.checks}
    assert (outcomes["candidate numbers"], outcomes["incumbent"]) == ("hold", "hold")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["candidate"], metrics["incumbent"]) == (None, None)
    assert nightly_report.write(folder).exists()
