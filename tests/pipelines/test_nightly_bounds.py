"""What bounds a night: the days that a cold start reads, what gc deletes, what is read once."""

from __future__ import annotations

import json
import shutil

import pytest

from at4ctr.data import days as days_of
from at4ctr.data.nights import state
from at4ctr.durable import digest
from at4ctr.errors import InputError
from pipelines.night import chain as chains
from pipelines.night import days, places
from tests.pipelines import nights
from tests.pipelines.nights import FIRST, NEXT, SECOND, WORSE, call, cut, dated, flags, record


def test_a_cold_start_knows_the_ids_of_the_live_model(copied, capsys):
    """Every user of the day is numbered anew; days that the live model has read tell nothing."""
    part = nights.deliver(copied, NEXT) / "part-00000.csv"
    part.write_text("".join(f"7{line}" for line in part.read_text().splitlines(keepends=True)))
    shutil.rmtree(copied / "runs/nightly/ctr/stats")
    code, value = call(capsys, flags(copied, NEXT, cold_start=True))
    assert (code, value["of"]) == (11, "data")
    folder, found = record(copied, NEXT)
    assert found["cold"]
    odd = json.loads((folder / "anomalies.json").read_text())[str(dated(NEXT))]
    assert ("unknown_ids", "log.user") in {(a["name"], a["where"]) for a in odd}
    stats = json.loads((folder / "stats.json").read_text())
    unknown = [stats[str(dated(n))]["relations"]["log"]["columns"]["user"]["unknown"]
               for n in range(NEXT + 1)]  # fmt: skip
    assert unknown[: SECOND + 1] == [None] * (SECOND + 1)
    assert 0 < unknown[WORSE] < unknown[NEXT] == nights.ROWS


@pytest.mark.parametrize("what", ["gone", "schema"])
def test_a_cold_start_goes_without_a_vocabulary_that_is_gone_or_of_others(
    copied, monkeypatch, capsys, what
):
    path = record(copied, SECOND)[0] / "data/state"
    if what == "gone":
        shutil.rmtree(path)
    else:
        facts = json.loads((path / "state.json").read_text())
        facts["schema"]["tables"][0]["name"] = "visitor"
        (path / "state.json").write_text(json.dumps(facts))
    cut(monkeypatch, capsys, flags(copied, NEXT, cold_start=True), "night.data_ok.after")
    folder, _ = record(copied, NEXT)
    said = "lacks state.json" if what == "gone" else "visitor"
    (line,) = (x for x in (folder / "log.jsonl").read_text().splitlines() if "not checked" in x)
    assert said in line


def test_a_cold_start_passes_over_days_that_are_missing_or_refused(copied, monkeypatch, capsys):
    shutil.rmtree(copied / "data/taobao" / f"dt={dated(2)}")
    nights.deliver(copied, WORSE, rows=90)
    asked = flags(copied, NEXT, cold_start=True)
    cut(monkeypatch, capsys, asked, "night.training.after")
    folder, found = record(copied, NEXT)
    assert found["passed_over"] == {str(dated(2)): "missing", str(dated(WORSE)): "refused"}
    read = [str(dated(n)) for n in (0, 1, FIRST, SECOND, NEXT)]
    assert [*found["inputs"]] == [*json.loads((folder / "stats.json").read_text())] == read
    assert found["window"][0] == nights.CALENDAR.begin(dated(0))
    said = f"{dated(2)} missing, {dated(WORSE)} refused"
    assert f"passed over: {said}" in (folder / "log.jsonl").read_text()
    assert said in (folder / "report.html").read_text()

    where = places.Places("ctr", *(copied / p for p in ("runs/nightly", "serving", "registry")))
    settings = chains.read(where)
    late = days.digests(days_of.find(settings.data, [dated(WORSE)]))
    days.accept(where, settings, late, "a holiday")
    nights.deliver(copied, NEXT, rows=80)
    code, value = call(capsys, asked)
    assert (code, value["of"]) == (11, "data")
    assert f"the log of {dated(NEXT)} is refused" in value["sentence"]
    found = record(copied, NEXT, 2)[1]
    assert found["passed_over"] == {str(dated(2)): "missing"}
    assert str(dated(WORSE)) in found["inputs"]


@pytest.mark.parametrize(("cold_days", "first"), [("0", 0), ("2", NEXT - 1), ("99", 0)])
def test_cold_days_bound_what_a_cold_start_reads(copied, monkeypatch, capsys, cold_days, first):
    asked = flags(copied, NEXT, cold_start=True, cold_days=cold_days, adopt=True, reason="a test")
    cut(monkeypatch, capsys, asked, "night.planned.after")
    folder, found = record(copied, NEXT)
    assert found["window"][0] == nights.CALENDAR.begin(dated(first))
    assert json.loads((folder / "config.json").read_text())["asked"]["cold_days"] == cold_days
    changes = json.loads((copied / "registry/ctr/nightly.json").read_text())["changes"]
    adopted = [] if cold_days == "0" else [f"cold_days was 0 and is {cold_days}"]
    assert [c["adopted"] for c in changes] == adopted


def test_cold_days_are_whole_days_and_a_period_at_least():
    chain = {**nights.CHAIN, "days": "7"}
    assert chains.made({**chain, "cold_days": "7"}).cold_days == 7
    for wrong in ("6", "-1", "7.5", "all", ""):
        with pytest.raises(InputError, match="--cold_days"):
            chains.made({**chain, "cold_days": wrong})
    old = chains.made(chain).to_json()
    del old["asked"]["cold_days"]  # of a chain that was begun before there was this setting
    assert chains.Settings.from_json(old, "there").cold_days == 0


def test_gc_deletes_what_older_dates_left_unfinished_and_they_begin_anew(
    copied, monkeypatch, capsys
):
    for number in (FIRST, WORSE):
        cut(monkeypatch, capsys, flags(copied, number, again=True), "night.training.after")
    cut(monkeypatch, capsys, flags(copied, NEXT), "night.training.after")
    old, later, newest = (record(copied, *n)[0] for n in ((FIRST, 2), (WORSE, 2), (NEXT, 1)))
    left = old / ".checkpoints.gone"  # by a gc that was killed
    left.mkdir()
    (left / "weights").write_bytes(b"1234")
    _, done = call(capsys, ["gc", *flags(copied, keep=1)])
    rejected = record(copied, WORSE)[0]
    assert {p.rsplit("/", 1)[0] for p in done["files"]} == {str(old), str(rejected)}
    assert done["files"][str(left)] == 4
    assert not any((old / name).exists() for name in ("data", left.name))
    assert all((folder / "data/state").is_dir() for folder in (later, newest))
    value = cut(monkeypatch, capsys, flags(copied, FIRST), "night.wait_data.after")
    assert value["attempt"].endswith("attempt-03")


def test_a_states_files_are_read_once_a_process_and_vocabularies_alone_where_they_do(
    copied, monkeypatch
):
    path = record(copied, SECOND)[0] / "data/state"
    files, read = sorted(json.loads((path / "state.json").read_text())["files"]), []

    def noted(file):
        read.append(str(file.relative_to(path)))
        return digest(file)

    monkeypatch.setattr("at4ctr.data.nights.state.digest", noted)
    for _ in range(3):
        found = state.vocabularies(path)
    assert sorted(read) == [n for n in files if n.startswith("vocabulary/")]
    assert {f"vocabulary/{table}.parquet" for table in found} == {*read}
    for _ in range(3):
        state.opened(path)
    assert sorted(read) == files
    damaged = path / "users.parquet"
    damaged.write_bytes(damaged.read_bytes()[::-1])
    with pytest.raises(InputError, match=r"users\.parquet is not the file"):
        state.opened(path)
    assert [*state.vocabularies(path)] == [*found]
    assert len(read) == len(files) + 1
