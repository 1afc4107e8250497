"""The loop: one strategy, exact resume, progress, early stop, no step past a non-finite loss."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, get_args

import tensorflow as tf

from at4ctr import checkpoints, cluster, optimizers, schedules, stopping
from at4ctr.durable import write_json
from at4ctr.errors import InputError, unknown
from at4ctr.feed import Feed, MakeReader
from at4ctr.gradients import clip_applied
from at4ctr.layers.mlp import PRODUCTS, Precision, products_in
from at4ctr.layout import Asked as Layout
from at4ctr.model.training import TrainingModel
from at4ctr.population import Population
from at4ctr.posterior import Posterior
from at4ctr.progress import Progress
from at4ctr.search import Search

log = logging.getLogger(__name__)

NORM, RATE = "gradient_norm", "learning_rate"  # of the curves
BEST = "best"  # the folder of a finished run's weights
FEW_STEPS = 100  # of all epochs, below which a run says that it may learn little
SAMPLED, LEAST_SAMPLE = 0.01, 2048  # validation rows of a point: share of a run's rows; at least
SAMPLE = "sample"  # what a curve's points of the sample are called
VALIDATION = "validation.json"  # of a run: the watched metric and its (step, value) so far
WATCHED: Mapping[str, int] = MappingProxyType(  # 1: higher is better
    {"auc": 1, "gauc": 1, "gauc_impressions": 1, "logloss": -1, "normalized_entropy": -1}
)


@dataclass(frozen=True)
class Fit:
    """batch_size: rows per step, over all replicas.
    learning_rate: the largest one, of every step where there is neither warm-up nor decay.
    optimizer: ``lazy_adam``; ``rowwise_adagrad``, whose tables have one value of state a row; or
        ``adam``, which moves every row in every step.
    table_rate: the largest learning rate of embedding tables, of ``lazy_adam`` and
        ``rowwise_adagrad``. 0 is ``learning_rate``. Warm-up and decay scale both alike.
    warmup_steps: first steps in which the rate rises linearly (`schedules.Schedule`).
    decay: of the learning rate from there to the last step of all epochs: ``none``, or ``linear``
        or ``cosine`` to 0. An early stop does not shorten it.
    clip_norm: the largest global norm of a step's gradient (`gradients.clip`). 0 clips nothing. The
        norm is that of the gradient that is applied: of the mean of the devices' losses, with
        auxiliaries and L2, after the slices of each table row are summed.
    half_bce: halves the loss of every label, which is the public code's scale.
    precision: of the products of dense layers in training (``layers.mlp.products_in``). The loss is
        scaled where it is mixed_float16. Variables and the export are float32.
    evaluations: on validation, in an epoch. The weights of the best ``watch`` are kept.
    curve_points: of the validation curve over all epochs, at least. Where evaluations are fewer,
        the points are of a fixed sample of the validation rows (`sample_rows`). They choose no
        weights and stop nothing. 0 draws none.
    watch: the validation metric that chooses the weights, such as ``conversion.auc``. It is a
        label, or a composed one such as ``click_and_conversion``, and one of `WATCHED`. '' is the
        first label's AUC.
    patience: training stops after so many evaluations without a better one. 0 never stops it.
    checkpoint_every, log_every: steps between two checkpoints, and between two points of a curve.
    checkpoint_share: largest share of training time spent on saving. A checkpoint that would exceed
        it is skipped. The one at the end of an epoch never is. 1 skips none.
    layout: of histories in training (`at4ctr.layout`): ``packed`` computes real behaviours alone,
        ``dense`` every position, with static shapes. ``auto`` is dense on GPUs and packed on CPUs.
    devices: () is every visible GPU, or the CPU where there is none.
    shards: the parts that the rows of an epoch are dealt to (``feed.Feed``). 0 is one for each
        host. Runs of the same number read the same batches, on any number of hosts and devices.
    """

    batch_size: int = 1024
    epochs: int = 1
    learning_rate: float = 1e-3
    optimizer: Literal["lazy_adam", "rowwise_adagrad", "adam"] = "lazy_adam"
    table_rate: float = 0.0
    warmup_steps: int = 0
    decay: schedules.Decay = "none"
    clip_norm: float = 0.0
    half_bce: bool = False
    precision: Precision = "float32"
    evaluations: int = 1
    curve_points: int = 5
    watch: str = ""
    patience: int = 0
    checkpoint_every: int = 500
    log_every: int = 50
    checkpoint_share: float = 0.05
    layout: Layout = "auto"
    devices: tuple[str, ...] = ()
    shards: int = 0

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "epochs": 1, "evaluations": 1, "patience": 0, "shards": 0}
        least |= {"checkpoint_every": 1, "log_every": 1, "warmup_steps": 0, "curve_points": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"fit.{name} is {getattr(self, name)}; expected at least {low}")
        if self.layout not in get_args(Layout):
            raise unknown("fit.layout", self.layout, get_args(Layout))
        if self.precision not in PRODUCTS:
            raise unknown("fit.precision", self.precision, PRODUCTS)
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"fit.learning_rate is {self.learning_rate}; expected above 0")
        for name, zero in (("table_rate", "is fit.learning_rate"), ("clip_norm", "clips nothing")):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(
                    f"fit.{name} is {value}; expected a finite number of at least 0; "
                    f"fit.{name}=0 {zero}"
                )
        if self.decay not in schedules.DECAYS:
            raise unknown("fit.decay", self.decay, schedules.DECAYS)
        if not 0 < self.checkpoint_share <= 1:
            raise InputError(
                f"fit.checkpoint_share is {self.checkpoint_share}; expected above 0 and at most 1"
            )


def sample_rows(rows: int) -> int:
    """How many validation rows a point of the curve reads, in a run that trains on so many rows."""
    return max(LEAST_SAMPLE, math.ceil(SAMPLED * rows))


def too_few(config: Fit, steps: int) -> str:
    """A sentence where a run has fewer steps than a model can be expected to learn in; else ''."""
    if steps >= FEW_STEPS:
        return ""
    return (
        f"training takes {steps} steps of {config.batch_size:,} rows in {config.epochs} "
        f"epoch{'s' * (config.epochs > 1)}; expected at least {FEW_STEPS}, as with fewer the "
        "weights stay near where they begin; set a larger fit.epochs or a smaller fit.batch_size"
    )


def optimizer_of(config: Fit, steps: int) -> tf.keras.optimizers.Optimizer:
    """The optimizer of a training of so many steps, not built yet.

    Raises InputError for an unknown one, and a warm-up that is longer than the training.
    """
    return optimizers.build(
        config.optimizer,
        schedules.rate(config.learning_rate, steps, config.warmup_steps, config.decay),
        table_rate=config.table_rate,
        scale_loss=config.precision == "mixed_float16",
    )


@dataclass
class Cursor:
    """Where training stands; all of it is in every checkpoint.

    due: whether these weights are still to be evaluated, as a signal came before the evaluation's
        end.
    seconds: what ``timed_steps`` steps took, input included, without validation and without each
        epoch's first step.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_step: int = 0
    worse: int = 0
    stopped: bool = False
    due: bool = False
    seconds: float = 0.0
    timed_steps: int = 0
    shards: int = 1
    curves: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains a model from a reader, within the strategy's scope that made the model.

    folder: checkpoints and TensorBoard files; a whole checkpoint found there is resumed from, and
        the result equals the undisturbed run's, bit for bit on a CPU.
    validate: () -> the metrics of each label that is evaluated, or None where there is no
        validation split.

    Statistics that serving needs (`population`) are estimated before every evaluation and, where
    there is none, before the last weights are saved. The posterior of Gaussian-process logits
    (`posterior`) is estimated at the end, with the weights that are kept.
    """

    def __init__(
        self,
        model: TrainingModel,
        make_reader: MakeReader,
        config: Fit,
        folder: Path,
        validate: Callable[[], Mapping[str, Mapping[str, Any]]] | None,
        make_search: MakeReader | None = None,
        sample: Callable[[int], Mapping[str, Mapping[str, Any]]] | None = None,
    ) -> None:
        """sample: as `validate`, of so many validation rows, the same each time. None: the curve
            has no points but those of ``validate``.
        make_reader, make_search: of the training rows and of the validation rows that structure
        weights learn on, as ``Feed`` asks for it. make_search: None where there are none."""
        if config.watch and validate is None:
            raise InputError(
                f"fit.watch is {config.watch} and there is no validation row, so no weights can be "
                "chosen by it; expected a validation split; hold out rows, or leave fit.watch out"
            )
        self.strategy = tf.distribute.get_strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        self.model, self.config, self.folder, self.validate = model, config, folder, validate
        self.feed = Feed(make_reader, config.batch_size, config.shards, self.strategy)
        self.population = Population(model.serving, self.feed)
        self.posterior = Posterior(model.serving, self.feed)
        self.total = total = sum(self.feed.steps(e) for e in range(config.epochs))
        self.sample, self.sampled = sample, sample_rows(total * config.batch_size)
        self.optimizer = optimizer_of(config, total)
        self.search = Search.of(model, make_search, config.batch_size, config.shards, self.strategy)
        self._names: tuple[str, ...] = ()  # of what a step gives, once it is traced
        self.cursor = Cursor(shards=self.feed.shards)
        learning = {"optimizer": self.optimizer}
        if self.search:
            learning["search"] = self.search.optimizer
        self.kept = checkpoints.Keeper(
            folder / "checkpoints",
            model,
            learning,
            config.checkpoint_share,
        )
        compiled = self.feed.compiled(self._run, tf.TensorSpec([], tf.float32))
        self._step = lambda batch: compiled(batch, tf.constant(float(stopping.wanted())))

    @property
    def examples_per_second(self) -> float:
        """The speed over all processes that trained this run; 0 before the second step."""
        c = self.cursor
        return c.timed_steps * self.config.batch_size / c.seconds if c.seconds else 0.0

    def _run(self, batch: Any, stop: tf.Tensor) -> tf.Tensor:
        """A step; its losses and `NORM` where there is one, in one tensor so that one copy brings
        them to the host.

        stop: 1 where this host was asked to stop. Then the last value is above 0 on all hosts, so
        that they stop after the same step.
        """
        # Local mean over replicas: gradients are summed across them.
        each = self.strategy.run(self._replica, args=(batch, stop))
        return self.strategy.reduce("MEAN", each, None)

    def _replica(self, batch: Mapping[str, tf.Tensor], stop: tf.Tensor) -> tf.Tensor:
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            with products_in(self.config.precision):
                losses = self.model.losses_of(batch)
            local = losses["total"] / self.replicas
            if self.config.precision == "mixed_float16":
                local = self.optimizer.get_scaled_loss(local)
        gradients = tape.gradient(local, variables, unconnected_gradients="none")
        if self.config.precision == "mixed_float16":
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        if self.config.clip_norm:
            pairs, norm = clip_applied(self.optimizer, pairs, self.config.clip_norm)
            losses = {**losses, NORM: norm}
        clipped = bool(self.config.clip_norm)
        self.optimizer.apply_gradients(pairs, skip_gradients_aggregation=clipped)
        self._names = tuple(losses)
        return tf.stack([*losses.values(), stop])

    def resume(self) -> bool:
        """Continues from the newest whole checkpoint; True if there was one."""
        self.optimizer.build(self.model.trainable_variables)
        if self.search:
            self.search.build()
        found = cluster.chief_does(self.kept.find)
        if found is None:
            return False
        self.kept.resume(found[0])
        self.cursor = Cursor(**found[1])
        if self.cursor.shards != self.feed.shards:
            raise InputError(
                f"{self.folder} was trained from {self.cursor.shards} shards and goes on with "
                f"{self.feed.shards}; expected the same, or rows would be read twice; set "
                f"fit.shards={self.cursor.shards}"
            )
        log.info("resumed at step %d from %s", self.cursor.step, found[0])
        return True

    def train(self) -> Cursor:
        """All epochs; ends with the best validation weights (the last ones where there is no
        validation) in the model and in ``checkpoints/best``."""
        self.resume()
        saves = self.config.epochs + self.total // self.config.checkpoint_every
        cluster.chief_does(
            lambda: self.kept.demand_room(saves, validated=self.validate is not None)
        )
        progress = Progress(self.total, self.config.batch_size, self.cursor.step)
        with self._board().as_default():
            while self.cursor.epoch < self.config.epochs and not self.cursor.stopped:
                self._epoch(progress)
        progress.close()
        best = None if self.cursor.best is None else self.cursor.best_step
        if best is None:
            self.population.estimate()  # of the last weights; the best ones have theirs
        else:
            self.kept.take_best(best)
            cluster.chief_does(self._report_best)
        with self._stoppable():
            self.posterior.estimate()
        cluster.chief_does(lambda: self.kept.finish(BEST, best))
        if not cluster.is_chief():
            self.kept.take(BEST)  # every host ends with the same weights
        return self.cursor

    def _board(self) -> Any:
        if cluster.is_chief():
            return tf.summary.create_file_writer(str(self.folder / "tensorboard"))
        return tf.summary.create_noop_writer()

    def _epoch(self, progress: Progress) -> None:
        c, steps = self.cursor, self.feed.steps(self.cursor.epoch)
        marks, points = _marks(steps, self.config.evaluations), self._points(steps)
        if c.due:
            self._evaluate(whole=c.batch in marks, point=c.batch in points)
        batches = self.feed(c.epoch, c.batch)
        traced = False  # the first step of an epoch opens the reader, of a process traces the graph
        while c.batch < steps and not c.stopped:
            began = time.perf_counter()
            batch = next(batches)
            wait = time.perf_counter() - began
            *values, stop = self._step(batch).numpy().tolist()  # the first one sets the names
            losses = dict(zip(self._names, values, strict=True))
            norm = losses.pop(NORM, math.inf)
            self._finite(losses)
            c.batch += 1
            c.step += 1
            if self.search:
                self._finite(self.search.after(c.step))
            if traced:
                c.timed_steps += 1
                c.seconds += time.perf_counter() - began
            traced = True
            progress.update(c.step, losses, wait)
            if c.step % self.config.log_every == 0 or c.batch == steps:
                self._log({"step": c.step, **losses, **self._beside(norm)})
            c.due = c.batch in marks | points
            if stop and c.batch < steps:
                self._stop()
            if c.due:
                self._evaluate(whole=c.batch in marks, point=c.batch in points)
            if c.step % self.config.checkpoint_every == 0 and c.batch < steps:
                cluster.chief_does(lambda: self.kept.save_if_due(c.step, asdict(c)))
        if not c.stopped:
            c.epoch, c.batch = c.epoch + 1, 0
        cluster.chief_does(lambda: self.kept.save(c.step, asdict(c)))

    def _stoppable(self) -> AbstractContextManager[None]:
        """Inside, a signal stops at once, unless other hosts would be left waiting."""
        return stopping.at_once() if cluster.hosts().size == 1 else nullcontext()

    def _stop(self) -> NoReturn:
        """Saves a checkpoint and raises ``Stopped``, on all hosts after the same step."""
        stopping.act()
        c = self.cursor
        cluster.chief_does(lambda: self.kept.save(c.step, asdict(c)))
        tf.summary.flush()
        raise stopping.Stopped(f" after step {c.step}, whose checkpoint is saved")

    def _finite(self, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            if not math.isfinite(value):
                c = self.cursor
                raise InputError(
                    f"loss {name!r} is {value} at step {c.step + 1} "
                    f"{self.feed.where(c.epoch, c.batch)}; "
                    "expected a finite loss; try a smaller fit.learning_rate"
                )

    def _beside(self, norm: float) -> dict[str, float]:
        """The curves beside the losses. A step that float16 left out has no norm."""
        found = {RATE: float(tf.convert_to_tensor(self.optimizer.learning_rate))}
        return found | ({NORM: norm} if math.isfinite(norm) else {})

    def _log(self, point: dict[str, Any]) -> None:
        self.cursor.curves.append(point)
        for name, value in point.items():
            if name != "step":
                tf.summary.scalar(f"train/{name}", value, step=point["step"])

    def _points(self, steps: int) -> set[int]:
        """The batches of an epoch of so many steps after which the curve gets a point."""
        epochs, points = self.config.epochs, self.config.curve_points
        if self.sample is None or epochs * self.config.evaluations >= points:
            return set()
        return _marks(steps, math.ceil(points / epochs))

    def _shown(self, found: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, float]]:
        """The name of the watched metric, and every metric worth a curve that is defined."""
        watch = self.config.watch or f"{next(iter(found))}.auc"
        shown = {f"{label}.{name}": metrics[name] for label, metrics in found.items()
                 for name in WATCHED if name in metrics
                 and (name in ("auc", "logloss") or f"{label}.{name}" == watch)}  # fmt: skip
        return watch, shown

    def _watched(self, watch: str) -> dict[str, Any]:
        """The curve of the watched metric, for other processes, such as `make tune`."""
        name = f"validation {watch}"
        values = [(p["step"], p[name]) for p in self.cursor.curves if name in p]
        return {"watch": watch, "values": values}

    def _report_best(self) -> None:
        """Logs which weights are kept, and the validation metric that chose them."""
        c = self.cursor
        watch = json.loads((self.folder / VALIDATION).read_text())["watch"]
        log.info("weights of step %d, the best validation %s (%.4f)", c.best_step, watch, c.best)

    def _evaluate(self, *, whole: bool, point: bool) -> None:
        """Where they are due: a point of the sample, and an evaluation that chooses weights."""
        try:
            if point:
                self._sample()
            if whole and self.validate is not None:
                with self._stoppable():
                    self.population.estimate()
                    found = cluster.chief_does(self.validate)
        except stopping.Stopped:
            self._stop()
        self.cursor.due = False
        if whole and self.validate is not None:
            self._choose(*self._shown(found))

    def _sample(self) -> None:
        """Adds a point of the sample to the curve, unless it was there before a stop."""
        c, sample = self.cursor, self.sample
        assert sample is not None
        if any(p["step"] == c.step and any(k.startswith(SAMPLE) for k in p) for p in c.curves):
            return
        with self._stoppable():
            self.population.estimate(self.sampled)
            found = cluster.chief_does(lambda: sample(self.sampled))
        _, metrics = self._shown(found)
        if metrics:
            c.curves.append({"step": c.step} | {f"{SAMPLE} {k}": v for k, v in metrics.items()})
        for name, number in metrics.items():
            tf.summary.scalar(f"{SAMPLE}/{name}", number, step=c.step)

    def _choose(self, watch: str, metrics: Mapping[str, float]) -> None:
        """Keeps the weights where they are the best so far, and ends training with patience."""
        c = self.cursor
        if watch not in metrics:
            if self.config.watch:
                raise InputError(
                    f"fit.watch is {watch}, which the validation rows do not define; expected rows "
                    "of both classes, and for GAUC in one group; watch another metric"
                )
            return
        value = float(metrics[watch])
        c.curves.append({"step": c.step} | {f"validation {k}": v for k, v in metrics.items()})
        cluster.chief_does(lambda: write_json(self.folder / VALIDATION, self._watched(watch)))
        for name, number in metrics.items():
            tf.summary.scalar(f"validation/{name}", number, step=c.step)
        shown = "  ".join(f"{name} {number:.4f}" for name, number in metrics.items())
        log.info("step %d  validation %s", c.step, shown)
        way = WATCHED[watch.rpartition(".")[2]]
        if c.best is None or way * (value - c.best) > 0:
            c.best, c.best_step, c.worse = value, c.step, 0
            cluster.chief_does(lambda: self.kept.save_best(c.step))
            return
        c.worse += 1
        c.stopped = bool(self.config.patience) and c.worse >= self.config.patience
        if c.stopped:
            log.info("stopped: no better validation %s in %d evaluations", watch, c.worse)


def _marks(steps: int, count: int) -> set[int]:
    """The batches of an epoch after which `count` equal parts of it end."""
    return {math.ceil(steps * (i + 1) / count) for i in range(count)}
