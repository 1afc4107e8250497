"""Contradictory pairs: those that one space ranks near and another one far."""

import numpy as np
import pytest

from at4ctr.analysis import entanglement
from at4ctr.analysis.entanglement import Distances, contradictory
from at4ctr.layers.embedder import Embedder
from tests.model import toys


def test_distances_are_those_of_the_id_vectors():
    embedder = Embedder(toys.SCHEMA, toys.ROWS, toys.EMBEDDING, 1)
    rows = {"user": np.array([2, 5, 7], np.int32), "item": np.array([3, 3, 9], np.int32)}
    found = entanglement.distances(embedder, rows)
    users, items = (toys.double(embedder.tables[n])[rows[n]] for n in ("user", "item"))
    for k, (u, v) in enumerate(zip(users, items, strict=True)):
        assert found.euclidean[k] == pytest.approx(np.sqrt(sum((u - v) ** 2)), rel=1e-6)
        cosine = (u @ v) / np.sqrt((u @ u) * (v @ v))
        assert found.cosine[k] == pytest.approx(cosine, rel=1e-6)


def test_pairs_are_near_in_one_space_and_far_in_the_other():
    first = np.arange(8.0)
    second = np.array([7.0, 1, 2, 3, 4, 5, 6, 0])  # the first and last pairs change places
    spaces = [Distances(x, np.zeros(8)) for x in (first, 100 * second)]
    pairs = contradictory(spaces[0], spaces[1])
    np.testing.assert_array_equal(np.flatnonzero(pairs.near_first), [0])
    np.testing.assert_array_equal(np.flatnonzero(pairs.near_second), [7])
    assert pairs.order(spaces[0]) == pytest.approx(7 / 8)
    assert pairs.order(spaces[1]) == pytest.approx(-7 / 8)
    neither = Distances(np.ones(8), np.zeros(8))
    assert pairs.order(neither) == 0.0


def test_equal_spaces_contradict_nowhere():
    one = Distances(np.arange(8.0), np.zeros(8))
    pairs = contradictory(one, one)
    assert not pairs.near_first.any()
    assert pairs.order(one) is None
