"""Cosines of user and item: the vectors against plain numpy, the samples against the store."""

from __future__ import annotations

import numpy as np
import pytest

from at4ctr.analysis import relevance
from at4ctr.backbones import din
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Schema, Table
from tests.data import toy_store
from tests.model import toys

BATCH = toys.batch(9, 6, lengths=[1, 6, 3, 2, 5, 1, 4, 6, 2])


@pytest.fixture(scope="module")
def model():
    made = toys.serving(din.Config())
    toys.jitter(made)
    return made


def row(tables, feature: str, ids) -> np.ndarray:
    """A feature's vector; tags are the mean of the real ones."""
    if feature != "tags":
        return tables[feature][ids]
    real = [tables["tag"][i] for i in ids if i]
    return np.mean(real, axis=0) if real else np.zeros(toys.D)


def cosine(a, b) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_cosines_are_those_of_a_literal_loop(model):
    tables = toys.tables(model)
    names = ("item", "category", "tags")
    users, items = [], []
    for b in range(9):
        steps = range(BATCH["history_length"][b])
        past = [np.concatenate([row(tables, n, BATCH[f"history_{n}"][b, t]) for n in names])
                for t in steps]  # fmt: skip
        users.append(np.mean(past, axis=0))
        items.append(np.concatenate([row(tables, n, BATCH[n][b]) for n in names]))
    found = relevance.relevance(model, BATCH)
    known = [cosine(u, i) for u, i in zip(users, items, strict=True)]
    np.testing.assert_allclose(found.paired, known, rtol=1e-5, atol=1e-6)
    for b in range(9):
        others = [cosine(users[b], items[j]) for j in range(9) if j != b]
        assert min(abs(found.shuffled[b] - o) for o in others) < 1e-5


def test_padding_changes_nothing(model):
    steps = np.arange(6)
    padded = dict(BATCH)
    for name in ("item", "category"):
        key = f"history_{name}"
        padded[key] = np.where(steps < BATCH["history_length"][:, None], BATCH[key], 3)
    a, b = (relevance.relevance(model, x) for x in (BATCH, padded))
    np.testing.assert_array_equal(a.paired, b.paired)


def test_summary_by_hand():
    found = relevance.Relevance(np.array([0.5, 0.1, 0.3]), np.array([0.1, 0.1, 0.4])).summary
    assert found["gap"] == pytest.approx(0.1)
    assert found["nearer"] == pytest.approx(0.5)


@pytest.mark.parametrize("samples", [5, 10_000])
def test_chosen_rows_are_positive_and_have_a_history(tmp_path, samples):
    toy = toy_store.make(tmp_path / "store", users=300, truth=True)

    def chosen(size: int) -> dict[str, np.ndarray]:
        reader = Reader(Store.open(toy.path), "test", batch_size=size, history=5, shuffle=False,
                        truth=True)  # fmt: skip
        return relevance.positives(reader, samples)

    found = chosen(64)
    fit = {r["truth_click"] for _, r in toy.rows("test") if r["label"] and r["cut"]}
    assert len(found["label_click"]) == min(samples, len(fit))
    assert set(found["truth_click"].tolist()) <= fit
    np.testing.assert_array_equal(found["truth_click"], chosen(64)["truth_click"])


def test_different_features_are_refused():
    schema = Schema(
        tables=(Table("user"), Table("item"), Table("category")),
        features=(
            Feature("user", "profile", "user"),
            Feature("item", "item", "item"),
            Feature("category", "item", "category"),
        ),
        history=("category",),
    )
    made = toys.serving(din.Config(), schema)
    with pytest.raises(InputError, match="expected equal widths"):
        relevance.relevance(made, toys.batch(3, 2, lengths=[1, 2, 1], schema=schema))
