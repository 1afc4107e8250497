"""DeepMCP from a batch of ids to its two losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.auxiliaries import deepmcp
from at4ctr.backbones import widedeep
from at4ctr.errors import InputError
from tests.model import toys
from tests.oracles import deepmcp as oracle

CONFIG = deepmcp.Config(units=(7, 5), matching=2.0, correlation=0.5)
APART = replace(toys.SCHEMA, history=("item",))
ANONYMOUS = replace(
    toys.PLAIN, features=tuple(replace(f, serve=f.group == "item") for f in toys.PLAIN.features)
)


def build(config: deepmcp.Config, schema: Any = toys.SCHEMA) -> tuple[Any, Any]:
    model = toys.training(toys.serving(widedeep.Config(), schema), {"deepmcp": config}, schema)
    toys.jitter(model)
    return model, model.auxiliaries["deepmcp"]


def replayed(task: Any, arrays: Any, state: tf.Tensor) -> list[list[int]]:
    """The negatives of the draw that the task made from this state of its generator."""
    task.draws.generator.state.assign(state)
    clicked = np.flatnonzero((arrays["label_click"] == 1) & (arrays["history_length"] > 0))
    size = len(arrays["label_click"])
    rows = task.others(tf.constant(clicked, tf.int32), tf.constant(size)).numpy().tolist()
    return rows if size > 1 else [[] for _ in rows]


def compared(config: deepmcp.Config, arrays: Any, schema: Any = toys.SCHEMA) -> float:
    """The loss, after it was found equal to the oracle's."""
    model, task = build(config, schema)
    samples = toys.samples(model.serving, arrays)
    items, pasts = [s.item for s in samples], [s.history for s in samples]
    correlates = config.use_history and config.correlation > 0
    state = tf.identity(task.draws.generator.state) if correlates else None
    found = float(task.loss(toys.view(model, arrays)))
    expected = 0.0
    if config.matching:
        users = [s.profile for s in samples]
        if config.use_history:
            means = [p.mean(0) if len(p) else np.zeros(p.shape[1]) for p in pasts]
            users = [np.concatenate(pair) for pair in zip(users, means, strict=True)]
        towers = toys.layers(task.user), toys.layers(task.item)
        expected += config.matching * oracle.matching(users, items, arrays["label_click"], *towers)
    if correlates:
        drawn = replayed(task, arrays, state)
        layers = toys.layers(task.correlation)
        part = oracle.correlation(items, pasts, arrays["label_click"], drawn, layers)
        expected += config.correlation * part
    assert found == pytest.approx(expected, rel=2e-5, abs=1e-7)
    return found


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, matching=0.0),
        replace(CONFIG, correlation=0.0),
        replace(CONFIG, use_history=False),
        replace(CONFIG, units=(6,), negatives=1),
        deepmcp.Config(),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_oracle(config: deepmcp.Config, seed: int) -> None:
    assert compared(config, toys.batch(11, 6, seed=seed)) > 0


def test_equals_the_oracle_where_users_and_items_repeat() -> None:
    arrays = toys.batch(11, 6, seed=4)
    arrays["user"][:6], arrays["item"][3:9], arrays["history_item"][4:8, :2] = 4, 9, 9
    assert compared(CONFIG, arrays) > 0


@pytest.mark.parametrize("lengths", [[0] * 8, [1] * 8, [6, 0, 0, 0, 0, 0, 0, 0]])
def test_equals_the_oracle_with_empty_histories(lengths: list[int]) -> None:
    assert np.isfinite(compared(CONFIG, toys.batch(8, 6, lengths=lengths)))


@pytest.mark.parametrize("length", [0, 4])
@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_has_no_negatives(length: int, label: int) -> None:
    arrays = toys.batch(1, 6, lengths=[length])
    arrays["label_click"][:] = label
    assert np.isfinite(compared(CONFIG, arrays))


def test_a_schema_without_history_works_without_use_history() -> None:
    config = replace(CONFIG, use_history=False)
    assert compared(config, toys.batch(6, schema=toys.PLAIN), toys.PLAIN) > 0


def test_matching_works_where_behaviours_are_described_otherwise() -> None:
    arrays = toys.batch(8, 5, schema=APART)
    assert compared(replace(CONFIG, correlation=0.0), arrays, APART) > 0


def test_the_parts_add_up() -> None:
    model, task = build(CONFIG)
    arrays = toys.batch(9, 5)
    view, state = toys.view(model, arrays), tf.identity(task.draws.generator.state)
    whole, labels = float(task.loss(view)), view.labels
    task.draws.generator.state.assign(state)
    parts = (float(f(view.embedded, labels)) for f in (task.match, task.correlate))
    assert whole == pytest.approx(sum(w * p for w, p in zip((2.0, 0.5), parts, strict=True)))


def test_blind_towers_guess_at_even_odds() -> None:
    model, task = build(CONFIG)
    for v in task.trainable_variables:
        v.assign(tf.zeros_like(v))
    expected = 2.0 * np.log(2) + 0.5 * 5 * np.log(2)  # one context and four negatives
    found = task.loss(toys.view(model, toys.batch(9, 5, lengths=[3] * 9)))
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_negatives_are_any_other_row_alike_and_never_the_row_itself(size: int) -> None:
    _, task = build(replace(CONFIG, negatives=3))
    rows = np.repeat(np.arange(size), 2000).astype(np.int32)
    drawn = task.others(tf.constant(rows), tf.constant(size)).numpy()
    assert drawn.shape == (2000 * size, 3)
    for row in range(size):
        shares = np.bincount(drawn[rows == row].ravel(), minlength=size) / 6000
        assert shares[row] == 0
        np.testing.assert_allclose(np.delete(shares, row), 1 / (size - 1), atol=0.04)
    again = task.others(tf.constant(rows), tf.constant(size)).numpy()
    assert size == 2 or (again != drawn).any()


def gradients(model: Any, task: Any, arrays: Any) -> tuple[float, dict, list]:
    with tf.GradientTape() as tape:
        loss = task.loss(toys.view(model, arrays))
    tables = model.serving.embedder.tables
    found = tape.gradient(loss, [tables, task.trainable_variables])
    dense = {n: tf.convert_to_tensor(g).numpy() for n, g in found[0].items() if g is not None}
    return float(loss), dense, [g.numpy() for g in found[1]]


def cases() -> dict[str, dict[str, np.ndarray]]:
    made = {
        "usual": toys.batch(9, 5),
        "one": toys.batch(1, 5, lengths=[3]),
        "one_new_user": toys.batch(1, 5, lengths=[0]),
        "no_positives": toys.batch(9, 5),
        "new_users": toys.batch(6, 5, lengths=[0] * 6),
        "one_user": toys.batch(9, 5),
    }
    made["no_positives"]["label_click"][:], made["one_user"]["user"][:] = 0, 5
    return made


@pytest.mark.parametrize("name", cases())
def test_the_loss_and_its_gradients_are_finite(name: str) -> None:
    model, task = build(CONFIG)
    loss, tables, own = gradients(model, task, cases()[name])
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in [*tables.values(), *own])


@pytest.mark.parametrize("name", ["no_positives", "new_users"])
def test_correlation_is_zero_without_a_clicked_row_that_has_a_past(name: str) -> None:
    model, task = build(replace(CONFIG, matching=0.0))
    loss, tables, own = gradients(model, task, cases()[name])
    assert loss == 0.0
    assert not any(g.any() for g in [*tables.values(), *own])


@pytest.mark.parametrize(
    ("config", "reached"),
    [
        (CONFIG, {"user", "city", "item", "category", "tag"}),
        (replace(CONFIG, use_history=False), {"user", "city", "item", "category", "tag"}),
        (replace(CONFIG, matching=0.0), {"item", "category", "tag"}),
    ],
)
def test_gradients_reach_the_shared_tables_and_every_tower(
    config: deepmcp.Config, reached: set[str]
) -> None:
    model, task = build(config)
    _, tables, own = gradients(model, task, toys.batch(9, 5))
    assert {name for name, g in tables.items() if g.any()} == reached
    assert all(g.any() for g in own)


@pytest.mark.parametrize("use_history", [False, True])
def test_without_use_history_nothing_of_the_past_is_read(use_history: bool) -> None:
    losses = []
    for seed in (0, 8):
        model, task = build(replace(CONFIG, use_history=use_history))
        other = toys.batch(9, 5, seed=seed)
        mixed = {k: other[k] if k.startswith("history") else v for k, v in toys.batch(9, 5).items()}
        losses.append(float(task.loss(toys.view(model, mixed))))
    assert (losses[0] != losses[1]) is use_history


def test_padding_never_changes_the_loss() -> None:
    arrays = toys.batch(8, 5, lengths=[5, 0, 1, 3, 4, 4, 2, 5])
    dirty = toys.dirty(arrays)
    losses = []
    for batch in (arrays, dirty):
        model, task = build(CONFIG)
        losses.append(float(task.loss(toys.view(model, batch))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_context_is_the_latest_behaviour() -> None:
    arrays, config = toys.batch(8, 5, lengths=[5] * 8), replace(CONFIG, matching=0.0)
    losses = []
    for step in (None, 0, 4):
        changed = {k: v.copy() for k, v in arrays.items()}
        if step is not None:
            changed["history_item"][:, step] = 1 + changed["history_item"][:, step] % 30
        model, task = build(config)
        losses.append(float(task.loss(toys.view(model, changed))))
    assert losses[1] == losses[0]
    assert losses[2] != losses[0]


@pytest.mark.parametrize(
    ("config", "schema", "message"),
    [
        (CONFIG, toys.PLAIN, "deepmcp with use_history needs a history"),
        (CONFIG, APART, r"set auxiliaries\.deepmcp\.correlation=0"),
        (replace(CONFIG, use_history=False), ANONYMOUS, "needs a user"),
        (replace(CONFIG, use_history=False, matching=0.0), toys.SCHEMA, "nothing to learn"),
        (replace(CONFIG, correlation=0.0, matching=0.0), toys.SCHEMA, "nothing to learn"),
    ],
)
def test_what_makes_no_sense_is_refused(config: Any, schema: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build(config, schema)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("matching", -1.0), ("matching", float("nan")), ("correlation", -0.1), ("negatives", 0)],
)
def test_bad_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"deepmcp\.{field} is"):
        replace(CONFIG, **{field: value})  # type: ignore[arg-type]
