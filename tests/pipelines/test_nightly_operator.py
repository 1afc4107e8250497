"""What an operator does with a chain of nights: bless, status, compare, gc, metrics."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime

import pytest

from at4ctr.registry import Ledger
from export import verify
from export.publishing.publish import RetryError
from pipelines import nightly
from pipelines.night import learn
from tests.pipelines import nights
from tests.pipelines.nights import (
    FIRST,
    NEXT,
    SECOND,
    WORSE,
    call,
    cut,
    dated,
    deliver,
    flags,
    record,
    sound,
)

V1, V2 = 2017112801, 2017112901


def test_nothing_is_blessed_unseen_or_without_a_reason(copied, capsys):
    code, value = call(capsys, flags(copied, NEXT, bless=True, reason="why not"))
    assert code == 2
    assert "could be blessed" in value["error"]
    code, value = call(capsys, flags(copied, WORSE, bless=True))
    assert code == 2
    assert "without a reason" in value["error"]
    assert sound(copied) == [V1, V2]


def test_status_and_compare_show_the_nights(chain, capsys):
    root = chain.root
    assert nightly.main(["status", *flags(root)[:-1]]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == f"live: {V2}"
    assert [line.split()[1] for line in table[2:]] == ["PUBLISHED", "PUBLISHED", "REJECTED"]
    code, value = call(capsys, ["compare", str(V1), str(dated(SECOND)), *flags(root)])
    assert code == 0
    a, b = (json.loads((record(root, n)[0] / "metrics.json").read_text())["candidate"]["auc"]
            for n in (FIRST, SECOND))  # fmt: skip
    assert value["metrics"]["auc"] == {"values": [a, b], "difference": b - a}


def test_gc_lists_first_and_keeps_what_is_gone_on_from(copied, capsys):
    arguments = ["gc", *flags(copied, keep=1)]
    code, listed = call(capsys, [*arguments, "--dry-run"])
    assert code == 0
    assert listed["versions"] == {}  # the live and the previous one stay
    assert listed["files"] == {}
    call(capsys, ["rollback", *flags(copied, reason="it was worse")])
    code, listed = call(capsys, [*arguments, "--dry_run"])
    gone, kept, newest = (record(copied, n)[0] for n in (SECOND, FIRST, WORSE))
    assert {p.rsplit("/", 1)[0] for p in listed["files"]} == {str(gone)}
    assert (gone / "data" / "state").is_dir()
    code, done = call(capsys, arguments)
    assert (done["files"], done["bytes"]) == (listed["files"], listed["bytes"])
    assert done["bytes"] > 0
    assert sorted(p.name for p in gone.iterdir() if p.is_dir() and p.name != "report") == []
    assert (gone / "metrics.json").is_file()
    assert all((folder / "data" / "state").is_dir() for folder in (kept, newest))


def test_a_chain_whose_ledger_is_lost_goes_on(copied, monkeypatch, capsys):
    lost = copied / "registry" / "ledger.jsonl"
    before = {e.version: e.facts for e in Ledger(lost).entries() if e.kind == "published"}
    lost.unlink()
    cut(monkeypatch, capsys, flags(copied, NEXT), "night.wait_data.after")
    parent = record(copied, NEXT)[1]["parent"]
    assert (parent["version"], parent["attempt"]) == (V2, f"dt={dated(SECOND)}/attempt-01")
    assert parent["cutoff"] == before[V2]["notes"]["cutoff"]
    again = {e.version: e.facts for e in Ledger(lost).entries() if e.kind == "published"}
    assert {v: (f["content"], f["parent"]) for v, f in again.items()} == {
        v: (f["content"], f["parent"]) for v, f in before.items()
    }


@pytest.mark.parametrize("attempt", ["../../elsewhere", "dt=2017-11-29/..", None])
def test_a_lost_ledger_takes_no_path_from_a_folder_that_leads_elsewhere(copied, capsys, attempt):
    (copied / "registry" / "ledger.jsonl").unlink()
    path = copied / "serving" / "ctr" / str(V2) / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["facts"]["night"]["attempt"] = attempt
    path.write_text(json.dumps(manifest))
    code, value = call(capsys, flags(copied, NEXT))
    assert code == 2
    assert f"{V2} of ctr was published by hand" in value["error"]
    code, value = call(capsys, ["compare", str(V1), str(V2), *flags(copied)])
    assert code == 2
    assert "by hand" in value["error"]
    assert call(capsys, ["gc", *flags(copied, keep=1)])[0] == 0


def test_a_verification_that_is_killed_may_be_run_again(copied, monkeypatch):
    folder = record(copied, SECOND)[0] / "export" / "1"
    monkeypatch.setattr(verify, "LIMIT_SECONDS", 0.01)
    with pytest.raises(RetryError, match=r"did not end .*not done after"):
        learn.demand_verified(folder)
    monkeypatch.setattr(verify, "LIMIT_SECONDS", 600)
    killer = copied / "killer"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    with pytest.raises(RetryError, match="exit status -9"):
        learn.demand_verified(folder)


def test_a_night_whose_parent_was_rolled_back_is_planned_anew(copied, monkeypatch, capsys):
    call(capsys, ["rollback", *flags(copied, reason="it was worse")])
    code, value = call(capsys, flags(copied, WORSE, bless=True, reason="no matter"))
    assert (code, value["outcome"], value["of"]) == (75, "FAILED", "PUBLISHED")
    assert "rolled back" in value["sentence"]
    assert sound(copied) == [V1]
    cut(monkeypatch, capsys, flags(copied, WORSE), "night.wait_data.after")
    assert record(copied, WORSE, 2)[1]["parent"]["version"] == V1


def test_the_textfile_is_what_prometheus_reads(chain):
    lines = (chain.root / "at4ctr.prom").read_text().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    end = nights.CALENDAR.begin(dated(SECOND + 1))
    assert values['at4ctr_nightly_data_end_timestamp_seconds{model="ctr"}'] == str(end)
    at = record(chain.root, SECOND)[1]["stages"][-1]["at"]
    moment = int(datetime.fromisoformat(at).timestamp())
    assert values['at4ctr_nightly_last_success_timestamp_seconds{model="ctr"}'] == str(moment)
    assert values['at4ctr_nightly_outcome{model="ctr",outcome="PUBLISHED"}'] == "1"
    assert float(values['at4ctr_nightly_pcoc{model="ctr"}']) > 0


@pytest.fixture
def bare(chain, tmp_path):
    """The serving folder, the registry and the records, which is all that a rollback needs."""
    for name in ("serving", "registry", "runs"):
        shutil.copytree(chain.root / name, tmp_path / name)
    return tmp_path


def test_what_trains_nothing_loads_no_tensorflow_and_the_rest_loads_it_quietly(bare):
    commands = [["status"], ["compare", str(V1), str(V2)], ["rollback", "--reason=worse"], ["gc"]]
    code = f"""
import sys
from pipelines import nightly
for words in {commands!r}:
    assert nightly.main([*words, *{flags(bare)!r}]) == 0, words
    assert "tensorflow" not in sys.modules, words
import tensorflow
assert tensorflow.keras.layers.Layer.__module__.startswith("tf_keras")
assert not {{"pandas", "scipy", "h5py"}} & sys.modules.keys()
import h5py, scipy
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=nights.CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == len(commands)
    assert sound(bare) == [V1]


def test_a_date_that_was_rolled_back_says_so_and_is_no_success(copied, capsys):
    call(capsys, ["rollback", *flags(copied, reason="it was worse")])
    (copied / "runs/nightly/ctr/dt=2017-02-30").mkdir()  # no day, so no night
    code, value = call(capsys, flags(copied, SECOND, metrics_file=copied / "at4ctr.prom"))
    assert (code, value["already"], value["rolled_back"]) == (0, True, True)
    assert value["sentence"] == f"version {V2} was rolled back since (it was worse); live is {V1}"
    end = nights.CALENDAR.begin(dated(FIRST + 1))
    said = f'at4ctr_nightly_data_end_timestamp_seconds{{model="ctr"}} {end}\n'
    assert said in (copied / "at4ctr.prom").read_text()


def test_a_mistaken_rollback_is_taken_back_and_the_next_night_goes_on_from_it(
    copied, monkeypatch, capsys
):
    call(capsys, ["rollback", *flags(copied, reason="a mistake")])
    code, value = call(capsys, ["rollback", *flags(copied, to=V2, reason="it was right")])
    assert (code, value["live"], value["restored"], value["rolled_back"]) == (0, V2, [V2], [])
    assert sound(copied) == [V1, V2]
    code, value = call(capsys, flags(copied, SECOND))
    assert (code, value["outcome"], value["rolled_back"]) == (0, "PUBLISHED", False)
    shown = call(capsys, ["status", *flags(copied)])[1]
    assert [n["outcome"] for n in shown["nights"]] == ["PUBLISHED", "PUBLISHED", "REJECTED"]
    told = Ledger(copied / "registry/ledger.jsonl").entries()[-1]
    assert (told.kind, told.version, told.facts["reason"]) == ("restored", V2, "it was right")
    cut(monkeypatch, capsys, flags(copied, NEXT), "night.wait_data.after")
    assert record(copied, NEXT)[1]["parent"]["version"] == V2


def test_a_lost_manifest_is_copied_back_from_the_nights_export(copied, monkeypatch, capsys):
    manifest = copied / "serving/ctr" / str(V2) / "MANIFEST.json"
    (copied / "registry/ledger.jsonl").unlink()
    manifest.unlink()
    code, value = call(capsys, flags(copied, NEXT))
    assert code == 2
    assert "attempt-<n>/export/1), or run rollback" in value["error"]
    shutil.copy(record(copied, SECOND)[0] / "export/1/MANIFEST.json", manifest)
    cut(monkeypatch, capsys, flags(copied, NEXT), "night.wait_data.after")
    assert record(copied, NEXT)[1]["parent"]["version"] == V2


def test_what_gc_deleted_cannot_be_blessed(copied, capsys):
    folder, before = record(copied, WORSE)
    shutil.rmtree(folder / "export")
    code, value = call(capsys, flags(copied, WORSE, bless=True, reason="why not"))
    assert code == 2
    assert "--again" in value["error"]
    assert record(copied, WORSE)[1]["outcome"] == before["outcome"]
    assert Ledger(copied / "registry/ledger.jsonl").entries()[-1].kind == "published"


def test_backfill_ends_with_the_exit_code_of_the_night_that_stopped_it(copied, capsys):
    def backfill():
        dates = [f"--begin={dated(WORSE)}", f"--end={dated(NEXT + 2)}"]
        code, value = call(capsys, ["backfill", *dates, *flags(copied)])
        return code, [n["exit"] for n in value["nights"]]

    hole = copied / "data/taobao" / f"dt={dated(NEXT)}"
    shutil.move(hole, copied / "late")
    deliver(copied, NEXT + 1)
    assert backfill() == (10, [12, 10])
    assert "--cold_start" not in record(copied, NEXT)[1]["outcome"]["sentence"]
    code, value = call(capsys, flags(copied, NEXT + 1))
    assert code == 10
    assert "--cold_start passes over" in value["sentence"]
    shutil.rmtree(record(copied, SECOND)[0] / "data/state")
    shutil.move(copied / "late", hole)
    assert backfill() == (2, [12, 2])


@pytest.mark.parametrize("number", [WORSE, NEXT])
def test_killed_between_ledger_and_gate_a_blessing_is_told_once(
    copied, monkeypatch, capsys, number
):
    deliver(copied, NEXT, rows=90)
    code, value = call(capsys, flags(copied, number))
    assert (code, value["of"]) == ((12, "model") if number == WORSE else (11, "data"))
    asked = flags(copied, number, bless=True, reason="a test")
    folder, ended = record(copied, number)
    kept = copied / f"runs/nightly/ctr/stats/dt={dated(number)}.json"
    before = [p.read_bytes() for p in (kept, *folder.glob("gate.json"))]
    cut(monkeypatch, capsys, asked, "accept.recorded")
    assert [p.read_bytes() for p in (kept, *folder.glob("gate.json"))] == before
    assert record(copied, number)[1]["outcome"] == ended["outcome"]
    cut(
        monkeypatch,
        capsys,
        asked,
        "night.blessed.after" if number == WORSE else "night.data_ok.after",
    )
    told = [e for e in Ledger(copied / "registry/ledger.jsonl").entries() if e.kind == "blessed"]
    assert [e.facts["of"] for e in told[1:]] == [value["of"]]


def test_killed_between_ledger_and_snapshot_an_adoption_is_told_once(copied, monkeypatch, capsys):
    snapshot = copied / "registry/ctr/nightly.json"
    before = snapshot.read_bytes()
    asked = flags(copied, NEXT, adopt=True, reason="stricter", evaluation="0.5")
    cut(monkeypatch, capsys, asked, "adopt.recorded")
    assert snapshot.read_bytes() == before
    cut(monkeypatch, capsys, asked, "night.wait_data.after")
    told = [e for e in Ledger(copied / "registry/ledger.jsonl").entries() if "adopted" in e.facts]
    assert [e.facts["reason"] for e in told] == ["stricter"]
    (change,) = json.loads(snapshot.read_text())["changes"]
    assert change["adopted"] == told[0].facts["adopted"] == "periods evaluation was 0.25 and is 0.5"
