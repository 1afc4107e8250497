"""The exported graph answers raw ids as the model answers the store's ids, and holds no more."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from at4ctr.calibration import correct_sampling
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import Table
from export import saved_model
from export.lookup import Front, Lookup
from export.requests import dims_values, example, unmapped
from tests.export import BACKBONES, T, ids_of, model, request, toy

CLOSE = 1e-6


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return toy(tmp_path_factory.mktemp("toy") / "store")


@pytest.fixture(scope="module", params=sorted(BACKBONES))
def exported(request, store, tmp_path_factory):
    """(model, loaded signatures, folder)"""
    made = model(store, request.param)
    folder = tmp_path_factory.mktemp("export")
    path = saved_model.save(made, store, folder, history=T, facts={"config": {"seed": 3}})
    return made, tf.saved_model.load(str(path)).signatures, path


def ask(signatures, raw: dict, name: str = "serving_default") -> dict[str, np.ndarray]:
    specs = signatures[name].structured_input_signature[1]
    tensors = {k: tf.constant(np.asarray(v), specs[k].dtype) for k, v in raw.items()}
    return {k: v.numpy() for k, v in signatures[name](**tensors).items()}


def lists(raw: dict) -> dict[str, list]:
    return {k: np.asarray(v).tolist() for k, v in raw.items()}


def assert_same(found: dict, expected: dict) -> None:
    for key in ("probability", "logit"):
        np.testing.assert_allclose(found[key], np.asarray(expected[key]), rtol=CLOSE, atol=CLOSE)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from([0, 1, 2, T - 1, T, T + 1, 4 * T]))
def test_any_request_is_answered_as_the_model_answers_its_ids(exported, seed, rows, length):
    made, signatures, _ = exported
    raw = request(np.random.default_rng(seed), rows, length)
    assert_same(ask(signatures, raw), made.answer(ids_of(lists(raw))))


def test_only_the_latest_behaviours_count_wherever_padding_stands(exported):
    _, signatures, _ = exported
    raw = request(np.random.default_rng(1), 4, 3 * T, padding=0.0)
    answer = ask(signatures, raw)
    past = [k for k in raw if k.startswith("history_")]
    assert_same(ask(signatures, raw | {k: raw[k][:, -T:] for k in past}), answer)
    widened = raw | {k: np.repeat(raw[k], 2, axis=1) for k in past}
    widened["history_item"] = np.where(np.arange(6 * T) % 2, -1, widened["history_item"])
    assert_same(ask(signatures, widened), answer)
    shorter = ask(signatures, raw | {k: raw[k][:, -T + 1 :] for k in past})
    assert np.abs(shorter["logit"] - answer["logit"]).max() > 1e-4


def test_every_unknown_id_gets_the_answer_of_id_1(exported):
    made, signatures, _ = exported
    raw = request(np.random.default_rng(2), 3, 4)
    batch = ids_of(lists(raw)) | {"item": tf.ones(3, tf.int32), "user": tf.ones(3, tf.int32)}
    for item, user in ((5, 10**17), (-2, 0)):
        unknown = raw | {"item": np.full(3, item), "user": np.full(3, user)}
        assert_same(ask(signatures, unknown), made.answer(batch))


def test_candidates_are_the_default_with_the_user_repeated(exported):
    _, signatures, _ = exported
    raw = request(np.random.default_rng(3), 5, T + 3)
    user = {k: v for k, v in raw.items() if k in ("user", "city") or k.startswith("history_")}
    one = {k: v[0] if k.startswith("history_") else v[:1] for k, v in user.items()}
    repeated = raw | {k: np.repeat(v[:1], 5, axis=0) for k, v in user.items()}
    found = ask(signatures, raw | one, "candidates")
    assert_same(found, ask(signatures, repeated))
    assert found["logit"].shape == (5,)
    none = {k: v if k in one else v[:0] for k, v in (raw | one).items()}
    assert ask(signatures, none, "candidates")["probability"].shape == (0,)


def int64s(*values: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def test_an_example_may_leave_features_out(exported):
    made, signatures, _ = exported
    features = {"user": int64s(103), "item": int64s(104), "history_item": int64s(101, 102, 103)}
    partial = tf.train.Example(features=tf.train.Features(feature=features))
    text = tf.constant([partial.SerializeToString(), tf.train.Example().SerializeToString()])
    raw: dict[str, list] = {
        "user": [103, -1],
        "item": [104, -1],
        "city": [-1, -1],
        "category": [-1, -1],
        "position": [-1, -1],
        "tags": [[], []],
        "history_item": [[101, 102, 103], [-1] * 3],
        "history_category": [[-1] * 3] * 2,
        "history_type": [[-1] * 3] * 2,
        "history_tags": [[[""] * 3] * 3] * 2,
    }
    assert_same(ask(signatures, {"examples": text}, "examples"), made.answer(ids_of(raw)))


def test_a_missing_value_is_left_out_of_an_example(exported, store):
    """As an empty list it is no single value, and parsing would fail."""
    made, signatures, _ = exported
    raw = request(np.random.default_rng(12), 5, 4)
    raw["city"][:3], raw["category"][1:] = -1, -1
    raw["history_tags"] = raw["history_tags"][:, :, :3]  # as many as the feature has
    front = Front(store, T)
    texts = [example(front, lists(raw), row) for row in range(5)]
    found = signatures["examples"](examples=tf.constant(texts))
    assert_same({k: v.numpy() for k, v in found.items()}, made.answer(ids_of(lists(raw))))


def test_golden_inputs_ask_for_the_readers_batch(exported, store):
    """The raw values of dims, against the reader's windows of ids."""
    made, signatures, path = exported
    rows = store.counts("test")["rows"]
    reader = Reader(store, "test", batch_size=rows, history=T, shuffle=False)
    expected = made.answer({k: tf.constant(v) for k, v in reader.batch(0, 0).items()})
    golden = json.loads((path / "assets.extra/golden/serving_default.json").read_text())
    assert len(golden["outputs"]["logit"]) == rows
    assert len(golden["inputs"]["history_item"][0]) > T
    assert_same(golden["outputs"], expected)
    assert_same(ask(signatures, golden["inputs"]), expected)


def test_negative_sampling_is_corrected_inside_the_graph(store, tmp_path):
    raw = request(np.random.default_rng(4), 6, 5)
    answers = []
    for rate in (1.0, 0.1):
        made = model(store, rate=rate)
        path = saved_model.save(made, store, tmp_path / str(rate), history=T, facts={})
        answers.append(ask(tf.saved_model.load(str(path)).signatures, raw))
        assert json.loads((path / "MANIFEST.json").read_text())["negative_rate"] == pytest.approx(
            rate
        )
    full, corrected = answers
    np.testing.assert_array_equal(full["logit"], corrected["logit"])
    expected = correct_sampling(full["probability"], 0.1)
    np.testing.assert_allclose(corrected["probability"], expected, atol=CLOSE)


def test_versions_follow_each_other_and_are_never_overwritten(store, tmp_path):
    made = model(store, "widedeep")
    (tmp_path / "7").mkdir()
    path = saved_model.save(made, store, tmp_path, history=T, facts={"git": "abc"}, golden=3)
    assert path == tmp_path / "8"
    manifest = json.loads((path / "MANIFEST.json").read_text())
    assert manifest["simulated"]
    assert manifest["facts"] == {"git": "abc"}
    with pytest.raises(InputError, match="never overwritten"):
        saved_model.save(made, store, tmp_path, history=T, facts={}, version=8)
    with pytest.raises(InputError, match="at least 1"):
        saved_model.save(made, store, tmp_path, history=T, facts={}, version=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["7", "8"]


def test_a_failed_export_leaves_nothing(store, tmp_path):
    made = model(store, "widedeep")
    made.embedder.tables["user"].assign(tf.fill([42, 4], np.nan))
    with pytest.raises(InputError, match="not finite"):
        saved_model.save(made, store, tmp_path, history=T, facts={})
    assert list(tmp_path.iterdir()) == []


def test_the_page_of_signatures_names_every_input_and_its_request_is_answered(exported):
    _, signatures, path = exported
    page = (path / "SIGNATURES.md").read_text()
    parts = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    assert sorted(parts) == sorted(signatures)
    for name, text in parts.items():
        specs = signatures[name].structured_input_signature[1]
        rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
        named = {row[0].strip("| `"): row[1:3] for row in rows}
        assert named.keys() == specs.keys()
        for key, (dtype, shape) in named.items():
            assert dtype == specs[key].dtype.name
            assert len(shape.split(",")) == specs[key].shape.rank
    assert page.count("(probability = σ(logit))") == len(signatures)
    (line,) = (line for line in page.splitlines() if line.startswith('{"signature_name"'))
    request = json.loads(line)
    answer = ask(signatures, request["inputs"], request["signature_name"])
    assert len(answer["probability"]) == len(request["inputs"]["item"])


def test_histories_that_do_not_fit_together_are_refused(exported):
    _, signatures, _ = exported
    raw = request(np.random.default_rng(5), 2, 6)
    raw["history_type"] = raw["history_type"][:, 1:]
    with pytest.raises(tf.errors.InvalidArgumentError, match="history_type must have as many"):
        ask(signatures, raw)


def test_a_training_only_feature_is_no_input(tmp_path):
    hidden = toy(tmp_path / "store", hidden="city")
    path = saved_model.save(model(hidden), hidden, tmp_path / "out", history=T, facts={})
    signatures = tf.saved_model.load(str(path)).signatures
    for name in ("serving_default", "candidates"):
        specs = signatures[name].structured_input_signature[1]
        assert "city" not in specs
        assert "user" in specs


def test_raw_values_found_for_ids_have_these_ids(store):
    front = Front(store, T)
    for f in store.schema.features:
        dtype = store.schema.table(f.table).dtype
        if f.group in ("context", "behaviour"):
            ids = np.array([0, *pq.read_table(store.values_path(f.name)).column("id").to_pylist()])
            raw = unmapped(store, f, ids)
            found = front.tables[f.table](tf.constant(raw.tolist(), dtype))
            np.testing.assert_array_equal(found, ids)
        if f.group in ("profile", "item"):
            rows = np.arange(len(store.ids(f.name)))
            raw = dims_values(store, front.inputs[f.name], rows)
            found = front.tables[f.table](tf.constant(raw.tolist(), dtype))
            np.testing.assert_array_equal(found, store.ids(f.name))


def test_a_vocabulary_that_changed_in_place_is_read_again(tmp_path):
    file = tmp_path / "item.txt"
    for lines in ("5\n6\n", "6\n5\n"):
        file.write_text(lines)
        table = Lookup(Table("item"), file)
        expected = [2 + lines.split().index("5"), 1, 0]
        assert table(tf.constant([5, 9, -1], tf.int64)).numpy().tolist() == expected
    assert Lookup(Table("item"), None)(tf.constant([5, -1], tf.int64)).numpy().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("dtype", "lines", "reason"),
    [
        ("int64", "5\n-1\n", "holds the id -1, which stands for a missing value"),
        ("int64", "5\nx\n", "expected one int64 a line"),
        ("string", "a\n\nb\n", "expected one string a line, none of them empty"),
    ],
)
def test_a_vocabulary_that_requests_cannot_name_is_refused(tmp_path, dtype, lines, reason):
    (tmp_path / "item.txt").write_text(lines)
    with pytest.raises(InputError, match=reason):
        Lookup(Table("item", dtype), tmp_path / "item.txt")
