"""Exploration with a Gaussian-process head in a world whose logits are known: the calibration of
the answered deviation, and the regret of Thompson sampling beside that of a greedy choice.

python -m benchmarks.explore --page docs/results/simulated/exploration.md
"""

from __future__ import annotations

import argparse
import json
import math
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
        plan = Plan.of(dnn.Config(pool_history=False), embedder.Config(8), head=head, seed=seed)
        sizes = {"user": world.users, "item": world.items, "category": world.categories}
        rows = {name: FIRST_ID + size for name, size in sizes.items()}
        self.model = serving_model(SCHEMA, rows, plan)
        self.training = training_model(self.model, SCHEMA, plan)
        self.optimizer = optimizers.build("lazy_adam", options["rate"])
        self.optimizer.build(self.training.trainable_variables)
        self.start = [(v, v.numpy()) for v in [*self.training.variables, *self.optimizer.variables]]
        self.feed = Rounds(options["batch"])
        self.posterior = Posterior(self.model, self.feed)  # type: ignore[arg-type]
        self.step = tf.function(self._step, reduce_retracing=True, autograph=False)
        self.answer = tf.function(self.model.answer, reduce_retracing=True, autograph=False)
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
        every = users if users.ndim == items.ndim else np.broadcast_to(users[:, None], items.shape)
        found = self.answer(self.batch(every.ravel(), items.ravel(), np.zeros(items.size)))
        logit, deviation = (found[k].numpy().reshape(items.shape) for k in ("logit", "deviation"))
        return logit, deviation


POLICIES = {"random": math.nan, "greedy": 0.0, "Thompson": 1.0}  # how many deviations are drawn


def play(world: World, policy: str, learner: Learner) -> list[float]:
    """The regret of each round, Σ max P(click) − P(click on the chosen candidate).

    After each round the model is trained anew on all rows so far. The first round is random for
    every policy, and a click is drawn with the same uniform number for all.
    """
    rng = np.random.default_rng([world.seed, 3])
    log: list[Rows] = []
    regret = []
    for number in range(world.rounds):
        users, candidates, uniforms = world.requests_of(number)
        if policy == "random" or not number:
            value = np.random.default_rng([world.seed, 4, number]).random(candidates.shape)
        else:
            value, deviation = learner.asked(users, candidates)
            value = value + POLICIES[policy] * deviation * rng.normal(size=value.shape)
        chosen = np.take_along_axis(candidates, value.argmax(1)[:, None], 1)[:, 0]
        truth = sigmoid(world.logits[users[:, None], candidates])
        p = sigmoid(world.logits[users, chosen])
        regret.append(float((truth.max(1) - p).sum()))
        log.append((users, chosen, uniforms < p))
        if policy != "random" and number < world.rounds - 1:
            u, i, y = (np.concatenate(column) for column in zip(*log, strict=True))
            learner.learn((u, i, y))
    return regret


BANDS = {"all": (0, 10**9), "0": (0, 0), "1 to 20": (1, 20), "21 to 50": (21, 50),
         "51 to 150": (51, 150), "151 to 500": (151, 500), "above 500": (501, 10**9)}  # fmt: skip


def coverage(world: World, learner: Learner, rows: int) -> dict[str, dict[str, float]]:
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
    for name, (low, high) in BANDS.items():
        here = (count >= low) & (count <= high)
        if here.any():
            z = np.abs(error[:, here]) / deviation[:, here]
            found[name] = {
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
OWN = "this head"
FORMS: dict[str, dict[str, Any]] = {
    OWN: {},
    "newton=0": {"newton": 0},
    "part_features=0": {"part_features": 0, "features": 320},
}
OPTIONS = {"epochs": 2, "rate": 5e-3, "batch": 256}


def learner_of(world: World, form: str) -> Learner:
    return Learner(world, world.seed, {**OPTIONS, "head": {**HEAD, **FORMS[form]}})


WORLDS: dict[str, dict[str, Any]] = {
    "8 candidates of 300 items": {},
    "all of 60 items, none arrives later": {
        "items": 60, "candidates": 60, "first": 1.0, "requests": 500, "rounds": 8,
    },
}  # fmt: skip


def measure(seed: int, rows: int, done: dict[str, Any]) -> Iterator[str]:
    """Adds the missing parts of a seed to ``done``; yields the name of each part after it."""
    still = World(seed, first=1.0)
    for form in FORMS:
        if form not in done.setdefault("coverage", {}):
            done["coverage"][form] = coverage(still, learner_of(still, form), rows)
            yield f"coverage, {form}"
    for name, changes in WORLDS.items():
        world = World(seed, **changes)
        if name not in done.setdefault("regret", {}):
            learner = learner_of(world, OWN)
            done["regret"][name] = {policy: play(world, policy, learner) for policy in POLICIES}
            yield f"{name}: { ({k: round(sum(v)) for k, v in done['regret'][name].items()}) }"


BEGIN, END = "<!-- explore: begin -->", "<!-- explore: end -->"
COVERAGE = (
    "| rows of the item | items | error, RMS | deviation | within 1 deviation (68 %) | "
    "within 1.96 deviations (95 %) |"
)


def tables(found: Sequence[Mapping[str, Any]], rows: int) -> str:
    """The page's tables, as Markdown, each of the seeds that have its part."""
    lines = [BEGIN, f"The log of the first tables has {rows:,} rows.", ""]
    for form in FORMS:
        done = [f["coverage"][form] for f in found if form in f["coverage"]]
        lines += [
            f"### Coverage, {form} ({len(done)} seeds)",
            "",
            COVERAGE,
            "|---|---|---|---|---|---|",
        ]
        for band in BANDS:
            held = [by[band] for by in done if band in by]
            if len(held) > 1:
                share = [interval([100 * h[level] for h in held]) for level in ("68", "95")]
                error = math.sqrt(np.mean([h["error"] for h in held]))
                items, deviation = (np.mean([h[k] for h in held]) for k in ("items", "deviation"))
                cells = [band, f"{items:.0f}", f"{error:.2f}", f"{deviation:.2f}", *share]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    for world in WORLDS:
        played = [f["regret"][world] for f in found if world in f.get("regret", {})]
        rounds = len(played[0]["greedy"])
        lines += [f"### Regret, {world} ({len(played)} seeds)", ""]
        heads = " | ".join(f"round {k + 1}" for k in range(rounds))
        lines += [f"| policy | {heads} | all | less greedy's |", "|" + "---|" * (rounds + 3)]
        greedy = [sum(by["greedy"]) for by in played]
        for policy in POLICIES:
            every = np.array([by[policy] for by in played])
            apart = interval(list(every.sum(1) - greedy)) if policy != "greedy" else ""
            cells = [policy, *(f"{v:.0f}" for v in every.mean(0)), f"{every.sum(1).mean():.0f}"]
            lines.append(f"| {' | '.join([*cells, apart])} |")
        lines.append("")
    return "\n".join([*lines[:-1], END])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explore", description=__doc__)
    add = parser.add_argument
    add("--seeds", type=int, default=5)
    add("--rows", type=int, default=16_000, help="of the log that coverage is measured after")
    add("--found", type=Path, default=Path("explore.json"), help="what is there is not done again")
    add("--page", type=Path, help="the page whose tables to write")
    given = parser.parse_args()
    found = json.loads(given.found.read_text()) if given.found.exists() else []
    for seed in range(given.seeds):
        found += [{}] * (seed == len(found))
        for said in measure(seed, given.rows, found[seed]):
            given.found.write_text(json.dumps(found))
            print(f"seed {seed}, {said}", flush=True)
    if given.page:
        text = given.page.read_text()
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        given.page.write_text(before + tables(found, given.rows) + after)


if __name__ == "__main__":
    main()
