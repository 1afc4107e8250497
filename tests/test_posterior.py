"""The posterior of Gaussian-process logits: by its oracle, after kill, resume and warm start."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from at4ctr import checkpoints, warm
from at4ctr.data.store import Store
from at4ctr.heads import gaussian_process
from tests.data import toy_store
from tests.model import job, toys
from tests.oracles import gaussian as oracle

HEAD = gaussian_process.Config(units=(12, 6), features=6, part_features=3, ridge=0.5, newton=8)
PLAIN = dataclasses.replace(HEAD, newton=0)
FIT = dataclasses.replace(job.FIT, epochs=1, evaluations=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    path = tmp_path_factory.mktemp("store") / "toy"
    toy_store.make(path, users=60)
    return Store.open(path)


def made(store: Store, folder: Path, head: Any = HEAD, **changes: Any) -> Any:
    settings = {"head": head, "auxiliaries": {}, "config": FIT, "validate": None}
    return job.trainer(store, folder, **{**settings, **changes})


def process_of(trainer: Any, label: str = "click") -> Any:
    return trainer.model.serving.head.processes[label]


def rows_of(trainer: Any, label: str = "click", steps: int = 10**6) -> tuple[np.ndarray, ...]:
    """φ, logits, labels and weights of the training rows, in float64."""
    reader, kept = trainer.feed._readers[0], []
    for k in range(min(steps, reader.steps(0))):
        batch = reader.batch(0, k)
        out = trainer.model.serving.forward(toys.tensors(batch), training=False).outputs
        y = batch[f"label_{label}"].astype(float)
        w = (y >= 0) * batch.get("weight", np.ones(y.size))
        kept.append((out.features[label].numpy(), out.logits[label].numpy(), y, w))
    phi, z, y, w = (np.concatenate(column).astype(float) for column in zip(*kept, strict=True))
    return phi, z, y, w


def test_precision_and_deviation_equal_the_oracle(store, tmp_path):
    trainer = made(store, tmp_path, PLAIN)
    toys.jitter(trainer.model.serving.head.networks)
    phi, z, _, w = rows_of(trainer)
    process, before = process_of(trainer), process_of(trainer).weights[0].numpy()
    trainer.posterior.estimate()
    whole = oracle.precision(phi, z, w, PLAIN.ridge * np.eye(process.size))
    factor = toys.double(process.factor)
    np.testing.assert_allclose(factor.T @ factor @ whole, np.eye(process.size), atol=2e-4)
    found = process.deviation(phi.astype(np.float32))
    np.testing.assert_allclose(found, oracle.deviation(phi, whole), rtol=1e-4)
    np.testing.assert_array_equal(process.weights[0], before)


@pytest.mark.parametrize("label", ["click", "conversion"])
def test_newton_ends_at_the_mode_and_an_unknown_label_is_no_evidence(tmp_path, label):
    toy_store.make(tmp_path / "rich", users=60, rich=True)
    trainer = made(Store.open(tmp_path / "rich"), tmp_path / "run")
    trainer.posterior.estimate()
    process = process_of(trainer, label)
    phi, z, y, w = rows_of(trainer, label)
    assert (w == 0).any() == (label == "conversion")
    beta, prior = toys.double(process.weights[0])[:, 0], HEAD.ridge * np.eye(process.size)
    found = oracle.slope(phi, z, y, w, beta, prior)
    assert np.abs(found).max() < 1e-3
    factor = toys.double(process.factor)
    whole = oracle.precision(phi, z, w, prior)
    np.testing.assert_allclose(factor.T @ factor @ whole, np.eye(process.size), atol=2e-4)
    np.testing.assert_array_equal(process.mean, process.weights[0][:, 0])


def test_the_deviation_falls_with_more_rows(store, tmp_path):
    """The same weights; a precision of twice the rows is larger in every direction."""
    found = []
    for share in (2, 1):
        trainer = made(store, tmp_path / str(share), PLAIN)
        steps = trainer.feed.steps(0) // share
        trainer.posterior.feed = Few(trainer.feed, steps)
        phi = rows_of(trainer)[0].astype(np.float32)
        prior = process_of(trainer).deviation(phi).numpy()
        trainer.posterior.estimate()
        found.append(process_of(trainer).deviation(phi).numpy())
    assert (found[0] < prior).all()
    assert (found[1] < found[0]).all()


class Few:
    """A feed of the first steps of another one."""

    def __init__(self, feed: Any, number: int) -> None:
        self.feed, self.number, self.strategy = feed, number, feed.strategy

    def steps(self, epoch: int) -> int:
        return min(self.number, self.feed.steps(epoch))

    def __call__(self, epoch: int, start: int) -> Any:
        return self.feed(epoch, start)


@pytest.mark.parametrize("validate", [None, "store"])
def test_a_killed_end_is_made_again_with_the_same_bits(store, tmp_path, validate):
    """The kill comes after the last checkpoint: while the posterior is estimated, or after it."""
    whole = made(store, tmp_path / "whole", validate=validate)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "best")
    expected = job.fingerprint(whole)
    for folder in ("killed", "whole"):
        again = made(store, tmp_path / folder, validate=validate)
        again.train()
        assert job.fingerprint(again)["variables"] == expected["variables"]
    process = process_of(whole)
    assert not np.array_equal(process.factor, np.eye(process.size) / np.sqrt(HEAD.ridge))


def test_a_warm_start_takes_the_posterior_as_its_prior(store, tmp_path):
    """Twice the same rows at the same weights: the evidence of both."""
    old = made(store, tmp_path / "old", PLAIN)
    old.train()
    phi, z, _, w = rows_of(old)
    kept = tmp_path / "old" / "checkpoints"
    ids = {t.name: toy_store_ids(store, t.name) for t in store.schema.tables if not t.buckets}
    parent = made(store, tmp_path / "unused", PLAIN)
    night = made(store, tmp_path / "night", PLAIN)
    warm.start(
        night.model, night.optimizer, ids, warm.Parent(parent.model, parent.optimizer, kept, ids)
    )
    process = process_of(night)
    np.testing.assert_array_equal(process.factor, process_of(old).factor)
    night.posterior.estimate()
    once = PLAIN.ridge * np.eye(process.size)
    twice = oracle.precision(phi, z, w, oracle.precision(phi, z, w, once))
    factor = toys.double(process.factor)
    np.testing.assert_allclose(factor.T @ factor @ twice, np.eye(process.size), atol=1e-3)
    assert checkpoints.whole(kept / "best") is not None


def toy_store_ids(store: Store, table: str) -> Any:
    return pa.chunked_array([store.vocabulary_path(table).read_text().split()])
