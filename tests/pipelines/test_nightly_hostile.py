"""What strangers may do to a chain: refused in one sentence, or survived as said; what is live
stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from at4ctr.registry import Entry, Ledger
from pipelines.night import attempt as attempts
from tests.export.publishing import test_publish_hostile as hostile
from tests.pipelines.nights import (
    CHECKOUT,
    NEXT,
    SECOND,
    WORSE,
    audit,
    call,
    cut,
    dated,
    flags,
    moved,
    published,
    record,
    sound,
)
from tests.publishing import damage

V1, V2, V3 = 2017112801, 2017112901, 2017113001
NIGHT, PAST = "pipelines.night.", "1999-01-01T00:00:00Z"
OFFERED = {
    hostile.flip: "saved_model.pb has SHA-256",
    hostile.link: "is a symbolic link",
    hostile.folder_link: "is a symbolic link",
    hostile.named("../../secret"): "leads out of it",
    hostile.pickled: "no pickle",
    hostile.pickled_graph: "begins with",
    hostile.keras: "no Keras archive",
    hostile.keras_graph: "begins with",
    hostile.python_op: "holds PyFunc",  # what a Lambda layer becomes
}


def refused(capsys, arguments):
    """The sentence with which a command says what must be corrected."""
    code, value = call(capsys, arguments)
    said = value.get("sentence") or value["error"]
    assert code == 2, said
    assert "\n" not in said
    return said


def test_what_is_no_longer_the_verified_export_is_not_published(copied, capsys):
    export = record(copied, WORSE)[0] / "export/1"
    sane = shutil.copytree(export, copied / "sane")
    before = sorted(p.name for p in (copied / "serving/ctr").iterdir())
    words = flags(copied, WORSE)
    for number, (change, says) in enumerate(OFFERED.items()):
        change(export)
        blessing = [] if number else ["--bless", "--reason=a test"]  # BLESSED once, then FAILED
        said = refused(capsys, [*words, *blessing])
        assert says in said
        assert "not fit to publish" in said
        assert sorted(p.name for p in (copied / "serving/ctr").iterdir()) == before
        shutil.rmtree(export)
        shutil.copytree(sane, export)
    assert call(capsys, words)[1]["version"] == V3
    audit(copied, [V1, V2, V3])


def test_a_flipped_bit_is_found_by_the_infra_check(copied, capsys):
    folder = record(copied, WORSE)[0]
    attempts.opened(folder).reopen("EXPORTED")
    damage(folder / "export/1/saved_model.pb")
    said = refused(capsys, flags(copied, WORSE))
    assert "failed its verification (FAILED files: " in said
    assert "saved_model.pb" in said
    assert "--again" in said
    assert sound(copied) == [V1, V2]


def test_no_rollback_to_a_damaged_version_and_a_damaged_live_one_can_be_replaced(copied, capsys):
    damage(copied / f"serving/ctr/{V1}/saved_model.pb")
    rollback = ["rollback", *flags(copied, reason="it was worse")]
    assert f"{V1} is not whole: in " in refused(capsys, rollback)
    assert call(capsys, ["status", *flags(copied)])[1]["live"] == V2
    damage(copied / f"serving/ctr/{V1}/saved_model.pb")
    damage(copied / f"serving/ctr/{V2}/saved_model.pb")
    assert call(capsys, flags(copied, WORSE, bless=True, reason="a test"))[1]["version"] == V3
    assert "saved_model.pb has" in refused(capsys, rollback)
    assert call(capsys, [*rollback, f"--to={V1}"])[1]["live"] == V1


def linked_part(day):
    (day / "part-00000.csv").rename(day.parents[2] / "elsewhere.csv")
    (day / "part-00000.csv").symlink_to(day.parents[2] / "elsewhere.csv")


def climbing_part(day):
    (day / "part-00000.csv").unlink()
    (day / "part-00000.csv").symlink_to(f"../dt={dated(SECOND)}/part-00000.csv")


def dangling_part(day):
    (day / "part-00001.csv").symlink_to("nothing.csv")


def linked_day(day):
    day.rename(day.parents[2] / "elsewhere")
    day.symlink_to("../../elsewhere")


def doubled_part(day):
    (day / "part-00001.csv").symlink_to("part-00000.csv")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (linked_part, "link that leads out"),
        (climbing_part, "link that leads out"),
        (dangling_part, "no part of a log"),
        (linked_day, "link that leads out"),
        (doubled_part, "same file"),
    ],
)
def test_a_log_that_is_linked_from_elsewhere_is_refused(copied, capsys, change, says):
    change(copied / "data/taobao" / f"dt={dated(NEXT)}")
    assert says in refused(capsys, flags(copied, NEXT))
    assert sound(copied) == [V1, V2]


@pytest.mark.parametrize("name", ["../../../dt=2017-11-29/attempt-01", "/etc", "dt=2017-11-29/..",
                                  "dt=2017-11-29/attempt-01/../attempt-01", 7])  # fmt: skip
def test_a_ledgers_path_that_leads_elsewhere_is_nobodys_night(copied, capsys, name):
    notes = {"attempt": name, "cutoff": record(copied, SECOND)[1]["window"][1] + 1}
    facts = {"parent": V2, "notes": notes, "content": "0" * 64, "manifest": "0" * 64}
    ledger = Ledger(copied / "registry/ledger.jsonl")
    ledger.append(Entry("published", "ctr", "2017-12-01T00:00:00Z", V3, facts))
    assert "published by hand" in refused(capsys, flags(copied, NEXT))
    assert "published by hand" in refused(capsys, ["compare", str(V3), str(V2), *flags(copied)])
    assert call(capsys, ["gc", "--dry_run", *flags(copied)])[0] == 0


@pytest.mark.parametrize("gone", ["", "data/state", "checkpoints", "checkpoints/best",
                                  "config.json"])  # fmt: skip
def test_a_parent_that_lacks_anything_is_named(copied, capsys, gone):
    path = record(copied, SECOND)[0] / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    said = refused(capsys, flags(copied, NEXT))
    assert "--cold_start" in said or "cold start" in said
    assert str(path) in said
    assert sound(copied) == [V1, V2]


def test_a_parent_that_the_ledger_lost_is_known_from_its_version(copied, monkeypatch, capsys):
    ledger = Ledger(copied / "registry/ledger.jsonl")
    *lines, last = ledger.file.read_bytes().splitlines(keepends=True)
    assert json.loads(last)["version"] == V2
    ledger.file.write_bytes(b"".join(lines))
    cut(monkeypatch, capsys, flags(copied, NEXT), "night.wait_data.after")
    parent, window = (record(copied, NEXT)[1][k] for k in ("parent", "window"))
    before = record(copied, SECOND)[1]
    assert parent["version"] == V2
    assert window[0] == parent["cutoff"] == before["window"][1]
    assert [e.version for e in ledger.entries() if e.kind == "published"] == [V1, V2]


def test_of_two_at_once_one_works_and_another_model_goes_its_own_way(
    chain, tmp_path, monkeypatch, capsys
):
    root = moved(chain.before, tmp_path / "two")
    _second_model(root)
    night = subprocess.Popen(
        [sys.executable, "-m", "pipelines.nightly", *flags(root, SECOND)],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with night:
        while not (root / f"runs/nightly/ctr/dt={dated(SECOND)}/attempt-01/run.json").exists():
            assert night.poll() is None
            time.sleep(0.05)
        code, value = call(capsys, flags(root, SECOND))
        assert night.poll() is None
        assert code == 75
        assert "another nightly job of ctr" in value["error"]
        for name in [n for n, m in sys.modules.items() if hasattr(m, "now") and NIGHT in n]:
            monkeypatch.setattr(f"{name}.now", lambda: PAST)  # its clock was set back, too
        assert call(capsys, flags(root, SECOND, model="other"))[1]["version"] == V2
        assert json.loads(night.communicate()[0])["version"] == V2
    folder = root / f"runs/nightly/other/dt={dated(SECOND)}/attempt-01"
    told = json.loads((folder / "run.json").read_text())
    assert {s["at"] for s in told["stages"]} == {PAST}
    both = [e for e in Ledger(root / "registry/ledger.jsonl").entries() if e.kind == "published"]
    assert [e.version for e in both if e.model == "ctr"] == [V1, V2]
    assert [e.version for e in both if e.model == "other"] == [V1, V2]
    assert len({e.facts["content"] for e in both if e.version == V2}) == 1
    assert {e.facts["content"] for e in both if e.version == V2} == {published(chain.root)[V2]}


def _second_model(root):
    """The same chain under another name, in the same ledger."""
    for part in ("runs/nightly", "serving", "registry"):
        shutil.copytree(root / part / "ctr", root / part / "other")
    ledger = Ledger(root / "registry/ledger.jsonl")
    for e in ledger.entries("ctr"):
        ledger.append(Entry(e.kind, "other", e.at, e.version, e.facts))
