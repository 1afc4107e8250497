"""Distances and what is usual, against scipy and simple laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon

from at4ctr.gates.history import DAY, Usual, jensen_shannon, largest_shift, shares
from at4ctr.gates.statistics import Stats

COUNTS = arrays(np.int64, 8, elements=st.integers(0, 50)).filter(lambda c: c.sum() > 0)


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_the_divergence_is_scipys_and_bounded(a, b):
    p, q = shares(a), shares(b)
    found = jensen_shannon(p, q)
    assert found == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-9)
    assert 0 <= found <= 1 + 1e-12
    assert found == pytest.approx(jensen_shannon(q, p), abs=1e-12)
    assert 0 <= largest_shift(p, q) <= 1


def test_disjoint_shares_are_one_bit_apart():
    assert jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(1)


def usual(number, deviations=5.0):
    days = tuple(Stats("days", k * DAY, (k + 1) * DAY, 1.0) for k in range(number))
    return Usual(days, 7, deviations), Stats("days", number * DAY, (number + 1) * DAY, 1.0)


def test_a_weekly_pattern_is_usual():
    past, today = usual(14)
    week = [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0]
    found = past.level(week * 2, today, 1.0, 0.0, 0.1)  # the weekday of day 0
    assert not found.beyond
    past, today = usual(12)  # today is one of the two
    assert not past.level((week * 2)[:12], today, 2.0, 0.0, 0.1).beyond
    assert past.level((week * 2)[:12], today, 3.0, 0.0, 0.1).beyond


@pytest.mark.parametrize("users", [300, 3000])
def test_sampling_alone_is_never_odd(users):
    """500 quiet chains of multinomial days: far fewer than 1 % are beyond what is allowed."""
    rng = np.random.default_rng(0)
    past, today = usual(7)
    law = shares(rng.integers(1, 100, 64))
    beyond = {"level": 0, "divergence": 0, "largest": 0}
    for _ in range(500):
        days = [shares(c) for c in rng.multinomial(users, law, 8)]
        for name, largest in (("divergence", False), ("largest", True)):
            found = past.shape(days[:-1], days[-1], users, 0.0, largest)
            beyond[name] += found.beyond
        rates = rng.binomial(users, 0.1, 8) / users
        noise = float(np.sqrt(0.09 / users))
        beyond["level"] += past.level(list(rates[:-1]), today, rates[-1], noise, 0.0).beyond
    assert max(beyond.values()) <= 2, beyond


def test_a_moved_share_is_odd():
    rng = np.random.default_rng(0)
    past, _ = usual(7)
    law = shares(rng.integers(1, 100, 64))
    days = [shares(c) for c in rng.multinomial(3000, law, 7)]
    moved = 0.7 * law + 0.3 * np.eye(64)[3]
    for largest in (False, True):
        assert past.shape(days, moved, 3000, 0.0, largest).beyond


def test_a_day_of_few_users_like_one_before_is_not_odd():
    """Few users would let it lie far from the others; to lie nearer is no drift."""
    rng = np.random.default_rng(0)
    past, _ = usual(7)
    days = [shares(c) for c in rng.multinomial(30_000, np.full(64, 1 / 64), 7)]
    found = past.shape(days, days[3], 50, 0.0, largest=False)
    assert found.usual > found.value + found.allowed
    assert not found.beyond
