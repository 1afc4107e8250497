"""Exploration with a Gaussian-process head in a world whose logits are known: how far the answered
deviation is to be believed, and the regret of Thompson sampling beside that of a greedy choice.

python -m benchmarks.explore [--seeds 5] [--page docs/results/simulated/exploration.md]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import at4ctr  # noqa: F401  (before TensorFlow)
import numpy as np
import tensorflow as tf

from at4ctr import optimizers
from at4ctr.backbones import dnn
from at4ctr.heads import gaussian_process
from at4ctr.layers import embedder
from at4ctr.model.build import Plan, serving_model, training_model
from at4ctr.posterior import Posterior
from at4ctr.schema import FIRST_ID, Feature, Schema, Table

UNKNOWN = 1  # the id of an item that no training row has
SCHEMA = Schema(
    tables=(Table("user"), Table("item"), Table("category")),
    features=(
        Feature("user", "profile", "user"),
        Feature("item", "item", "item"),
        Feature("category", "item", "category"),
    ),
)


@dataclass(frozen=True)
class World:
    """logit(u, i) = base + quality_i + taste_{u, category of i}, normal numbers each.

    users: groups of people, each one id. items: some of them arrive later (`arrivals`).
    """

    seed: int
    users: int = 6
    items: int = 300
    categories: int = 10
    base: float = -2.5
    quality: float = 0.7
    taste: float = 0.5
    rounds: int = 8
    requests: int = 2000  # of a round
    candidates: int = 8  # of a request
    first: float = 0.5  # share of the items that are there from the first round
    category: np.ndarray = field(init=False)
    logits: np.ndarray = field(init=False)  # [users, items]
    arrival: np.ndarray = field(init=False)  # [items], the first round of each

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 0])
        category = rng.integers(self.categories, size=self.items)
        quality = self.quality * rng.normal(size=self.items)
        taste = self.taste * rng.normal(size=(self.users, self.categories))
        late = np.arange(self.items) - int(self.first * self.items)
        each = max(1.0, (self.items - self.first * self.items) / max(1, self.rounds - 1))
        object.__setattr__(self, "category", category)
        object.__setattr__(self, "logits", self.base + quality + taste[:, category])
        object.__setattr__(self, "arrival", np.where(late < 0, 0, 1 + late // each).astype(int))

    def requests_of(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Users [R], candidates [R, N] and the uniforms [R] that make clicks, of a round."""
        rng = np.random.default_rng([self.seed, 1, number])
        there = np.flatnonzero(self.arrival <= number)
        users = rng.integers(self.users, size=self.requests)
        order = rng.random((self.requests, there.size)).argsort(1)[:, : self.candidates]
        return users, there[order], rng.random(self.requests)


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # user, item, click


class Rounds:
    """A feed of rows in memory, as `Posterior` reads one."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.strategy = batch_size, tf.distribute.get_strategy()
        self.rows: list[dict[str, tf.Tensor]] = []

    def steps(self, epoch: int) -> int:
        return len(self.rows)

    def __call__(self, epoch: int, start: int) -> Iterator[dict[str, tf.Tensor]]:
        return iter(self.rows[start:])


class Learner:
    """The real model, trained anew on the rows that it is given."""

    def __init__(self, world: World, seed: int, options: Mapping[str, Any]) -> None:
        self.world, self.epochs, self.rate = world, options["epochs"], options["rate"]
        head = gaussian_process.Config(**options["head"])
        space = embedder.Config(
            dimension=options.get("dimension", 8), scale=options.get("scale", 0.05)
        )
        plan = Plan.of(dnn.Config(pool_history=False), space, head=head, seed=seed)
        sizes = {"user": world.users, "item": world.items, "category": world.categories}
        rows = {name: FIRST_ID + size for name, size in sizes.items()}
        self.model = serving_model(SCHEMA, rows, plan)
        self.training = training_model(self.model, SCHEMA, plan)
        self.optimizer = optimizers.build("lazy_adam", self.rate, 0)
        self.optimizer.build(self.training.trainable_variables)
        self.start = [(v, v.numpy()) for v in [*self.training.variables, *self.optimizer.variables]]
        self.feed = Rounds(options["batch"])
        self.posterior = Posterior(self.model, self.feed)  # type: ignore[arg-type]
        self.step = tf.function(self._step, reduce_retracing=True)
        self.answer = tf.function(self.model.answer, reduce_retracing=True)
        self.known = np.zeros(world.items, bool)
        self.rng = np.random.default_rng([seed, 2])

    def batch(self, users: np.ndarray, items: np.ndarray, clicks: np.ndarray) -> dict[str, Any]:
        item = np.where(self.known[items], FIRST_ID + items, UNKNOWN).astype(np.int32)
        found = {
            "user": FIRST_ID + users,
            "item": item,
            "category": FIRST_ID + self.world.category[items],
            "user_index": users,
            "item_index": items,
        }
        arrays = {k: tf.constant(v.astype(np.int32)) for k, v in found.items()}
        return arrays | {"label_click": tf.constant(clicks.astype(np.float32))}

    def _step(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        variables = self.training.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.training.losses_of(batch)["total"]
        found = tape.gradient(loss, variables)
        pairs = [(g, v) for g, v in zip(found, variables, strict=True) if g is not None]
        self.optimizer.apply_gradients(pairs)
        return loss

    def learn(self, rows: Rows) -> None:
        """Trains from the start on all rows, then estimates the posterior."""
        for variable, value in self.start:
            variable.assign(value)
        self.known = np.bincount(rows[1], minlength=self.world.items) > 0
        size = self.feed.batch_size
        for _ in range(self.epochs):
            order = self.rng.permutation(rows[0].size)
            parts = [order[k : k + size] for k in range(0, order.size - size + 1, size)]
            self.feed.rows = [self.batch(*(column[part] for column in rows)) for part in parts]
            for batch in self.feed.rows:
                self.step(batch)
        self.posterior.estimate()

    def asked(self, users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and deviations of any shape."""
        flat = np.broadcast_to(
            users.reshape(users.shape + (1,) * (items.ndim - users.ndim)), items.shape
        )
        found = self.answer(self.batch(flat.ravel(), items.ravel(), np.zeros(items.size)))
        return tuple(found[k].numpy().reshape(items.shape) for k in ("logit", "deviation"))
