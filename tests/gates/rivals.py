"""Simulated evenings of two calibrated models whose AUCs, and whose likeness, are given.

A row's true logit is t = rate + a part of its user + a part of its own. A model sees t through
noise, which has a part that both models share and one of its own, and answers with the click
probability given what it sees: E σ(t), for normal t about σ(m / √(1 + πv/8)) where m and v are mean
and variance of t given what is seen (MacKay 1992).
"""

from functools import cache

import numpy as np

from at4ctr.metrics import auc
from tests.gates.evening import sigmoid
from tests.gates.pairs import within

USER, ROW = 0.8**2, 1.0  # variances of a true logit's two parts
RATE, ROWS = -2.4, 12  # of true logits; mean rows of a user less one
CLICKS = 0.1316  # share of rows with a click
SEGMENTS = (2, 2, 3, 5, 8)  # families of so many segments, half of them of users
SAMPLE = 15_000  # users, by which noise is chosen


def rows(rng, users):
    """Users and true logits of an evening's rows."""
    owner = np.repeat(np.arange(users), rng.poisson(ROWS, users) + 1)
    t = RATE + np.sqrt(USER) * rng.standard_normal(users)[owner]
    return owner, t + np.sqrt(ROW) * rng.standard_normal(owner.size)


def noise(rng, owner, variance, by_user):
    """Of rows: so much of its variance is of the user."""
    users = owner.max() + 1
    common, own_part = rng.standard_normal(users)[owner], rng.standard_normal(owner.size)
    return np.sqrt(variance) * (np.sqrt(by_user) * common + np.sqrt(1 - by_user) * own_part)


def answered(seen, variance):
    """The logits of a model that sees true logits through noise of this variance."""
    kept = (USER + ROW) / (USER + ROW + variance)
    return (RATE + kept * (seen - RATE)) / np.sqrt(1 + np.pi * kept * variance / 8)


@cache
def variance(area):
    """Of the noise of a model of this AUC."""
    rng = np.random.default_rng(20_000)
    _, t = rows(rng, SAMPLE)
    clicked = rng.random(t.size) < sigmoid(t)
    unit = rng.standard_normal(t.size)
    low, high = 0.0, 20.0
    for _ in range(30):
        middle = (low + high) / 2
        better = auc(clicked, t + np.sqrt(middle) * unit) > area
        low, high = (middle, high) if better else (low, middle)
    return low


@cache
def own(area, likeness):
    """Of that noise, what two such models do not share, if this is the correlation of their scores
    within clicked rows and within the others."""
    rng = np.random.default_rng(20_001)
    _, t = rows(rng, SAMPLE)
    clicked = rng.random(t.size) < sigmoid(t)
    return (1 - likeness) * (within(t, clicked).var() + variance(area))


def evening(seed, clicks, area, likeness, loss=0.0, by_user=0.1):
    """Labels, users, logits of candidate and incumbent, and segments, of about so many clicks.

    area: the incumbent's AUC. loss: by how much the candidate's is lower.
    """
    rng = np.random.default_rng([seed, clicks])
    users = round(clicks / (ROWS + 1) / CLICKS)
    owner, t = rows(rng, users)
    labels = (rng.random(t.size) < sigmoid(t)).astype(np.float32)
    mine = own(area, likeness)
    both = variance(area) - mine
    if both < 0:
        raise ValueError(
            f"two models of AUC {area} are more alike than {likeness}; expected more, or less noise"
        )
    common = t + noise(rng, owner, both, by_user)
    each = (variance(area - loss) - both, mine)
    logits = [answered(common + noise(rng, owner, v, by_user), both + v) for v in each]
    return labels, owner, logits, segments(rng, owner)


def segments(rng, owner):
    """Family -> segment -> rows; of users where the number of segments is even, else of rows."""
    users = owner.max() + 1
    found = {}
    for number, count in enumerate(SEGMENTS):
        share = rng.dirichlet(np.full(count, 3.0))
        size = owner.size if count % 2 else users
        part = rng.choice(count, size, p=share)
        part = part if count % 2 else part[owner]
        found[f"family {number}"] = {str(k): part == k for k in range(count)}
    return found
