"""Every backbone with every auxiliary: no two weights start from the same draws."""

from itertools import combinations

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import deepfm, din, fm, widedeep
from at4ctr.layers.embedder import Config as Embedding
from at4ctr.model.build import ExpertConfig, Plan, serving_model
from tests.contract.parts import (
    AUXILIARIES,
    BACKBONES,
    CALLED,
    HEADS,
    SCHEMAS,
    auxiliaries,
    fits,
    labels_for,
    pairs_labels,
    serves,
)
from tests.model import toys

POOLED = (fm, widedeep, deepfm)
CASES = BACKBONES | {
    f"{m.__name__.split('.')[-1]}_pooled": m.Config(pool_history=True) for m in POOLED
}
LEADING = 8


def leading(variable: tf.Variable) -> np.ndarray:
    """The first values of a variable that was drawn, at length 1; none of one that was not."""
    values = variable.numpy().ravel()
    if variable.dtype != tf.float32 or len(np.unique(values)) < 3:
        return np.zeros(0)
    return values.astype(np.float64)[:LEADING]


def clashes(variables: list[tf.Variable]) -> list[tuple[str, str]]:
    """Pairs whose leading values are proportional: one draw serves both."""
    drawn = [(v.name, leading(v)) for v in variables]
    drawn = [(name, values) for name, values in drawn if len(values) >= 3]
    found = []
    for (one, a), (two, b) in combinations(drawn, 2):
        n = min(len(a), len(b))
        a, b = a[:n] / np.linalg.norm(a[:n]), b[:n] / np.linalg.norm(b[:n])
        if 1.0 - abs(a @ b) < 1e-6:
            found.append((one, two))
    return found


@pytest.mark.parametrize("backbone", CASES)
def test_no_two_weights_start_from_the_same_draws(backbone):
    """With all auxiliaries at once."""
    plain = backbone.removesuffix("_pooled")
    names = [name for name in AUXILIARIES if fits(plain, [name])]
    settings = labels_for(names if serves("shared_bottom, two", plain) else ())
    names = [n for n in names if settings["schema"] is SCHEMAS["two"] or not pairs_labels(n)]
    serving = toys.serving(CASES[backbone], **settings)
    model = toys.training(serving, auxiliaries(names), settings["schema"])
    assert len(model.auxiliaries) == len(names) >= 6
    assert clashes(model.variables) == []


@pytest.mark.parametrize("head", [head for head in CALLED if serves(head, "din")])
def test_no_two_weights_of_a_head_start_from_the_same_draws(head):
    """Beside two experts, each in a space of its own."""
    name, labels = head.split(", ")
    plan = Plan(
        {"din": ExpertConfig(din.Config()), "deepfm": ExpertConfig(deepfm.Config(), "other")},
        HEADS[name],
        {"main": toys.EMBEDDING, "other": Embedding(dimension=5, scale=0.5)},
    )
    model = serving_model(SCHEMAS[labels], toys.ROWS, plan)
    assert clashes(model.variables) == []


@pytest.mark.parametrize("head", ["ame", "stem"])
def test_nor_do_those_of_a_head_of_several_spaces(head):
    """With one backbone in all of them."""
    spaces = {"click": Embedding(4, 0.5), "conversion": Embedding(5, 0.5), "shared": toys.EMBEDDING}
    experts = {name: ExpertConfig(deepfm.Config(), name) for name in spaces}
    model = serving_model(toys.TWO, toys.ROWS, Plan(experts, HEADS[head], spaces))
    assert clashes(model.variables) == []


def test_a_clash_is_seen():
    def drawn(seed: int, *shape: int) -> tf.Variable:
        return tf.Variable(
            tf.random.stateless_uniform(shape, [seed, 0], -1.0, 1.0), name=f"v{seed}"
        )

    assert clashes([drawn(1, 4, 3), drawn(2, 4, 3), tf.Variable(tf.zeros([9]))]) == []
    scaled = tf.Variable(-0.3 * drawn(1, 5, 2), name="scaled")
    assert clashes([drawn(1, 4, 3), drawn(2, 3), scaled]) == [("v1:0", "scaled:0")]
