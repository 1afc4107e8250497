"""TIN: every number against the literal form of Eq. 1, and what must hold of any weights."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import tin
from at4ctr.errors import InputError
from at4ctr.layers import embedder
from at4ctr.schema import AGES
from tests.model import toys
from tests.oracles import tin as oracle

TIMED = replace(toys.SCHEMA, times=True)
UNALIKE = replace(TIMED, history=("item", "tags", "type"))
CASES = {
    "position": (tin.Config(positions=4), toys.SCHEMA),
    "interval": (tin.Config("interval", intervals=5), TIMED),
    "both": (tin.Config("both", positions=3, shortest=10.0), TIMED),
    "unalike": (tin.Config("both"), UNALIKE),
    "beside": (tin.Config(beside=True), toys.SCHEMA),
}
LENGTHS = [0, 1, 6, 2, 5, 4, 3, 0, 6]


def made(schema, lengths=LENGTHS, steps=6):
    arrays = toys.batch(len(lengths), steps, lengths=lengths, schema=schema)
    if schema.times:
        drawn = np.random.default_rng(1).exponential(300, (len(lengths), steps)).astype(np.int32)
        drawn[:, 1], drawn[:, 2], drawn[:, 3] = -1, 0, 2**31 - 1  # unknown, at once, the longest
        drawn[:, 4] = 120  # a bound
        real = np.arange(steps) < np.array(lengths)[:, None]
        arrays[AGES] = np.where(real, drawn, 0).astype(np.int32)
    return arrays


def built(name):
    config, schema = CASES[name]
    model = toys.serving(config, schema)
    toys.jitter(model)
    return model, config, schema


def expected(model, config, arrays):
    body = model.backbone
    positions, intervals = (
        None if t is None else toys.double(t) for t in (body.positions, body.intervals)
    )
    project = None if body.project is None else toys.layer(body.project)
    samples = toys.samples(model, arrays)
    ages = arrays.get(AGES, np.zeros((len(samples), 6), int))
    return [
        oracle.interest(
            s, ages[i, : len(s.history)], positions, intervals, config.shortest, project
        )
        for i, s in enumerate(samples)
    ], samples


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_all_of_it_equals_the_oracle(name, training):
    model, config, schema = built(name)
    arrays = made(schema)
    found = toys.encoded(model, arrays, training=training)
    interests, samples = expected(model, config, arrays)
    np.testing.assert_allclose(found.parts[-1], [u for u, _ in interests], rtol=1e-4, atol=1e-6)
    assert len(found.parts) == (1 if config.beside else 4)
    if not config.beside:
        for part, of in zip(found.parts, ("profile", "context", "item"), strict=False):
            values = [getattr(s, of) for s in samples]
            np.testing.assert_allclose(part, values, rtol=1e-5, atol=1e-6)
    correlation = model.backbone.correlation(model.embedder(toys.tensors(arrays)))
    flat = np.concatenate([c for _, c in interests])
    np.testing.assert_allclose(correlation, flat, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("length", "least", "most"), [(1, 0.5, 2), (6, 0.2, 1.5)])
def test_a_head_reads_the_interest_about_as_large_as_an_embedding_at_the_start(length, least, most):
    config, schema = CASES["both"]
    model = toys.serving(config, schema, embedding=embedder.Config(dimension=toys.D))
    found = toys.encoded(model, made(schema, lengths=[length] * 50), training=True)
    scaled = [p.scale * np.std(v) for p, v in zip(model.backbone.parts, found.parts, strict=True)]
    assert least < scaled[-1] / scaled[2] < most


@pytest.mark.parametrize("name", ["both", "unalike"])
def test_padding_never_matters_and_each_row_stands_alone(name):
    model, _, schema = built(name)
    arrays = made(schema)
    plain, found = (toys.encoded(model, a) for a in (arrays, toys.dirty(arrays)))
    for a, b in zip(plain.parts, found.parts, strict=True):
        np.testing.assert_array_equal(a, b)
    toys.assert_each_alone(model, arrays)


def test_one_user_with_many_candidates_equals_the_user_repeated():
    model, _, schema = built("both")
    arrays = made(schema)
    users = {"user", "city", *(n for n in arrays if n.startswith("history_"))}
    for user in (0, 2):
        batch = {k: v[user : user + 1] if k in users else v for k, v in arrays.items()}
        repeated = {k: np.repeat(v, 9, 0) if k in users else v for k, v in batch.items()}
        owner = {"owner": tf.zeros([9], tf.int32)}
        found = model.answer(toys.tensors(batch) | owner)["logit"]
        np.testing.assert_allclose(
            found, model.answer(toys.tensors(repeated))["logit"], rtol=1e-5, atol=1e-6
        )


def test_gradients_reach_the_rows_that_were_read():
    model, _, schema = built("both")
    training = toys.training(model, {}, schema)
    body = model.backbone
    with tf.GradientTape() as tape:
        loss = training.losses_of(toys.tensors(made(schema)))["total"]
    positions, intervals = (
        np.abs(tf.convert_to_tensor(g)).sum(1) > 0
        for g in tape.gradient(loss, [body.positions, body.intervals])
    )
    assert positions.all()
    assert intervals[[0, 1, -1]].all()


def test_refuses_what_makes_no_sense():
    with pytest.raises(InputError, match=r"tin\.time"):
        tin.Config("hour")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"tin\.positions is 1"):
        tin.Config(positions=1)
    with pytest.raises(InputError, match=r"tin\.shortest is 0"):
        tin.Config(shortest=0)
    with pytest.raises(InputError, match="needs a history"):
        toys.serving(tin.Config(), toys.PLAIN)
    with pytest.raises(InputError, match="schema has no times"):
        toys.serving(tin.Config("both"))
