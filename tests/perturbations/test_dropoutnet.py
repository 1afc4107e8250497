"""DropoutNet: the share, the rows, and what it leaves alone."""

import numpy as np
import pytest

from at4ctr.backbones import din
from at4ctr.errors import InputError
from at4ctr.model.build import Plan, serving_model, training_model
from at4ctr.perturbations import dropoutnet
from at4ctr.schema import UNKNOWN
from tests.model import toys


def test_the_share_of_rows_without_an_id_is_the_rate():
    made = dropoutnet.Config(user=0.3, item=0.05).build(toys.SCHEMA, 7)
    arrays = toys.batch(20_000, 2)
    for name in ("user", "item"):
        arrays[name] = np.maximum(arrays[name], UNKNOWN + 1)
    found = made(toys.tensors(arrays))
    assert set(found) == set(arrays)
    for name in arrays:
        if name not in ("user", "item"):
            np.testing.assert_array_equal(found[name], arrays[name])
    user, item = (found[n].numpy() == UNKNOWN for n in ("user", "item"))
    assert not (user & item).any()
    for out, rate in ((user, 0.3), (item, 0.05)):
        assert abs(out.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / 20_000)
    np.testing.assert_array_equal(found["user"].numpy()[~user], arrays["user"][~user])
    again = made(toys.tensors(arrays))
    assert ((again["user"].numpy() == UNKNOWN) != user).any()


def test_it_acts_in_training_alone_and_leaves_every_weight_s_start():
    rows = {t.name: toys.ROWS[t.name] for t in toys.SCHEMA.tables}
    plain = Plan.of(din.Config(), toys.EMBEDDING, seed=3)
    plan = Plan.of(din.Config(), toys.EMBEDDING, seed=3,
                   perturbations={"dropoutnet": dropoutnet.Config(user=0.9)})  # fmt: skip
    arrays = toys.tensors(toys.batch(9, 6))
    losses, answers, starts = [], [], []
    for p in (plain, plan):
        serving = serving_model(toys.SCHEMA, rows, p)
        losses.append(float(training_model(serving, toys.SCHEMA, p).losses_of(arrays)["click"]))
        answers.append(serving.answer(arrays)["logit"].numpy())
        starts.append([v.numpy() for v in serving.variables])
    assert losses[0] != losses[1]
    np.testing.assert_array_equal(*answers)
    for one, other in zip(*starts, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("setting", [{"user": 1.0}, {"item": -0.1}, {"user": float("nan")}])
def test_a_share_that_leaves_nothing_is_refused(setting):
    with pytest.raises(InputError, match=f"dropoutnet.{next(iter(setting))}"):
        dropoutnet.Config(**setting)


def test_rows_that_would_lose_both_are_refused():
    with pytest.raises(InputError, match=r"dropoutnet.user is 0.7 and dropoutnet.item is 0.4"):
        dropoutnet.Config(user=0.7, item=0.4)
