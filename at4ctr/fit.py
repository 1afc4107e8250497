"""The loop: one strategy, exact resume, progress, early stop, no step past a non-finite loss."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from at4ctr import checkpoints, optimizers
from at4ctr.data.reader import Reader
from at4ctr.errors import InputError
from at4ctr.model.training import TrainingModel
from at4ctr.progress import Progress

log = logging.getLogger(__name__)

BEST = "best"  # the folder of a finished run's weights


@dataclass(frozen=True)
class Fit:
    """batch_size: rows per step over all replicas.
    decay: of the learning rate over all epochs, none or linear to 0.
    half_bce: halve the main loss (the public code's scale).
    evaluations: on validation, per epoch; the weights of the best validation AUC are kept.
    patience: stop after so many evaluations without a better one (0: never).
    checkpoint_every, log_every: steps between checkpoints, and between points of the curves.
    devices: () is every visible GPU, or the CPU where there is none.
    """

    batch_size: int = 1024
    epochs: int = 1
    learning_rate: float = 1e-3
    optimizer: Literal["lazy_adam", "adam"] = "lazy_adam"
    decay: Literal["none", "linear"] = "none"
    half_bce: bool = False
    evaluations: int = 1
    patience: int = 0
    checkpoint_every: int = 500
    log_every: int = 50
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "epochs": 1, "evaluations": 1, "patience": 0}
        for name, low in {**least, "checkpoint_every": 1, "log_every": 1}.items():
            if getattr(self, name) < low:
                raise InputError(f"fit.{name} is {getattr(self, name)}; expected at least {low}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"fit.learning_rate is {self.learning_rate}; expected above 0")


@dataclass
class Cursor:
    """Where training stands; all of it is in every checkpoint.

    seconds: of ``timed_steps`` steps, input included, validation and each epoch's first step not.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_step: int = 0
    worse: int = 0
    stopped: bool = False
    seconds: float = 0.0
    timed_steps: int = 0
    curves: list[dict[str, Any]] = field(default_factory=list)


def strategy(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """MirroredStrategy over the named devices or all GPUs; none of either: the default, one CPU."""
    known = {d.name.removeprefix("/device:") for d in tf.config.list_logical_devices()}
    for name in devices:
        if name not in known or devices.count(name) > 1:
            raise InputError(
                f"fit.devices names {name!r} of {', '.join(devices)}; expected different ones of "
                f"{', '.join(sorted(known))}; leave it empty for every visible GPU"
            )
    if devices or tf.config.list_physical_devices("GPU"):
        return _mirrored(devices)
    return tf.distribute.get_strategy()


@lru_cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # Once per process: the collectives of two strategies on the same devices share their keys.
    return tf.distribute.MirroredStrategy(list(devices) or None)


class Trainer:
    """Trains a model from a reader, within the strategy's scope that made the model.

    folder: checkpoints and TensorBoard files; a whole checkpoint found there is resumed from, and
        the result equals the undisturbed run's, bit for bit on a CPU.
    validate: () -> metrics with ``auc``, or None where there is no validation split.
    """

    def __init__(
        self,
        model: TrainingModel,
        make_reader: Callable[[int], Reader],
        config: Fit,
        folder: Path,
        validate: Callable[[], Mapping[str, Any]] | None,
    ) -> None:
        """make_reader: rows per replica -> the training reader."""
        self.strategy = tf.distribute.get_strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        if config.batch_size % self.replicas:
            raise InputError(
                f"fit.batch_size is {config.batch_size}, which {self.replicas} devices cannot "
                f"share equally; use a multiple of {self.replicas}"
            )
        self.model, self.config, self.folder, self.validate = model, config, folder, validate
        self.reader = make_reader(config.batch_size // self.replicas)
        total = sum(self.steps(e) for e in range(config.epochs))
        decay = total if config.decay == "linear" else 0
        self.optimizer = optimizers.build(config.optimizer, config.learning_rate, decay)
        self.cursor = Cursor()
        self.saved = folder / "checkpoints"
        self._step = tf.function(self._run, jit_compile=False, reduce_retracing=True)

    @property
    def examples_per_second(self) -> float:
        """Over all processes that trained this run; 0 before the second step."""
        c = self.cursor
        return c.timed_steps * self.config.batch_size / c.seconds if c.seconds else 0.0

    def steps(self, epoch: int) -> int:
        """Steps of an epoch: batches of the reader, shared by the replicas."""
        count = self.reader.steps(epoch) // self.replicas
        if not count:
            raise InputError(
                f"fit.batch_size {self.config.batch_size} is larger than the {self.reader.rows} "
                "training rows; use a smaller batch"
            )
        return count

    def _run(self, batch: Any) -> dict[str, tf.Tensor]:
        # Local mean over replicas: gradients are summed across them.
        per_replica = self.strategy.run(self._replica, args=(batch,))
        return {k: self.strategy.reduce("MEAN", v, None) for k, v in per_replica.items()}

    def _replica(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            losses = self.model.losses_of(batch)
            local = losses["total"] / self.replicas
        gradients = tape.gradient(local, variables, unconnected_gradients="none")
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        self.optimizer.apply_gradients(pairs)
        return losses

    def _checkpoint(self) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(model=self.model, optimizer=self.optimizer)

    def _best(self) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(model=self.model.serving)

    def resume(self) -> bool:
        """Continues from the newest whole checkpoint; True if there was one."""
        self.optimizer.build(self.model.trainable_variables)
        found = checkpoints.newest(self.saved)
        if found is None:
            return False
        checkpoints.restore(found[0], self._checkpoint())
        self.cursor = Cursor(**found[1])
        log.info("resumed at step %d from %s", self.cursor.step, found[0].name)
        return True

    def save(self) -> None:
        """Writes a checkpoint; InputError for weights from which no training could go on."""
        c = self.cursor
        for v in (*self.model.variables, *self.optimizer.variables):
            if v.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(v))):
                raise InputError(
                    f"{v.name} is not finite after step {c.step}, which is not saved; expected "
                    "finite weights; try a smaller fit.learning_rate"
                )
        checkpoints.save(self.saved, f"step-{c.step:09d}", self._checkpoint(), asdict(c))
        for kind in ("step", "best"):
            checkpoints.prune(self.saved, kind, keep=2)

    def train(self) -> Cursor:
        """All epochs; ends with the best validation weights (the last ones where there is no
        validation) in the model and in ``checkpoints/best``."""
        self.resume()
        total = sum(self.steps(e) for e in range(self.config.epochs))
        progress = Progress(total, self.config.batch_size, self.cursor.step)
        board = tf.summary.create_file_writer(str(self.folder / "tensorboard"))
        with board.as_default():
            while self.cursor.epoch < self.config.epochs and not self.cursor.stopped:
                self._epoch(progress)
        progress.close()
        best = self.saved / f"best-{self.cursor.best_step:09d}"
        if self.cursor.best is not None:
            if checkpoints.whole(best) is None:
                raise InputError(
                    f"{best} is missing or damaged; expected the weights of the best validation "
                    "AUC; delete the run's folder to train again"
                )
            checkpoints.restore(best, self._best())
        checkpoints.save(self.saved, BEST, self._best(), {"step": self.cursor.best_step})
        return self.cursor

    def _batches(self, epoch: int, start: int) -> Any:
        """This epoch's batches from a step on, distributed."""
        return iter(
            self.strategy.distribute_datasets_from_function(
                lambda _: self.reader.dataset(epoch, start * self.replicas)
            )
        )

    def _epoch(self, progress: Progress) -> None:
        c, steps = self.cursor, self.steps(self.cursor.epoch)
        marks = {
            math.ceil(steps * (i + 1) / self.config.evaluations)
            for i in range(self.config.evaluations)
        }
        batches = self._batches(c.epoch, c.batch)
        traced = False  # the first step of an epoch opens the reader, of a process traces the graph
        while c.batch < steps and not c.stopped:
            began = time.perf_counter()
            batch = next(batches)
            wait = time.perf_counter() - began
            losses = {k: float(v) for k, v in self._step(batch).items()}
            self._finite(losses)
            if traced:
                c.timed_steps += 1
                c.seconds += time.perf_counter() - began
            traced = True
            c.batch += 1
            c.step += 1
            progress.update(c.step, losses, wait)
            if c.step % self.config.log_every == 0 or c.batch == steps:
                self._log({"step": c.step, **losses})
            if c.batch in marks:
                self._evaluate()
            if c.step % self.config.checkpoint_every == 0 and c.batch < steps:
                self.save()
        if not c.stopped:
            c.epoch, c.batch = c.epoch + 1, 0
        self.save()

    def _finite(self, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            if not math.isfinite(value):
                c, per = self.cursor, self.replicas
                index = f"{c.batch * per}..{(c.batch + 1) * per - 1}" if per > 1 else f"{c.batch}"
                raise InputError(
                    f"loss {name!r} is {value} at step {c.step + 1} (epoch {c.epoch}, batch "
                    f"{index}: look at it with Reader.batch({c.epoch}, {c.batch * per})); "
                    "expected a finite loss; try a smaller fit.learning_rate"
                )

    def _log(self, point: dict[str, Any]) -> None:
        self.cursor.curves.append(point)
        for name, value in point.items():
            if name != "step":
                tf.summary.scalar(f"train/{name}", value, step=point["step"])

    def _evaluate(self) -> None:
        if self.validate is None:
            return
        c, metrics = self.cursor, self.validate()
        value = metrics.get("auc")
        if value is None:
            return
        c.curves.append(
            {"step": c.step, "validation_auc": value, "validation_logloss": metrics["logloss"]}
        )
        for name in ("auc", "logloss"):
            tf.summary.scalar(f"validation/{name}", metrics[name], step=c.step)
        log.info("step %d  validation AUC %.4f  logloss %.4f", c.step, value, metrics["logloss"])
        if c.best is None or value > c.best:
            c.best, c.best_step, c.worse = float(value), c.step, 0
            checkpoints.save(self.saved, f"best-{c.step:09d}", self._best(), {"step": c.step})
            return
        c.worse += 1
        c.stopped = bool(self.config.patience) and c.worse >= self.config.patience
        if c.stopped:
            log.info("stopped: no better validation AUC in %d evaluations", c.worse)
