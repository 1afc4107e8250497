"""Behaviour features that join the vector of a behaviour."""

from dataclasses import replace

import numpy as np
import pytest

from at4ctr.errors import InputError
from at4ctr.layers.shape import Shape
from at4ctr.model.build import Plan, serving_model
from tests.contract.parts import BACKBONES
from tests.model import toys

TYPED = replace(toys.SCHEMA, history=(*toys.SCHEMA.history, "type"))


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_that_reads_the_history_reads_the_types_in_it(name):
    rows = {t.name: toys.ROWS[t.name] for t in TYPED.tables}
    model = serving_model(TYPED, rows, Plan.of(BACKBONES[name], toys.EMBEDDING, seed=3))
    toys.jitter(model)
    arrays = toys.batch(9, 20, lengths=[20] * 9)
    plain = model(toys.tensors(arrays))["click"].numpy()
    assert np.isfinite(plain).all()
    other = {**arrays, "history_type": arrays["history_type"] % 5 + 1}
    changed = model(toys.tensors(other))["click"].numpy() != plain
    assert changed.all() == changed.any() == model.reads_history
    toys.assert_each_alone(model, arrays)


def test_the_shape_has_the_types_and_stays_alike():
    plain, typed = Shape.of(toys.SCHEMA, toys.D), Shape.of(TYPED, toys.D)
    assert typed.history == plain.history + toys.D
    assert typed.alike
    assert typed.item == plain.item
    assert [f.name for f in TYPED.behaviour] == ["item", "category", "tags", "type"]


def test_behaviour_features_stand_after_item_features():
    for history in (("type", "item"), ("type",), ("item", "type", "category")):
        with pytest.raises(InputError, match="item features first"):
            replace(toys.SCHEMA, history=history)
    with pytest.raises(InputError, match="history feature"):
        replace(toys.SCHEMA, history=("item", "position"))
