"""Structure weights: they learn on validation rows alone, and a resumed search is the same."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from at4ctr import warm
from at4ctr.backbones import widedeep
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.heads import autoheri
from tests.conftest import slow
from tests.data import toy_store
from tests.model import job

SEARCHED: dict[str, Any] = {
    "backbone": widedeep.Config(),
    "head": autoheri.Config(units=(6, 4), every=3, rate=0.05),
    "auxiliaries": {},
    "config": replace(job.FIT, evaluations=1),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    path = tmp_path_factory.mktemp("store") / "rich"
    toy_store.make(path, users=60, rich=True)
    return Store.open(path)


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory) -> dict:
    made: Any = job.trainer(store, tmp_path_factory.mktemp("undisturbed"), **SEARCHED)
    made.train()
    return job.fingerprint(made)


def test_a_search_that_was_interrupted_goes_on_bit_for_bit(store, tmp_path, undisturbed):
    """Between two steps of the search, and in the second epoch."""
    assert any("structure" in name for name in undisturbed["variables"])
    last = undisturbed["cursor"][2]
    for stop in (4, last - 1):
        made: Any = job.trainer(store, tmp_path, **SEARCHED)
        step = made._step

        def until(batch, step=step, made=made, stop=stop):
            if made.cursor.step == stop:
                raise InterruptedError
            return step(batch)

        made._step = until
        with pytest.raises(InterruptedError):
            made.train()
    made = job.trainer(store, tmp_path, **SEARCHED)
    made.train()
    assert job.fingerprint(made) == undisturbed


def test_only_its_steps_move_the_structure_and_they_move_nothing_else(store, tmp_path):
    made: Any = job.trainer(store, tmp_path, **SEARCHED)
    made.resume()
    (structure,) = made.model.serving.head.searched
    assert all(v is not structure for v in made.model.trainable_variables)
    before = structure.numpy()
    made._step(next(made.feed(0, 0)))
    np.testing.assert_array_equal(structure, before)
    others = [v.numpy() for v in made.model.trainable_variables]
    assert made.search.after(1) == made.search.after(2) == {}
    assert np.isfinite(made.search.after(3)["structure"])
    assert (structure.numpy() != before).any()
    for v, other in zip(made.model.trainable_variables, others, strict=True):
        np.testing.assert_array_equal(v, other)


def test_a_step_is_adams_on_the_loss_of_validation_rows(store, tmp_path):
    """The first step of Adam is rate · sign(gradient), found here by differences."""
    made: Any = job.trainer(store, tmp_path, **SEARCHED)
    made.search.build()
    (structure,) = made.model.serving.head.searched
    reader = made.search.feed._readers[0]
    assert reader.split == "validation"
    batch = {k: tf.constant(v) for k, v in reader.batch(0, 0).items()}
    start, slopes = structure.numpy(), np.zeros(structure.shape)
    for at in itertools.product(*map(range, slopes.shape)):
        values = []
        for sign in (1, -1):
            moved = start.copy()
            moved[at] += sign * 0.1
            structure.assign(moved)
            values.append(float(made.model.label_loss(batch)))
        slopes[at] = values[0] - values[1]
    structure.assign(start)
    made.search.after(3)
    clear = np.abs(slopes) > 1e-5
    assert clear.any()
    np.testing.assert_allclose(
        (structure - start)[clear], -0.05 * np.sign(slopes)[clear], rtol=0.02
    )


def test_batches_follow_each_other_over_the_passes(store, tmp_path):
    made: Any = job.trainer(store, tmp_path, **SEARCHED)
    search = made.search
    seen: list[np.ndarray] = []

    def noted(batch: Any) -> float:
        seen.append(batch["user_index"].numpy())
        return 0.0

    search._step = noted
    steps = search.feed.steps(0)
    for step in range(3, 3 * (steps + 2) + 1, 3):
        search.after(step)
    reader = search.feed._readers[0]
    places = [(0, i) for i in range(steps)] + [(1, 0), (1, 1)]
    assert len(seen) == len(places)
    for users, (epoch, index) in zip(seen, places, strict=True):
        np.testing.assert_array_equal(users, reader.batch(epoch, index)["user_index"])


def test_the_best_weights_have_their_structure(store, tmp_path):
    found: list[np.ndarray] = []
    values = iter([0.9, 0.5])

    def validate():
        found.append(made.model.serving.head.searched[0].numpy())
        return {"click": {"auc": next(values), "logloss": 0.5}}

    made: Any = job.trainer(store, tmp_path, **SEARCHED, validate=validate)
    made.train()
    assert (found[0] != found[1]).any()
    np.testing.assert_array_equal(made.model.serving.head.searched[0], found[0])


@slow
def test_a_warm_start_goes_on_with_the_searchs_moments(store, tmp_path):
    rising = itertools.count()
    old: Any = job.trainer(store, tmp_path / "old", **SEARCHED,
                           validate=lambda: {"click": {"auc": 0.5 + 0.01 * next(rising),
                                                       "logloss": 0.5}})  # fmt: skip
    old.train()
    moments = [v.numpy() for v in old.search.optimizer.variables]
    assert any(m.any() for m in moments)
    unbuilt: Any = job.trainer(store, tmp_path / "unused", **SEARCHED)
    ids = {t.name: pa.chunked_array([store.vocabulary_path(t.name).read_text().split()])
           for t in store.schema.tables if not t.buckets}  # fmt: skip
    parent = warm.Parent(unbuilt.model, unbuilt.optimizer, tmp_path / "old" / "checkpoints", ids)
    night: Any = job.trainer(store, tmp_path / "night", **SEARCHED)
    warm.start(night.model, night.optimizer, ids, parent, night.search)
    for had, has in zip(moments, night.search.optimizer.variables, strict=True):
        np.testing.assert_array_equal(has, had)
    (structure,), (before,) = (x.model.serving.head.searched for x in (night, old))
    np.testing.assert_array_equal(structure, before)


def test_without_validation_rows_it_is_refused(store, tmp_path):
    with pytest.raises(InputError, match="head autoheri learns its structure weights") as raised:
        job.trainer(store, tmp_path, **SEARCHED, validate=None)
    assert "\n" not in str(raised.value)
