"""What the version of two labels, numbers and weights is, and what it is asked."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from at4ctr.calibration import Platt
from at4ctr.data.reader import Reader
from export.lookup import Front
from export.requests import requests

T = 5
RATE, FITTED = 0.2, Platt(0.8, -0.3)
ENCODINGS = {"age": "log", "price": "buckets", "rate": "mns"}
FLOATS = {*ENCODINGS, "weights_tags"}
PROFILE = {"user", "age"}  # what one user has in a batch, beside the history
OUTPUTS = {
    "probability_click",
    "probability_conversion",
    "probability_click_and_conversion",
    "logit_click",
    "logit_conversion",
}


def rows_of(store, split="test", rows=50):
    """Raw requests and the reader's batch of the same rows."""
    reader = Reader(store, split, batch_size=rows, history=T, shuffle=False, block_users=1)
    batch = reader.batch(0, 0)
    return requests(Front(store, T), store, split, rows), batch


def answers(model, batch):
    found = model.answer({k: tf.constant(v) for k, v in batch.items()})
    return {k: v.numpy() for k, v in found.items()}


def ask(signatures, raw, name="serving_default"):
    specs = signatures[name].structured_input_signature[1]
    given = {k: tf.constant(v, specs[k].dtype) for k, v in raw.items()}
    return {k: v.numpy() for k, v in signatures[name](**given).items()}


def of_user(key):
    """Whether an entry of a batch is of the user."""
    return key in PROFILE or "history" in key


def same(found, expected, close=1e-5):
    assert found.keys() == expected.keys() == OUTPUTS
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=close, atol=close, err_msg=name)
