"""The nightly job on real parts: one chain of three nights, and what may happen to it."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.data import disk
from at4ctr.data.store import Store
from at4ctr.registry import Ledger
from configs import _compose
from configs._tuned import Tuned
from pipelines.night import attempt as attempts
from pipelines.night import learn, parents, places
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
    moved,
    record,
    sound,
)

V1, V2 = 2017112801, 2017112901


def test_a_chain_holds_publishes_and_rejects(chain):
    root, codes = chain.root, chain.codes
    assert codes == [12, 0, 0, 12]
    assert sound(root) == [V1, V2]
    kinds = [(e.kind, e.version) for e in Ledger(root / "registry" / "ledger.jsonl").entries()]
    assert kinds == [("blessed", None), ("published", V1), ("published", V2)]
    folder, first = record(root, FIRST)
    assert first["blessed"]["was"] == "HOLD"
    assert first["simulated"]
    words = first["command"]
    assert words[:4] == [".venv/bin/python", "-m", "pipelines.nightly", f"--date={dated(FIRST)}"]
    assert set(words[4:]) == {w for w in flags(root, FIRST, model="ctr")[:-1] if "date" not in w}
    names = ("config", "stats", "anomalies", "metrics", "gate", "training")
    assert all((folder / f"{n}.json").is_file() for n in names)
    stages = [s["stage"] for s in first["stages"]]
    assert stages == [*attempts.STAGES[:8], "HOLD", "BLESSED", "PUBLISHED"]
    assert all(json.loads(line)["at"] for line in (folder / "log.jsonl").read_text().splitlines())


def test_the_hold_of_a_first_night_alone_is_no_failure_where_it_is_asked_for(
    chain, tmp_path, capsys
):
    held = moved(chain.held, tmp_path / "held")
    assert call(capsys, flags(held, FIRST))[0] == 12
    code, value = call(capsys, flags(held, FIRST, first_hold_ok=True))
    assert (code, value["outcome"], value["version"]) == (0, "HOLD", None)
    later = moved(chain.root, tmp_path / "later")
    assert call(capsys, flags(later, WORSE, first_hold_ok=True))[0] == 12
    path = record(later, WORSE)[0] / "run.json"
    path.write_text(path.read_text().replace('"REJECTED"', '"HOLD"'))
    code, value = call(capsys, flags(later, WORSE, first_hold_ok=True))
    assert (code, value["outcome"]) == (12, "HOLD")  # a model is live


def test_a_worse_model_is_refused_by_the_rows_and_the_live_one_stays(chain):
    folder, worse = record(chain.root, WORSE)
    assert worse["outcome"]["name"] == "REJECTED"
    assert "auc" in worse["outcome"]["checks"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["candidate"]["auc"] < metrics["incumbent"]["auc"] - 0.2


def test_windows_follow_each_other_and_judge_later_rows(chain):
    first, second, worse = (record(chain.root, n)[1] for n in (FIRST, SECOND, WORSE))
    assert second["window"][0] == first["window"][1] == second["parent"]["cutoff"]
    assert worse["window"][0] == second["window"][1]
    assert second["window"][2] == nights.CALENDAR.begin(dated(SECOND + 1))
    store = Store.open(record(chain.root, SECOND)[0] / "data" / "store")
    negatives = store.counts("test")["rows"] - store.counts("test")["labels"]["click"]["positives"]
    metrics = json.loads((record(chain.root, SECOND)[0] / "metrics.json").read_text())
    assert metrics["candidate"]["rows"] == metrics["incumbent"]["rows"]
    assert metrics["candidate"]["rows"] - metrics["candidate"]["positives"] == negatives
    for model in ("candidate", "incumbent"):  # named as in the log, not by ids 2 and 3
        assert set(metrics[model]["segments"]["category"]) == {"1", "2"}


def test_the_incumbent_answers_as_its_export_does(chain):
    root = chain.root
    where = places.Places("ctr", root / "runs/nightly", root / "serving", root / "registry")
    parent = parents.choose(where, record(root, WORSE)[1]["window"][1])
    assert parent is not None
    assert parent.version == V2
    night = record(root, WORSE)[0]
    store = Store.open(night / "data" / "store")
    asked = learn.Incumbent(parent, night / "data" / "state")
    found = learn.predicted(asked, asked.experiment, store)["click"]
    served = tf.saved_model.load(str(root / "serving" / "ctr" / str(V2)))
    raw = served.signatures["serving_default"]
    names = {t: ["", "?", *store.vocabulary_path(t).read_text().split()] for t in ("user", "item")}
    rows = 200
    users = np.array([int(names["user"][i]) if i > 1 else -5 for i in found.ids["user"][:rows]])
    items = np.array([int(names["item"][i]) if i > 1 else -5 for i in found.ids["item"][:rows]])
    category = (items - 7) % 2 + 1
    known = found.ids["category"][:rows] > 1
    given = {"user": users, "item": items, "category": np.where(known, category, -5)}
    specs = raw.structured_input_signature[1]
    feed = {k: tf.constant(v, specs[k].dtype) for k, v in given.items() if k in specs}
    answer = raw(**feed)["probability"].numpy().ravel()
    np.testing.assert_allclose(answer, found.probability[:rows], rtol=2e-6)
    assert len(np.unique(found.ids["user"])) > 50


def test_a_finished_date_says_the_same_again(copied, capsys):
    root = copied
    before = {p: p.stat().st_mtime_ns for p in root.rglob("run.json")}
    for number, code in ((FIRST, 0), (SECOND, 0), (WORSE, 12)):
        found, value = call(capsys, flags(root, number))
        assert (found, value["already"]) == (code, True)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("run.json")} == before
    assert sound(root) == [V1, V2]


def test_backfill_thrice_is_the_chain_itself(chain, tmp_path, capsys):
    root = moved(chain.held, tmp_path / "held")
    first, last = str(dated(FIRST)), str(dated(SECOND))
    arguments = flags(root, bless=True, reason="the first")
    for _ in range(3):
        code, value = call(capsys, ["backfill", f"--begin={first}", f"--end={last}", *arguments])
        assert code == 0
        assert [n["version"] for n in value["nights"]] == [V1, V2]
    assert nights.published(root) == nights.published(chain.root)
    assert len(list(root.rglob("run.json"))) == 2


def test_no_data_is_skipped_and_taken_up_when_it_comes(copied, capsys):
    shutil.move(copied / "data/taobao" / f"dt={dated(NEXT)}", copied / "late")
    code, value = call(capsys, flags(copied, NEXT))
    assert (code, value["outcome"]) == (10, "SKIPPED")
    shutil.move(copied / "late", copied / "data/taobao" / f"dt={dated(NEXT)}")
    (copied / "data/taobao" / f"dt={dated(NEXT)}" / "_SUCCESS").unlink()
    code, value = call(capsys, flags(copied, NEXT))
    assert code == 10
    assert "_SUCCESS" in value["sentence"]
    assert record(copied, NEXT)[1]["attempt"] == "attempt-01"


def test_a_bad_log_is_refused_until_it_is_delivered_anew(copied, monkeypatch, capsys):
    deliver(copied, NEXT, rows=90)
    code, value = call(capsys, flags(copied, NEXT, metrics_file=copied / "at4ctr.prom"))
    assert (code, value["outcome"], value["of"]) == (11, "REJECTED", "data")
    assert "90 rows" in value["sentence"]
    assert 'outcome="REJECTED"} 1' in (copied / "at4ctr.prom").read_text()
    assert call(capsys, flags(copied, NEXT))[1]["already"]
    shutil.rmtree(copied / "data/taobao" / f"dt={dated(NEXT)}")
    deliver(copied, NEXT, rows=80)
    code, value = call(capsys, flags(copied, NEXT))
    assert (code, value["already"]) == (11, False)
    assert value["attempt"].endswith("attempt-02")
    blessed = flags(copied, NEXT, bless=True, reason="a holiday")
    cut(monkeypatch, capsys, blessed, "night.data_ok.after")
    assert record(copied, NEXT, 2)[1]["blessed"]["of"] == "data"
    ledger = Ledger(copied / "registry" / "ledger.jsonl").entries()
    assert (ledger[-1].kind, ledger[-1].facts["of"]) == ("blessed", "data")
    kept = json.loads((copied / f"runs/nightly/ctr/stats/dt={dated(NEXT)}.json").read_text())
    assert kept["accepted"]
    assert "a holiday" in kept["reason"]


def test_two_at_once_is_try_again(copied, capsys):
    snapshot, metrics = copied / "registry/ctr/nightly.json", copied / "at4ctr.prom"
    before = snapshot.read_bytes()
    changed = {"adopt": True, "reason": "why", "evaluation": "0.5"}
    dates = [f"--begin={dated(NEXT)}", f"--end={dated(NEXT)}"]
    with disk.locked(copied / "runs/nightly/ctr/.lock") as mine:
        assert mine
        code, value = call(capsys, flags(copied, NEXT, metrics_file=metrics))
        assert call(capsys, ["backfill", *dates, *flags(copied, **changed)])[0] == 75
    assert code == 75
    assert "another nightly job" in value["error"]
    assert 'outcome="FAILED"} 1' in metrics.read_text()
    assert snapshot.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"set": nights.RECIPE + " seed=1"}, "--adopt"),
        ({"evaluation": "0.5"}, "'0.25'"),
        ({"model_gate": ""}, "auc_loss"),
        ({"config": "widedeep"}, "--config"),
    ],
)
def test_a_flag_that_changes_the_chain_is_refused(copied, capsys, given, said):
    code, value = call(capsys, flags(copied, NEXT, **given))
    assert code == 2
    assert said in value["error"]
    assert not (copied / "runs/nightly/ctr" / f"dt={dated(NEXT)}").exists()


def test_the_same_flag_in_other_words_is_no_change(copied, capsys):
    assert call(capsys, flags(copied, SECOND, evaluation=".25", utc_offset_hours="8.0"))[0] == 0


def _broken(dataset):
    raise SyntaxError(f"half a line of {dataset}")


@pytest.mark.parametrize(
    ("edited", "said"),
    [(lambda _: Tuned(calibrator="platt"), "calibrator was 'none' and is 'platt'"),
     (_broken, "SyntaxError: half a line of taobao")],
)  # fmt: skip
def test_a_recipe_that_was_edited_changes_nothing(copied, monkeypatch, capsys, edited, said):
    monkeypatch.setattr(_compose, "tuned", edited)
    cut(monkeypatch, capsys, flags(copied, NEXT), "night.wait_data.after")
    folder, _ = record(copied, NEXT)
    assert said in (folder / "log.jsonl").read_text()
    snapshot = json.loads((copied / "registry/ctr/nightly.json").read_text())["settings"]
    assert json.loads((folder / "config.json").read_text()) == snapshot
    assert snapshot["experiment"]["calibrator"] == "none"


def test_missing_and_damaged_parents_are_refused_in_a_sentence(copied, capsys):
    folder, _ = record(copied, SECOND)
    target = folder / "data/state/users.parquet"
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    code, value = call(capsys, flags(copied, NEXT))
    assert (code, value["outcome"], value["retryable"]) == (2, "FAILED", False)
    assert "users.parquet" in value["sentence"]
    assert "cold start" in value["sentence"]
    shutil.rmtree(folder)
    code, value = call(capsys, flags(copied, NEXT))
    assert code == 2
    assert "--cold_start" in value["sentence"]
    assert sound(copied) == [V1, V2]


def test_a_flipped_bit_in_the_parents_weights_is_found(copied, capsys):
    folder, _ = record(copied, SECOND)
    for target in folder.glob("checkpoints/best/variables.data*"):
        data = bytearray(target.read_bytes())
        data[100] ^= 4
        target.write_bytes(data)
    code, value = call(capsys, flags(copied, NEXT))
    assert code == 2
    assert "damaged" in value["sentence"]


@pytest.mark.parametrize("name", ["..", "a/b", "", "Ctr", ".hidden", "x" * 80])
def test_a_model_name_that_leads_elsewhere_is_refused(tmp_path, capsys, name):
    code, value = call(capsys, flags(tmp_path, NEXT, model=name))
    assert code == 2
    assert "model is" in value["error"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--date=yesterday"], ["--date="], ["rnu"], ["compare", "x"], ["--nonsense=1"]]
)
def test_what_cannot_be_understood_is_configuration(tmp_path, capsys, arguments):
    code, value = call(capsys, [*arguments, *flags(tmp_path)])
    assert code == 2
    assert value["error"]
    assert list(tmp_path.iterdir()) == []


def test_a_clock_set_back_decides_nothing(copied, monkeypatch, capsys):
    past = datetime(1999, 1, 1, tzinfo=UTC).isoformat().replace("+00:00", "Z")
    for module in ("places", "attempt", "steps", "job", "chain", "operate", "logs"):
        monkeypatch.setattr(f"pipelines.night.{module}.now", lambda: past)
    attempt = record(copied, WORSE)[0]
    value = json.loads((attempt / "gate.json").read_text())
    assert value["decision"] == "REJECT"
    code, value = call(capsys, flags(copied, WORSE, bless=True, reason="a test"))
    assert (code, value["version"]) == (0, 2017113001)
    code, value = call(capsys, ["status", *flags(copied)])
    assert value["live"] == 2017113001
    code, value = call(capsys, ["rollback", *flags(copied, reason="it was worse")])
    assert (code, value["live"], value["rolled_back"]) == (0, V2, [2017113001])
    code, value = call(capsys, ["status", *flags(copied)])
    assert value["nights"][-1]["outcome"] == "ROLLED BACK"
