"""DIEN's auxiliary loss from a batch of ids, against the literal one."""

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.auxiliaries import next_behaviour
from at4ctr.backbones import dien, din, widedeep
from at4ctr.errors import InputError
from tests.model import toys
from tests.oracles import dien as oracle

BACKBONES = {"dien": dien.Config(), "din": din.Config(), "widedeep": widedeep.Config()}
CONFIG = next_behaviour.Config()


def build(backbone="dien", config=CONFIG):
    model = toys.training(toys.serving(BACKBONES[backbone]), {"task": config})
    toys.jitter(model)
    return model, model.auxiliaries["task"]


class Fixed:
    """A source of draws that always yields the same seed."""

    def seed(self) -> tf.Tensor:
        return tf.constant([3, 5])


def expected(model, task, arrays) -> float:
    histories = [s.history for s in toys.samples(model.serving, arrays)]
    states, body = histories, model.serving.backbone
    if isinstance(body, dien.DIEN):
        cell = toys.layer(body.gru.gates), toys.layer(body.gru.candidate)
        states = [oracle.gru(h, *cell) for h in histories]
    pairs = sum(max(len(h) - 1, 0) for h in histories)
    drawn = task.drawn(tf.constant(pairs), sum(map(len, histories)), Fixed().seed()).numpy()
    scale = toys.double(task.affine.gamma), toys.double(task.affine.beta)
    return oracle.next_behaviour(
        states, histories, drawn, scale, [toys.layer(task.first), *toys.layers(task.rest)]
    )


@pytest.mark.parametrize("lengths", [None, [0, 1, 2, 6, 6, 3, 1, 0], [2] * 8])
@pytest.mark.parametrize("config", [CONFIG, next_behaviour.Config(units=(7,))])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_equals_the_literal_one(backbone, config, lengths):
    model, task = build(backbone, config)
    task.draws = Fixed()
    arrays = toys.batch(8, 6, seed=6, lengths=lengths)
    arrays["user"][:4] = 5
    found = float(task.loss(toys.view(model, arrays)))
    assert found == pytest.approx(expected(model, task, arrays), rel=2e-4)


def gradients(model, arrays):
    with tf.GradientTape() as tape:
        loss = model.auxiliaries["task"].loss(toys.view(model, arrays))
    variables = model.trainable_variables
    found = tape.gradient(loss, variables)
    kept = [(v, g) for v, g in zip(variables, found, strict=True) if g is not None]
    return float(loss), {id(v): tf.convert_to_tensor(g).numpy() for v, g in kept}


@pytest.mark.parametrize("lengths", [[0] * 6, [1] * 6, [0, 1, 0, 1, 1, 0], [1], [0]])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_without_a_pair_it_is_zero_with_zero_gradients(backbone, lengths):
    model, _ = build(backbone)
    loss, found = gradients(model, toys.batch(len(lengths), 5, lengths=lengths))
    assert loss == 0.0
    for g in found.values():
        assert not g.any()


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_are_finite_and_reach_tables_states_and_the_discriminator(backbone, size):
    model, task = build(backbone)
    arrays = toys.batch(size, 5, lengths=[5, 0, 1, 3, 4, 4, 2, 5][:size])
    arrays["label_click"][:] = 0  # no positive
    _, found = gradients(model, arrays)
    assert all(np.isfinite(g).all() for g in found.values())
    embedder, body = model.serving.embedder, model.serving.backbone
    reached = [embedder.tables["item"], *task.trainable_variables]
    reached += body.gru.trainable_variables if backbone == "dien" else []
    for v in reached:
        assert found[id(v)].any(), v.name


def test_padding_never_changes_the_loss():
    arrays = toys.batch(8, 5, lengths=[5, 0, 1, 3, 4, 4, 2, 5])
    dirty = toys.dirty(arrays)
    found = []
    for batch in (arrays, dirty):
        model, task = build()
        task.draws = Fixed()
        found.append(float(task.loss(toys.view(model, batch))))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_negatives_are_uniform_over_behaviours_and_new_at_every_step():
    _, task = build()
    drawn = task.drawn(tf.constant(20_000), tf.constant(4), tf.constant([1, 2])).numpy()
    counts = np.bincount(drawn, minlength=4)
    assert len(counts) == 4
    assert (np.abs(counts - 5000) < 300).all()  # five standard deviations
    model, task = build()
    arrays = toys.batch(8, 6, lengths=[6] * 8)
    view = toys.view(model, arrays)
    assert float(task.loss(view)) != float(task.loss(view))
    again, same = build()
    first = float(same.loss(toys.view(again, arrays)))
    model, task = build()
    assert float(task.loss(toys.view(model, arrays))) == first


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="next_behaviour needs a history"):
        toys.training(toys.serving(widedeep.Config(), toys.PLAIN), {"task": CONFIG}, toys.PLAIN)
    for units in ((), (5, 0)):
        with pytest.raises(InputError, match=r"next_behaviour\.units"):
            next_behaviour.Config(units=units)
