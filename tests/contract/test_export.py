"""What is exported is what the backbone and the head alone would export: no auxiliary and no task
that is not served leaves anything in it."""

import hashlib
import json
import re
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from at4ctr.data.reader import Reader
from at4ctr.heads import stem
from at4ctr.model.build import ExpertConfig, Plan, serving_model, training_model
from at4ctr.model.serving import ServingModel
from at4ctr.optimizers import LazyAdam
from at4ctr.tasks import Task
from export import saved_model, warmup
from export.checks import like, nodes
from tests.contract import parts
from tests.contract.parts import AUXILIARIES, BACKBONES, HEADS, SCHEMAS
from tests.export import EMBEDDING, T, toy

READ_EACH_OTHER = ("cross_stitch",)  # heads whose every network reads all others


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store of one label, and one of two."""
    return {
        name: toy(tmp_path_factory.mktemp("store") / name, labels=schema.labels)
        for name, schema in SCHEMAS.items()
    }


def planned(backbone: str, head: str, names: tuple[str, ...] = (), **tasks: Task) -> Plan:
    return Plan.of(
        BACKBONES[backbone],
        EMBEDDING,
        head=HEADS[head.split(", ")[0]],
        tasks=tasks,
        auxiliaries={name: AUXILIARIES[name] for name in names},
        negative_rate=0.5,
        seed=3,
    )


def built(store, plan: Plan) -> ServingModel:
    rows = {t.name: store.rows(t.name) for t in store.schema.tables}
    return serving_model(store.schema, rows, plan)


def written(serving: ServingModel, store, path: Path) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(warmup, "SIZES", {2: 1})  # as much as differs between models: nothing
        return saved_model.save(serving, store, path, history=T, facts={}, golden=4)


def exported(store, plan: Plan, path: Path) -> dict[str, Any]:
    """Of a model after one training step: operations, variables, signatures, the graph byte for
    byte and the size of every file. Golden answers as JSON are of other lengths, not as binary.
    """
    serving = built(store, plan)
    training = training_model(serving, store.schema, plan)
    reader = Reader(store, "train", batch_size=32, history=T)
    batch = {k: tf.constant(v) for k, v in reader.batch(0, 0).items()}
    clicked = batch["label_click"] > 0
    batch["label_conversion"] = tf.where(clicked, tf.cast(tf.range(32) % 2, tf.float32), -1.0)
    before = [v.numpy() for v in training.trainable_variables]
    with tf.GradientTape() as tape:
        loss = training.losses_of(batch)["total"]
    weights = training.trainable_variables
    pairs = zip(tape.gradient(loss, weights), weights, strict=True)
    LazyAdam(0.01).apply_gradients([(g, v) for g, v in pairs if g is not None])
    assert any((v.numpy() != b).any() for v, b in zip(weights, before, strict=True))
    folder = written(serving, store, path)
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
def bare(stores, tmp_path_factory):
    """The export of a backbone and a head alone."""
    found: dict[tuple[str, str], dict[str, Any]] = {}

    def of(backbone: str, head: str) -> dict[str, Any]:
        if (backbone, head) not in found:
            store, folder = stores[head.split(", ")[1]], tmp_path_factory.mktemp(backbone)
            found[backbone, head] = exported(store, planned(backbone, head), folder)
        return found[backbone, head]

    return of


@pytest.mark.parametrize("case", parts.cases(but=("none",), few=True), ids=" ".join)
def test_auxiliaries_leave_nothing_in_the_export(case, stores, bare, tmp_path):
    store = stores[case.head.split(", ")[1]]
    found = exported(store, planned(case.backbone, case.head, case.names), tmp_path)
    alone = bare(case.backbone, case.head)
    assert "byte" in like(found["folder"], alone["folder"])
    assert found | {"folder": alone["folder"]} == alone
    assert set(found["signatures"]) >= {"serving_default", "examples", "candidates"}


HIDDEN = (
    product(
        ("conversion", "click_without_conversion"),
        ("din", "deepfm"),
        [h for h in HEADS if parts.serves(f"{h}, two", "din") and h not in READ_EACH_OTHER],
    )
    if parts.WHOLE
    else (("conversion", "din", "ple"), ("click_without_conversion", "din", "shared_bottom"))
)


@pytest.mark.parametrize(("hidden", "backbone", "head"), HIDDEN)
def test_a_task_that_is_not_served_leaves_nothing_in_the_export(
    hidden, backbone, head, stores, tmp_path
):
    """Neither trained, where every file is the same byte for byte, nor after a step."""
    store = stores["two"]
    served = {name: Task() for name in ("click", "conversion") if name != hidden}
    plans = {
        "both": planned(backbone, head, (), **served, **{hidden: Task(serve=False)}),
        "alone": planned(backbone, head, (), **served),
    }
    folders = {k: written(built(store, plan), store, tmp_path / k) for k, plan in plans.items()}
    files = {p.relative_to(folders["alone"]) for p in folders["alone"].rglob("*") if p.is_file()}
    assert {p.relative_to(folders["both"]) for p in folders["both"].rglob("*") if p.is_file()} == (
        files
    )
    for file in files:
        assert (folders["both"] / file).read_bytes() == (folders["alone"] / file).read_bytes(), file
    after = {k: exported(store, plan, tmp_path / f"{k} trained") for k, plan in plans.items()}
    assert after["both"] | {"folder": after["alone"]["folder"]} == after["alone"]


def test_of_stem_al_no_byte_of_the_auxiliary_tower_is_exported(stores, tmp_path):
    """The auxiliary expert is, since the main tower reads it."""
    plan = Plan(
        {name: ExpertConfig(BACKBONES["widedeep"], name) for name in ("click", "conversion")},
        stem.Config(auxiliary=("conversion",), expert=(6,), tower=(4,)),
        dict.fromkeys(("click", "conversion"), EMBEDDING),
        tasks={"click": Task(), "conversion": Task(serve=False)},
    )
    model = built(stores["two"], plan)
    folder = written(model, stores["two"], tmp_path / "start")
    names = json.loads((folder / saved_model.MANIFEST).read_text())["variables"]
    assert any("trunks/conversion" in name for name in names), names
    assert any("spaces/conversion" in name for name in names), names
    assert not [name for name in names if re.search("(towers|gates|affines)/conversion", name)]
    head: Any = model.head
    for weight in head.towers["conversion"].variables:
        weight.assign_add(tf.ones_like(weight))
    other = written(model, stores["two"], tmp_path / "moved")
    files = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    assert files == {p.relative_to(other) for p in other.rglob("*") if p.is_file()}
    for file in files:
        assert (other / file).read_bytes() == (folder / file).read_bytes(), file


@pytest.mark.parametrize("head", READ_EACH_OTHER)
def test_of_networks_that_read_each_other_the_hidden_logit_alone_is_left_out(
    head, stores, tmp_path
):
    plan = planned("din", head, click=Task(), conversion=Task(serve=False))
    folder = written(built(stores["two"], plan), stores["two"], tmp_path)
    names = json.loads((folder / saved_model.MANIFEST).read_text())["variables"]
    logits = [name for name in names if "/logits/" in name]
    assert any("click" in name for name in logits), names
    assert not any("conversion" in name for name in logits), names
