"""A version of two labels: what it answers, and that all who read a version know its outputs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.calibration import Platt
from at4ctr.errors import InputError
from at4ctr.heads import shared_bottom
from export import client, native, saved_model
from export.verify import run, verify
from tests.export import T, ids_of, model, request, toy
from tests.model.toys import LABELS

HEAD = shared_bottom.Config(bottom=(16,), tower=(8,))
RATE, FITTED = 0.2, Platt(0.8, -0.3)
OUTPUTS = {
    "probability_click",
    "probability_conversion",
    "probability_click_and_conversion",
    "logit_click",
    "logit_conversion",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The model, and the folder of its version: conversions have a fitted calibrator."""
    folder = tmp_path_factory.mktemp("two")
    store = toy(folder / "store", labels=LABELS)
    served = model(store, head=HEAD, rate=RATE)
    served.calibrate({"conversion": FITTED})
    return served, saved_model.save(served, store, folder / "export", history=T, facts={})


def answers(path, name: str, raw: dict) -> dict[str, np.ndarray]:
    served = tf.saved_model.load(str(path)).signatures[name]
    specs = served.structured_input_signature[1]
    found = served(**{k: tf.constant(np.asarray(v), specs[k].dtype) for k, v in raw.items()})
    return {k: v.numpy().astype(np.float64) for k, v in found.items()}


def test_it_answers_every_label_and_what_is_composed(made):
    served, path = made
    raw = request(np.random.default_rng(0), 9, 4)
    found = answers(path, "serving_default", raw)
    assert set(found) == OUTPUTS
    expected = served.answer(ids_of({k: np.asarray(v).tolist() for k, v in raw.items()}))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6)
    z = found["logit_click"] + np.log(RATE)  # the sampled label alone is shifted
    np.testing.assert_allclose(found["probability_click"], 1 / (1 + np.exp(-z)), rtol=1e-5)
    conversion = FITTED(found["logit_conversion"])
    np.testing.assert_allclose(found["probability_conversion"], conversion, rtol=1e-5)
    product = found["probability_click"] * found["probability_conversion"]
    np.testing.assert_allclose(found["probability_click_and_conversion"], product, rtol=1e-6)


def test_candidates_are_rows_of_one_user(made):
    _, path = made
    raw = request(np.random.default_rng(1), 5, T)
    user = {k for k in raw if k in ("user", "city") or k.startswith("history_")}
    one = {k: v[0] if k.startswith("history_") else v[:1] for k, v in raw.items() if k in user}
    rows = raw | {k: np.repeat(raw[k][:1], 5, axis=0) for k in user}
    found, expected = answers(path, "candidates", raw | one), answers(path, "serving_default", rows)
    assert set(found) == OUTPUTS
    for name in OUTPUTS:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-6, atol=2e-6)


def test_the_manifest_names_labels_and_outputs_and_the_version_is_sound(made):
    _, path = made
    manifest = json.loads((path / "MANIFEST.json").read_text())
    assert manifest["labels"] == ["click", "conversion"]
    assert set(manifest["outputs"]) == OUTPUTS
    assert manifest["calibrators"] == {"conversion": "platt"}
    report = verify(path)
    assert report.ok, report.lines


@pytest.mark.parametrize("left_out", [True, False])
def test_outputs_that_the_manifest_does_not_name_are_refused(made, tmp_path, left_out):
    copy = shutil.copytree(made[1], tmp_path / "copy")
    manifest = json.loads((copy / "MANIFEST.json").read_text())
    manifest["outputs"] = manifest["outputs"][1:] if left_out else [*manifest["outputs"], "score"]
    (copy / "MANIFEST.json").write_text(json.dumps(manifest))
    failed = [line for good, line in run(copy) if not good]
    assert {line.split(":")[0].removeprefix("FAILED ") for line in failed} == {
        "signatures", "golden serving_default", "golden examples", "golden candidates"
    }  # fmt: skip


def test_a_golden_answer_of_the_second_label_counts(made, tmp_path):
    copy = shutil.copytree(made[1], tmp_path / "copy")
    file = copy / "assets.extra/golden/candidates.json"
    golden = json.loads(file.read_text())
    golden["outputs"]["probability_conversion"][0] += 3e-6
    file.write_text(json.dumps(golden))
    manifest = json.loads((copy / "MANIFEST.json").read_text())
    manifest["files"] = saved_model.digests(copy)
    (copy / "MANIFEST.json").write_text(json.dumps(manifest))
    (line,) = [line for good, line in run(copy) if not good]
    assert line.startswith("FAILED golden candidates: probability_conversion differs by 3")


def test_the_page_says_what_each_output_is(made):
    page = (made[1] / "SIGNATURES.md").read_text()
    for line in (
        "`probability_click` float32: P(click), calibrated for the unsampled log",
        f"(probability_click = σ(logit_click − {-np.log(RATE):.6g}))",
        "`probability_conversion` float32: P(conversion | click), calibrated for the unsampled log",
        "(probability_conversion = the fitted platt map of logit_conversion)",
        "`probability_click_and_conversion` float32: P(click and conversion)",
    ):
        assert page.count(line) == 3, line


def test_tensorflows_c_api_gives_the_same_answers(made, tmp_path):
    if not (os.environ.get("CC") or shutil.which("cc")):
        pytest.skip("no C compiler: neither CC nor cc")
    program = native.build(tmp_path / "verify")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    words = [str(program), str(made[1])]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok ") == 3


def test_the_client_prints_a_column_per_probability():
    one = {"probability": np.array([0.25, 0.5], np.float32), "logit": np.zeros(2, np.float32)}
    assert client.table(one, "host:1") == ["0.25", "0.5"]
    two = {name: np.array([0.25, 0.5], np.float32) for name in sorted(OUTPUTS)}
    head, *rows = client.table(two, "host:1")
    assert head.split("\t") == sorted(n for n in OUTPUTS if n.startswith("probability"))
    assert rows == ["0.25\t0.25\t0.25", "0.5\t0.5\t0.5"]
    with pytest.raises(InputError, match=r"host:1 answers score; expected a probability"):
        client.table({"score": np.zeros(2)}, "host:1")


def test_one_label_is_answered_without_its_name(tmp_path):
    store = toy(tmp_path / "store")
    path = saved_model.save(model(store), store, tmp_path / "export", history=T, facts={})
    manifest = json.loads((path / "MANIFEST.json").read_text())
    assert manifest["labels"] == ["click"]
    assert set(manifest["outputs"]) == {"probability", "logit"}
