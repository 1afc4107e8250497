"""UIM and NIP from a batch of ids to their losses, against the paper's equations."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.auxiliaries import nip, uim
from at4ctr.backbones import din, widedeep
from at4ctr.errors import InputError
from at4ctr.schema import UNKNOWN
from tests.model import toys
from tests.model.toys import view
from tests.oracles import losses
from tests.oracles import models as oracle

UIM, NIP = uim.Config(temperature=0.2), nip.Config(temperature=0.3)


def build(config, schema=toys.SCHEMA, backbone=None):
    serving = toys.serving(backbone or widedeep.Config(), schema)
    model = toys.training(serving, {"task": config}, schema)
    toys.jitter(model)
    return model, model.auxiliaries["task"]


def attention(task) -> list[np.ndarray]:
    return [
        toys.double(v) for v in (task.attention.query, task.attention.key, task.attention.value)
    ]


def expected_uim(model, task, arrays, config) -> float:
    samples = toys.samples(model.serving, arrays)
    users, items = [], []
    for s in samples:
        user = s.profile
        if config.use_history:
            pooled = oracle.mean_pool(
                oracle.self_attention(s.history, *attention(task), causal=False)
            )
            user = np.concatenate([user, pooled])
        users.append(oracle.projection(user, toys.layers(task.user)))
        items.append(oracle.projection(s.item, toys.layers(task.item)))
    ids = (arrays["user_index"], arrays["item_index"]) if config.mask_duplicates else (None, None)
    return losses.user_item_match(
        np.array(users), np.array(items), arrays["label_click"], config.temperature, *ids
    )


def expected_nip(model, task, arrays, config) -> float:
    samples, size = toys.samples(model.serving, arrays), len(arrays["label_click"])
    width = samples[0].history.shape[1]
    steps = arrays["history_item"].shape[1]
    states, history = np.zeros((size, steps, width)), np.zeros((size, steps, width))
    for i, s in enumerate(samples):
        n = len(s.history)
        history[i, :n] = s.history
        states[i, :n] = oracle.self_attention(s.history, *attention(task), causal=True)
    mask = np.arange(steps) < arrays["history_length"][:, None]
    ids = None
    if config.mask_duplicates:  # an unknown item is nobody's duplicate
        ids = arrays["history_item"].astype(object)
        ids = np.array([[i if i != UNKNOWN else object() for i in row] for row in ids], object)
    return losses.next_item_prediction(states, history, mask, config.temperature, ids, config.block)


@pytest.mark.parametrize("mask_duplicates", [False, True])
@pytest.mark.parametrize("use_history", [False, True])
def test_uim_equals_equations_2_to_7(use_history, mask_duplicates):
    config = uim.Config(temperature=0.2, use_history=use_history, mask_duplicates=mask_duplicates)
    model, task = build(config)
    arrays = toys.batch(10, 5, seed=6)
    arrays["user"][:3], arrays["item"][4:7] = 4, 9
    found = task.loss(view(model, arrays)).numpy()
    np.testing.assert_allclose(found, expected_uim(model, task, arrays, config), rtol=2e-4)


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("mask_duplicates", [False, True])
def test_nip_equals_equations_8_to_10(mask_duplicates, block):
    config = nip.Config(temperature=0.3, mask_duplicates=mask_duplicates, block=block)
    model, task = build(config)
    arrays = toys.batch(10, 6, lengths=[0, 1, 6, 6, 5, 4, 3, 6, 2, 5], seed=6)
    arrays["history_item"][2:5, 1:3] = 7
    arrays["history_item"][5:8, 1:3] = UNKNOWN
    found = task.loss(view(model, arrays)).numpy()
    np.testing.assert_allclose(found, expected_nip(model, task, arrays, config), rtol=2e-4)


def test_masking_duplicates_changes_the_loss_where_there_are_some():
    arrays = toys.batch(10, 6, lengths=[6] * 10)
    arrays["user_index"][:], arrays["item_index"][:5], arrays["history_item"][:] = 3, 4, 5
    for plain, masked in (
        (UIM, uim.Config(temperature=0.2, mask_duplicates=True)),
        (NIP, nip.Config(temperature=0.3, mask_duplicates=True)),
    ):
        values = [float(task.loss(view(m, arrays))) for m, task in (build(plain), build(masked))]
        assert values[1] < values[0]
    assert values[1] == pytest.approx(0.0, abs=1e-5)  # every next item is the same one


def test_unknown_items_are_no_duplicates_of_one_another():
    """As if each had an id of its own, with the same vector."""
    arrays = toys.batch(6, 3, lengths=[3] * 6)
    arrays["history_item"][:] = UNKNOWN
    values = {}
    for masked in (False, True):
        model, task = build(nip.Config(temperature=0.3, mask_duplicates=masked))
        values[masked] = float(task.loss(view(model, arrays)))
    assert values[True] == pytest.approx(values[False], rel=1e-6)
    assert values[True] > 0.5


def gradients(model, arrays):
    task = model.auxiliaries["task"]
    with tf.GradientTape() as tape:
        loss = task.loss(view(model, arrays))
    tables = model.serving.embedder.tables
    found = tape.gradient(loss, [tables, task.trainable_variables])
    return float(loss), found[0], found[1]


def test_uim_without_positives_is_zero_with_zero_gradients():
    model, _ = build(UIM)
    arrays = toys.batch(8, 5)
    arrays["label_click"][:] = 0
    loss, tables, own = gradients(model, arrays)
    assert loss == 0.0
    for g in [*tables.values(), *own]:
        assert g is None or not tf.convert_to_tensor(g).numpy().any()


@pytest.mark.parametrize("lengths", [[0] * 6, [1] * 6, [5, 0, 0, 0, 0, 0]])
def test_nip_without_a_pair_of_samples_is_zero(lengths):
    model, _ = build(NIP)
    loss, tables, own = gradients(model, toys.batch(6, 5, lengths=lengths))
    assert loss == 0.0
    for g in [*tables.values(), *own]:
        assert g is None or not tf.convert_to_tensor(g).numpy().any()


@pytest.mark.parametrize(
    ("config", "reached"),
    [
        (UIM, {"user", "city", "item", "category", "tag"}),
        (uim.Config(use_history=False), {"user", "city", "item", "category", "tag"}),
        (NIP, {"item", "category", "tag"}),
    ],
)
def test_gradients_reach_the_shared_tables(config, reached):
    model, _ = build(config)
    _, tables, own = gradients(model, toys.batch(8, 5))
    moved = {
        name
        for name, g in tables.items()
        if g is not None and tf.convert_to_tensor(g).numpy().any()
    }
    assert moved == reached
    for g in own:
        assert np.isfinite(g.numpy()).all()
        assert g.numpy().any() or g.shape.rank == 1  # a bias may stand under dead ReLUs only


def test_padding_never_changes_a_loss():
    arrays = toys.batch(8, 5, lengths=[5, 0, 1, 3, 4, 4, 2, 5])
    dirty = toys.dirty(arrays)
    for config in (UIM, nip.Config(mask_duplicates=True)):
        model, task = build(config)
        plain = float(task.loss(view(model, arrays)))
        assert float(task.loss(view(model, dirty))) == pytest.approx(plain, rel=1e-6)


def test_what_needs_a_history_is_refused_without_one():
    for config in (UIM, NIP):
        with pytest.raises(InputError, match="needs a history"):
            build(config, toys.PLAIN)
    model, task = build(uim.Config(use_history=False), toys.PLAIN)
    arrays = toys.batch(6, schema=toys.PLAIN)
    found = float(task.loss(view(model, arrays)))
    config = uim.Config(use_history=False)
    assert found == pytest.approx(expected_uim(model, task, arrays, config), rel=1e-4)


def test_tasks_of_two_names_start_apart_and_each_repeats():
    serving = toys.serving(din.Config())
    starts = {}
    for names in (("a",), ("a", "b")):
        model = toys.training(serving, dict.fromkeys(names, NIP))
        starts[names] = {n: model.auxiliaries[n].attention.query.numpy() for n in names}
    np.testing.assert_array_equal(starts[("a",)]["a"], starts[("a", "b")]["a"])
    assert (starts[("a", "b")]["a"] != starts[("a", "b")]["b"]).any()
