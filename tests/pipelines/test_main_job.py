"""The main job as a user runs it: real commands in an empty folder, on small logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import shared_data, slow

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = "data.simulate_rows=30000 fit.checkpoint_every=5 fit.batch_size=512"
NAMES = {
    *("rows", "positives", "auc", "gauc", "logloss", "logloss_half", "normalized_entropy"),
    *("pcoc", "expected_calibration_error", "examples_per_second", "simulated"),
}


def command(name: str, **given: str) -> list[str]:
    return [sys.executable, "-m", f"pipelines.{name}", *(f"--{k}={v}" for k, v in given.items())]


def call(folder: Path, name: str, **given: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        command(name, **given),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A finished main job on a simulated log: its folder and what it said."""
    folder = tmp_path_factory.mktemp("job")
    done = call(folder, "train", dataset="taobao", set=SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


def no_nan(value):
    if isinstance(value, dict):
        return all(no_nan(v) for v in value.values())
    return not isinstance(value, float) or np.isfinite(value)


def test_a_run_leaves_what_the_readme_says(job):
    folder, done = job
    run = folder / "runs" / "latest"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics.keys() >= NAMES
    assert no_nan(metrics)
    assert metrics["simulated"] is True
    assert 0.5 < metrics["auc"] < 0.99
    assert metrics["logloss_half"] == pytest.approx(metrics["logloss"] / 2)
    for file in (
        "config.json",
        "train.log",
        "curves.png",
        "report.html",
        "roc.png",
        "reliability.png",
        "segments.md",
        "segments.png",
        "export/1/MANIFEST.json",
        "export/1/SIGNATURES.md",
    ):
        assert (run / file).stat().st_size > 0
    few = f"training takes {metrics['steps']} steps of 512 rows in 1 epoch"
    assert done.stderr.index(few) < done.stderr.index("examples/s")
    assert metrics["too_few_steps"].startswith(few)
    place = run.resolve().relative_to(folder.resolve())
    assert done.stderr.rstrip().endswith(f"page:  {place}/report.html")
    page = (run / "report.html").read_text()
    assert "simulated data" in page
    assert few[1:] in page
    assert page.count("data:image/png;base64,") == 4
    assert "simulated" in done.stderr
    assert "simulated" in (run / "train.log").read_text()
    assert run.resolve().parent.name == "taobao-din_at4ctr"


def test_standard_error_is_free_of_native_noise(job):
    assert not [line for line in job[1].stderr.splitlines() if line.startswith(("I0", "W0", "E0"))]


def evaluated(folder: Path) -> dict[str, Any]:
    """All metrics of an evaluation, from the file that it names."""
    printed = call(folder, "evaluate").stdout
    assert "  logloss  " in printed
    return json.loads((folder / printed.split()[-1]).read_text())


def test_evaluation_again_gives_the_same_metrics(job):
    folder, _ = job
    found = evaluated(folder)
    kept = json.loads((folder / "runs" / "latest" / "metrics.json").read_text())
    for name in NAMES - {"examples_per_second", "simulated"}:
        assert found[name] == kept[name], name


def test_the_export_holds_no_auxiliary(job):
    folder, _ = job
    manifest = json.loads(
        (folder / "runs" / "latest" / "export" / "1" / "MANIFEST.json").read_text()
    )
    assert not any("uim" in name or "nip" in name for name in manifest["variables"])


@slow
def test_evaluation_reads_the_store_of_the_run_or_refuses(tmp_path):
    log = tmp_path / "log.csv"
    rows = [f"{u},{(u * 7 + k) % 40 + 1},{(u + k) % 5 + 1},pv,{1511600000 + 60 * k}"
            for u in range(1, 60) for k in range(14 + u % 5)]  # fmt: skip
    log.write_text("\n".join(rows) + "\n")
    given = {"dataset": "taobao", "config": "widedeep", "raw": str(log)}
    done = call(tmp_path, "train", **given, set="fit.batch_size=32", export="false")
    assert done.returncode == 0, done.stderr[-3000:]
    before = evaluated(tmp_path)
    log.write_text("\n".join(rows[:-30]) + "\n")
    assert evaluated(tmp_path) == before
    (store,) = (tmp_path / "data" / "store" / "taobao").glob("[0-9a-f]*")
    store.rename(tmp_path / "elsewhere")
    refused = call(tmp_path, "evaluate")
    assert refused.returncode == 2
    assert "is gone" in refused.stderr


def weights(folder: Path) -> dict[str, str]:
    (run,) = (folder / "runs" / "taobao-din_at4ctr").glob("*Z")
    return json.loads((run / "checkpoints" / "best" / "cursor.json").read_text())["files"]


def test_killed_in_the_middle_ends_as_if_undisturbed(job, tmp_path):
    folder, _ = job
    (tmp_path / "data").symlink_to(folder / "data")
    running = subprocess.Popen(
        command("train", dataset="taobao", set=SMALL),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stderr=subprocess.DEVNULL,
    )
    found: list[Path] = []
    while running.poll() is None and not found:
        found = list(tmp_path.glob("runs/taobao-din_at4ctr/*Z/checkpoints/step-*"))
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert found
    assert not list(tmp_path.glob("runs/*/*Z/metrics.json"))
    done = call(tmp_path, "train", dataset="taobao", set=SMALL, export="false")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed at step" in done.stderr
    assert weights(tmp_path) == weights(folder)


@slow
def test_a_snapshot_repeats_the_run(job, tmp_path):
    folder, _ = job
    (tmp_path / "data").symlink_to(folder / "data")
    snapshot = folder / "runs" / "latest" / "config.json"
    done = call(tmp_path, "train", snapshot=str(snapshot), export="false")
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights(tmp_path) == weights(folder)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"config": "dim_at4ctr"}, "did you mean din_at4ctr"),
        ({"set": SMALL + " fit.batch_size=10000000"}, "batch"),
        ({"raw": "nowhere.csv"}, "nowhere.csv"),
        ({"snapshot": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(job, given, said):
    done = call(job[0], "train", **{"dataset": "taobao", **given})
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr[-2000:]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in done.stderr


def test_real_taobao_rows_train(tmp_path):
    log = shared_data("taobao/UserBehavior_43users.csv")
    given = "fit.batch_size=256 fit.epochs=1"
    done = call(tmp_path, "train", dataset="taobao", config="widedeep+uim", raw=str(log), set=given,
                export="false")  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "runs" / "latest" / "metrics.json").read_text())
    assert metrics["simulated"] is False
    assert metrics["positives"] == 430


def test_down_sampling_is_undone_by_the_export(tmp_path):
    """w = 0.1 on impressions of known probability: without ln w, PCOC would be several times 1."""
    size = "data.users=3000 data.items=4000 data.categories=400 data.rows=100000"
    given = f"{size} data.impressions=150000 data.negative_rate=0.1 fit.epochs=2"
    done = call(tmp_path, "train", dataset="simulated", config="din", set=given)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "runs" / "latest" / "metrics.json").read_text())
    assert 0.8 < metrics["pcoc"] < 1.25
    assert 0.5 < metrics["auc"] < metrics["bayes_auc"] < 0.99
