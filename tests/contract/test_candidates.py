"""Every backbone: rows that name their user by ``owner`` are answered as rows that repeat them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.layers.embedder import touched_l2
from at4ctr.layers.mlp import without_dropout
from at4ctr.model.serving import ServingModel
from tests.contract import parts
from tests.contract.parts import AUXILIARIES, BACKBONES, HEADS, labelled, serves
from tests.model import toys

LONGEST = 20
VARIANTS = {f"{name}, default": config for name, config in BACKBONES.items()} | {
    f"{name}, {field}": dataclasses.replace(config, **{field: True})
    for name, config in BACKBONES.items()
    for field in ("pool_history", "follow_score")
    if hasattr(config, field)
}
OWNERS = [[2, 0, 3, 3, 1, 2, 2, 0, 1], [3, 3, 2, 2, 2, 1, 0], [0, 1]]


@pytest.fixture(scope="module")
def batch():
    found = toys.tensors(toys.batch(9, LONGEST))
    lengths = np.array([0, 1, 7, LONGEST] + [5] * 5, np.int32)
    real = np.arange(LONGEST) < lengths[:, None]
    for name, ids in found.items():
        if name.startswith("history_") and ids.shape.rank > 1:
            wide = real.reshape(real.shape + (1,) * (ids.shape.rank - 2))
            found[name] = tf.where(wide, tf.maximum(ids, 2), 0)
    return found | {"history_length": tf.constant(lengths)}


def is_user(name: str, model: ServingModel) -> bool:
    profile = {f.name for f in model.embedder.schema.group("profile")}
    return name in profile or name.startswith("history_")


class Asked:
    """A model's answers to rows of some users, with ``owner`` and with the users repeated.

    Candidates are those of the batch's first rows.
    """

    def __init__(self, model: ServingModel, batch: dict) -> None:
        self.model, self.batch = model, batch
        # One user stays [1].
        self.answer = tf.function(model.answer, reduce_retracing=True, autograph=False)

    def named(self, users: list[int], owner: list[int]) -> dict:
        return self.answer(self.of(users, owner) | {"owner": tf.constant(owner, tf.int32)})

    def repeated(self, users: list[int], owner: list[int]) -> dict:
        """Without a graph, whose tracing would take longer than all the rest."""
        return self.model.answer(self.of_rows(users, owner))

    def of_rows(self, users: list[int], owner: list[int]) -> dict:
        rows, given = tf.constant(owner, tf.int32), self.of(users, owner)
        return {k: tf.gather(v, rows) if is_user(k, self.model) else v for k, v in given.items()}

    def of(self, users: list[int], owner: list[int]) -> dict:
        return {
            k: tf.gather(v, users) if is_user(k, self.model) else v[: len(owner)]
            for k, v in self.batch.items()
        }


def assert_close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_candidates_of_one_user(name, batch):
    model = toys.serving(VARIANTS[name])
    asked, seen = Asked(model, batch), []
    for user in range(4) if model.reads_history else [1]:
        for count in (9, 1) if user == 2 else (9,):
            given = [user], [0] * count
            found = asked.named(*given)
            assert_close(found, asked.repeated(*given))
            seen.append(found["logit"].numpy())
    assert all(np.unique(logits).size > 1 for logits in seen if logits.size > 1)
    if model.reads_history:
        assert np.abs(seen[0] - seen[-1]).max() > 1e-5
    assert asked.named([2], [])["probability"].shape == (0,)


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_of_several_users(name, batch):
    asked = Asked(toys.serving(VARIANTS[name]), batch)
    for owner in OWNERS:
        users = [0, 1, 2, 3][: max(owner) + 1]
        found = asked.named(users, owner)
        assert_close(found, asked.repeated(users, owner))
        moved = [*owner[1:], owner[0]]
        changed = np.array(owner) != np.array(moved)
        other = asked.named(users, moved)["logit"].numpy()
        assert (other != found["logit"].numpy())[changed].all()


SEVERAL = [h for h in HEADS if serves(f"{h}, two", "din")]


@pytest.mark.parametrize(
    ("head", "owner"), [(h, [0] * 5) for h in SEVERAL] + [("shared_bottom", [1, 0, 1, 1, 0])]
)
def test_under_a_head_of_two_labels(head, owner, batch):
    model = toys.serving(BACKBONES["din"], toys.TWO, head=HEADS[head])
    asked, given = Asked(model, batch), ([2, 3][: max(owner) + 1], owner)
    found = asked.named(*given)
    assert len(found) == (7 if model.uncertain else 5)
    assert_close(found, asked.repeated(*given))


@pytest.mark.parametrize("name", VARIANTS)
def test_training_on_requests_is_training_on_rows(name, batch):
    """Logits and the gradient of every variable, of rows that share users and of repeated users."""
    model, owner = toys.serving(VARIANTS[name]), [0, 0, 0, 1, 2, 2, 3, 3, 3]
    asked, users = Asked(model, batch), [2, 0, 3, 1]
    shared = asked.of(users, owner) | {"owner": tf.constant(owner, tf.int32)}
    repeated = asked.of_rows(users, owner)
    weights = tf.constant(np.random.default_rng(0).normal(size=9), tf.float32)

    def dense(gradients):
        named = zip(model.trainable_variables, gradients, strict=True)
        return {
            f"{i} {v.name}": tf.convert_to_tensor(g)
            for i, (v, g) in enumerate(named)
            if g is not None
        }

    def learned(given):
        with tf.GradientTape() as tape:
            with without_dropout():
                logits = model.forward(given, training=True).outputs.logits
            total = tf.reduce_sum(weights * next(iter(logits.values())))
            x = next(iter(model.forward(given, training=True).spaces.values()))
            total += touched_l2(x, history=model.reads_history)
        return total, dense(tape.gradient(total, model.trainable_variables))

    (total, found), (expected, others) = learned(shared), learned(repeated)
    np.testing.assert_allclose(total, expected, rtol=2e-5)
    assert found.keys() == others.keys()
    for name, one in found.items():
        np.testing.assert_allclose(one, others[name], rtol=2e-4, atol=2e-5, err_msg=name)
    assert any(np.abs(g).max() > 1e-3 for g in found.values())


def tasks_of(backbone: str) -> dict:
    names = [n for n in AUXILIARIES if parts.fits(backbone, [n])]
    return parts.auxiliaries([n for n in names if labelled("single, one", [n])])


def losses(model: ServingModel, given: dict, names: dict, schema=toys.SCHEMA) -> dict:
    """Of a training model of its own, whose draws begin anew."""
    found = toys.training(model, names, schema).losses_of(toys.tensors(given))
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("name", ["din", "dbpman", "dmr"])
def test_requests_of_one_row_have_the_losses_of_rows(name):
    model, given = toys.serving(BACKBONES[name]), toys.batch(9, LONGEST)
    alone = tasks_of(name)
    expected = losses(model, given, alone)
    found = losses(model, given | {"owner": np.arange(9, dtype=np.int32)}, alone)
    assert set(alone) <= found.keys()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


OF_HISTORIES = ("nip", "last_behaviour", "next_behaviour")


def test_a_history_counts_once_for_all_rows_of_its_request():
    """The losses of histories alone are those of a batch that has each of them once."""
    model = toys.serving(BACKBONES["dmr"])
    alone = {k: v for k, v in tasks_of("dmr").items() if k in OF_HISTORIES}
    assert len(alone) == len(OF_HISTORIES)
    users, owner = toys.batch(4, LONGEST), np.array([0, 0, 0, 1, 2, 2, 3], np.int32)
    of_user = {k for k in users if is_user(k, model)}
    shared = {k: v if k in of_user else v[owner] for k, v in users.items()} | {"owner": owner}
    expected, found = losses(model, users, alone), losses(model, shared, alone)
    assert {k: found[k] for k in alone} == pytest.approx({k: expected[k] for k in alone}, rel=1e-4)


@pytest.mark.parametrize("name", ["din", "dbpman"])
def test_every_task_learns_of_requests(name):
    model, owner = toys.serving(BACKBONES[name]), np.array([0, 0, 1, 1, 1, 2, 3, 3, 3], np.int32)
    given = toys.batch(9, LONGEST)
    of_user = {k for k in given if is_user(k, model)}
    shared = {k: v[:4] if k in of_user else v for k, v in given.items()} | {"owner": owner}
    training = toys.training(model, tasks_of(name))
    with tf.GradientTape() as tape:
        found = training.losses_of(toys.tensors(shared))
    gradients = tape.gradient(found["total"], training.trainable_variables)
    assert all(np.isfinite(float(v)) for v in found.values())
    assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients if g is not None)
