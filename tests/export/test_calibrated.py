"""A fitted calibrator is served, exported and verified like the rest of the graph."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from at4ctr.calibration import Calibrator, Isotonic, Platt
from export import saved_model
from export.checks import nodes
from export.verify import verify
from tests.export import T, model, request, toy

FITTED: dict[str, tuple[Calibrator, Calibrator]] = {
    "platt": (Platt(0.8, -0.3), Platt(1.2, 0.1)),
    "isotonic": (Isotonic((0.1, 0.6), (0.2, 0.5)), Isotonic((0.01, 0.2, 0.9), (0.0, 0.3, 0.8))),
}


def shape_of(path) -> tuple[Counter, dict, int]:
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    variables = json.loads((path / "MANIFEST.json").read_text())["variables"]
    size = (path / "variables/variables.data-00000-of-00001").stat().st_size
    return Counter(node.op for node in nodes(graph)), variables, size


@pytest.mark.parametrize("kind", FITTED)
def test_the_exported_graph_calibrates(kind, tmp_path):
    store = toy(tmp_path / "store")
    made = model(store, "widedeep", rate=0.5)
    raw = request(np.random.default_rng(0), 9, 4)
    shapes = []
    for number, calibrator in enumerate(FITTED[kind]):
        made.calibrate({"click": calibrator})
        path = saved_model.save(made, store, tmp_path / str(number), history=T, facts={})
        shapes.append(shape_of(path))
        served = tf.saved_model.load(str(path)).signatures["serving_default"]
        specs = served.structured_input_signature[1]
        found = served(**{k: tf.constant(np.asarray(v), specs[k].dtype) for k, v in raw.items()})
        z = found["logit"].numpy().astype(np.float64) + np.log(0.5)
        np.testing.assert_allclose(found["probability"], calibrator(z), rtol=1e-5)
        page = (path / "SIGNATURES.md").read_text()
        assert f"probability = the fitted {kind} map of logit − 0.693147" in page
        assert json.loads((path / "MANIFEST.json").read_text())["calibrators"] == {"click": kind}
    assert shapes[0] == shapes[1]
    assert any(name.startswith("calibrators/click/") for name in shapes[0][1])
    if kind == "isotonic":  # the larger graph
        checked = verify(path)
        assert checked.ok, checked.lines
