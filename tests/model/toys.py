"""Small schemas, batches and models, and a model's variables as the oracles want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from at4ctr.heads import single
from at4ctr.layers import embedder
from at4ctr.layers.mlp import MLP, Dense, Dice, PReLU
from at4ctr.model.build import Plan, serving_model, training_model
from at4ctr.schema import Feature, Label, Schema, Table
from tests.oracles import models as oracle

SCHEMA = Schema(
    tables=tuple(Table(n) for n in ("user", "city", "item", "category", "tag", "type", "position")),
    features=(
        Feature("user", "profile", "user"),
        Feature("city", "profile", "city"),
        Feature("item", "item", "item"),
        Feature("category", "item", "category"),
        Feature("tags", "item", "tag", length=3),
        Feature("position", "context", "position"),
        Feature("type", "behaviour", "type"),
    ),
    history=("item", "category", "tags"),
)
LABELS = (Label("click", sampled=True), Label("conversion", within="click"))
TWO = replace(SCHEMA, labels=LABELS)
PLAIN = Schema(
    tables=(Table("user"), Table("item")),
    features=(Feature("user", "profile", "user"), Feature("item", "item", "item")),
)
ROWS = {"user": 30, "city": 9, "item": 40, "category": 8, "tag": 12, "type": 6, "position": 9}
D = 4
EMBEDDING = embedder.Config(dimension=D, scale=0.5)
SETTINGS = {"embedding": EMBEDDING, "seed": 3}


def batch(
    size: int = 7,
    steps: int = 6,
    *,
    lengths: Sequence[int] | None = None,
    schema: Schema = SCHEMA,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """What a reader yields; two samples have an empty history and a single behaviour.

    A label within another one is unknown (-1) without that one.
    """
    rng = np.random.default_rng(seed)
    if lengths is None:
        lengths = [0, 1, steps, *rng.integers(0, steps + 1, size)][:size]
    made: dict[str, np.ndarray] = {"label_click": (rng.random(size) < 0.5).astype(np.float32)}
    made["label_click"][0], made["label_click"][-1] = 1.0, 0.0
    past = [*schema.history, *(f.name for f in schema.group("behaviour"))]
    for f in schema.features:
        wide = () if f.length is None else (f.length,)
        low = 0 if f.length else 1
        if f.group != "behaviour":
            made[f.name] = rng.integers(low, ROWS[f.table], (size, *wide)).astype(np.int32)
        if f.name in past:
            ids = rng.integers(low, ROWS[f.table], (size, steps, *wide)).astype(np.int32)
            real = np.arange(steps) < np.asarray(lengths)[:, None]
            made[f"history_{f.name}"] = ids * (real[..., None] if wide else real)
    if past:
        made["history_length"] = np.asarray(lengths, np.int32)
    made["behaviours"] = np.asarray(lengths, np.int32)
    made["user_index"], made["item_index"] = made["user"].copy(), made["item"].copy()
    for label in schema.labels[1:]:
        drawn = (rng.random(size) < 0.5).astype(np.float32)
        known = made[f"label_{label.within}"] == 1 if label.within else True
        made[label.column] = np.where(known, drawn, -1).astype(np.float32)
    return made


def dirty(arrays: Mapping[str, np.ndarray], extra: int = 4) -> dict[str, np.ndarray]:
    """The same batch with longer histories, and with ids of real rows wherever nothing is."""
    found = dict(arrays)
    names = [n for n in arrays if n.startswith("history_") and n != "history_length"]
    for name in names:
        wide = [(0, 0), (0, extra)] + [(0, 0)] * (arrays[name].ndim - 2)
        found[name] = np.pad(arrays[name], wide)
        found[name][~(np.arange(found[name].shape[1]) < arrays["history_length"][:, None])] = 3
    return found


def assert_each_alone(model: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """A served score does not depend on its neighbours in the batch, nor on their order."""
    whole = model.answer(tensors(arrays))["logit"].numpy()
    order = np.random.default_rng(0).permutation(len(whole))
    moved = model.answer(tensors(take(arrays, order)))["logit"].numpy()
    np.testing.assert_allclose(moved, whole[order], rtol=1e-4, atol=1e-5)
    alone = [
        model.answer(tensors(take(arrays, [i])))["logit"].numpy()[0] for i in range(len(whole))
    ]
    np.testing.assert_allclose(alone, whole, rtol=1e-4, atol=1e-5)


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in arrays.items()}


def take(arrays: Mapping[str, np.ndarray], rows: Any) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in arrays.items()}


def serving(backbone: Any, schema: Schema = SCHEMA, **changes: Any) -> Any:
    rows = {t.name: ROWS[t.name] for t in schema.tables}
    return serving_model(schema, rows, Plan.of(backbone, **{**SETTINGS, **changes}))


def training(
    model: Any,
    auxiliaries: Mapping[str, Any],
    schema: Schema = SCHEMA,
    l2: float = 0.0,
    embedding: embedder.Config = EMBEDDING,
) -> Any:
    plan = Plan(
        {}, single.Config(), {"main": replace(embedding, l2=l2)}, auxiliaries=auxiliaries, seed=3
    )
    return training_model(model, schema, plan)


def view(model: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """What a training model's auxiliary tasks read of a batch."""
    return model.view(tensors(arrays))


def assert_one_user_is_repeated(model: Any, schema: Schema) -> None:
    """The candidates of one user are answered as rows that each have that user."""
    arrays = tensors(batch(6, 6, schema=schema))
    of_user = {"user", "city"} | {k for k in arrays if k.startswith("history_")}
    one = {k: v[2:3] if k in of_user else v for k, v in arrays.items()}
    rows = {k: tf.repeat(v, 6, 0) if k in of_user else v for k, v in one.items()}
    found = model.answer(one | {"owner": tf.zeros([6], tf.int32)})
    for key, values in model.answer(rows).items():
        np.testing.assert_allclose(found[key], values, rtol=1e-5, atol=2e-6)


def jitter(module: tf.Module, seed: int = 0) -> None:
    """Moves every float variable off its start, so that no term of an equation is 0 or 1."""
    rng = np.random.default_rng(seed)
    for v in sorted(module.variables, key=lambda v: (v.name, v.shape.as_list())):
        if v.dtype == tf.float32 and "logit_shift" not in v.name:
            v.assign_add(tf.constant(0.1 * rng.random(v.shape), tf.float32))


def double(variable: tf.Variable) -> np.ndarray:
    return variable.numpy().astype(np.float64)


def layer(dense: Dense) -> oracle.Layer:
    return double(dense.kernel), double(dense.bias)


def layers(mlp: MLP) -> list[oracle.Layer]:
    return [layer(d) for d in mlp.dense]


def tables(model: Any) -> dict[str, np.ndarray]:
    return {name: double(v) for name, v in model.embedder.tables.items()}


def samples(model: Any, arrays: dict[str, np.ndarray]) -> list[oracle.Sample]:
    s = model.embedder.schema
    groups = {g: [(f.name, f.table) for f in s.group(g)] for g in ("profile", "item", "context")}
    history = [(n, s.feature(n).table) for n in s.history]
    return oracle.samples(arrays, tables(model), groups, history)


def encoded(model: Any, arrays: Mapping[str, np.ndarray], **options: Any) -> Any:
    """What the one expert of a model makes of a batch."""
    (found,) = model.forward(tensors(arrays), **{"training": False, **options}).experts.values()
    return found


def logits(model: Any, inputs: Any, direct: Any = None, *, training: bool) -> np.ndarray:
    """The oracle's pass of the head ``single``, from what its trunk reads [B, I] and what its last
    layer reads beside that [B, W] to the logits [B].
    """
    head = model.head
    x = np.array(inputs) * double(head.trunk.affine.gamma) + double(head.trunk.affine.beta)
    hidden = trunk(head.trunk, x, training=training)
    hidden = hidden if direct is None else np.concatenate([hidden, np.array(direct)], 1)
    return oracle.dense(hidden, layer(head.logit.dense))[:, 0]


def trunk(mlp: MLP, x: np.ndarray, *, training: bool) -> np.ndarray:
    """The oracle's forward pass of a stack without dropout, on a whole batch [B, I]."""
    for dense, activation in zip(mlp.dense, mlp.activations, strict=True):
        x = oracle.dense(x, layer(dense))
        if isinstance(activation, Dice):
            mean, variance = double(activation.mean), double(activation.variance)
            if training:
                mean, variance = x.mean(0), x.var(0)
            x = oracle.dice(x, mean, variance, double(activation.alpha))
        elif isinstance(activation, PReLU):
            x = oracle.prelu(x, double(activation.alpha))
        elif activation is tf.nn.relu:
            x = np.maximum(x, 0.0)
    return x
