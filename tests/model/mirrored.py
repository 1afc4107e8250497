"""The same training on one device and on several, for a process of its own.

python -m tests.model.mirrored STORE FOLDER COUNT leaves ``<COUNT>.json`` in FOLDER; of 2 also the
training on one. A process has one such strategy: those of two would share collectives.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import at4ctr  # noqa: F401  (before TensorFlow)
from at4ctr import cluster, fit
from at4ctr.auxiliaries import path_augmenting, uim
from at4ctr.backbones import dbpman
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.heads import autoheri, gaussian_process, single
from tests.conftest import SLOW
from tests.data import toy_store
from tests.model import host, job

DEVICES = tuple(f"CPU:{i}" for i in range(4))
TWO = DEVICES[:2]
OPTIMIZERS = ("lazy_adam", "adam") if SLOW else ("lazy_adam",)
CLIP = 0.05  # below the norm of every gradient
DICE = {"head": job.HEAD, "auxiliaries": {"uim": uim.Config()}, "validate": "store"}
PATHS = {
    "backbone": dbpman.Config(
        length=2,
        stride=1,
        paths=2,
        top=1,
        enhancing=(4,),
        router=(4,),
        attention=(4,),
    ),
    "head": single.Config(units=(6,), activation="prelu"),
    "auxiliaries": {"path_augmenting": path_augmenting.Config(block=4)},
    "config": dataclasses.replace(job.FIT, devices=TWO, epochs=1, evaluations=1),
}


def made(store: Store, folder: Path, devices: tuple[str, ...], **changes: Any) -> fit.Trainer:
    config = dataclasses.replace(job.FIT, devices=devices)
    settings = {"head": host.PRELU, "auxiliaries": {}, "config": config, "validate": None}
    return job.trainer(store, folder, **{**settings, **changes})


def gathered(store: Store, folder: Path, optimizer: Any, count: int) -> dict[str, Any]:
    """A training with all negatives of the batch, on so many devices; ``moved``: of a weight.

    ``lazy_adam`` takes clipped steps of a schedule; ``norms`` are those of its gradients."""
    devices = DEVICES[:count] if count > 1 else ()
    config = dataclasses.replace(job.FIT, optimizer=optimizer, devices=devices)
    if optimizer == "lazy_adam":
        config = dataclasses.replace(config, clip_norm=CLIP, warmup_steps=3, decay="cosine")
    changes = {"auxiliaries": host.joined(optimizer), "config": config, "validate": "store"}
    with cluster.strategy(devices).scope():
        trainer = made(store, folder / f"{optimizer}-{count}", devices, **changes)
        start = [v.numpy() for v in trainer.model.trainable_variables]
        trainer.train()
        now = trainer.model.trainable_variables
        moved = max(float(np.abs(a - b).max()) for a, b in zip(start, now, strict=True))
        norms = [p["gradient_norm"] for p in trainer.cursor.curves if "gradient_norm" in p]
        return {**host.outcome(trainer), "moved": moved, "norms": norms}


def shards(store: Store, folder: Path) -> dict[str, Any]:
    """The first step's losses on two devices, each with its own negatives, and those of one device
    on each half of that batch."""
    changes = {"auxiliaries": host.tasks(gather=False)}
    alone = made(store, folder / "halves", (), **changes)
    half = alone.feed.batch_size // 2
    batch = alone.feed._readers[0].batch(0, 0)
    halves = []
    for part in (slice(0, half), slice(half, None)):
        found = alone.model.losses_of({k: tf.constant(v[part]) for k, v in batch.items()})
        halves.append({name: float(value) for name, value in found.items()})
    with cluster.strategy(TWO).scope():
        both = made(store, folder / "both", TWO, **changes)
        *values, _ = both._step(next(both.feed(0, 0))).numpy().tolist()
    return {"halves": halves, "both": dict(zip(both._names, values, strict=True))}


def requests(store: Store, folder: Path, devices: tuple[str, ...]) -> dict[str, float]:
    """The first step's losses on requests, with the negatives of all devices."""
    task = {"uim": uim.Config(gather=True, mask_duplicates=True)}
    changes = {"auxiliaries": task, "grouping": "requests"}
    with cluster.strategy(devices).scope():
        trainer = made(store, folder / f"requests-{len(devices)}", devices, **changes)
        *values, _ = trainer._step(next(trainer.feed(0, 0))).numpy().tolist()
        return dict(zip(trainer._names, values, strict=True))


class PauseError(Exception):
    """Ends a training after a checkpoint."""


def paused(trainer: fit.Trainer) -> None:
    step = trainer._step

    def until(batch: Any) -> Any:
        if trainer.cursor.step == 4:
            raise PauseError
        return step(batch)

    trainer._step = until
    try:
        trainer.train()
    except PauseError:
        return
    raise AssertionError("the training was to be paused")


def resumed(store: Store, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """A training on two devices, and the same one with a pause in it."""
    whole = made(store, folder / "whole", TWO, **changes)
    whole.train()
    paused(made(store, folder / "paused", TWO, **changes))
    again = made(store, folder / "paused", TWO, **changes)
    again.train()
    curves = [p for p in whole.cursor.curves if "total" in p]
    return {
        "undisturbed": host.outcome(whole),
        "resumed": host.outcome(again),
        "curves": whole.cursor.curves[-1],
        "auxiliaries": {name: [p[name] for p in curves] for name in whole.model.auxiliaries},
    }


def population(store: Store, folder: Path, devices: tuple[str, ...]) -> list[list[float]]:
    """Mean and variance of every layer of an untrained model, the same on every device."""
    with cluster.strategy(devices).scope():
        trainer = made(store, folder / f"population-{len(devices)}", devices, **DICE)
        trainer.population.estimate()
        found = []
        for layer in trainer.population.layers:
            for v in (layer.mean, layer.variance):
                copies = [
                    c.numpy().tolist() for c in trainer.strategy.experimental_local_results(v)
                ]
                assert copies == [copies[0]] * (len(devices) or 1)
                found.append(copies[0])
        return found


def posterior(store: Store, folder: Path, devices: tuple[str, ...]) -> list[Any]:
    """Factor and mean of an untrained model's process, the same on every device."""
    head = gaussian_process.Config(units=(6,), features=5, part_features=3, newton=2)
    with cluster.strategy(devices).scope():
        trainer = made(store, folder / f"posterior-{len(devices)}", devices, head=head)
        trainer.posterior.estimate()
        (process,) = trainer.posterior.processes.values()
        found = []
        for v in (process.factor, process.mean):
            copies = [c.numpy().tolist() for c in trainer.strategy.experimental_local_results(v)]
            assert copies == [copies[0]] * (len(devices) or 1)
            found.append(copies[0])
        return found


def searched(store: Store, folder: Path, devices: tuple[str, ...]) -> list[list[float]]:
    """The structure weights after an epoch."""
    config = dataclasses.replace(job.FIT, devices=devices, epochs=1, evaluations=1)
    head = autoheri.Config(units=(6, 4), every=2, rate=0.05, activation="prelu")
    with cluster.strategy(devices).scope():
        place = folder / f"search-{len(devices)}"
        trainer: Any = made(store, place, devices, head=head, config=config, validate=fixed)
        trainer.train()
        return trainer.model.serving.head.searched[0].numpy().tolist()


def fixed() -> dict[str, dict[str, float]]:
    return {"click": {"auc": 0.5, "logloss": 0.5}}


def main(store: Store, folder: Path, count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(cpu, logical)
    alone = (1,) if count == 2 else ()
    found: dict[str, Any] = {
        optimizer: {n: gathered(store, folder, optimizer, n) for n in (*alone, count)}
        for optimizer in OPTIMIZERS
    }
    if count == 2:
        found |= of_two(store, folder)
    (folder / f"{count}.json").write_text(json.dumps(found))


def of_two(store: Store, folder: Path) -> dict[str, Any]:
    """What needs no more than two devices."""
    found: dict[str, Any] = {"shards": shards(store, folder)}
    found["population"] = {str(len(d) or 1): population(store, folder, d) for d in ((), TWO)}
    found["posterior"] = {str(len(d) or 1): posterior(store, folder, d) for d in ((), TWO)}
    toy_store.make(folder / "paged", users=60, page=3)
    paged = Store.open(folder / "paged")
    found["requests"] = {str(len(d) or 1): requests(paged, folder, d) for d in ((), TWO)}
    toy_store.make(folder / "rich", users=60, rich=True)
    rich = Store.open(folder / "rich")
    found["search"] = {str(len(d) or 1): searched(rich, folder, d) for d in ((), TWO)}
    with cluster.strategy(TWO).scope():
        odd = dataclasses.replace(job.FIT, batch_size=15, devices=TWO)
        try:
            made(store, folder / "odd", TWO, config=odd)
        except InputError as error:
            found["refused"] = str(error)
        found["uim"] = resumed(store, folder / "uim", DICE)
        if SLOW:
            drawn = resumed(store, folder / "paths", PATHS)
            assert drawn["resumed"]["losses"] == drawn["undisturbed"]["losses"]
            assert min(drawn["auxiliaries"]["path_augmenting"]) > 0
    return found


if __name__ == "__main__":
    main(Store.open(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
