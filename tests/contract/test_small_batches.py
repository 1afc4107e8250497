"""Every auxiliary task on batches of no row and of one row."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.auxiliaries import nip, uim
from tests.contract import parts
from tests.contract.parts import AUXILIARIES, BACKBONES, fits
from tests.model import toys

CASES: dict[str, Any] = {
    **AUXILIARIES,
    "uim masked": uim.Config(mask_duplicates=True),
    "nip masked": nip.Config(mask_duplicates=True, block=4),
}


def gradients(config, arrays) -> tuple[dict[str, float], list[np.ndarray]]:
    """All losses, and the gradients of their sum at all variables."""
    name = next(n for n, c in AUXILIARIES.items() if type(c) is type(config))
    backbone = next(b for b in ("din", *BACKBONES) if fits(b, [name]))
    settings = parts.labels_for([name])
    serving = toys.serving(BACKBONES[backbone], **settings)
    model = toys.training(serving, {name: config}, settings["schema"], l2=0.1)
    toys.jitter(model)
    with tf.GradientTape() as tape:
        losses = model.losses_of(toys.tensors(arrays))
    found = tape.gradient(losses["total"], model.trainable_variables)
    dense = [tf.convert_to_tensor(g).numpy() for g in found if g is not None]
    return {name: float(value) for name, value in losses.items()}, dense


@pytest.mark.parametrize("name", CASES)
def test_a_batch_without_rows_has_losses_of_0_and_gradients_of_0(name):
    schema = parts.labels_for([name.split()[0]])["schema"]
    arrays = toys.take(toys.batch(9, 20, schema=schema), slice(0, 0))
    losses, found = gradients(CASES[name], arrays)
    assert set(losses.values()) == {0.0}
    assert all(not g.any() for g in found)


@pytest.mark.parametrize("row", [0, 1, 2])  # with 0, 1 and 20 behaviours
@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_one_row_is_finite(name, label, row):
    schema = parts.labels_for([name.split()[0]])["schema"]
    arrays = toys.take(toys.batch(9, 20, schema=schema), slice(row, row + 1))
    arrays |= {
        x.column: np.full(1, label - bool(i), np.float32) for i, x in enumerate(schema.labels)
    }
    losses, found = gradients(CASES[name], arrays)
    assert np.isfinite(list(losses.values())).all()
    assert all(np.isfinite(g).all() for g in found)


def test_every_task_is_here():
    assert set(AUXILIARIES) <= set(CASES)
    assert all(dataclasses.is_dataclass(c) for c in CASES.values())
