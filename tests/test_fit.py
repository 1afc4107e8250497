"""The training loop: exact resume, early stop, and no step past a loss that is not finite."""

import dataclasses
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from at4ctr import checkpoints
from at4ctr.auxiliaries import uim
from at4ctr.backbones import widedeep
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.fit import Fit
from at4ctr.heads import single
from tests.conftest import SLOW, slow
from tests.data import toy_store
from tests.model import job

ROOT = Path(__file__).resolve().parents[1]
SMALL: dict[str, Any] = {
    "backbone": widedeep.Config(),
    "head": single.Config(units=(4,)),
    "auxiliaries": {},
    "negative_rate": 1.0,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    path = tmp_path_factory.mktemp("store") / "toy"
    toy_store.make(path, users=60)
    return Store.open(path)


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> Store:
    """Two labels, a number of each group, weights of rows and of values."""
    path = tmp_path_factory.mktemp("store") / "rich"
    toy_store.make(path, users=60, rich=True)
    return Store.open(path)


@pytest.fixture(scope="module")
def undisturbed(rich, tmp_path_factory) -> dict:
    made = job.trainer(rich, tmp_path_factory.mktemp("undisturbed"))
    made.train()
    assert {"click", "conversion"} <= made.cursor.curves[0].keys()
    assert any("validation conversion.auc" in point for point in made.cursor.curves)
    return json.loads(json.dumps(job.fingerprint(made)))


def test_two_runs_are_equal_bit_for_bit(rich, tmp_path, undisturbed):
    made = job.trainer(rich, tmp_path)
    made.train()
    assert json.loads(json.dumps(job.fingerprint(made))) == undisturbed


def attempt(store: Store, folder: Path, *options: str) -> int:
    command = [sys.executable, "-m", "tests.model.job", str(store.path), str(folder), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -9), done.stderr[-3000:]
    return done.returncode


def test_a_run_killed_again_and_again_ends_as_the_undisturbed_one(rich, tmp_path, undisturbed):
    """Inside the writing of a checkpoint; of make test-slow also before a first checkpoint, between
    two and in epoch 2."""
    (tmp_path / "checkpoints").mkdir()
    early = (("--step", "1"), ("--step", "5")) if SLOW else ()
    late = (("--step", "11"),) if SLOW else ()
    for options in (*early, ("--file", "3"), *late):
        assert attempt(rich, tmp_path, *options) == -9, options
    assert attempt(rich, tmp_path) == 0
    assert json.loads((tmp_path / "final.json").read_text()) == undisturbed


def test_every_row_takes_the_same_part_after_a_pause(store, tmp_path):
    """Another trainer in the same folder goes on where the first stopped, mid-epoch."""

    class PauseError(Exception):
        pass

    made = job.trainer(store, tmp_path)
    step, seen = made._step, []

    def paused(batch):
        if made.cursor.step == 4:
            raise PauseError
        seen.append(batch["user_index"].numpy())
        return step(batch)

    made._step = paused
    with pytest.raises(PauseError):
        made.train()
    again = job.trainer(store, tmp_path)
    assert again.resume()
    assert (again.cursor.step, again.cursor.batch) == (4, 4)
    rest = [next(b)["user_index"].numpy() for b in [again.feed(0, 4)]]
    whole = job.trainer(store, tmp_path / "other").feed._readers[0]
    np.testing.assert_array_equal(rest[0], whole.batch(0, 4)["user_index"])
    np.testing.assert_array_equal(seen[3], whole.batch(0, 3)["user_index"])


def test_requests_resume_bit_for_bit(tmp_path):
    toy_store.make(tmp_path / "store", page=3)
    store = Store.open(tmp_path / "store")

    class PauseError(Exception):
        pass

    def trainer(folder):
        tasks = {"uim": uim.Config()}
        return job.trainer(
            store, folder, auxiliaries=tasks, grouping="requests", validate=None, config=once
        )

    once = dataclasses.replace(job.FIT, epochs=1, evaluations=1)

    whole = trainer(tmp_path / "whole")
    whole.train()
    made = trainer(tmp_path / "paused")
    step, seen = made._step, []

    def paused(batch):
        if made.cursor.step == 4:
            raise PauseError
        seen.append((len(batch["item"]), len(batch["user"])))
        return step(batch)

    made._step = paused
    with pytest.raises(PauseError):
        made.train()
    assert all(rows >= users for rows, users in seen)
    assert any(rows > users for rows, users in seen)
    again = trainer(tmp_path / "paused")
    again.train()
    assert job.fingerprint(again) == job.fingerprint(whole)


def scripted(values, watch="click.auc"):
    """Metrics of two labels, of which only the watched one changes."""
    feed, (label, _, name) = iter(values), watch.partition(".")
    fixed = {"auc": 0.5, "logloss": 0.5}
    return lambda: {k: fixed | ({name: next(feed)} if k == label else {})
                    for k in ("click", "conversion")}  # fmt: skip


@pytest.mark.parametrize(("watch", "sign"), [("conversion.auc", 1), ("conversion.logloss", -1)])
def test_early_stop_keeps_the_best_weights(store, tmp_path, watch, sign, caplog):
    config = Fit(batch_size=16, epochs=9, patience=2, learning_rate=0.05, watch=watch)
    kept = []
    values = [0.5, 0.45, 0.7, 0.6, 0.69, 0.9]  # 0.45 does not count after 0.7
    script = scripted([sign * v for v in values], watch)

    def validate():
        kept.append([v.numpy() for v in made.model.serving.variables])
        return script()

    made = job.trainer(store, tmp_path, config=config, validate=validate, **SMALL)
    with caplog.at_level(logging.INFO, "at4ctr"):
        cursor = made.train()
    steps = made.feed.steps(0)
    said = f"weights of step {3 * steps}, the best validation {watch} ({sign * 0.7:.4f})"
    assert caplog.messages[-1] == said
    assert (cursor.stopped, cursor.best, cursor.best_step) == (True, sign * 0.7, 3 * steps)
    assert cursor.step == 5 * steps
    for v, best, last in zip(made.model.serving.variables, kept[2], kept[4], strict=True):
        np.testing.assert_array_equal(v, best)
        assert best.shape == last.shape
    assert any((a != b).any() for a, b in zip(kept[2], kept[4], strict=True))
    again = job.trainer(store, tmp_path, config=config, validate=validate, **SMALL)
    assert again.train().step == cursor.step
    assert len(kept) == 5
    for v, best in zip(again.model.serving.variables, kept[2], strict=True):
        np.testing.assert_array_equal(v, best)


def test_a_decay_is_over_all_steps_of_all_epochs_and_an_early_stop_leaves_it(store, tmp_path):
    config = Fit(batch_size=32, epochs=3, decay="linear", patience=1, log_every=1)
    falling = scripted(itertools.count(0, -0.1))
    made = job.trainer(store, tmp_path, config=config, validate=falling, **SMALL)
    steps = made.feed.steps(0)
    cursor = made.train()
    assert (cursor.stopped, cursor.step) == (True, 2 * steps)
    rates = [p["learning_rate"] for p in cursor.curves if "total" in p]
    expected = config.learning_rate * (1 - np.arange(2 * steps) / (3 * steps))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_a_warm_up_longer_than_the_training_is_refused(store, tmp_path):
    config = Fit(batch_size=16, epochs=2, warmup_steps=100_000)
    with pytest.raises(InputError, match=r"fit\.warmup_steps is 100000 and all epochs together"):
        job.trainer(store, tmp_path, config=config, validate=None, **SMALL)


SHAPED = Fit(
    batch_size=32,
    epochs=1,
    learning_rate=0.01,
    table_rate=0.03,
    warmup_steps=3,
    decay="cosine",
    clip_norm=0.05,
    checkpoint_every=2,
    checkpoint_share=1.0,
    log_every=1,
)


def test_a_clipped_run_of_a_schedule_resumes_to_the_same_bits(store, tmp_path):
    whole = job.trainer(store, tmp_path / "whole", config=SHAPED, validate=None, **SMALL)
    whole.train()
    halted = job.trainer(store, tmp_path / "again", config=SHAPED, validate=None, **SMALL)
    step = halted._step

    def until(batch):
        if halted.cursor.step == 3:
            raise KeyboardInterrupt
        return step(batch)

    halted._step = until
    with pytest.raises(KeyboardInterrupt):
        halted.train()
    again = job.trainer(store, tmp_path / "again", config=SHAPED, validate=None, **SMALL)
    again.train()
    assert whole.cursor.step > 3
    assert job.fingerprint(again) == job.fingerprint(whole)
    norms = [p["gradient_norm"] for p in whole.cursor.curves]
    assert len(norms) == whole.cursor.step
    assert min(norms) > SHAPED.clip_norm  # so that every step was clipped


def test_a_norm_that_is_never_reached_changes_no_bit(store, tmp_path):
    ends = []
    for clip_norm in (0.0, 1e6):
        config = replace(SHAPED, clip_norm=clip_norm)
        made = job.trainer(store, tmp_path / str(clip_norm), config=config, validate=None, **SMALL)
        made.train()
        ends.append(job.fingerprint(made)["variables"])
    assert ends[0] == ends[1]


def test_without_patience_all_epochs_run(store, tmp_path):
    config = Fit(batch_size=16, epochs=3, evaluations=2)
    made = job.trainer(
        store, tmp_path, config=config, validate=scripted([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), **SMALL
    )
    cursor = made.train()
    assert (cursor.epoch, cursor.stopped, cursor.best) == (3, False, 0.9)


def test_without_validation_the_last_weights_stay(store, tmp_path):
    made = job.trainer(store, tmp_path, config=Fit(batch_size=16), validate=None, **SMALL)
    cursor = made.train()
    assert cursor.best is None
    last = [v.numpy() for v in made.model.serving.variables]
    again = job.trainer(store, tmp_path, config=Fit(batch_size=16), validate=None, **SMALL)
    assert again.train().step == cursor.step
    for v, expected in zip(again.model.serving.variables, last, strict=True):
        np.testing.assert_array_equal(v, expected)


def saved_steps(folder: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*"))


def test_a_loss_that_is_not_finite_stops_with_the_batch_named(store, tmp_path):
    config = Fit(batch_size=16, checkpoint_every=1, checkpoint_share=1.0)
    made = job.trainer(store, tmp_path, config=config, validate=None, **SMALL)
    step = made._step

    def poisoned(batch):
        if made.cursor.step == 3:
            row = int(batch["item"][0])
            made.model.serving.embedder.tables["item"].scatter_nd_update([[row]], [[np.nan] * 4])
        return step(batch)

    made._step = poisoned
    with pytest.raises(InputError, match=r"'click' is nan at step 4 \(epoch 0, batch 3:") as raised:
        made.train()
    assert "\n" not in str(raised.value)
    assert saved_steps(tmp_path) == [2, 3]
    for path in (tmp_path / "checkpoints").iterdir():
        checkpoints.restore(path, made.kept.whole())
        assert all(np.isfinite(v.numpy()).all() for v in made.model.trainable_variables)


def test_an_infinite_loss_that_is_not_finite_stops_too(store, tmp_path):
    made = job.trainer(store, tmp_path, validate=None, **SMALL)
    with pytest.raises(InputError, match="'click' is inf at step 1"):
        made._finite({"click": float("inf")})


@pytest.mark.parametrize("every", [1, 100])
def test_weights_that_are_not_finite_are_never_saved(store, tmp_path, every):
    """A finite loss whose step ruins the weights: nothing after it may be resumed from."""
    config = Fit(batch_size=16, checkpoint_every=every, checkpoint_share=1.0)
    made = job.trainer(store, tmp_path, config=config, validate=None, **SMALL)
    step, last = made._step, made.feed.steps(0) - 1

    def poisoned(batch):
        losses = step(batch)
        if made.cursor.step == last:
            head: Any = made.model.serving.head
            kernel = head.logit.dense.kernel
            kernel.assign(tf.fill(kernel.shape, np.inf))
        return losses

    made._step = poisoned
    with pytest.raises(InputError, match="not finite"):
        made.train()
    assert saved_steps(tmp_path) == ([last - 1, last] if every == 1 else [])


def test_checkpoints_that_take_too_long_are_left_out(store, tmp_path):
    """And no bit of the result depends on which."""
    found = []
    for share in (1e-9, 1.0):
        config = Fit(batch_size=16, checkpoint_every=1, checkpoint_share=share)
        made = job.trainer(store, tmp_path / str(share), config=config, validate=None, **SMALL)
        steps = made.train().step
        assert saved_steps(tmp_path / str(share)) == (
            [1, steps] if share < 1 else [steps - 1, steps]
        )
        found.append(job.fingerprint(made))
    assert found[0] == found[1]


def test_a_disk_that_cannot_hold_the_checkpoints_is_refused(store, small_disk):
    """Before a step is taken, not hours later; and what is there already is no hindrance."""
    made = job.trainer(store, small_disk / "run", validate=None, **SMALL)
    (small_disk / "filling").write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
    with pytest.raises(InputError, match=r"bytes free; .*checkpoints") as raised:
        made.train()
    assert "\n" not in str(raised.value)
    assert made.cursor.step == 0
    (small_disk / "filling").unlink()
    steps = job.trainer(store, small_disk / "run", validate=None, **SMALL).train().step
    taken = sum(p.stat().st_size for p in (small_disk / "run" / "checkpoints").rglob("*"))
    (small_disk / "filling").write_bytes(bytes(shutil.disk_usage(small_disk).free - taken // 2))
    assert job.trainer(store, small_disk / "run", validate=None, **SMALL).train().step == steps


def test_an_absurd_learning_rate_stops(store, tmp_path):
    config = Fit(batch_size=16, learning_rate=1e38, epochs=5)
    made = job.trainer(store, tmp_path, config=config, validate=None, **SMALL)
    with pytest.raises(InputError, match="learning_rate"):
        made.train()


def test_a_batch_larger_than_the_data_is_refused(store, tmp_path):
    with pytest.raises(InputError, match=r"batch_size .*larger than"):
        job.trainer(store, tmp_path, config=Fit(batch_size=100_000), **SMALL).train()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("patience", -1),
        ("checkpoint_every", 0),
        ("log_every", 0),
        ("evaluations", 0),
        ("shards", -1),
        ("checkpoint_share", 0.0),
        ("checkpoint_share", 1.1),
        ("clip_norm", -1.0),
        ("clip_norm", float("nan")),
        ("clip_norm", float("inf")),
        ("table_rate", -0.1),
        ("table_rate", float("nan")),
        ("warmup_steps", -1),
        ("decay", "exponential"),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        Fit(**{name: value})


def test_more_evaluations_than_steps_are_one_a_step(store, tmp_path):
    config = Fit(batch_size=64, evaluations=50)
    made = job.trainer(
        store, tmp_path, config=config, validate=scripted(itertools.repeat(0.5)), **SMALL
    )
    cursor = made.train()
    assert len([p for p in cursor.curves if "validation click.auc" in p]) == cursor.step


def test_losses_fall(store, tmp_path):
    config = Fit(batch_size=16, epochs=12, learning_rate=0.02, log_every=1)
    made = job.trainer(
        store, tmp_path, config=config, validate=None, auxiliaries={"uim": uim.Config()}
    )
    curves = made.train().curves
    first, last = (np.mean([p["click"] for p in part]) for part in (curves[:7], curves[-7:]))
    assert last < first - 0.05


@slow
def test_two_random_kills_leave_no_trace(tmp_path):
    """As `python -m tests.soak_kills`, shorter; a failure shows its seed."""
    seed = int.from_bytes(os.urandom(3), "big")
    size = ["--kills", "2", "--seed", str(seed), "--users", "60", "--epochs", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak_kills", *size],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert "2 kills" in done.stdout


def test_a_watched_metric_that_no_row_defines_is_refused(store, tmp_path):
    config = Fit(batch_size=16, watch="click.gauc")
    with pytest.raises(InputError, match="the validation rows do not define"):
        job.trainer(
            store, tmp_path, config=config, validate=scripted(itertools.repeat(0.5)), **SMALL
        ).train()
    with pytest.raises(InputError, match="there is no validation row"):
        job.trainer(store, tmp_path, config=config, validate=None, **SMALL)
