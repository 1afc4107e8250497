"""Every backbone: rows that name their user by ``owner`` are answered as rows that repeat them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.model.serving import ServingModel
from tests.contract.parts import BACKBONES, HEADS, serves
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
        self.answer = tf.function(model.answer, reduce_retracing=True)  # one user stays [1]

    def named(self, users: list[int], owner: list[int]) -> dict:
        return self.answer(self._of(users, owner) | {"owner": tf.constant(owner, tf.int32)})

    def repeated(self, users: list[int], owner: list[int]) -> dict:
        """Without a graph, whose tracing would take longer than all the rest."""
        rows, given = tf.constant(owner, tf.int32), self._of(users, owner)
        return self.model.answer(
            {k: tf.gather(v, rows) if is_user(k, self.model) else v for k, v in given.items()}
        )

    def _of(self, users: list[int], owner: list[int]) -> dict:
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
    assert model.backbone.shares
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


def test_of_a_backbone_that_does_not_know_it_the_user_is_repeated(batch, monkeypatch):
    model = toys.serving(BACKBONES["din"])
    monkeypatch.setattr(type(model.backbone), "shares", False)
    seen, forward = [], model.forward

    def noted(given, **named):
        seen.append(("owner" in given, given["user"].shape[0]))
        return forward(given, **named)

    monkeypatch.setattr(model, "forward", noted)
    asked, given = Asked(model, batch), ([3], [0] * 9)
    found, expected = asked.named(*given), asked.repeated(*given)
    np.testing.assert_array_equal(found["logit"], expected["logit"])
    assert seen == [(False, 9), (False, 9)]
