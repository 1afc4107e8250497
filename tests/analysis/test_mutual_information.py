"""Mutual information of behaviours and responses, against the log itself in plain loops."""

import numpy as np
import pytest

from at4ctr.analysis import mutual_information as mi
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from tests.data import toy_store
from tests.model import toys
from tests.oracles import information as oracle

T, P = 12, 5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    toy = toy_store.make(tmp_path_factory.mktemp("store") / "s", users=150, rich=True)
    reader = Reader(Store.open(toy.path), "train", batch_size=64, history=T, drop_remainder=False)
    return toy, mi.sample(reader, "click", 10_000, "category", P)


def rows_of(toy):
    """(candidate's category, label, [(category, age) from the last behaviour back])."""
    category = toy.ids["category"]
    for user, row in toy.rows("train"):
        past = range(max(row["cut"] - min(T, P), 0), row["cut"])
        seen = [
            (int(category[user["behaviour_item"][i]]),
             row["timestamp"] - user["behaviour_timestamp"][i])
            for i in past
        ]  # fmt: skip
        yield int(category[row["item"]]), row["label_click"], seen[::-1]


def test_values_are_those_of_the_definition(made):
    toy, found = made
    rows = list(rows_of(toy))
    assert len(rows) == len(found.labels)
    target = mi.target_of(found)
    categories = mi.categories_of(found, target, most=3)
    assert categories[0] == target
    values = mi.correlation(found, target, categories)
    own = [(label, seen) for of, label, seen in rows if of == target]
    labels = [label for label, _ in own]
    bounds = [0, *mi.BOUNDS, np.inf]
    assert values.intervals is not None
    for i, category in enumerate(categories):
        for p in range(P):
            xs = [len(seen) > p and seen[p][0] == category for _, seen in own]
            expected = oracle.mutual_information(xs, labels)
            assert values.positions[i, p] == pytest.approx(expected, abs=1e-9)
        for k in range(len(bounds) - 1):
            xs = [any(c == category and bounds[k] <= age < bounds[k + 1] for c, age in seen)
                  for _, seen in own]  # fmt: skip
            expected = oracle.mutual_information(xs, labels)
            assert values.intervals[i, k] == pytest.approx(expected, abs=1e-9)


def test_of_all_candidates_a_behaviour_has_the_category_of_its_own(made):
    toy, found = made
    rows = list(rows_of(toy))
    values = mi.same_category(found).positions[0]
    for p in range(P):
        xs = [len(seen) > p and seen[p][0] == of for of, _, seen in rows]
        expected = oracle.mutual_information(xs, [label for _, label, _ in rows])
        assert values[p] == pytest.approx(expected, abs=1e-9)


def test_a_behaviour_that_decides_the_response_says_all_of_it():
    labels = np.array([0, 1] * 50)
    categories = np.stack([2 + labels, np.full(100, 2)], 1)
    found = mi.Sample(np.full(100, 2), labels, categories, None)
    values = mi.correlation(found, 2, [2, 3])
    np.testing.assert_allclose(values.positions, [[np.log(2), 0], [np.log(2), 0]], atol=1e-9)
    assert values.intervals is None


def test_refuses_what_has_no_category_or_no_two_classes():
    with pytest.raises(InputError, match="no feature; expected an item feature"):
        mi.category_of(toys.PLAIN)
    assert mi.category_of(toys.SCHEMA) == "category"
    none = mi.Sample(np.full(4, 2), np.zeros(4, int), np.zeros((4, P), int), None)
    with pytest.raises(InputError, match="no category of candidates has both classes among 4"):
        mi.target_of(none)
