"""An experiment on a store: its readers, its models and its trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from at4ctr import checkpoints, evaluation, fit, layout, population
from at4ctr.config import Experiment
from at4ctr.data.dataset import Split
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.evaluation import Predictions, Scored
from at4ctr.model.build import serving_model, training_model
from at4ctr.model.serving import ServingModel
from at4ctr.model.training import TrainingModel
from pipelines import fusion, measure

Validate = Callable[[], Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Assembly:
    """Makes the readers, models and trainer of an experiment on a store.

    sizes: table -> rows of its embedding; {} takes the store's.
    """

    experiment: Experiment
    store: Store
    sizes: Mapping[str, int] = field(default_factory=dict)

    def reader(
        self,
        split: Split,
        batch_size: int = evaluation.BATCH,
        context: tf.distribute.InputContext | None = None,
        *,
        learn: bool = False,
    ) -> Reader:
        """A split as the experiment reads it: training shuffled and down-sampled, others whole.

        learn: another split than training, shuffled and down-sampled likewise.
        """
        e = self.experiment
        training = learn or split == "train"
        return Reader(
            self.store,
            split,
            batch_size=batch_size,
            history=e.data.history,
            negative_rate=e.data.negative_rate if training else 1.0,
            unknown_rate=e.data.unknown_rate
            if split == "train" and e.data.protocol == "strict"
            else 0.0,
            seed=e.seed,
            grouping=e.data.grouping if training else "rows",
            shuffle=training,
            drop_remainder=training,
            truth=bool(self.store.truth) and not training,
            context=context,
        )

    def whole(self, split: Split) -> Reader:
        """Every row of a split in store order, as predictions are measured: unsampled, and with
        every known id."""
        return Reader(
            self.store,
            split,
            batch_size=evaluation.BATCH,
            history=self.experiment.data.history,
            seed=self.experiment.seed,
            shuffle=False,
            truth=bool(self.store.truth),
        )

    def serving(self) -> ServingModel:
        """The serving model, untrained."""
        schema = self.store.schema
        sizes = self.sizes or {t.name: self.store.rows(t.name) for t in schema.tables}
        numbers, vectors = self.store.numbers(), self.store.vectors()
        return serving_model(schema, sizes, self.experiment.plan, numbers, vectors)

    def training(self, serving: ServingModel) -> TrainingModel:
        """The serving model with the experiment's tasks and auxiliaries, within the strategy's
        scope.

        Raises InputError where a device has too few rows in a step for an auxiliary, and for
        `fit.layout=dense` beside a part that has no dense form.
        """
        e, replicas = self.experiment, tf.distribute.get_strategy().num_replicas_in_sync
        for config in e.auxiliaries.values():
            if config.weight:
                config.demand_rows(e.fit.batch_size // replicas)
        made = training_model(serving, self.store.schema, e.plan, self.store.mean_behaviours)
        made.dense = layout.dense(
            e.fit.layout, e.plan, layout.on_gpus(), requests=e.data.grouping == "requests"
        )
        return made

    def trainer(
        self,
        model: TrainingModel,
        folder: Path,
        validate: Validate | None,
        sample: Callable[[int], Mapping[str, Mapping[str, Any]]] | None = None,
    ) -> fit.Trainer:
        """The trainer; call it within the strategy's scope that made the model. sample: as in
        `fit.Trainer`."""
        validated = bool(self.store.counts("validation")["rows"])
        search = partial(self.reader, "validation", learn=True) if validated else None
        make = partial(self.reader, "train")
        return fit.Trainer(model, make, self.experiment.fit, folder, validate, search, sample)

    def predictions(self, model: Scored, split: Split) -> dict[str, Predictions]:
        """Label -> predictions of all rows of a split, unsampled; {} for a split without rows."""
        if not self.store.counts(split)["rows"]:
            return {}
        return evaluation.Predictor(model)(self.reader(split))

    def training_sample(self, model: ServingModel) -> dict[str, Predictions]:
        """Label -> predictions of some training rows, unsampled and with every known id."""
        rows = Reader(
            self.store,
            "train",
            batch_size=evaluation.BATCH,
            history=self.experiment.data.history,
            seed=self.experiment.seed,
            drop_remainder=False,
        )
        return evaluation.Predictor(model)(rows, population.ROWS // evaluation.BATCH)

    def restored(self, folder: Path) -> ServingModel:
        """A run's best weights, calibrators and score weight in a fresh serving model, outside any
        strategy.

        Raises InputError as `restore` does.
        """
        return restore(self.serving(), folder, "train it with make train")


def restore(model: ServingModel, folder: Path, remedy: str) -> ServingModel:
    """Gives an untrained model the best weights, calibrators and score weight of a run or a night.

    Raises InputError, which ends with the remedy, where the weights are missing or damaged.
    """
    best = folder / "checkpoints" / fit.BEST
    if checkpoints.whole(best) is None:
        raise InputError(
            f"{best} is missing or damaged; expected the weights of a finished run; {remedy}"
        )
    checkpoints.restore(best, tf.train.Checkpoint(model=model))
    measure.recalibrate(model, folder)
    fusion.restore(model, folder)
    return model
