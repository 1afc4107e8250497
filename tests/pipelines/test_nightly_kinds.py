"""Nights of other kinds: devices that come and go, a fitted calibrator, a log by a mapping, days
without rows; and what can be no night, refused before any work."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import configs
from at4ctr import warm
from at4ctr.data import days as days_of
from at4ctr.data.datasets import simulated, taobao, trivago
from at4ctr.data.days import DAY, NoData
from at4ctr.data.nights import increment
from at4ctr.data.reader import Reader
from at4ctr.data.simulation.world import START
from at4ctr.data.store import Store
from at4ctr.gates import data as gate
from at4ctr.metrics import sigmoid
from export.lookup import Front
from export.requests import requests
from pipelines.night import chain as chains
from pipelines.night import days, learn, parents, places
from tests.data.toy_log import RECIPE as MAPPING
from tests.pipelines import nights
from tests.pipelines.nights import (
    BEGIN,
    CALENDAR,
    CHECKOUT,
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
)

TWO = """
import sys
import tensorflow as tf
from pipelines import nightly
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.exit(nightly.main(sys.argv[1:]))
"""


ONE = ("probability", "probability_click")  # of the click, of one label or several


def served(folder, store, history, rows):
    """What an export says of the first rows that judge a night, asked in raw ids."""
    raw = requests(Front(store, history), store, "test", rows)
    answer = tf.saved_model.load(str(folder)).signatures["serving_default"]
    specs = answer.structured_input_signature[1]
    found = answer(**{k: tf.constant(raw[k], spec.dtype) for k, spec in specs.items()})
    return next(v for k, v in found.items() if k in ONE).numpy().ravel()


def saved(path):
    """Name -> value of a checkpoint's variables, of which generators are a night's own."""
    reader = tf.train.load_checkpoint(str(path))
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith(("model", "optimizer"))]
    return {n: reader.get_tensor(n) for n in names if "generator" not in n}


def test_devices_come_and_go_and_the_incumbent_answers_with_its_own_calibrator(
    chain, tmp_path, monkeypatch, capsys
):
    """Two whole nights, one in a process with two devices: what it takes to see that weights and
    optimizer go from two devices to one, and that an old calibrator still answers."""
    root = moved(chain.before, tmp_path / "chain")
    deliver(root, WORSE)
    recipe = f"{nights.RECIPE} calibrator=platt"
    two = {"set": f"{recipe} fit.devices=CPU:0,CPU:1", "adopt": True, "reason": "two devices"}
    done = subprocess.run(
        [sys.executable, "-c", TWO, *flags(root, SECOND, **two)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    start, begun = warm.start, tmp_path / "begun"

    def noted(model, optimizer, *of, **named):
        result = start(model, optimizer, *of, **named)
        tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(begun))
        return result

    monkeypatch.setattr(warm, "start", noted)
    one = {"set": recipe, "adopt": True, "reason": "one device"}
    assert call(capsys, flags(root, WORSE, **one))[0] == 0
    (before, first), (folder, night) = record(root, SECOND), record(root, WORSE)
    old = saved(warm.served(before / "checkpoints") / "variables")
    new = saved(begun)
    assert old.keys() == new.keys()
    grown = {n for n, value in old.items() if value.shape != new[n].shape}
    assert grown
    for name, value in old.items():
        rows = new[name][: len(value)] if name in grown else new[name]
        np.testing.assert_array_equal(rows, value, name)

    platt = [
        json.loads((f / "calibrator.json").read_text())["click"]["slope"] for f in (before, folder)
    ]
    assert 1.0 not in platt
    assert platt[0] != platt[1]
    store, kept = Store.open(folder / "data/store"), np.load(folder / "predictions.npz")
    folders = {"candidate": folder / "export/1",
               "incumbent": root / "serving/ctr" / str(first["version"])}  # fmt: skip
    for side, export in folders.items():
        expected = sigmoid(kept[side][:150])
        np.testing.assert_allclose(served(export, store, 5, 150), expected, rtol=5e-6)
    users = [
        {u for b in Reader(
            store, split, batch_size=4096, history=5, shuffle=False).dataset(0)
         for u in b["user_index"].numpy()}
        for split in ("validation", "test")
    ]  # fmt: skip
    assert all(users)
    assert not users[0] & users[1]
    assert set(kept["users"]) == users[1]
    metrics = json.loads((folder / "metrics.json").read_text())["candidate"]
    assert metrics["uncalibrated"]["logloss"] != metrics["logloss"]
    assert night["rows"]["validation"] == json.loads((folder / "training.json").read_text())[
        "calibrator"]["click"]["rows"]  # fmt: skip


def test_a_night_publishes_quantised_tables_and_keeps_a_float_checkpoint(chain, tmp_path, capsys):
    """The next night goes on from the checkpoint, as
    `test_devices_come_and_go_and_the_incumbent_answers_with_its_own_calibrator` shows."""
    root = moved(chain.before, tmp_path / "chain")
    given = {"set": f"{nights.RECIPE} export.quantize=int8", "adopt": True, "reason": "smaller"}
    assert call(capsys, flags(root, SECOND, **given))[0] == 0
    folder, night = record(root, SECOND)
    manifest = json.loads(
        (root / "serving/ctr" / str(night["version"]) / "MANIFEST.json").read_text()
    )
    assert manifest["quantization"]["kind"] == "int8"
    tables = manifest["quantization"]["tables"]
    assert {v["dtype"] for p, v in manifest["variables"].items() if "/tables/" in p} == {"float16"}
    assert any("tables: int8: " in line for line in night["verified"])
    kept = tf.train.load_checkpoint(str(warm.served(folder / "checkpoints") / "variables"))
    dtypes = kept.get_variable_to_dtype_map()
    for path in tables:
        (dtype,) = {d for n, d in dtypes.items() if n.startswith(
            f"model/serving/{path.replace('/linear', '.Slinear')}/.ATTRIBUTES")}  # fmt: skip
        assert dtype == tf.float32


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """A mapping of two labels whose items and genres are hashed and whose users are texts, and five
    days of it."""
    text = MAPPING.replace('Table("item")', 'Table("item", buckets=31)')
    text = text.replace('Table("genre", "string")', 'Table("genre", "string", buckets=5)')
    text = text.replace('"clicked"}', '"clicked", "order": "ordered"}')
    text = text.replace("import Feature,", "import Feature, Label,").replace(
        'history=("item", "genres"),',
        'history=("item", "genres"),\n            '
        'labels=(Label("click", sampled=True), Label("order", within="click")),',
    )
    for name in ("shown.*", "done-*", "catalogue.*"):
        text = text.replace(f'"{name}"', f'"part-{name}"')
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "hashedlog.py").write_text(text)
    monkeypatch.setattr(configs, "__path__", [*configs.__path__, str(tmp_path / "recipes")])
    importlib.invalidate_caches()
    for number in range(SECOND + 1):
        shop(tmp_path / "data", number)
    yield tmp_path
    sys.modules.pop("configs.hashedlog")


def shop(root, number, rows=900):
    """A day of impressions and behaviours, more likely to be clicked where user and item are both
    even or both odd."""
    rng, folder = np.random.default_rng([7, number]), root / f"dt={dated(number)}"
    folder.mkdir(parents=True)
    at = np.sort(CALENDAR.begin(dated(number)) + rng.integers(0, DAY, (2, rows)), axis=1)
    user, item = rng.integers(0, 50 + 3 * number, (2, rows)), rng.integers(0, 40, (2, rows))
    clicked = (rng.random(rows) < np.where((user + item)[0] % 2, 0.1, 0.6)).astype(int)
    shown = {
        "who": [f"é {k}" for k in user[0]],
        "sku": item[0],
        "rank": rng.integers(5, size=rows),
        "at": at[0] * 1000,
        "clicked": clicked,
        "ordered": clicked * (rng.random(rows) < np.where(item[0] % 4, 0.7, 0.2)),
    }
    done = {
        "who": [f"é {k}" for k in user[1]],
        "sku": item[1],
        "event": rng.choice(["view", "buy", "scroll"], rows),
        "age": user[1] % 7,
        "moment": at[1].astype("datetime64[s]"),
    }
    genres = [f"g{k % 7}|h" if k % 9 else "" for k in range(60)]
    tables = {"shown": shown, "done-1": done,
              "catalogue": {"sku": np.arange(60), "genres": genres}}  # fmt: skip
    for name, table in tables.items():
        pq.write_table(pa.table(table), folder / f"part-{name}.parquet")
    (folder / "_SUCCESS").touch()


def test_a_mapped_log_with_two_labels_hashed_ids_and_texts(hashed, monkeypatch, capsys):
    recipe = nights.RECIPE.replace("data.window=false", "")
    gate = nights.GATE.replace("clicks=50", "clicks=10").replace("pcoc=0.5", "pcoc=0.8")
    gate = gate.replace("auc_loss=0.1 entropy_rise=0.2", "auc_loss=0.5 entropy_rise=1")
    chain = {**nights.CHAIN, "model_gate": gate, "set": recipe, "config": "din"}
    chain["dataset"] = "hashedlog"
    code, value = call(capsys, flags(hashed, FIRST, data=str(hashed / "data"), **chain))
    assert (code, value["outcome"]) == (12, "HOLD")
    dates = [f"--{name}={dated(FIRST)}" for name in ("begin", "end")]
    blessing = flags(hashed, bless=True, reason="the first")
    assert call(capsys, ["backfill", *dates, *blessing])[0] == 0  # each label lacks an incumbent
    cut(monkeypatch, capsys, flags(hashed, SECOND), "night.training.after")
    (before, first), (folder, _) = record(hashed, FIRST), record(hashed, SECOND)
    parent = parents.Parent(first["version"], before, first["window"][1])
    store = Store.open(folder / "data/store")
    asked = learn.Incumbent(parent, folder / "data/state")
    assert {"user", "slot", "history_event"} <= asked.maps.keys()
    assert not {"item", "genres", "history_item"} & asked.maps.keys()
    found = learn.predicted(asked, asked.experiment, store)["click"].probability[:150]
    export = hashed / "serving/ctr" / str(first["version"])
    np.testing.assert_allclose(served(export, store, 5, 150), found, rtol=2e-6)
    assert len(np.unique(found)) > 100

    code, value = call(capsys, flags(hashed, SECOND))
    assert (code, value["outcome"]) == (0, "PUBLISHED")
    checks = [c["name"] for c in json.loads((folder / "gate.json").read_text())["checks"]]
    of_order, of_both = (
        {name.removeprefix(f"{label} ") for name in checks if name.startswith(f"{label} ")}
        for label in ("order", "click_and_order")
    )
    assert {"auc", "normalized entropy", "pcoc"} <= of_order & of_both & set(checks)
    candidate = json.loads((folder / "metrics.json").read_text())["candidate"]["labels"]
    rows = {label: candidate[label]["rows"] for label in ("click", "order", "click_and_order")}
    assert rows["order"] == candidate["click"]["positives"]
    assert rows["click_and_order"] == rows["click"]
    page = (folder / "report.html").read_text()
    assert "By label" in page
    live = hashed / "serving/ctr" / str(record(hashed, SECOND)[1]["version"])
    assert "probability_click_and_order" in (live / "MANIFEST.json").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dataset": "movielens"}, "movielens is not read by days"),
        ({"dataset": "amazon_beauty"}, "amazon_beauty is not read by days"),
        ({"dataset": "trivago"}, "reads train.csv*, and a day's folder holds files part-* alone"),
        ({"set": "data.protocol=paper"}, "protocol is 'paper'; expected 'strict'"),
        ({"set": "data.reject=seen"}, "reject is 'seen'; expected 'own'"),
    ],
)
def test_what_can_be_no_night_is_refused_before_any_work(tmp_path, capsys, given, said):
    code, value = call(capsys, flags(tmp_path, FIRST, data=str(tmp_path / "data"), **given))
    assert code == 2
    assert said in value["error"]
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and p.name[0] != "."] == []


@pytest.mark.parametrize("files", ["part-*", "*.parquet", "part-shown.csv", "[p]art-1.csv"])
def test_a_mapping_reads_days_where_its_files_may_be_called_parts(files):
    class Config(trivago.Config):
        def sources(self):
            return {"impressions": super().impressions().__class__(files, {})}

    increment.demand_possible(Config())


@pytest.mark.parametrize("day", ["0001-01-01", "1969-12-31", "9999-12-31", "today"])
def test_a_date_is_of_a_calendar_with_days_around_it(copied, capsys, day):
    code, value = call(capsys, [*flags(copied), f"--date={day}"])
    assert code == 2
    assert "1970 to 9998" in value["error"]


def test_a_night_is_of_one_host(copied, monkeypatch, capsys):
    task = '"task": {"type": "worker", "index": 0}}'
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, ' + task)
    code, value = call(capsys, flags(copied, NEXT))
    assert code == 2
    assert "TF_CONFIG names 2 hosts" in value["error"]


def test_another_schema_is_refused_before_a_day_is_counted(copied, capsys):
    given = {"set": f"{nights.RECIPE} data.types=true", "adopt": True, "reason": "types"}
    code, value = call(capsys, flags(copied, NEXT, **given))
    assert (code, value["outcome"]) == (2, "FAILED")
    assert "schema tables type is new" in value["sentence"]
    assert record(copied, NEXT)[1]["stage"] == "PLANNED"


@pytest.mark.parametrize("parts", [(), ("part-00000.csv",)])
def test_a_day_without_a_row_is_no_day_and_a_cold_start_passes_over_it(
    copied, monkeypatch, capsys, parts
):
    folder = copied / "data/taobao" / f"dt={dated(WORSE)}"
    (folder / "part-00000.csv").unlink()
    for name in parts:
        (folder / name).touch()
    assert dated(WORSE) not in days_of.dates(folder.parent)
    code, value = call(capsys, flags(copied, NEXT))
    assert code == 10
    assert "--cold_start passes over" in value["sentence"]
    cut(monkeypatch, capsys, flags(copied, NEXT, cold_start=True), "night.training.after")
    found = record(copied, NEXT, 2)[1]
    assert found["passed_over"] == {str(dated(WORSE)): "missing"}
    where = places.Places("ctr", copied / "runs/nightly")
    shutil.rmtree(where.nights / "stats")
    later = deliver(copied, NEXT + 1)
    (day,) = days_of.find(later.parent, [dated(NEXT + 1)])
    settings = chains.Settings.from_json(json.loads((record(copied, NEXT, 2)[0] / "config.json")
                                                    .read_text()), "")  # fmt: skip
    assert days.checked(where, settings, [day], days.digests([day]), None)[0].accepted


def test_a_day_that_cannot_be_read_cannot_be_blessed(copied, monkeypatch, capsys):
    part = copied / "data/taobao" / f"dt={dated(NEXT)}" / "part-00000.csv"
    part.write_text("\n")
    assert call(capsys, flags(copied, NEXT))[0] == 11
    ledger = (copied / "registry/ledger.jsonl").read_bytes()
    code, value = call(capsys, flags(copied, NEXT, bless=True, reason="a holiday"))
    assert code == 2
    assert "cannot be blessed" in value["error"]
    assert "part-00000.csv line 1" in value["error"]
    assert (copied / "registry/ledger.jsonl").read_bytes() == ledger
    deliver(copied, NEXT)
    cut(monkeypatch, capsys, flags(copied, NEXT), "night.data_ok.before")
    assert record(copied, NEXT, 2)[1]["stage"] == "WAIT_DATA"


def test_an_evening_without_history_is_no_data(tmp_path):
    """All users of the evening are new, with one behaviour each."""
    base = taobao.Config(window=False, history=5)
    folder = deliver(tmp_path, 0)
    part = folder / "part-00000.csv"
    window = CALENDAR.window(dated(0), CALENDAR.begin(dated(0)))
    lines = part.read_text().splitlines(keepends=True)
    late = [k for k, line in enumerate(lines) if int(line.rsplit(",", 1)[1]) >= window.cutoff]
    for k in late:
        lines[k] = f"{9000 + k},{lines[k].split(',', 1)[1]}"
    part.write_text("".join(lines))
    found = days_of.find(folder.parent, [dated(0)])
    with pytest.raises(NoData, match="the test split has no row"):
        increment.build(base, found, window, None, tmp_path / "night")


def test_a_simulated_day_is_counted_from_both_of_its_files(tmp_path):
    """Behaviours and impressions lie in files of their own."""
    base = simulated.Config(raw=str(tmp_path / "raw"), users=60, items=80, categories=9, rows=600,
                            impressions=500, days=3)  # fmt: skip
    first = BEGIN - timedelta((CALENDAR.begin(BEGIN) - START) // DAY)
    folder = tmp_path / "data" / f"dt={first}"
    folder.mkdir(parents=True)
    for file in base.acquire().files:
        table = pq.read_table(file)
        day = table.filter(pa.array(table.column("timestamp").to_numpy() < START + DAY))
        pq.write_table(day, folder / f"part-{file.name}")
    (folder / "_SUCCESS").touch()
    given = {**nights.CHAIN, "dataset": "simulated", "data": str(folder.parent), "set": ""}
    settings = chains.made(given)
    found = days_of.find(settings.data, [first])
    where = places.Places("ctr", tmp_path / "runs")
    (counted,) = days.checked(where, settings, found, days.digests(found), None)
    assert counted.accepted, counted.anomalies
    rows = {n: r.rows for n, r in counted.stats.relations.items()}
    files = {"log": "behaviours", "impressions": "impressions"}
    assert rows == {
        name: pq.read_metadata(folder / f"part-{file}.parquet").num_rows
        for name, file in files.items()
    }


def test_a_day_is_compared_with_the_weeks_before_it_alone(tmp_path, monkeypatch):
    """So that a first night over a year costs a year of counting and no more."""
    for number in range(6):
        deliver(tmp_path, number, rows=60)
    settings = chains.made({**nights.CHAIN, "data": str(tmp_path / "data/taobao")})
    check, seen = gate.check, []

    def noted(today, before, limits):
        seen.append(sorted((today.begin - s.begin) // DAY for s in before))
        return check(today, before, limits)

    monkeypatch.setattr(gate, "check", noted)
    monkeypatch.setattr(days, "WEEKS", timedelta(2))
    found = days_of.find(settings.data, [dated(n) for n in range(2, 6)])
    where = places.Places("ctr", tmp_path / "runs")
    days.checked(where, settings, found, days.digests(found), None)
    assert seen == [[1, 2]] * 4
