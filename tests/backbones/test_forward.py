"""Whole backbones, embedding to logit, against the oracle."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import din, dnn, widedeep
from at4ctr.errors import InputError
from at4ctr.heads import single
from tests.model import toys
from tests.oracles import models as oracle

DIN, WIDE = din.Config(), widedeep.Config()
CONFIGS = {
    "din": DIN,
    "din_prelu": din.Config(attention=(7, 3)),
    "dnn": dnn.Config(),
    "dnn_fields": dnn.Config(pool_history=False),
    "widedeep": WIDE,
    "widedeep_pooled": widedeep.Config(pool_history=True),
    "widedeep_dice": widedeep.Config(pool_history=True),
}
HEADS = {
    "din_prelu": single.Config(units=(9,), activation="prelu"),
    "widedeep_dice": single.Config(activation="dice"),
}


def made(name: str):
    return toys.serving(CONFIGS[name], head=HEADS.get(name, single.Config()))


def expected_logits(model, config, arrays, *, training: bool) -> np.ndarray:
    samples, body = toys.samples(model, arrays), model.backbone
    if isinstance(config, din.Config):
        unit = body.attention
        stack = [toys.layer(unit.first), *toys.layers(unit.rest)]
        deep = [oracle.din_input(s, toys.layer(unit.project), stack) for s in samples]
        return toys.logits(model, deep, training=training)
    if isinstance(config, dnn.Config):
        deep = [oracle.dnn_input(s, pool=config.pool_history) for s in samples]
        return toys.logits(model, deep, training=training)
    pairs = [oracle.widedeep_input(s, pool=config.pool_history) for s in samples]
    deep, wide = [d for d, _ in pairs], [w for _, w in pairs]
    return toys.logits(model, deep, wide, training=training)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("training", [False, True])
def test_logits_equal_the_oracle(name, training):
    model = made(name)
    toys.jitter(model)
    arrays = toys.batch(9, 6, seed=4)
    expected = expected_logits(model, CONFIGS[name], arrays, training=training)
    found = model(toys.tensors(arrays), training=training)["click"]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_served_score_does_not_depend_on_its_neighbours(name):
    model = made(name)
    toys.jitter(model)
    toys.assert_each_alone(model, toys.batch(9, 6, seed=5))


@pytest.mark.parametrize("config", [DIN, CONFIGS["dnn"], CONFIGS["widedeep_pooled"]])
def test_longer_padding_with_garbage_never_matters(config):
    model, arrays = toys.serving(config), toys.batch(9, 6)
    dirty = toys.dirty(arrays)
    for training in (False, True):
        plain = model(toys.tensors(arrays), training=training)["click"].numpy()
        found = model(toys.tensors(dirty), training=training)["click"].numpy()
        if training:
            np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(found, plain)


def test_widedeep_without_pooling_never_reads_the_history():
    model, arrays = toys.serving(WIDE), toys.batch(9, 6)
    other = toys.batch(9, 6, seed=8)
    # Ids beyond the table: the gather would fail.
    lost = {k: v + 10**6 if k != "history_length" else v for k, v in other.items()}
    mixed = {k: lost[k] if k.startswith("history") else v for k, v in arrays.items()}
    plain = model(toys.tensors(arrays))["click"].numpy()
    np.testing.assert_array_equal(model(toys.tensors(mixed))["click"], plain)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_encoded_has_the_widths_that_the_backbone_names(name):
    model = made(name)
    found = toys.encoded(model, toys.batch(6, 5))
    assert found.states.shape[:2] == [6, 5]
    direct = getattr(model.backbone, "direct", ())
    for parts, widths in ((found.parts, model.backbone.parts), (found.direct, direct)):
        assert [p.shape for p in parts] == [[6, p.width] for p in widths]


def test_the_probability_is_shifted_by_ln_w():
    arrays = toys.tensors(toys.batch())
    full, sampled = toys.serving(WIDE), toys.serving(WIDE, negative_rate=0.1)
    a, b = full.answer(arrays), sampled.answer(arrays)
    np.testing.assert_array_equal(a["logit"], b["logit"])
    p = a["probability"].numpy().astype(np.float64)
    np.testing.assert_allclose(b["probability"], p / (p + (1 - p) / 0.1), rtol=1e-5)


def test_a_schema_without_history_is_refused_where_one_is_needed():
    toys.serving(WIDE, toys.PLAIN)
    for config in (DIN, CONFIGS["dnn"], CONFIGS["widedeep_pooled"]):
        with pytest.raises(InputError, match="needs a history"):
            toys.serving(config, toys.PLAIN)


def test_context_and_several_profile_features_are_all_read():
    model, arrays = toys.serving(DIN), toys.batch()
    plain = model(toys.tensors(arrays))["click"].numpy()
    for name in ("user", "city", "position", "item", "category", "tags", "history_tags"):
        changed = {**arrays, name: np.where(arrays[name] == 2, 3, 2).astype(np.int32)}
        assert (model(toys.tensors(changed))["click"].numpy() != plain).any(), name


def test_dropout_acts_in_training_only():
    model, arrays = toys.serving(DIN, head=single.Config(dropout=0.5)), toys.tensors(toys.batch())
    assert (model(arrays)["click"].numpy() == model(arrays)["click"].numpy()).all()
    first, second = (model(arrays, training=True)["click"].numpy() for _ in range(2))
    assert (first != second).any()
    first, second = model.head.trunk.dropouts
    assert first.draws is not second.draws
    assert tf.is_tensor(model(arrays)["click"])
