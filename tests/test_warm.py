"""A warm start: what is copied by id, what starts fresh, what moves, what is refused."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from at4ctr import checkpoints, warm
from at4ctr.auxiliaries import cl4ctr, uim
from at4ctr.backbones import deepfm, fm
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.fit import Fit
from at4ctr.heads import shared_bottom, single
from at4ctr.schema import Schema
from at4ctr.tasks import Task
from tests.conftest import slow
from tests.data import toy_store
from tests.model import job, toys

FIT = Fit(batch_size=16, epochs=1, learning_rate=0.01, evaluations=1)
UIM: dict[str, Any] = {"uim": uim.Config()}
WIDE: dict[str, Any] = {"backbone": deepfm.Config(), "head": single.Config(units=(6,))}
NIGHT: dict[str, Any] = {**WIDE, "auxiliaries": UIM, "config": FIT, "validate": None}


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Store, Store]:
    """Of the parent, and of a night that met 20 more users and 15 more items."""
    made = []
    for users, items in ((60, 50), (80, 65)):
        path = tmp_path_factory.mktemp("store") / "toy"
        toy_store.make(path, users=users, items=items)
        made.append(Store.open(path))
    return made[0], made[1]


@pytest.fixture(scope="module")
def trained(stores, tmp_path_factory) -> Path:
    """The checkpoints of a finished parent."""
    folder = tmp_path_factory.mktemp("parent")
    job.trainer(stores[0], folder, **NIGHT).train()
    return folder / "checkpoints"


def ids(store: Store) -> dict[str, pa.ChunkedArray]:
    return {t.name: pa.chunked_array([store.vocabulary_path(t.name).read_text().split()])
            for t in store.schema.tables if not t.buckets}  # fmt: skip


def parent_of(store: Store, saved: Path, **options: Any) -> warm.Parent:
    made = job.trainer(store, saved.parent / "unused", **{**NIGHT, **options})
    return warm.Parent(made.model, made.optimizer, saved, ids(store))


def begun(store: Store, folder: Path, parent: warm.Parent, **options: Any) -> Any:
    made = job.trainer(store, folder, **{**NIGHT, **options})
    return made, warm.start(made.model, made.optimizer, ids(store), parent)


def values(model: Any) -> dict[str, np.ndarray]:
    return {path: v.numpy() for path, v in warm._walk(model)}


def slots(optimizer: Any, model: Any) -> dict[str, list[np.ndarray]]:
    paths = {v.ref(): path for path, v in warm._walk(model)}
    return {paths[v.ref()]: [s[k].numpy() for s in (optimizer._momentums, optimizer._velocities)]
            for k, v in enumerate(model.trainable_variables)}  # fmt: skip


def test_rows_and_slots_go_by_id_and_new_ones_start_fresh(stores, trained, tmp_path):
    fresh = values(job.trainer(stores[1], tmp_path / "fresh", **NIGHT).model)
    parent = parent_of(stores[0], trained)
    made, done = begun(stores[1], tmp_path, parent)
    old, new = values(parent.model), values(made.model)
    before, after = slots(parent.optimizer, parent.model), slots(made.optimizer, made.model)
    assert {v.ref() for v in made.model.variables} == {v.ref() for _, v in warm._walk(made.model)}
    grown = {p for p in new if new[p].shape != old[p].shape}
    tables = {p.split("/")[-1] for p in grown if warm.TABLE.match(p)}
    assert tables == {"user", "item", "linear"}
    for path, array in new.items():
        rows = len(old[path]) if path in grown else None
        np.testing.assert_array_equal(array[:rows] if rows else array, old[path])
        if rows:
            np.testing.assert_array_equal(array[rows:], fresh[path][rows:])
    for path, pair in after.items():
        for had, has in zip(before[path], pair, strict=True):
            rows = len(had) if path in grown else None
            np.testing.assert_array_equal(has[:rows] if rows else has, had)
            assert not (has[rows:].any() if rows else False)
    assert any(v.any() for pair in before.values() for v in pair)
    assert any((fresh[p][: len(old[p])] != old[p]).any() for p in grown)
    steps = int(parent.optimizer.iterations)
    assert (done.step, int(made.optimizer.iterations)) == (steps, steps)
    assert steps > 0
    assert {t: n for t, n in done.new.items() if n} == {"user": 20, "item": 15}
    assert (done.fresh, done.moved, done.path.name) == ((), 0.0, f"step-{steps:09d}")


@pytest.mark.parametrize("optimizer", ["lazy_adam", pytest.param("rowwise_adagrad", marks=slow)])
def test_ids_that_stay_keep_rows_and_slots_where_others_leave(stores, trained, tmp_path, optimizer):
    """Of 60 users and 50 items a night keeps 45 and 40, and meets 35 and 25."""
    options = {"config": dataclasses.replace(FIT, optimizer=optimizer)}
    if optimizer != FIT.optimizer:
        job.trainer(stores[0], tmp_path / "parent", **{**NIGHT, **options}).train()
        trained = tmp_path / "parent" / "checkpoints"
    parent = parent_of(stores[0], trained, **options)
    given, rng = ids(stores[1]), np.random.default_rng(3)
    kept = {"user": np.sort(rng.choice(60, 45, replace=False)),
            "item": np.sort(rng.choice(50, 40, replace=False))}  # fmt: skip
    for table, size in (("user", 80), ("item", 65)):
        old = parent.vocabularies[table].to_pylist()
        new = [f"new {k}" for k in range(size - len(kept[table]))]
        given[table] = pa.chunked_array([[old[k] for k in kept[table]] + new])
    made = job.trainer(stores[1], tmp_path / "night", **{**NIGHT, **options})
    fresh, back = values(made.model), pa.chunked_array([given["item"].to_pylist()[::-1]])
    for wrong, expires, said in (
        (given, False, r"'user' does not begin with the parent's 60 ids; "),
        ({**given, "item": back}, True, r"'item' does not begin with those of the parent's 50 ids"),
    ):
        with pytest.raises(InputError, match=said):
            warm.start(made.model, made.optimizer, wrong, parent, expires=expires)
    done = warm.start(made.model, made.optimizer, given, parent, expires=True)
    old, now = values(parent.model), values(made.model)
    before, after = slots(parent.optimizer, parent.model), slots(made.optimizer, made.model)
    moved = 0
    for path, array in now.items():
        match = warm.TABLE.match(path)
        if not match or match[1] not in kept:
            np.testing.assert_array_equal(array, old[path])
            continue
        rows, moved = np.append([0, 1], kept[match[1]] + 2), moved + 1
        np.testing.assert_array_equal(array[: len(rows)], old[path][rows])
        np.testing.assert_array_equal(array[len(rows) :], fresh[path][len(rows) :])
        for had, has in zip(before[path], after[path], strict=True):
            if len(had) == 1:  # what row-wise Adagrad does not use
                continue
            assert had.any()
            np.testing.assert_array_equal(has[: len(rows)], had[rows])
            assert not has[len(rows) :].any()
    assert moved >= 3
    assert {t: n for t, n in done.new.items() if n} == {"user": 35, "item": 25}
    assert {t: n for t, n in done.gone.items() if n} == {"user": 15, "item": 10}


@pytest.mark.parametrize("optimizer", ["lazy_adam", "rowwise_adagrad"])
def test_the_next_step_is_the_one_of_a_training_that_was_not_broken(
    stores, trained, tmp_path, optimizer
):
    store, own = stores[0], {"config": dataclasses.replace(FIT, optimizer=optimizer)}
    if optimizer != FIT.optimizer:
        job.trainer(store, tmp_path / "parent", **{**NIGHT, **own}).train()
        trained = tmp_path / "parent" / "checkpoints"
    shutil.copytree(trained, tmp_path / "on" / "checkpoints")
    more = dataclasses.replace(own["config"], epochs=2)
    unbroken = job.trainer(store, tmp_path / "on", **{**NIGHT, "config": more})
    assert unbroken.resume()
    made, _ = begun(store, tmp_path / "night", parent_of(store, trained, **own), **own)
    for trainer in (unbroken, made):
        batches = trainer.feed(1, 0)
        for _ in range(3):
            trainer._step(next(batches))
    prints = [job.fingerprint(t)["variables"] for t in (unbroken, made)]
    assert prints[0] == prints[1]


def test_a_nights_schedule_begins_anew_and_its_optimizers_step_goes_on(stores, trained, tmp_path):
    config = dataclasses.replace(FIT, warmup_steps=2, decay="cosine", log_every=1)
    made, done = begun(stores[1], tmp_path, parent_of(stores[0], trained), config=config)
    steps = made.feed.steps(0)
    rates = [p["learning_rate"] for p in made.train().curves]
    t = np.arange(steps)
    p = np.maximum(t - 2, 0) / (steps - 2)
    expected = FIT.learning_rate * np.minimum(1, (t + 1) / 2) * (1 + np.cos(np.pi * p)) / 2
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)
    assert int(made.optimizer.iterations) == done.step + steps
    parent = parent_of(stores[1], tmp_path / "checkpoints", config=config)  # and so the next one
    child, next_done = begun(stores[1], tmp_path / "next", parent, config=config)
    assert next_done.step == done.step + steps
    assert float(child.optimizer._learning_rate(child.optimizer.iterations)) == rates[0]


def test_the_served_probability_stays_when_w_changes(stores, trained, tmp_path):
    parent = parent_of(stores[0], trained, negative_rate=0.7)
    made, done = begun(stores[0], tmp_path, parent, negative_rate=0.2)
    assert done.moved == pytest.approx(math.log(0.7 / 0.2), abs=1e-6)
    batch = next(made.feed(0, 0))
    before, after = (m.serving.answer(batch) for m in (parent.model, made.model))
    np.testing.assert_allclose(after["probability"], before["probability"], rtol=0, atol=1e-6)
    moved = after["logit"].numpy() - before["logit"].numpy()
    np.testing.assert_allclose(moved, math.log(0.7 / 0.2), atol=1e-5)
    assert float(made.model.serving.shift) == pytest.approx(math.log(0.2))


def test_of_several_labels_the_sampled_ones_bias_moves_alone():
    model = toys.serving(deepfm.Config(), toys.TWO, head=shared_bottom.Config())
    arrays = toys.tensors(toys.batch(5, 4))
    before = model(arrays)
    assert warm._move_bias(model, 0.75) == 0.75
    after = model(arrays)
    np.testing.assert_allclose(after["click"] - before["click"], 0.75, atol=1e-6)
    np.testing.assert_array_equal(after["conversion"], before["conversion"])


def test_with_a_derived_label_no_constant_moves_its_logit():
    tasks = {k: Task() for k in ("click", "conversion", "click_without_conversion")}
    old, same, new = (
        toys.serving(
            deepfm.Config(), toys.TWO, head=shared_bottom.Config(), tasks=tasks, negative_rate=w
        )
        for w in (0.5, 0.5, 0.25)
    )
    warm._demand_same_rate(same, old)
    with pytest.raises(InputError, match=r"negative_rate was 0\.5 and is 0\.25, and no constant"):
        warm._demand_same_rate(new, old)


def test_a_nights_own_checkpoint_comes_before_the_parents(stores, trained, tmp_path):
    made, _ = begun(stores[1], tmp_path, parent_of(stores[0], trained))
    made.train()
    again, _ = begun(stores[1], tmp_path, parent_of(stores[0], trained))
    assert again.resume()
    assert job.fingerprint(again)["variables"] == job.fingerprint(made)["variables"]


def test_tasks_come_and_go_and_generators_are_the_nights_own(stores, trained, tmp_path):
    drawing = {"cl4ctr": cl4ctr.Config(weight=0.1, layers=1, hidden=4)}
    parent = parent_of(stores[0], trained)
    made, done = begun(stores[0], tmp_path / "new", parent, auxiliaries=drawing)
    fresh = values(job.trainer(stores[0], tmp_path, **{**NIGHT, "auxiliaries": drawing}).model)
    assert done.fresh == ("cl4ctr",)
    old, new = values(parent.model), values(made.model)
    for path, array in new.items():
        expected = fresh if path.startswith(warm.AUXILIARIES) else old
        np.testing.assert_array_equal(array, expected[path])
    before, after = slots(parent.optimizer, parent.model), slots(made.optimizer, made.model)
    for path, pair in after.items():
        for k, slot in enumerate(pair):
            np.testing.assert_array_equal(slot, before[path][k] if path in before else 0 * slot)
    made.train()  # and its generator has moved on
    grand = parent_of(stores[0], tmp_path / "new" / "checkpoints", auxiliaries=drawing)
    child, done = begun(stores[0], tmp_path / "child", grand, auxiliaries=drawing)
    state = "auxiliaries/cl4ctr/draws/generator/_state_var"
    assert done.fresh == ()
    assert (values(grand.model)[state] != fresh[state]).any()
    np.testing.assert_array_equal(values(child.model)[state], fresh[state])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbone": fm.Config()},
         r"the experts changed from deepfm \(DeepFM in main\) to fm \(FM in main\)"),
        ({"head": shared_bottom.Config()}, r"the head changed from Single to SharedBottom"),
        ({"head": single.Config(units=(5,))}, r"variable serving/\S* was of shape .* and is"),
        ({"head": single.Config(units=(6, 4))}, r"variable \S* (is new|was)"),
    ],
)  # fmt: skip
def test_another_model_is_refused(stores, trained, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        begun(stores[1], tmp_path, parent_of(stores[0], trained), **options)


def test_another_schema_and_ids_that_moved_are_refused(stores, trained, tmp_path):
    parent = parent_of(stores[0], trained)
    made = job.trainer(stores[1], tmp_path, **NIGHT)
    serving, schema, given = made.model.serving, stores[1].schema, ids(stores[1])
    tables = [dataclasses.replace(t, buckets=9) if t.name == "city" else t for t in schema.tables]
    serving.embedder.schema = Schema(tuple(tables), schema.features, schema.history)
    with pytest.raises(InputError, match=r"tables city buckets was 7 and is 9; expected"):
        warm.start(made.model, made.optimizer, given, parent)
    serving.embedder.schema = schema
    moved = pa.chunked_array([given["item"].to_pylist()[::-1]])
    with pytest.raises(InputError, match=r"vocabulary 'item' does not begin with the parent's 50"):
        warm.start(made.model, made.optimizer, {**given, "item": moved}, parent)
    with pytest.raises(InputError, match=r"table 'user' of the night has 82 rows and 60 ids"):
        warm.start(made.model, made.optimizer, {**given, "user": ids(stores[0])["user"]}, parent)


def test_the_parents_state_is_that_of_the_weights_it_serves(stores, trained, tmp_path):
    with pytest.raises(InputError, match="best is missing or damaged; expected a finished run"):
        warm.served(tmp_path)
    newest = checkpoints.newest(trained)
    assert newest
    assert warm.served(trained) == newest[0]
    scores = iter([0.6, 0.9, 0.7])
    made = job.trainer(
        stores[0],
        tmp_path,
        **WIDE,
        auxiliaries={},
        config=dataclasses.replace(FIT, epochs=3),
        validate=lambda: {"click": {"auc": next(scores), "logloss": 0.5}},
    )
    cursor = made.train()
    saved = tmp_path / "checkpoints"
    assert cursor.step > cursor.best_step
    assert warm.served(saved).name == f"step-{cursor.best_step:09d}"
    parent = parent_of(stores[0], saved, auxiliaries={})
    child, _ = begun(stores[0], tmp_path / "child", parent, auxiliaries={})
    for path, array in values(child.model).items():
        np.testing.assert_array_equal(array, values(made.model)[path])
    shutil.rmtree(warm.served(saved))
    with pytest.raises(InputError, match="the parent serves the weights of that step"):
        warm.served(saved)
