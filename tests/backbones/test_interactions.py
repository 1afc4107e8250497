"""IPNN, DCN V2 and GwPFM against the literal forms of their interactions."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_recommenders.layers.feature_interaction import Cross

from at4ctr.backbones import dcnv2, gwpfm, ipnn
from at4ctr.errors import InputError
from at4ctr.layers.embedder import Config as Space
from at4ctr.layers.shape import Shape
from at4ctr.schema import Number
from tests.model import toys
from tests.oracles import interactions as oracle

CONFIGS: dict[str, Any] = {
    "ipnn": ipnn.Config(),
    "ipnn_fields": ipnn.Config(pool_history=False),
    "dcnv2": dcnv2.Config(layers=2),
    "dcnv2_rank": dcnv2.Config(layers=2, rank=3),
    "dcnv2_fields": dcnv2.Config(layers=1, pool_history=False),
    "gwpfm": gwpfm.Config(),
    "gwpfm_groups": gwpfm.Config(groups=("user+history_item", "position")),
    "gwpfm_fields": gwpfm.Config(groups=("city",), pool_history=False),
}
GROUPS = {
    "gwpfm": ["profile", "profile", "item", "item", "item", "context", *["history"] * 3],
    "gwpfm_groups": ["0", "profile", "item", "item", "item", "1", "0", "history", "history"],
    "gwpfm_fields": ["profile", "0", "item", "item", "item", "context"],
}


def made(name: str):
    model = toys.serving(CONFIGS[name])
    toys.jitter(model)
    return model


def vectors(sample, *, pool: bool) -> list[np.ndarray]:
    """Of profile, item and context, then of the mean of the behaviours."""
    past = sample.history.sum(0) / max(len(sample.history), 1)
    whole = [sample.profile, sample.item, sample.context, *([past] if pool else [])]
    return [v for each in whole for v in np.split(each, len(each) // toys.D)]


def expected(model, name: str, sample) -> np.ndarray:
    """What the head reads of one sample."""
    config, body = CONFIGS[name], model.backbone
    found = vectors(sample, pool=config.pool_history)
    if isinstance(config, ipnn.Config):
        fields = [sample.profile, sample.context, sample.item, *found[6:]]
        return np.concatenate([*fields, oracle.inner_products(found)])
    if isinstance(config, dcnv2.Config):
        first = [[toys.double(v)] for v in body.first] or [[] for _ in body.last]
        layers = [
            ([*u, toys.double(v.kernel)], toys.double(v.bias))
            for u, v in zip(first, body.last, strict=True)
        ]
        return oracle.crossed(np.concatenate(found), layers)
    group = GROUPS[name]
    names = list(dict.fromkeys(group))
    pairs = [(names[a], names[b]) for b in range(len(names)) for a in range(b)]
    pairs += [(g, g) for g in names if group.count(g) > 1]
    r = dict(zip(map(frozenset, pairs), toys.double(body.r), strict=True))
    part = [int(g == "item") for g in group]
    return oracle.field_parts([v.reshape(2, -1) for v in found], part, group, r)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_the_oracle(name, training):
    model, arrays = made(name), toys.batch(9, 6, seed=4)
    rows = [expected(model, name, sample) for sample in toys.samples(model, arrays)]
    found = model(toys.tensors(arrays), training=training)["click"]
    np.testing.assert_allclose(
        found, toys.logits(model, rows, training=training), rtol=3e-4, atol=3e-5
    )


@pytest.mark.parametrize("name", ["ipnn", "dcnv2", "gwpfm"])
def test_padding_and_neighbours_never_matter(name):
    model, arrays = made(name), toys.batch(9, 6, seed=5)
    toys.assert_each_alone(model, arrays)
    plain, found = (model(toys.tensors(a))["click"].numpy() for a in (arrays, toys.dirty(arrays)))
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_and_every_weight_is_read(name):
    model, arrays = made(name), toys.tensors(toys.batch(9, 6))
    with tf.GradientTape() as tape:
        logits = model(arrays)["click"]
    read = {t: v for t, v in model.embedder.tables.items() if t != "type"}
    weights = [*model.backbone.trainable_variables, *read.values()]
    for g in tape.gradient(logits, weights):
        values = tf.convert_to_tensor(g).numpy()
        assert np.isfinite(values).all()
        assert values.any(-1).any()


@pytest.mark.parametrize("rank", [None, 3])
def test_a_cross_is_that_of_tensorflow_recommenders(rank):
    shape = Shape.of(toys.SCHEMA, toys.D)
    body: Any = dcnv2.Config(layers=1, rank=rank).build(shape, 1)
    toys.jitter(body)
    x = toys.serving(CONFIGS["dcnv2"]).spaces["main"](toys.tensors(toys.batch(9, 6)))
    (found,) = body(x, training=False).parts
    start = np.concatenate([x.fields.numpy().reshape(9, -1), mean_behaviour(x)], 1)
    cross = Cross(rank)
    cross(start, start)
    cross.set_weights([v.numpy() for v in (*body.first, body.last[0].kernel, body.last[0].bias)])
    np.testing.assert_allclose(found, cross(start, start), rtol=1e-5, atol=1e-6)


def mean_behaviour(x) -> np.ndarray:
    count = x.mask.numpy().sum(1, keepdims=True)
    return x.history.numpy().sum(1) / np.maximum(count, 1)


def test_the_candidates_numbers_are_of_its_part():
    numbers = (Number("price", "item"), Number("rate", "context"), Number("age", "profile"))
    schema = replace(toys.SCHEMA, numbers=numbers)
    shape = Shape.of(schema, toys.D)
    names = [name for name, _ in shape.fields]
    assert names == ["user", "city", "age", "item", "category", "tags", "position", "price", "rate"]
    body: Any = gwpfm.Config(pool_history=False).build(shape, 1)
    of = dict(zip(names, body.members.argmax(0), strict=True))
    assert of["price"] == of["item"] == of["tags"]
    assert of["rate"] == of["position"] != of["age"] == of["user"]


@pytest.mark.parametrize(
    ("config", "dimension", "said"),
    [
        (gwpfm.Config(), 5, r"gwpfm divides each vector into 2 .* dimension 5; .*dimension=6"),
        (gwpfm.Config(groups=("user+citi",)), 4, r"backbone\.groups 'citi': did you mean city"),
        (gwpfm.Config(groups=("user", "city+user")), 4, r"backbone\.groups 'user'"),
        (gwpfm.Config(groups=("item",)), 4, r"field of the user or the context"),
        (dcnv2.Config(layers=0), 4, r"dcnv2 has 0 cross layers; expected at least 1"),
        (dcnv2.Config(rank=0), 4, r"crosses of rank 0; expected at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(config, dimension, said):
    with pytest.raises(InputError, match=said) as raised:
        toys.serving(config, embedding=Space(dimension, 0.5))
    assert not re.search(r"\n|\. ", str(raised.value))
