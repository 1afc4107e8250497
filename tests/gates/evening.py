"""Simulated evenings: rows of users with their own taste, true probabilities, two models."""

from __future__ import annotations

import numpy as np

from at4ctr.gates.model import Scores


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def logit(p):
    return np.log(p) - np.log1p(-p)


def evening(seed, users=800, rows=25, rate=-2.0, noise=(0.3, 0.6), parts=(0.7, 0.7)):
    """Labels, users and the logits of models whose errors have these standard deviations.

    Both a user's logit and a model's error have a part that all rows of the user share, so rows
    of a user are alike. parts: of an error, that of the user and that of the row.
    """
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(users), rng.poisson(rows, users) + 1)
    z = rate + 0.8 * rng.standard_normal(users)[owner] + rng.standard_normal(owner.size)
    labels = rng.random(owner.size) < sigmoid(z)
    models = [
        z
        + sd * parts[0] * rng.standard_normal(users)[owner]
        + sd * parts[1] * rng.standard_normal(owner.size)
        - 0.5 * sd**2
        for sd in noise
    ]
    return labels.astype(np.float32), owner, models


def scores(labels, owner, logits):
    return Scores(labels, logits, owner)


def halves(labels):
    """Two families of segments for any rows."""
    first = np.arange(labels.size) % 2 == 0
    return {"all": {"all": np.ones(labels.size, bool)}, "row": {"even": first, "odd": ~first}}
