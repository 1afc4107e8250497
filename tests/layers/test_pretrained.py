"""Similarities and HashIDs in the embedder, and what of them learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.contracts import Numbers
from at4ctr.data.preparation.hash_codes import hash_codes
from at4ctr.encodings import mns
from at4ctr.errors import InputError
from at4ctr.layers.hash_id import HashID
from at4ctr.layers.similarity import Similarity
from at4ctr.model.build import Plan, serving_model
from at4ctr.optimizers import LazyAdam
from at4ctr.schema import Feature, Schema, Table
from at4ctr.schema import Similarity as Declared
from tests.contract.parts import BACKBONES
from tests.model import toys
from tests.oracles import pretrained as oracle

D, WIDTH, BITS, BASES = toys.D, 5, 9, (2, 3)
RNG = np.random.default_rng(4)
USERS, ITEMS = (RNG.normal(size=(toys.ROWS[n], WIDTH)).astype(np.float32) for n in ("user", "item"))
USERS[:3], ITEMS[:3] = 0, 0  # padding, unknown and a known id without a vector


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


VECTORS = {"taste.user": unit(USERS), "taste.item": unit(ITEMS), "item": hash_codes(ITEMS, BITS)}


def declared(use: Any, schema: Schema = toys.SCHEMA) -> Schema:
    """The schema with a similarity and, if asked, HashIDs of items."""
    tables = [
        replace(t, vectors="i.parquet", hash_id=use, hash_bits=BITS) if use and t.name == "item"
        else t
        for t in schema.tables
    ]  # fmt: skip
    return replace(
        schema, tables=tuple(tables), similarities=(Declared("taste", "u.parquet", "i.parquet"),)
    )


def built(use: Any, backbone: str = "dnn", **more: Any) -> Any:
    plan = Plan.of(
        BACKBONES[backbone],
        toys.EMBEDDING,
        encodings={"mns": mns.Config(bases=BASES, bits=8)},
        seed=3,
        **more,
    )
    numbers = {"taste": Numbers((0.0, 2.0), whole=False, largest=2.0)}
    model = serving_model(declared(use), toys.ROWS, plan, numbers, VECTORS)
    for module in (*model.embedder.encodings.values(), *model.embedder.hash_ids.values()):
        toys.jitter(module)
    return model


def digits_of(module: Any, n: int) -> np.ndarray:
    lengths = module.lengths
    tables = {b: toys.double(module.tables[f"base_{b}"]) for b in lengths}
    return oracle.digit_sum(n, lengths, tables)


@pytest.mark.parametrize("use", ["alone", "beside"])
def test_an_id_is_the_digits_of_its_hash_code(use):
    embedder = built(use).embedder
    assert ("item" in embedder.tables) is (use == "beside")
    hashed = embedder.hash_ids["item"]
    ids = np.array([[0, 1, 2, 3], [7, 9, 30, 39]], np.int32)
    found = embedder.lookup("item", tf.constant(ids)).numpy()
    assert not found[0, 0].any()
    for place in np.ndindex(ids.shape):
        code = int(VECTORS["item"][ids[place]])
        own = toys.double(hashed.special)[0] if code < 0 else digits_of(hashed.digits, code)
        if use == "beside":
            own = own + toys.double(embedder.tables["item"])[ids[place]]
        if ids[place]:
            np.testing.assert_allclose(found[place], own, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("use", ["alone", "beside"])
def test_candidates_and_behaviours_have_the_same_vectors(use):
    embedder, arrays = built(use).embedder, toys.batch(6, 5)
    for training in (False, True):
        x = embedder(toys.tensors(arrays), training=training)
        item = embedder.lookup("item", tf.constant(arrays["item"]))
        np.testing.assert_allclose(x.item[:, :D], item, rtol=1e-5, atol=1e-6)
        past = embedder.lookup("item", tf.constant(arrays["history_item"])).numpy()
        mask = x.mask.numpy()
        np.testing.assert_allclose(
            x.history.numpy()[..., :D][mask], past[:, : mask.shape[1]][mask], rtol=1e-5, atol=1e-6
        )


def test_a_similarity_is_one_more_than_the_cosine():
    made = Similarity(VECTORS["taste.user"], VECTORS["taste.item"], "taste")
    users, items = np.arange(30), np.arange(10, 40)
    items[5] = 2
    found = made(tf.constant(users), tf.constant(items)).numpy()
    expected = [oracle.similarity(USERS[u], ITEMS[i]) for u, i in zip(users, items, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isnan(found[[0, 1, 2, 5]]).all()


def test_the_encoded_similarity_is_the_last_field_of_the_context():
    model, arrays = built(""), toys.batch(9, 5)
    arrays["user"][:2] = 1, 2
    encoding = model.embedder.encodings["taste"]
    x = model.embedder(toys.tensors(arrays))
    assert x.context.shape[1] == 2 * D
    for k, (user, item) in enumerate(zip(arrays["user"], arrays["item"], strict=True)):
        value = oracle.similarity(USERS[user], ITEMS[item])
        n = 0 if np.isnan(value) else round(value / (2.0 / 2**7))
        own = toys.double(encoding.special)[1] if np.isnan(value) else digits_of(encoding.digits, n)
        np.testing.assert_allclose(x.context[k, -D:], own, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(x.fields[k, -1], x.context[k, -D:])


@pytest.mark.parametrize("users", [1, 3])
def test_one_user_with_many_candidates_has_the_same_answers(users):
    model, arrays = built("beside", "din"), toys.batch(7, 5)
    owner = np.arange(7) % users
    of_user = model.embedder.schema.of_user(arrays)
    shared = {k: v[:users] if k in of_user else v for k, v in arrays.items()}
    repeated = {k: v[:users][owner] if k in of_user else v for k, v in arrays.items()}
    found = model.answer({**toys.tensors(shared), "owner": tf.constant(owner)})["logit"]
    expected = model.answer(toys.tensors(repeated))["logit"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_step_moves_digits_and_no_vector():
    model, arrays = built("alone"), toys.batch(12, 5)
    frozen = [v for v in model.variables if "vectors" in v.name or "hash_codes" in v.name]
    assert len(frozen) == 3
    before = [v.numpy() for v in frozen]
    digits = model.embedder.hash_ids["item"].digits.tables["base_2"]
    start = digits.numpy()
    assert not {id(v) for v in frozen} & {id(v) for v in model.trainable_variables}
    with tf.GradientTape(persistent=True) as tape:
        loss = tf.reduce_sum(model(toys.tensors(arrays), training=True)["click"] ** 2)
    assert tape.gradient(loss, frozen) == [None] * 3
    variables = model.trainable_variables
    gradients = tape.gradient(loss, variables)
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    LazyAdam(0.1).apply_gradients(pairs)
    for v, kept in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(v, kept)
    assert (digits.numpy() != start).any()


def test_spaces_share_vectors_and_have_digits_of_their_own():
    plan = Plan.of(BACKBONES["dnn"], toys.EMBEDDING, seed=3)
    plan = replace(plan, spaces={**plan.spaces, "wide": replace(toys.EMBEDDING, dimension=6)})
    model = serving_model(declared("alone"), toys.ROWS, plan, {}, VECTORS)
    one, other = model.spaces["main"], model.spaces["wide"]
    assert one.similarities["taste"] is other.similarities["taste"]
    widths = [s.hash_ids["item"].digits.tables["base_10"].shape[1] for s in (one, other)]
    assert widths == [D, 6]


def test_a_long_code_keeps_all_its_digits():
    codes = np.array([-1, -1, 2**62 - 1, 2**53 + 1])
    made = HashID(codes, 62, (2, 10), D, 0)
    found = made(tf.constant([2, 3])).numpy()
    for row, code in zip(found, codes[2:], strict=True):
        np.testing.assert_allclose(row, digits_of(made.digits, int(code)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schema((Table("a", hash_id="alone"),), ()), "without vectors"),
        (
            lambda: Schema((Table("a", vectors="a", frozen=True, hash_id="beside"),), ()),
            "and frozen=True",
        ),
        (lambda: Schema((Table("a", vectors="a", hash_id="alone", hash_bits=63),), ()), "1 to 62"),
        (lambda: Schema((Table("a", vectors="a", hash_id="near"),), ()), "hash_id of table 'a'"),  # type: ignore[arg-type]
        (lambda: replace(toys.SCHEMA, similarities=(Declared("item", "u", "i"),)), "twice"),
        (lambda: replace(toys.SCHEMA, similarities=(Declared("weight", "u", "i"),)), "cannot be"),
        (
            lambda: Schema(
                (Table("u"), Table("i", buckets=9)),
                (Feature("u", "profile", "u"), Feature("i", "item", "i")),
                similarities=(Declared("taste", "u", "i"),),
            ),
            "reads vectors of 'i', whose table 'i' has hash buckets",
        ),
        (
            lambda: Schema(
                (Table("u"), Table("i")),
                (Feature("u", "profile", "u", serve=False), Feature("i", "item", "i")),
                similarities=(Declared("taste", "u", "i"),),
            ),
            "reads vectors of 'u', which has serve=False",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
