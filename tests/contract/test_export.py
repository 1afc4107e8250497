"""Every backbone with every task: what is exported is what the backbone alone would export."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from at4ctr.data.reader import Reader
from at4ctr.model.build import Plan, serving_model, training_model
from at4ctr.optimizers import LazyAdam
from export import saved_model, warmup
from export.checks import like, nodes
from tests.contract.test_product import AUXILIARIES, BACKBONES, SUBSETS, fits
from tests.export import EMBEDDING, T, toy


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("store"))


def exported(store, backbone: str, names: tuple[str, ...], path: Path) -> dict[str, Any]:
    """Of a model after one training step: operations, variables, signatures, the graph byte for
    byte and the size of every file. Golden answers as JSON are of other lengths, not as binary.
    """
    plan = Plan.of(
        BACKBONES[backbone],
        EMBEDDING,
        auxiliaries={name: AUXILIARIES[name] for name in names},
        negative_rate=0.5,
        seed=3,
    )
    serving = serving_model(
        store.schema,
        {t.name: store.rows(t.name) for t in store.schema.tables},
        plan,
    )
    training = training_model(serving, store.schema, plan)
    reader = Reader(store, "train", batch_size=32, history=T)
    batch = {k: tf.constant(v) for k, v in reader.batch(0, 0).items()}
    before = [v.numpy() for v in training.trainable_variables]
    with tf.GradientTape() as tape:
        loss = training.losses_of(batch)["total"]
    weights = training.trainable_variables
    pairs = zip(tape.gradient(loss, weights), weights, strict=True)
    LazyAdam(0.01).apply_gradients([(g, v) for g, v in pairs if g is not None])
    assert any((v.numpy() != b).any() for v, b in zip(weights, before, strict=True))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(warmup, "SIZES", {2: 1})  # as much as differs between models: nothing
        folder = saved_model.save(serving, store, path, history=T, facts={}, golden=4)
    data = (folder / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(data)
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".json"]
    return {
        "operations": Counter(node.op for node in nodes(graph)),
        "variables": json.loads((folder / saved_model.MANIFEST).read_text())["variables"],
        "graph": hashlib.sha256(data).hexdigest(),  # every operation, name, attribute and input
        "bytes": {p.relative_to(folder).as_posix(): p.stat().st_size for p in files},
        "manifest bytes": (folder / saved_model.MANIFEST).stat().st_size,
        "signatures": {n: sorted(s.inputs) for n, s in graph.meta_graphs[0].signature_def.items()},
        "folder": folder,
    }


@pytest.fixture(scope="module")
def bare(store, tmp_path_factory):
    found: dict[str, dict[str, Any]] = {}

    def of(backbone: str) -> dict[str, Any]:
        if backbone not in found:
            found[backbone] = exported(store, backbone, (), tmp_path_factory.mktemp(backbone))
        return found[backbone]

    return of


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("names", SUBSETS[1:], ids="+".join)
def test_tasks_leave_nothing_in_the_export(backbone, names, store, bare, tmp_path):
    if len(names) == len(AUXILIARIES):
        names = tuple(n for n in names if fits(backbone, [n]))
    if not fits(backbone, names):
        pytest.skip("refused when the model is built, which test_product shows")
    found, alone = exported(store, backbone, names, tmp_path), bare(backbone)
    assert "byte" in like(found["folder"], alone["folder"])
    assert found | {"folder": alone["folder"]} == alone
    assert set(found["signatures"]) >= {"serving_default", "examples", "candidates"}
