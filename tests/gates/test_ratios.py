"""PCOC's tests against a bootstrap of users, Poisson's law and a literal step-down procedure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from at4ctr.gates.ratios import Sums, p_value
from at4ctr.metrics.intervals import holm


def sums(clicks, new, old=None):
    clicks, new = (np.asarray(v, float) for v in (clicks, new))
    return Sums(np.ones(clicks.size), clicks, new, None if old is None else np.asarray(old, float))


def drawn(rng, users, factor, other=None, spread=0.5):
    """Users of a gamma rate each, and models that are off by a factor, overall."""
    rate = rng.gamma(1 / spread, spread, users)
    old = None if other is None else other * rate * rng.lognormal(-0.02, 0.2, users)
    return sums(rng.poisson(rate), factor * rate * rng.lognormal(-0.02, 0.2, users), old)


def test_sums_are_of_the_masks_rows_by_user():
    owner = np.array([0, 2, 2, 1, 2, 0])
    mask = np.array([True, True, True, False, True, True])
    clicked, new = np.array([1.0, 0, 1, 1, 1, 0]), np.array([0.1, 0.2, 0.3, 9, 0.4, 0.5])
    found = Sums.of(mask, owner, clicked, new, 2 * new)
    assert found.rows.tolist() == [2, 3]
    assert found.clicks.tolist() == [1, 2]
    assert found.new == pytest.approx([0.6, 0.9])
    assert found.old == pytest.approx([1.2, 1.8])
    assert found.users == 2
    assert found.pcoc == pytest.approx(0.5)
    assert found.before == pytest.approx(1.0)
    assert found.alone().before is None


def test_the_interval_is_that_of_a_bootstrap_of_users():
    rng = np.random.default_rng(0)
    found = drawn(rng, 2000, 1.1)
    pick = rng.integers(0, 2000, (4000, 2000))
    ratios = found.new[pick].sum(1) / found.clicks[pick].sum(1)
    assert found.interval == pytest.approx(np.quantile(ratios, (0.025, 0.975)), rel=0.006)


@pytest.mark.parametrize(("factor", "other"), [(1.05, None), (0.95, None), (1.12, 1.0666),
                                               (0.86, 0.9053), (1.12, 0.9375)])  # fmt: skip
def test_at_the_edge_of_the_hypothesis_it_is_refused_no_more_often_than_said(factor, other):
    """At ln R = ± ln 1.05, or so much further from 0 than the incumbent's."""
    rng = np.random.default_rng(1)
    p = np.array([p_value(drawn(rng, 400, factor, other), 0.05) for _ in range(1500)])
    assert (p <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1500)
    assert (p <= 0.5).mean() > 0.05, "nor is it never refused"


@pytest.mark.parametrize(("factor", "other", "refused"), [(1.3, None, True), (0.7, None, True),
                                                          (1.3, 1.0, True), (0.7, 1.3, False),
                                                          (1.3, 1.3, False), (1.3, 0.7, False),
                                                          (1.0, 1.3, False)])  # fmt: skip
def test_what_is_far_off_is_refused_unless_the_other_is(factor, other, refused):
    found = drawn(np.random.default_rng(2), 3000, factor, other)
    assert (p_value(found, 0.05) < 0.001) == refused


def test_edges():
    none, some = np.zeros(40), np.full(40, 0.5)
    assert p_value(sums(none, some), 0.0) == pytest.approx(np.exp(-20))  # Poisson's
    assert p_value(sums(none, some, some), 0.05) == 1
    assert p_value(sums(none, some, 0.1 * some), 0.05) == pytest.approx(np.exp(-20 / 1.05))
    assert p_value(sums(some, none), 0.05) == 0
    assert p_value(sums(some, none, none), 0.05) == 1
    assert p_value(sums(some, some, none), 0.05) == 1
    assert p_value(sums([3.0], [30.0]), 0.05) == 1
    assert sums([3.0], [30.0]).interval is None
    assert sums(none, some).pcoc is None
    same = drawn(np.random.default_rng(3), 500, 1.5)
    assert p_value(sums(same.clicks, same.new, same.new), 0.0) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_is_the_literal_step_down(p, level):
    """The smallest against level / n, the next against level / (n - 1), until one is above."""
    named = {str(number): value for number, value in enumerate(p)}
    refused = set[str]()
    for place, name in enumerate(sorted(named, key=lambda k: named[k])):
        if (len(p) - place) * named[name] > level:
            break
        refused.add(name)
    adjusted = zip(named, holm(list(named.values())), strict=True)
    assert {name for name, value in adjusted if value <= level} == refused
