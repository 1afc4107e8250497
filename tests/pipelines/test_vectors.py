"""Vectors of the training graph, and a run with the similarity and HashIDs that they make."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from at4ctr import config
from at4ctr.data.reader import Reader
from at4ctr.schema import UNKNOWN
from export.lookup import Front
from export.requests import requests
from pipelines import train, vectors
from pipelines.assembly import Assembly
from tests.export.rich import ask

T = 10
SET = (
    "data.users=300 data.items=80 data.categories=10 data.impressions=6000 data.rows=6000 "
    f"data.history={T} data.similarity=true data.hash_id=alone data.hash_bits=16"
)
FIT = "fit.epochs=1 fit.batch_size=256 embedding.dimension=4 encodings.mns.bits=8 calibrator=platt"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run: its assembly and its folder."""
    folder = tmp_path_factory.mktemp("vectors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert len(vectors.make(train.options("simulated", "", SET), 8, 0)) == 2
        e = train.experiment("simulated", "din", "", f"{SET} {FIT}")
        store = train.open_store(e.data)
        yield Assembly(e, store), folder / train.run(e, "din", store)


def test_a_run_is_trained_calibrated_exported_and_verified(done):
    _, run = done
    metrics = json.loads((run / "metrics.json").read_text())
    assert np.isfinite(metrics["logloss"])
    assert "uncalibrated" in metrics
    assert sum(group["rows"] for group in metrics["item_clicks"].values()) == metrics["rows"]
    assert (run / "export" / "1" / "MANIFEST.json").is_file()
    kept = config.from_json(json.loads((run / "config.json").read_text())["experiment"])
    assert kept.data.similarity is True


def test_the_export_answers_raw_ids_as_the_model_answers_rows(done):
    made, run = done
    model, signatures = (
        made.restored(run),
        tf.saved_model.load(str(run / "export" / "1")).signatures,
    )
    reader = Reader(made.store, "test", batch_size=50, history=T, shuffle=False, block_users=1)
    batch = reader.batch(0, 0)
    raw = requests(Front(made.store, T), made.store, "test", 50)
    found = ask(signatures, raw)["probability"]
    expected = model.answer({k: tf.constant(v) for k, v in batch.items()})["probability"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    batch["user"][:] = UNKNOWN
    stranger = ask(signatures, raw | {"user": np.full_like(raw["user"], 10**9)})["probability"]
    expected = model.answer({k: tf.constant(v) for k, v in batch.items()})["probability"]
    np.testing.assert_allclose(stranger, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(stranger - found).max() > 1e-4
