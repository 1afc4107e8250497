"""A night's page: its verdict and command come first, its numbers are the gates', it is safe."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from html.parser import HTMLParser

import numpy as np
import pytest

from at4ctr.errors import InputError
from at4ctr.gates.verdict import Thresholds
from pipelines.night.report import build as nightly_report
from pipelines.night.report import verdict as nightly_verdict
from tests.pipelines import nightly_folders as folders

FILES = ("config.json", "stats.json", "anomalies.json", "metrics.json", "gate.json",
         "predictions.npz")  # fmt: skip
VOID = {"meta", "img", "br", "path", "circle", "rect"}
FIRST = folders.night("2017-11-25")
DAY = folders.night("2017-12-01")
PARENT = (2017113001, folders.night("2017-11-30"))
BLESS = '--date=2017-12-01 --bless --reason "why'
EVIL = "<script>alert('x')</script>\"&"


class Page(HTMLParser):
    """Balanced tags, the texts in order, and every address."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.tags, self.addresses, self.alts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.addresses += [given[k] for k in ("src", "href", "action", "data") if k in given]
        self.alts += [given.get("alt", "")] if tag == "img" else []
        assert not [k for k in given if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, _):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.texts.append(data.strip())


def page(folder, chain=None):
    path = nightly_report.write(folder, chain)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Seven nights, the last published; read only."""
    made = folders.chain(tmp_path_factory.mktemp("runs") / "ctr", FIRST, 7)
    return made[-1], page(made[-1])


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A first night, which holds; to be copied."""
    nights = tmp_path_factory.mktemp("held") / "ctr"
    return folders.attempt(nights, DAY, "HOLD", users=60, first=True)


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("ends", "given", "said", "command"),
    [
        ("REJECTED", {"of": "data", "renumbered": True}, "Rejected: the data", BLESS),
        ("REJECTED", {"of": "model", "noise": (1.5, 0.3)}, "Rejected: the model",
         "--date=2017-12-01 --cold_start --again"),
        ("HOLD", {"first": True}, "On hold", BLESS),
        ("PUBLISHED", {"bless": "a holiday"}, "Published by hand: version 2017120101",
         "nightly rollback --model=ctr --to=2017113001 --reason"),
        ("SKIPPED", {"sentence": "dt=2017-12-01 is missing"}, "Skipped: no data",
         "--model=ctr --date=2017-12-01"),
        ("FAILED", {"sentence": "the disk is full", "retryable": True},
         "Failed on the way to TRAINED", "--model=ctr --date=2017-12-01"),
        ("FAILED", {"sentence": "no such column", "stage": "DATA_OK"},
         "Failed on the way to DATA_OK", "--model=ctr --date=2017-12-01"),
        ("UNFINISHED", {}, "Not finished", "--model=ctr --date=2017-12-01"),
    ],
)  # fmt: skip
def test_verdict_reason_and_command_come_first(tmp_path, ends, given, said, command):
    before = [folders.stats(DAY - timedelta(n), n) for n in range(1, 6)]
    folder = folders.attempt(tmp_path / "ctr", DAY, ends, parent=PARENT, before=before, users=60,
                             thresholds=Thresholds(clicks=20, users=20), **given)  # fmt: skip
    found = page(folder)
    top = [found.text.index(t) for t in (said, "What to do", command)]
    parts = ("Model gate", "Data gate", "The last", "This night")
    sections = [found.text.index(t) for t in parts if t in found.text]
    sentence = (read(folder, "run.json")["outcome"] or {}).get("sentence", "has not ended")
    assert sentence[1:] in found.text
    assert top[0] < found.text.index(sentence[1:]) < top[1] < top[2] < min(sections)
    assert "simulated" in found.text[: top[0] + 200]
    assert ("a holiday" in found.text) == (ends == "PUBLISHED")


def test_the_ways_a_night_ends_differ_in_colour_and_in_shape():
    looks = nightly_verdict.LOOKS.values()
    for part in ("css", "color", "marker", "shape", "words"):
        assert len({getattr(look, part) for look in looks}) == len(looks)


def test_numbers_are_those_of_gate_and_metrics(usual):
    folder, found = usual
    gate, values = read(folder, "gate.json"), read(folder, "metrics.json")
    for check in gate["checks"]:
        form = ",.0f" if float(check["value"]).is_integer() else ".5f"
        assert {check["sentence"], f"{check['value']:{form}}"} <= set(found.texts)
    for side in ("candidate", "incumbent"):
        for name in ("auc", "gauc", "logloss", "normalized_entropy", "pcoc"):
            assert f"{values[side][name]:.5f}" in found.texts
    gain = values["candidate"]["auc"] - values["incumbent"]["auc"]
    assert {f"{gain:+.4f}", f"{gain:+.5f}"} <= set(found.texts)
    interval = next(c["interval"] for c in gate["checks"] if c["name"] == "auc")
    assert f"{interval[0]:+.4f} to {interval[1]:+.4f}" in found.texts
    part = values["candidate"]["segments"]["item"]["known"]
    low, high = part["pcoc_interval"]
    row = found.texts.index("item known")
    assert found.texts[row + 2 : row + 4] == [f"{part['pcoc']:.4f}", f"{low:.3f} to {high:.3f}"]


def test_the_log_and_the_lineage_are_told(usual):
    folder, found = usual
    assert not re.search(r"\b1 (days|nights|users|clicks)\b", found.text)
    record, stats = read(folder, "run.json"), read(folder, "stats.json")
    (day,) = stats
    relation = stats[day]["relations"]["impressions"]
    column = relation["columns"]["user"]
    assert f"{relation['rows']:,}" in found.texts
    assert f"{column['unknown'] / column['values']:.2%}" in found.texts
    assert record["inputs"][day]["part-0000.csv"][:12] in found.texts
    assert "2017-12-01 10:00 UTC, 2017-12-01 18:00 +08:00" in found.text  # the cutoff
    assert f"version {record['parent']['version']}" in found.text
    assert "0123abc" in found.text
    assert "user 410, item 37" in found.text
    assert "The configuration is the parent's." in found.text


def test_a_changed_configuration_is_told(tmp_path):
    nights = tmp_path / "ctr"
    folders.attempt(nights, PARENT[1], "SKIPPED", batch=512)
    folder = folders.attempt(nights, DAY, "SKIPPED", parent=PARENT, batch=2048)
    found = page(folder)
    at = found.texts.index("experiment.fit.batch_size")
    assert found.texts[at : at + 3] == ["experiment.fit.batch_size", "512", "2048"]


def test_trend_tells_every_date_and_its_gaps(usual):
    folder, found = usual
    dates = [str(FIRST + timedelta(n)) for n in range(7)]
    where = {d: max(i for i, t in enumerate(found.texts) if t == d) for d in dates[:-1]}
    assert found.texts[where[dates[3]] + 1] == "no night"
    assert found.texts[where[dates[4]] + 1] == "Skipped: no data"
    assert found.texts[where[dates[0]] + 1] == "Published by hand: version 2017112501"
    earlier = read(folder.parents[1] / f"dt={dates[1]}" / "attempt-01", "metrics.json")
    assert found.texts[where[dates[1]] + 2] == f"{earlier['candidate']['auc']:.4f}"


def test_of_a_date_the_last_attempt_counts_and_none_is_later(tmp_path):
    nights = tmp_path / "ctr"
    first = folders.attempt(nights, PARENT[1], "FAILED")
    second = folders.attempt(nights, PARENT[1], "SKIPPED", number=2)
    later = folders.attempt(nights, DAY + timedelta(1), "REJECTED", of="data")
    folder = folders.attempt(nights, DAY, "SKIPPED")
    assert nightly_report.earlier(folder) == [first, second, folder, later]
    found = page(folder)
    assert "The last 2 nights" in found.texts
    assert not [t for t in found.texts if t.startswith(("Failed", "Rejected", str(later.parent)))]
    assert "This night" in page(folder, ()).texts


def test_the_page_needs_nothing_beside_it(usual):
    folder, found = usual
    assert found.addresses
    assert all(a.startswith("data:image/png;base64,") for a in found.addresses)
    assert all(len(alt) > 20 for alt in found.alts)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    text = (folder / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    assert not re.search(r"https?:|//|@import|url\(", text)
    pictures = {p.name for p in (folder / "report").glob("*.png")}
    assert {"reliability.png", "roc.png", "segments.png", "trend_auc.png"} <= pictures
    assert len(pictures) == len(found.alts)


def test_it_fits_a_phone(usual):
    folder, _ = usual
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    segments = (folder / "report" / "segments.png").read_bytes()
    width = int.from_bytes(segments[16:20], "big")
    assert 300 < width < 450
    assert f' width="{width}" src="data:image/png' in text
    assert text.count('<div class="scroll"') == text.count("<table")
    assert "img{display:block;height:auto;max-width:100%" in text


def test_a_chain_that_stands_still_is_told_at_the_top(tmp_path):
    nights = tmp_path / "ctr"
    for number in range(4):
        ends = "SKIPPED" if number else "PUBLISHED"
        folder = folders.attempt(nights, FIRST + timedelta(number), ends, users=60)
    found = page(folder)
    said = f"The chain has stood still for 3 nights (3 SKIPPED), since the version of {FIRST}."
    assert found.text.index(said) < found.text.index("What to do")
    assert (
        "stood still" not in page(folder.parents[1] / f"dt={FIRST + timedelta(2)}/attempt-01").text
    )


def test_commands_are_those_of_a_fresh_checkout(held, tmp_path):
    found = page(folders.copied(held, tmp_path))
    assert (
        ".venv/bin/python -m pipelines.nightly --model=ctr --date=2017-12-01 --bless" in found.text
    )
    assert "after make setup" in found.text


def test_same_folders_same_bytes(usual):
    folder, _ = usual
    pages = [folder / "report.html", *(folder / "report").iterdir()]
    files = {p: p.read_bytes() for p in pages}
    (folder / "report" / "old.png").write_bytes(b"")
    (folder / ".report-killed").mkdir()
    nightly_report.write(folder)
    assert {p: p.read_bytes() for p in pages} == files
    assert {*(folder / "report").iterdir()} == {*pages[1:]}
    assert not list(folder.glob(".report-*"))


def test_whatever_stands_in_the_files_is_text(held, tmp_path):
    folder = folders.copied(held, tmp_path)
    for name in ("run.json", "metrics.json", "gate.json", "stats.json", "anomalies.json"):
        value = read(folder, name)
        if name == "run.json":
            kept = {k: value[k] for k in ("date", "window", "form")}
            value = _hostile(value) | kept
            value |= {"inputs": {str(DAY): {EVIL: EVIL}}, "command": ["python", EVIL]}
            value["outcome"]["name"] = "HOLD"
        if name == "metrics.json":
            value["no_incumbent"], value["training"]["commit"] = EVIL, EVIL
            value["candidate"]["segments"][EVIL] = value["candidate"]["segments"].pop("item")
        if name == "gate.json":
            value["checks"][0] |= {"name": EVIL, "sentence": EVIL}
        if name == "stats.json":
            columns = value[str(DAY)]["relations"]["impressions"]["columns"]
            columns[EVIL] = columns.pop("item")
        if name == "anomalies.json":
            odd = {"severity": "warn", "name": "drift", "where": EVIL, "sentence": EVIL}
            value[str(DAY)] = [odd]
        folders.write(folder / name, value)
    found = page(folder)
    assert "script" not in found.tags
    assert found.text.count("<script>") > 10


def _hostile(value):
    if isinstance(value, dict):
        return {k: _hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_hostile(v) for v in value]
    return EVIL if isinstance(value, str) else value


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_costs_its_part_alone(held, tmp_path, name):
    folder = folders.copied(held, tmp_path)
    (folder / name).write_bytes(b'{"a": [')
    found = page(folder)
    assert f"{name} cannot be read" in found.text
    assert found.text.index("On hold") < found.text.index("What to do")


@pytest.mark.parametrize(
    ("name", "value"),
    [("metrics.json", {"candidate": 3}), ("metrics.json", {"candidate": {"auc": "high"}}),
     ("stats.json", [1]), ("gate.json", {"checks": []})],
)  # fmt: skip
def test_a_file_of_another_form_costs_its_part_alone(held, tmp_path, name, value):
    folder = folders.copied(held, tmp_path)
    folders.write(folder / name, value)
    assert f"{name} is not as this version writes it" in page(folder).text


def test_a_night_of_which_only_the_record_is_left(held, tmp_path):
    folder = folders.copied(held, tmp_path)
    for name in FILES:
        (folder / name).unlink()
    found = page(folder)
    assert "Could not be read" not in found.texts
    assert found.text.index("On hold") < found.text.index("What to do")


def test_scores_that_are_none_draw_no_curves(held, tmp_path):
    folder = folders.copied(held, tmp_path)
    with np.load(folder / "predictions.npz") as file:
        columns = dict(file)
    columns["candidate"][3] = np.nan
    np.savez(folder / "predictions.npz", **columns)
    assert "candidate have values that are no logit or label" in page(folder).text
    assert not (folder / "report" / "roc.png").exists()


@pytest.mark.parametrize("text", [None, "{}", "[]", '{"date": "yesterday"}', "{"])
def test_a_folder_of_no_night_is_refused(tmp_path, text):
    folder = tmp_path / "ctr" / "dt=2017-12-01" / "attempt-01"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json is missing or no record of a night"):
        nightly_report.write(folder)
    assert not (folder / "report").exists()
