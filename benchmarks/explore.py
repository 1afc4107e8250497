"""Exploration with a Gaussian-process head in a world whose logits are known: how far the answered
deviation is to be believed, and the regret of Thompson sampling beside that of a greedy choice.

python -m benchmarks.explore [--seeds 5] [--page docs/results/simulated/exploration.md]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from scipy import stats

import at4ctr  # noqa: F401  (before TensorFlow)
from at4ctr import optimizers
from at4ctr.backbones import dnn
from at4ctr.heads import gaussian_process
from at4ctr.layers import embedder
from at4ctr.metrics import sigmoid
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
    rounds: int = 6
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


Rows: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # user, item, click


class Rounds:
    """A feed of rows in memory, as `Posterior` reads one."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.strategy = batch_size, tf.distribute.get_strategy()
        self.rows: list[dict[str, tf.Tensor]] = []

    def steps(self, epoch: int) -> int:
        del epoch
        return len(self.rows)

    def __call__(self, epoch: int, start: int) -> Iterator[dict[str, tf.Tensor]]:
        del epoch
        return iter(self.rows[start:])


class Learner:
    """The real model, trained anew on the rows that it is given."""

    def __init__(self, world: World, seed: int, options: Mapping[str, Any]) -> None:
        self.world, self.epochs = world, options["epochs"]
        head = gaussian_process.Config(**options["head"])
        space = embedder.Config(
            dimension=options.get("dimension", 8), scale=options.get("scale", 0.05)
        )
        plan = Plan.of(dnn.Config(pool_history=False), embedder.Config(8), head=head, seed=seed)
        sizes = {"user": world.users, "item": world.items, "category": world.categories}
        rows = {name: FIRST_ID + size for name, size in sizes.items()}
        self.model = serving_model(SCHEMA, rows, plan)
        self.training = training_model(self.model, SCHEMA, plan)
        self.optimizer = optimizers.build("lazy_adam", options["rate"], 0)
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
        """Logits and deviations of items [R] or [R, N] for users of the same shape, or [R]."""
        flat = np.broadcast_to(
            users.reshape(users.shape + (1,) * (items.ndim - users.ndim)), items.shape
        )
        found = self.answer(self.batch(flat.ravel(), items.ravel(), np.zeros(items.size)))
        return tuple(found[k].numpy().reshape(items.shape) for k in ("logit", "deviation"))


@dataclass(frozen=True)
class Played:
    """Of one policy in one world: the regret of each round, and the share of the requests of the
    last round whose best candidate was chosen."""

    regret: tuple[float, ...]
    best: float


POLICIES = ("random", "greedy", "Thompson")


def play(world: World, policy: str, learner: Learner) -> Played:
    """Rounds of requests; after each one the model is trained anew on all rows so far. The first
    round is random for every policy, and a click is drawn with the same uniform number for all."""
    rng = np.random.default_rng([world.seed, 3])
    log: list[Rows] = []
    regret, share = [], 0.0
    for number in range(world.rounds):
        users, candidates, uniforms = world.requests_of(number)
        if policy == "random" or not number:
            value = np.random.default_rng([world.seed, 4, number]).random(candidates.shape)
        else:
            value, deviation = learner.asked(users, candidates)
            if policy == "Thompson":
                value = value + deviation * rng.normal(size=value.shape)
        chosen = np.take_along_axis(candidates, value.argmax(1)[:, None], 1)[:, 0]
        truth = sigmoid(world.logits[users[:, None], candidates])
        p = sigmoid(world.logits[users, chosen])
        regret.append(float((truth.max(1) - p).sum()))
        share = float((truth.max(1) == p).mean())
        log.append((users, chosen, uniforms < p))
        if policy != "random" and number < world.rounds - 1:
            u, i, y = (np.concatenate(column) for column in zip(*log, strict=True))
            learner.learn((u, i, y))
    return Played(tuple(regret), share)


BANDS = ((0, 0), (1, 20), (21, 50), (51, 150), (151, 500), (501, None))
ALL = (0, None)


def coverage(world: World, learner: Learner, rows: int) -> dict[Any, dict[str, float]]:
    """How far answers are from the truth after a log whose items are shown by Zipf's law.

    By the training rows of an item: the number of items, the mean over all users of their logits'
    error squared and deviation, and the share of errors within 1 and 1.96 deviations.
    """
    rng = np.random.default_rng([world.seed, 5])
    shown = rng.permutation(1.0 / np.arange(1, world.items + 1))
    users = rng.integers(world.users, size=rows)
    items = rng.choice(world.items, rows, p=shown / shown.sum())
    clicks = rng.random(rows) < sigmoid(world.logits[users, items])
    learner.learn((users, items, clicks))
    grid = np.meshgrid(np.arange(world.users), np.arange(world.items), indexing="ij")
    logit, deviation = learner.asked(*grid)
    error = world.logits - logit
    count = np.bincount(items, minlength=world.items)
    found = {}
    for low, high in (ALL, *BANDS):
        here = (count >= low) & (count <= (high if high is not None else rows))
        if here.any():
            z = np.abs(error[:, here]) / deviation[:, here]
            found[low, high] = {
                "items": float(here.sum()),
                "error": float(np.mean(error[:, here] ** 2)),
                "deviation": float(deviation[:, here].mean()),
                "68": float((z < 1).mean()),
                "95": float((z < 1.959964).mean()),
            }
    return found


def interval(values: Sequence[float]) -> str:
    """The mean of several seeds and its 95 % interval by Student's t."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return f"{np.mean(values):.3g} ({low:.3g} to {high:.3g})"


HEAD: dict[str, Any] = {
    "units": (32, 16), "features": 64, "part_features": 256, "length": 0.35, "ridge": 0.25,
}  # fmt: skip
OWN, HIDDEN = "this head", "hidden layer's terms alone"
FORMS = {
    OWN: {},
    "without Newton's steps": {"newton": 0},
    HIDDEN: {"part_features": 0, "features": 320},
}
PLAYED = (OWN, HIDDEN)
OPTIONS = {"epochs": 2, "rate": 5e-3, "batch": 256}


def learner_of(world: World, form: str) -> Learner:
    return Learner(world, world.seed, {**OPTIONS, "head": {**HEAD, **FORMS[form]}})


def measure(seeds: int, rows: int) -> dict[str, Any]:
    """All that the page shows, seed by seed."""
    found: dict[str, Any] = {"played": {}, "coverage": {}}
    for seed in range(seeds):
        still = World(seed, first=1.0)
        for form in FORMS:
            held = coverage(still, learner_of(still, form), rows)
            found["coverage"].setdefault(form, []).append(held)
        moving = World(seed)
        for form in PLAYED:
            learner = learner_of(moving, form)
            for policy in POLICIES if form == OWN else POLICIES[1:]:
                name = policy if form == OWN else f"{policy}, {form}"
                found["played"].setdefault(name, []).append(play(moving, policy, learner))
        print(f"seed {seed}", {k: round(sum(v[-1].regret), 1) for k, v in found["played"].items()},
              flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=16_000, help="of the log that coverage reads")
    parser.add_argument("--found", type=Path, default=Path("explore.pickle"))
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    found = measure(given.seeds, given.rows)
    import pickle

    given.found.write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
