"""verify.py accepts what the writer writes, and refuses anything doctored."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from export import saved_model
from export import verify as verify_module
from export.lookup import Front
from export.verify import run, verify
from tests.export import T, model, toy


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("toy") / "store")


@pytest.fixture(scope="module")
def sound(store, tmp_path_factory) -> Path:
    return saved_model.save(
        model(store), store, tmp_path_factory.mktemp("sound"), history=T, facts={}
    )


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def sign(folder: Path) -> None:
    """Makes the digests fit, as a faulty writer's would."""
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"] = saved_model.digests(folder)
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def failed(folder: Path, like: Path | None = None) -> dict[str, str]:
    """Failed check -> its reason."""
    lines = [line for good, line in run(folder, like) if not good]
    return dict(line.removeprefix("FAILED ").split(": ", 1) for line in lines)


def doctored(store, folder: Path, monkeypatch, change) -> Path:
    """An export whose writer applies ``change(module, signatures)`` before it writes."""
    original = tf.saved_model.save

    def write(module, path, signatures):
        original(module, path, signatures=change(module, dict(signatures)))

    monkeypatch.setattr(tf.saved_model, "save", write)
    return saved_model.save(model(store), store, folder, history=T, facts={})


def test_a_sound_export_passes_in_a_fresh_process(sound):
    report = verify(sound)
    assert report.ok, report.lines
    assert all(line.startswith("ok ") for line in report.lines)
    for what in ("files", "variables", "graph", "golden serving_default", "golden examples",
                 "golden candidates", "imports: TensorFlow alone"):  # fmt: skip
        assert any(what in line for line in report.lines)


def test_a_fresh_process_refuses_with_a_reason(copy):
    (copy / "variables/extra").write_text("x")
    report = verify(copy)
    assert not report.ok
    assert any(line.startswith("FAILED files: file 'variables/extra'") for line in report.lines)


def test_a_check_that_never_ends_has_failed(sound, monkeypatch):
    monkeypatch.setattr(verify_module, "LIMIT_SECONDS", 0.01)
    report = verify(sound)
    assert not report.ok
    (line,) = report.lines
    assert re.fullmatch(r"FAILED process: not done after 0\.\d+ s", line)


def test_a_larger_version_has_longer(copy):
    before = verify_module.limit_of(copy)
    assert 600 < before < 601
    with (copy / "variables/large").open("wb") as file:
        file.truncate(5 * 10**9)  # it takes no room on the disk
    assert verify_module.limit_of(copy) == pytest.approx(before + 500)


def test_a_version_is_like_one_of_other_weights_alone(store, sound, tmp_path):
    other = saved_model.save(model(store, seed=4), store, tmp_path / "a", history=T, facts={})
    report = verify(other, sound)
    assert report.ok, report.lines
    assert any(line.startswith("ok     like: ") for line in report.lines)
    fewer = saved_model.save(model(store, "widedeep"), store, tmp_path / "b", history=T, facts={})
    assert set(failed(fewer, sound)) == {"like"}
    assert set(failed(sound, fewer)) == {"like"}


@pytest.mark.parametrize("tower", [tf.exp, tf.identity])
def test_a_tower_of_constants_is_refused_beside_a_bare_version(
    store, sound, tmp_path, monkeypatch, tower
):
    """No variable, no input and no answer tells it: only the bare backbone's own version does."""

    def change(module, signatures):
        inner = signatures["candidates"]
        (specs,) = inner.structured_input_signature[0]

        def heavy(raw):
            return {k: v + 0.0 * tower(tf.ones([])) for k, v in inner(raw).items()}

        module.heavy = signatures["candidates"] = tf.function(
            heavy, autograph=False
        ).get_concrete_function(specs)
        return signatures

    path = doctored(store, tmp_path, monkeypatch, change)
    assert failed(path) == {}
    assert set(failed(path, sound)) == {"like"}


def test_a_folder_without_an_export_is_refused(tmp_path):
    report = verify(tmp_path)
    assert not report.ok
    assert any("MANIFEST.json" in line for line in report.lines)


def test_a_history_that_is_not_read_is_no_input(store, tmp_path):
    made = model(store, "fields_only")
    path = saved_model.save(made, store, tmp_path, history=T, facts={})
    checked = verify(path)
    assert checked.ok, checked.lines
    signatures = tf.saved_model.load(str(path)).signatures
    for name in ("serving_default", "candidates"):
        inputs = signatures[name].structured_input_signature[1]
        assert sorted(inputs) == ["category", "city", "item", "position", "tags", "user"]


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("weights", "uim/user/dense/0/kernel"),
        ("weights", "backbone/trunk/affine/beta/m"),
        ("", "step"),
    ],
)
def test_an_extra_variable_is_refused(store, tmp_path, monkeypatch, where, name):
    def change(module, signatures):
        extra = tf.Variable(tf.ones([3, 5]))
        if where:
            module.weights = {**module.weights, name: extra}
        else:
            setattr(module, name, extra)
        return signatures

    found = failed(doctored(store, tmp_path, monkeypatch, change))
    assert set(found) == {"variables", "graph"}
    assert name in found["variables"]


def test_an_optimizer_slot_that_the_manifest_names_is_refused(store, tmp_path, monkeypatch):
    """Under a serving part's name, of the manifest's own words, but no signature reads it."""
    slot, original = tf.Variable(tf.zeros([60])), saved_model.variables
    monkeypatch.setattr(
        saved_model, "variables", lambda *a: original(*a) | {"head/trunk/affine/beta/m": slot}
    )
    path = saved_model.save(model(store), store, tmp_path, history=T, facts={})
    assert set(failed(path)) == {"read variables"}


def test_an_auxiliary_that_the_manifest_names_is_refused(copy):
    """Even a manifest that lists it does not make it a part of the serving model."""
    manifest = json.loads((copy / "MANIFEST.json").read_text())
    name, value = next(iter(manifest["variables"].items()))
    manifest["variables"]["nip/attention/query"] = manifest["variables"].pop(name)
    (copy / "MANIFEST.json").write_text(json.dumps(manifest))
    assert name in failed(copy)["variables"]
    assert value["dtype"] == "float32"


def test_an_extra_signature_input_is_refused(store, tmp_path, monkeypatch):
    def change(module, signatures):
        inner = signatures["serving_default"]
        specs = dict(inner.structured_input_signature[0][0])
        specs["label_click"] = tf.TensorSpec([None], tf.float32, "label_click")

        def leaky(raw):
            raw = dict(raw)
            label = raw.pop("label_click")
            return {k: v + 0.0 * label for k, v in inner(raw).items()}

        signatures["serving_default"] = tf.function(leaky, autograph=False).get_concrete_function(
            specs
        )
        module.leaky = signatures["serving_default"]
        return signatures

    found = failed(doctored(store, tmp_path, monkeypatch, change))
    assert "label_click" in found["signatures"]
    assert "label_click" in found["training-only inputs"]


def test_a_training_only_key_in_the_examples_is_refused(store, tmp_path, monkeypatch):
    original = Front.parse

    def parse(self, serialized):
        spec = {"label_click": tf.io.FixedLenFeature([], tf.int64, 0)}
        label = tf.io.parse_example(serialized, spec)["label_click"]
        raw = original(self, serialized)
        return raw | {"user": raw["user"] + 0 * label}

    monkeypatch.setattr(Front, "parse", parse)
    path = saved_model.save(model(store), store, tmp_path, history=T, facts={})
    assert set(failed(path)) == {"training-only inputs"}


@pytest.mark.parametrize("signed", [False, True])
def test_a_flipped_bit_in_a_weight_is_refused(copy, signed):
    file = copy / "variables/variables.data-00000-of-00001"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x40
    file.write_bytes(data)
    if signed:
        sign(copy)
    found = failed(copy)
    assert ("files" in found) != signed
    assert found


def test_a_changed_weight_is_refused(store, sound, tmp_path):
    """A sound checkpoint of other weights under this version's golden answers."""
    other = saved_model.save(model(store, seed=4), store, tmp_path, history=T, facts={})
    shutil.copytree(sound / "assets.extra", other / "assets.extra", dirs_exist_ok=True)
    sign(other)
    found = failed(other)
    assert set(found) == {f"golden {n}" for n in ("serving_default", "examples", "candidates")}


@pytest.mark.parametrize("signed", [False, True])
def test_a_changed_vocabulary_is_refused(copy, signed):
    file = copy / "assets/item.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(reversed(lines)) + "\n")
    if signed:
        sign(copy)
    found = failed(copy)
    assert ("files" in found) != signed
    assert "golden serving_default" in found or not signed


@pytest.mark.parametrize("signature", ["serving_default", "examples", "candidates"])
def test_a_changed_golden_answer_is_refused(copy, signature):
    file = copy / f"assets.extra/golden/{signature}.json"
    golden = json.loads(file.read_text())
    golden["outputs"]["probability"][0] += 3e-6
    file.write_text(json.dumps(golden))
    assert set(failed(copy)) == {"files", f"golden {signature}"}
    sign(copy)
    assert set(failed(copy)) == {f"golden {signature}"}
