"""Every backbone: rows that name their user by ``owner`` are answered as rows that repeat them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.heads import shared_bottom
from at4ctr.model.serving import ServingModel
from tests.contract.parts import BACKBONES
from tests.model import toys

LONGEST = 20
VARIANTS = {f"{name}, default": config for name, config in BACKBONES.items()} | {
    f"{name}, {field}": dataclasses.replace(config, **{field: True})
    for name, config in BACKBONES.items()
    for field in ("pool_history", "follow_score")
    if hasattr(config, field)
}
OWNERS = {"several": [2, 0, 3, 3, 1, 2, 2, 0, 1], "falling": [3, 3, 2, 2, 2, 1, 0], "two": [0, 1]}


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


def both(model: ServingModel, batch: dict, users: list[int], owner: list[int]) -> list[dict]:
    """The answers to rows of some users, with ``owner`` and with the users repeated.

    Candidates are those of the batch's first rows.
    """
    rows_of = tf.constant(owner, tf.int32)
    found = {
        k: tf.gather(v, users) if is_user(k, model) else v[: len(owner)] for k, v in batch.items()
    }
    rows = {k: tf.gather(v, rows_of) if is_user(k, model) else v for k, v in found.items()}
    answer = tf.function(model.answer, reduce_retracing=True)
    return [answer(found | {"owner": rows_of}), answer(rows)]


def assert_close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_candidates_of_one_user(name, batch):
    model = toys.serving(VARIANTS[name])
    assert model.backbone.shares
    users = range(4) if model.reads_history else [1]
    seen = []
    for user in users:
        for count in (9, 1) if user == 2 else (9,):
            found, expected = both(model, batch, [user], [0] * count)
            assert_close(found, expected)
            seen.append(found["logit"].numpy())
    assert all(np.unique(logits).size > 1 for logits in seen if logits.size > 1)
    if model.reads_history:
        assert np.abs(seen[0] - seen[-1]).max() > 1e-5
    none, _ = both(model, batch, [2], [])
    assert none["probability"].shape == (0,)


@pytest.mark.parametrize("owner", OWNERS.values(), ids=OWNERS)
@pytest.mark.parametrize("name", VARIANTS)
def test_rows_of_several_users(name, owner, batch):
    model = toys.serving(VARIANTS[name])
    users = [0, 1, 2, 3][: max(owner) + 1]
    found, expected = both(model, batch, users, owner)
    assert_close(found, expected)
    moved = [*owner[1:], owner[0]]
    other, _ = both(model, batch, users, moved)
    changed = np.array(owner) != np.array(moved)
    assert (other["logit"].numpy() != found["logit"].numpy())[changed].all()


@pytest.mark.parametrize("owner", [[0] * 5, [1, 0, 1, 1, 0]], ids=["one", "two"])
def test_under_a_head_of_two_labels(owner, batch):
    model = toys.serving(BACKBONES["din"], toys.TWO, head=shared_bottom.Config())
    found, expected = both(model, batch, [2, 3][: max(owner) + 1], owner)
    assert len(found) == 5
    assert_close(found, expected)


def test_of_a_backbone_that_does_not_know_it_the_user_is_repeated(batch, monkeypatch):
    model = toys.serving(BACKBONES["din"])
    monkeypatch.setattr(type(model.backbone), "shares", False)
    asked, forward = [], model.forward

    def noted(given, **named):
        asked.append(("owner" in given, given["user"].shape[0]))
        return forward(given, **named)

    monkeypatch.setattr(model, "forward", noted)
    found, expected = both(model, batch, [3], [0] * 9)
    np.testing.assert_array_equal(found["logit"], expected["logit"])
    assert asked == [(False, 9), (False, 9)]
