"""Inputs that are no plain ids: numbers, weighted values, pre-trained vectors."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.contracts import Numbers
from at4ctr.errors import InputError
from at4ctr.layers.embedder import Config, Embedder
from at4ctr.layers.shape import Shape
from at4ctr.model.build import Plan, serving_model
from at4ctr.schema import Feature, Number, Schema, Table
from tests.contract.parts import BACKBONES
from tests.model import toys

D = toys.D
NUMBERS = (
    Number("age", "profile", "log"),
    Number("price", "item", "mns"),
    Number("rate", "context"),
)
SCHEMA = replace(toys.SCHEMA, numbers=NUMBERS)


def batch(size: int = 6) -> dict[str, tf.Tensor]:
    rng = np.random.default_rng(3)
    more = {n.name: rng.normal(size=size).astype(np.float32) for n in NUMBERS}
    more["price"][0] = np.nan
    return toys.tensors(toys.batch(size, 20) | more)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_reads_numbers(name):
    rows = {t.name: toys.ROWS[t.name] for t in SCHEMA.tables}
    model = serving_model(SCHEMA, rows, Plan.of(BACKBONES[name], toys.EMBEDDING, seed=3))
    toys.jitter(model)
    arrays = batch()
    plain = model(arrays)["click"].numpy()
    assert np.isfinite(plain).all()
    for number in NUMBERS:
        moved = {**arrays, number.name: arrays[number.name] + 40.0}
        changed = model(moved)["click"].numpy() != plain
        assert changed[1:].all(), number
        assert changed[0] == (number.name != "price")


def test_numbers_are_one_more_field_each_and_stand_in_their_groups():
    made = Embedder(SCHEMA, toys.ROWS, toys.EMBEDDING, 1, encodings=encodings())
    x = made(batch())
    shape = Shape.of(SCHEMA, D)
    assert x.fields.shape[1] == len(toys.SCHEMA.features) - 1 + len(NUMBERS)
    assert x.profile.shape[1] == shape.profile == 3 * D
    assert x.item.shape[1] == shape.item == 3 * D
    assert x.context.shape[1] == shape.context == 3 * D
    assert shape.alike
    np.testing.assert_allclose(x.profile[:, 2 * D :], encodings()["age"](batch()["age"]))


def encodings():
    from at4ctr.folders import config_of

    return {
        n.name: config_of("encodings", n.encoding, "encoding").build(Numbers(), D, 5)
        for n in NUMBERS
    }


def test_several_values_are_averaged_by_their_weights():
    features = [replace(f, weighted=f.name == "tags") for f in toys.SCHEMA.features]
    schema = replace(toys.SCHEMA, features=tuple(features), history=("item", "category"))
    made = Embedder(schema, toys.ROWS, toys.EMBEDDING, 1)
    arrays = toys.batch(5, 4)
    arrays["tags"] = np.array([[2, 3, 0], [4, 0, 0], [0, 0, 0], [5, 5, 6], [7, 8, 9]], np.int32)
    weights = np.array([[1, 3, 9], [0.5, 7, 7], [1, 1, 1], [1, 1, 2], [0, 0, 0]], np.float32)
    x = made(toys.tensors(arrays | {"weights_tags": weights}))
    table = toys.double(made.tables["tag"])
    for row, (ids, w) in enumerate(zip(arrays["tags"], weights, strict=True)):
        real = w * (ids != 0)
        mean = (real[:, None] * table[ids]).sum(0) / real.sum() if real.sum() else np.zeros(D)
        np.testing.assert_allclose(x.item[row, 2 * D :], mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("frozen", [True, False])
def test_pretrained_vectors_are_where_a_table_begins(frozen):
    tables = [
        replace(t, vectors="items.parquet", frozen=frozen) if t.name == "item" else t
        for t in toys.SCHEMA.tables
    ]
    schema = replace(toys.SCHEMA, tables=tuple(tables))
    vectors = np.random.default_rng(0).normal(size=(toys.ROWS["item"], 7)).astype(np.float32)
    made = Embedder(schema, toys.ROWS, toys.EMBEDDING, 1, vectors={"item": vectors})
    arrays = toys.tensors(toys.batch(6, 5))
    for training in (False, True):
        x = made(arrays, training=training)
        expected = vectors[arrays["item"]] @ made.projections["item"].numpy()
        np.testing.assert_allclose(x.item[:, :D], expected, rtol=1e-4, atol=1e-5)
    assert made.tables["item"].trainable is not frozen
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(made(arrays, training=True).item ** 2)
    found = tape.gradient(loss, [*made.projections.values(), made.tables["item"]])
    assert np.abs(found[0]).max() > 0
    assert (found[1] is None) is frozen
    assert not made.lookup("item", tf.constant([0])).numpy().any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schema((Table("a", frozen=True),), ()), "frozen without vectors"),
        (lambda: Schema((Table("a", vectors="a.parquet", buckets=9),), ()), "hash buckets"),
        (
            lambda: Schema(
                (Table("a"),),
                (Feature("u", "profile", "a"), Feature("i", "item", "a", weighted=True)),
            ),
            "is weighted",
        ),
        (lambda: replace(toys.SCHEMA, numbers=(Number("x", "behaviour"),)), "of group behaviour"),
        (lambda: replace(toys.SCHEMA, numbers=(Number("item", "item"),)), "declared twice"),
        (
            lambda: replace(toys.SCHEMA, numbers=(Number("x", cast(Any, "shop")),)),
            "group of feature 'x'",
        ),
        (lambda: replace(toys.SCHEMA, numbers=(Number("label_x", "item"),)), "call it something"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()
    assert Config().dimension > 0
