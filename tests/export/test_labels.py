"""A version of two labels: what it answers, and that all who read a version know its outputs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from at4ctr.errors import InputError
from export import client, saved_model
from export.verify import run
from tests.export.rich import FITTED, OUTPUTS, RATE, ask, rows_of


def test_probabilities_are_those_of_logits_and_what_is_composed(rich_signatures, rich_store):
    found = ask(rich_signatures, rows_of(rich_store)[0])
    assert set(found) == OUTPUTS
    z = found["logit_click"] + np.log(RATE)  # the sampled label alone is shifted
    np.testing.assert_allclose(found["probability_click"], 1 / (1 + np.exp(-z)), rtol=1e-5)
    conversion = FITTED(found["logit_conversion"].astype(np.float64))
    np.testing.assert_allclose(found["probability_conversion"], conversion, rtol=1e-5)
    product = found["probability_click"] * found["probability_conversion"]
    np.testing.assert_allclose(found["probability_click_and_conversion"], product, rtol=1e-6)


def test_the_manifest_names_labels_and_outputs(rich_version):
    manifest = json.loads((rich_version / "MANIFEST.json").read_text())
    assert manifest["labels"] == ["click", "conversion"]
    assert set(manifest["outputs"]) == OUTPUTS
    assert manifest["calibrators"] == {"conversion": "platt"}


@pytest.mark.parametrize("left_out", [True, False])
def test_outputs_that_the_manifest_does_not_name_are_refused(rich_version, tmp_path, left_out):
    copy = shutil.copytree(rich_version, tmp_path / "copy")
    manifest = json.loads((copy / "MANIFEST.json").read_text())
    manifest["outputs"] = manifest["outputs"][1:] if left_out else [*manifest["outputs"], "score"]
    (copy / "MANIFEST.json").write_text(json.dumps(manifest))
    failed = [line for good, line in run(copy) if not good]
    assert {line.split(":")[0].removeprefix("FAILED ") for line in failed} == {
        "signatures", "golden serving_default", "golden examples", "golden candidates"
    }  # fmt: skip


def test_a_golden_answer_of_the_second_label_counts(rich_version, tmp_path):
    copy = shutil.copytree(rich_version, tmp_path / "copy")
    file = copy / "assets.extra/golden/candidates.json"
    golden = json.loads(file.read_text())
    golden["outputs"]["probability_conversion"][0] += 3e-6
    file.write_text(json.dumps(golden))
    manifest = json.loads((copy / "MANIFEST.json").read_text())
    manifest["files"] = saved_model.digests(copy)
    (copy / "MANIFEST.json").write_text(json.dumps(manifest))
    (line,) = [line for good, line in run(copy) if not good]
    assert line.startswith("FAILED golden candidates: probability_conversion differs by 3")


def test_the_page_says_what_each_output_is(rich_version):
    page = (rich_version / "SIGNATURES.md").read_text()
    for line in (
        "`probability_click` float32: P(click), calibrated for the unsampled log",
        f"(probability_click = σ(logit_click − {-np.log(RATE):.6g}))",
        "`probability_conversion` float32: P(conversion | click), calibrated for the unsampled log",
        "(probability_conversion = the fitted platt map of logit_conversion)",
        "`probability_click_and_conversion` float32: P(click and conversion)",
    ):
        assert page.count(line) == 3, line


def test_the_client_prints_a_column_per_probability():
    one = {"probability": np.array([0.25, 0.5], np.float32), "logit": np.zeros(2, np.float32)}
    assert client.table(one, "host:1") == ["0.25", "0.5"]
    two = {name: np.array([0.25, 0.5], np.float32) for name in sorted(OUTPUTS)}
    head, *rows = client.table(two, "host:1")
    assert head.split("\t") == sorted(n for n in OUTPUTS if n.startswith("probability"))
    assert rows == ["0.25\t0.25\t0.25", "0.5\t0.5\t0.5"]
    with pytest.raises(InputError, match=r"host:1 answers score; expected a probability"):
        client.table({"score": np.zeros(2)}, "host:1")


def test_one_label_is_answered_without_its_name(made):
    manifest = json.loads((made / "1" / "MANIFEST.json").read_text())
    assert manifest["labels"] == ["click"]
    assert set(manifest["outputs"]) == {"probability", "logit"}
