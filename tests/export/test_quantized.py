"""Exports of quantised tables: what they answer, how large they are, and how they are refused."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import deepfm, din, dmr
from at4ctr.config import Experiment, from_json, override, to_json
from at4ctr.data.datasets import taobao
from at4ctr.data.reader import Reader
from at4ctr.errors import InputError
from at4ctr.evaluation import Predictor
from at4ctr.layers.embedder import Config as Embedding
from at4ctr.layers.quantized import Halves, Int8Rows
from at4ctr.model.build import Plan, serving_model
from at4ctr.model.quantized import Config, quantized
from export import checks, client, native, saved_model
from export.verify import run
from tests.contract.parts import BACKBONES
from tests.export import HEAD, T, ids_of, request, toy
from tests.export.test_contents import asked
from tests.export.test_export import ask, lists
from tests.layers import test_pretrained as pretrained
from tests.model import toys
from tests.oracles import metrics
from tests.oracles import quantized as oracle

D, MANY = 8, 50_000
KINDS = {"din": din.Config(), "deepfm": deepfm.Config(), "dmr": dmr.Config()}
CLOSE = 2e-6
FLOATS = {"shape": [9, 9], "dtype": "float32"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("toy") / "store")


def built(store, backbone="din", seed=3):
    sizes = {t.name: store.rows(t.name) for t in store.schema.tables}
    plan = Plan.of(KINDS[backbone], Embedding(dimension=D, scale=0.5), head=HEAD, seed=seed)
    made = serving_model(store.schema, sizes, plan)
    for name, table in made.embedder.tables.items():
        if name.endswith("/linear"):  # which start at zero
            table.assign(tf.random.stateless_normal(table.shape, [seed, len(name)]))
    if backbone == "deepfm":  # more rows than the vocabulary has
        more = tf.random.stateless_normal([MANY, D], [seed, 0])
        made.embedder.tables["item"] = tf.Variable(more)
    made.embedder.tables["item"].scatter_update(tf.IndexedSlices(tf.zeros([1, D]), [3]))
    return made


@pytest.fixture(scope="module", params=[("din", "int8"), ("deepfm", "int8")])
def exported(request, store, tmp_path_factory):
    """(backbone, kind, folder)"""
    backbone, kind = request.param
    folder = tmp_path_factory.mktemp("export")
    options = Config(quantize=kind)
    made = built(store, backbone)
    path = saved_model.save(made, store, folder, history=T, facts={}, options=options)
    return backbone, kind, path


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported[2])).signatures


def rounded(store, backbone, kind):
    """The float32 model with tables that the oracle rounded."""
    made = built(store, backbone)
    for table in made.embedder.tables.values():
        table.assign(oracle.read(table.numpy(), 4 if kind == "int8" else D))
    return made


def test_every_signature_answers_as_the_float_model_with_rounded_tables(exported, loaded, store):
    backbone, kind, _ = exported
    signatures, expected = loaded, rounded(store, backbone, kind)
    raw = request(np.random.default_rng(5), 5, T + 3)  # ids unknown and missing among them
    raw["item"][0], raw["user"][1] = -1, -1
    named = signatures["serving_default"].structured_input_signature[1]
    user = {k: v for k, v in raw.items() if k in ("user", "city") or k.startswith("history_")}
    one = {k: v[0] if k.startswith("history_") else v[:1] for k, v in user.items()}
    repeated = raw | {k: np.repeat(v[:1], 5, axis=0) for k, v in user.items()}
    for found, rows in (
        (ask(signatures, {k: raw[k] for k in named}), raw),
        (ask(signatures, {k: (raw | one)[k] for k in named}, "candidates"), repeated),
    ):
        answers = expected.answer(ids_of(lists(rows)))
        for key in ("probability", "logit"):
            np.testing.assert_allclose(found[key], answers[key], rtol=CLOSE, atol=CLOSE)
        plain = built(store, backbone).answer(ids_of(lists(rows)))
        assert np.abs(found["logit"] - plain["logit"]).max() > 1e-5


def test_no_float_table_is_stored_and_tables_are_only_gathered(exported):
    backbone, kind, path = exported
    manifest = json.loads((path / "MANIFEST.json").read_text())
    told = manifest["quantization"]
    assert told["kind"] == kind
    forms = {p.removeprefix("spaces/main/tables/"): t["stored"] for p, t in told["tables"].items()}
    assert len(forms) >= 6
    for name, form in forms.items():
        assert (form == "half floats") == (kind == "fp16" or name.endswith("/linear")), name
    assert ("item/linear" in forms) == (backbone == "deepfm")
    prefix = str(path / "variables" / "variables")
    reader = tf.train.load_checkpoint(prefix)
    sizes = {
        k: (s, reader.get_variable_to_dtype_map()[k]) for k, s in tf.train.list_variables(prefix)
    }
    tables = {k: v for k, v in sizes.items() if "tables" in k}
    assert len(tables) == sum(2 if f == "int8 rows" else 1 for f in forms.values())
    for name, (shape, dtype) in tables.items():
        assert dtype != tf.float32 or len(shape) == 1, name
    graph = checks.Graph.FromString((path / "saved_model.pb").read_bytes())
    dtypes = {}  # operation -> types of what it reads, of the functions that are served
    for function in graph.meta_graphs[0].graph_def.library.function:
        for node in function.node_def if "traced_save" not in function.signature.name else ():
            if node.op in ("ResourceGather", "ReadVariableOp"):
                name = tf.as_dtype(node.attr["dtype"].type).name
                dtypes.setdefault(node.op, set()).add(name)
    assert dtypes["ResourceGather"] >= ({"int8", "float32"} if kind == "int8" else {"float16"})
    assert dtypes["ReadVariableOp"] == {"float32"}  # weights of layers; no table is read whole


def test_verification_and_the_c_api_agree_with_the_quantised_answers(exported, tmp_path):
    backbone, kind, path = exported
    if backbone != "deepfm":
        pytest.skip("the smaller version is enough")
    lines = [line for _, line in run(path)]
    assert all(line.startswith("ok ") for line in lines), lines
    assert any(f"tables: {kind}: " in line for line in lines)
    if not (os.environ.get("CC") or shutil.which("cc")):
        return
    done = asked(native.build(tmp_path / "verify"), path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_folder_is_smaller(exported, store, tmp_path):
    backbone, _, path = exported
    if backbone != "deepfm":
        pytest.skip("tables of this version are small")
    plain = saved_model.save(built(store, backbone), store, tmp_path, history=T, facts={})
    (before, table), (after, _) = map(sizes, (plain, path))
    assert table == 4 * D * MANY
    assert before - after == pytest.approx(3 / 4 * table - 4 * MANY, rel=0.1)
    assert after < 0.6 * before


def sizes(version: Path) -> tuple[int, int]:
    """Bytes of all files, and of the float32 table of items, had it one."""
    manifest = json.loads((version / "MANIFEST.json").read_text())
    item = manifest["variables"].get("spaces/main/tables/item", {"shape": [0]})
    whole = sum(p.stat().st_size for p in version.rglob("*") if p.is_file())
    return whole, 4 * int(np.prod(item["shape"]))


def test_a_model_has_its_own_tables_again(store):
    made = built(store)
    before = dict(made.embedder.tables)

    def fail():
        with quantized(made, "int8"):
            assert all(isinstance(t, Int8Rows) for t in made.embedder.tables.values())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(made.embedder.tables[name] is table for name, table in before.items())
    with quantized(made, "none") as nothing:
        assert nothing == {}
        assert made.embedder.tables["item"] is before["item"]


def test_a_change_beyond_the_bound_is_refused_and_leaves_nothing(store, tmp_path):
    made = built(store, "deepfm")
    table = made.embedder.tables["item"]
    options = Config(quantize="int8", largest_change=1e-7)
    with pytest.raises(InputError, match=r"export\.quantize=int8 changes probability of a golden"):
        saved_model.save(made, store, tmp_path, history=T, facts={}, golden=8, options=options)
    assert list(tmp_path.iterdir()) == []
    assert made.embedder.tables["item"] is table


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda m: m["quantization"].update(bound=1e-8), "probability lies"),
        (lambda m: m["quantization"]["largest_change"].update(logit=1e-7), "logit lies"),
        (lambda m: tables_of(m)["item"].update(stored="half floats"), "item/values' is None"),
        (lambda m: tables_of(m)["item"].update(largest_error=1.0), "no error beyond the bound"),
        (lambda m: m["variables"].update(
            {"spaces/main/tables/item": FLOATS}), "is float32; exp"),
    ],
)  # fmt: skip
def test_a_manifest_that_says_otherwise_is_refused(exported, loaded, change, check):
    backbone, _, path = exported
    if backbone != "din":
        pytest.skip("one version is enough")
    manifest = json.loads((path / "MANIFEST.json").read_text())
    change(manifest)

    def checked():
        checks.tables(manifest)
        checks.replay(path, "candidates", loaded, manifest)

    with pytest.raises(checks.CheckError, match=check):
        checked()


def tables_of(manifest: dict) -> dict:
    return {p.rsplit("/", 1)[1]: t for p, t in manifest["quantization"]["tables"].items()}


def test_a_request_by_rest_leaves_both_answers_out(exported):
    golden = json.loads((exported[2] / "assets.extra/golden/candidates.json").read_text())
    assert set(golden) == {"signature_name", "inputs", "outputs", "unquantized"}
    assert {"outputs", "unquantized"} == set(client.ANSWERS)


def test_ranking_hardly_changes(store):
    """Labels are drawn from the float32 model's own probabilities, so that there is a ranking."""
    made = built(store)
    reader = Reader(store, "train", batch_size=256, history=T, shuffle=False, drop_remainder=False)
    (plain,) = Predictor(made)(reader).values()
    with quantized(made, "int8"):
        (coarse,) = Predictor(made)(reader).values()
    order = plain.calibrated - np.median(plain.calibrated)
    drawn = np.random.default_rng(0).random(len(order)) < 1 / (1 + np.exp(-8 * order))
    before, after = (metrics.auc(drawn, p.calibrated) for p in (plain, coarse))
    assert before > 0.6
    assert 0 < np.abs(plain.calibrated - coarse.calibrated).max() < 0.02
    assert after == pytest.approx(before, abs=0.005)


@pytest.mark.parametrize("kind", ["int8", "fp16"])
def test_output_tables_are_quantised(store, kind):
    made, raw = built(store, "dmr"), request(np.random.default_rng(6), 4, T)
    batch = ids_of(lists(raw))
    expected = rounded(store, "dmr", kind).answer(batch)["logit"]
    with quantized(made, kind) as found:
        assert "spaces/main/tables/item/output" in found
        np.testing.assert_allclose(made.answer(batch)["logit"], expected, rtol=CLOSE, atol=CLOSE)


def test_frozen_vectors_and_codes():
    """A similarity's vectors become half floats, a pre-trained table rows, hash codes stay."""
    made = pretrained.built("beside")
    (similarity,) = made.embedder.similarities.values()
    batch = toys.tensors(toys.batch(16, 5))
    before = made.answer(batch)["probability"]
    codes = made.embedder.hash_ids["item"].codes
    with quantized(made, "int8") as found:
        assert isinstance(similarity.users, Halves)
        assert isinstance(made.embedder.tables["item"], Int8Rows | Halves)
        assert made.embedder.hash_ids["item"].codes is codes
        assert "spaces/main/similarities/taste/users" in found
        after = made.answer(batch)["probability"]
    assert 0 < np.abs(after - before).max() < 0.01
    assert isinstance(similarity.users, tf.Variable)
    np.testing.assert_array_equal(made.answer(batch)["probability"], before)


@pytest.mark.parametrize("text", ["int4", "True", "", "INT8"])
def test_other_words_are_refused(text):
    e = Experiment.of(taobao.Config(), BACKBONES["din"])
    with pytest.raises(InputError, match=r"export\.quantize"):
        override(e, [f"export.quantize={text}"])
    with pytest.raises(InputError, match=r"export\.quantize"):
        Config(quantize=text)


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, float("nan")])
def test_a_bound_is_a_change_of_a_probability(value):
    with pytest.raises(InputError, match=r"export\.largest_change is"):
        Config(largest_change=value)


def test_a_snapshot_keeps_the_option_and_an_older_one_has_none():
    e = override(Experiment.of(taobao.Config(), BACKBONES["din"]), ["export.quantize=int8"])
    assert e.export == Config(quantize="int8")
    value = to_json(e)
    assert from_json(value) == e
    del value["export"]
    assert from_json(value) == replace(e, export=Config())
