"""A night's model: trained on from its parent, fitted to later rows, exported."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from at4ctr import cluster, config, evaluation, fit, runs, warm
from at4ctr.config import Experiment
from at4ctr.data.nights import state
from at4ctr.data.store import Store
from at4ctr.durable import write_json
from at4ctr.errors import InputError
from at4ctr.model.build import serving_model, training_model
from at4ctr.model.serving import ServingModel
from at4ctr.model.training import TrainingModel
from at4ctr.schema import FIRST_ID, UNKNOWN, Schema, history_name
from export import saved_model
from export.publishing.publish import RetryError
from export.verify import verify
from pipelines import assembly, fusion, measure
from pipelines.assembly import Assembly
from pipelines.night.parents import Parent

log = logging.getLogger("at4ctr.nightly")

TRAINED = "training.json"  # of an attempt: the facts and curves of its training
EXPORT = "export"


def rows(schema: Schema, vocabularies: warm.Vocabularies) -> dict[str, int]:
    """Table -> its rows, padding and unknown among them."""
    sizes = {t.name: t.buckets or len(vocabularies[t.name]) for t in schema.tables}
    return {name: FIRST_ID + size for name, size in sizes.items()}


def train_night(
    e: Experiment,
    store: Store,
    ids: Path,
    parent: Parent | None,
    folder: Path,
    *,
    expires: bool = False,
) -> None:
    """Trains into ``folder/checkpoints``, or resumes that training. Then it fits the calibrator and
    chooses the score weight, on the same rows.

    ids: the night's state. expires: whether it may lack ids of the parent's. Writes
    ``training.json``. Weights are not chosen by validation: they are those after the last step,
    whose optimizer state the next night goes on from.
    """
    vocabularies = state.vocabularies(ids)
    made = Assembly(e, store, rows(store.schema, vocabularies))
    with cluster.strategy(e.fit.devices).scope():
        whole = made.training(made.serving())
        trainer = made.trainer(whole, folder, None)
        told: dict[str, Any] = {"warm": None}
        if parent is not None:
            done = _warm(whole, trainer, vocabularies, parent, expires=expires)
            told["warm"] = {"parent": parent.version, "step": done.step, "new": dict(done.new),
                            "gone": dict(done.gone), "fresh": list(done.fresh),
                            "moved": done.moved}  # fmt: skip
        cursor = trainer.train()
    final = finished(e, store, ids, folder)
    choosing = e.calibrator != "none" or final.without is not None
    validated = made.predictions(final, "validation") if choosing else {}
    choices = measure.calibrate(e.calibrator, final, validated, folder, e.seed)
    fusion.choose(final, validated, choices, folder)
    if validated:
        measure.warn_of_validation(validated, choices)
    told |= measure.facts(trainer, cursor, store, exported=True)
    told["training_sample"] = measure.means_of_sample(made.training_sample(final))
    told["calibrator"] = {label: choice.to_json() for label, choice in choices.items()}
    told["curves"] = cursor.curves
    write_json(folder / TRAINED, told)


def _warm(
    model: TrainingModel,
    trainer: fit.Trainer,
    ids: warm.Vocabularies,
    parent: Parent,
    *,
    expires: bool,
) -> warm.Warm:
    before = parent.settings().experiment
    known = state.vocabularies(parent.state)
    schema = before.data.schema()
    old = training_model(_serving(before, schema, known), schema, before.plan)
    steps = before.fit.warmup_steps + 1  # of a training that makes the same state
    optimizer = fit.optimizer_of(before.fit, steps)
    return warm.start(
        model,
        trainer.optimizer,
        ids,
        warm.Parent(old, optimizer, parent.checkpoints, known),
        trainer.search,
        expires=expires,
    )


def finished(e: Experiment, store: Store, ids: Path, folder: Path) -> ServingModel:
    """A night's final weights and its calibrator, if any. ids: its state."""
    return _restored(e, store.schema, ids, folder)


def _restored(e: Experiment, schema: Schema, ids: Path, folder: Path) -> ServingModel:
    model = _serving(e, schema, state.vocabularies(ids))
    return assembly.restore(model, folder, "run the date anew with --again")


def _serving(e: Experiment, schema: Schema, ids: warm.Vocabularies) -> ServingModel:
    """An untrained serving model whose tables have a row for each of the ids."""
    return serving_model(schema, rows(schema, ids), e.plan)


class Incumbent:
    """The parent's model, asked about rows that are written in the night's ids.

    An id is first turned into the parent's own id of the same raw value. An id that the parent has
    never seen is unknown to it, as in its export. An id that expires in this night is unknown to it
    here, though its export knows that id. So such rows favour neither model.
    """

    def __init__(self, parent: Parent, ids: Path) -> None:
        """ids: the night's state."""
        self.experiment = parent.settings().experiment
        schema = self.experiment.data.schema()
        self.model = _restored(self.experiment, schema, parent.state, parent.folder)
        mine, night = state.vocabularies(parent.state), state.vocabularies(ids)
        maps = {table: tf.constant(own_ids(mine[table], night[table])) for table in mine}
        self.maps: dict[str, tf.Tensor] = {}
        for f in schema.features:
            if f.table in maps:
                self.maps |= {f.name: maps[f.table], history_name(f.name): maps[f.table]}

    def scores(self, batch: Mapping[str, tf.Tensor]) -> dict[str, dict[str, tf.Tensor]]:
        """As `ServingModel.scores`."""
        own = {k: tf.gather(self.maps[k], v) if k in self.maps else v for k, v in batch.items()}
        return self.model.scores(own)


def own_ids(mine: pa.ChunkedArray, night: pa.ChunkedArray) -> np.ndarray:
    """[rows of the night's table] int32: the parent's id of each of the night's ids."""
    found = pc.index_in(night, value_set=mine.combine_chunks())
    ids = pc.add(pc.fill_null(found, UNKNOWN - FIRST_ID), FIRST_ID)
    return np.concatenate([np.arange(FIRST_ID), ids.to_numpy()]).astype(np.int32)


def exported(e: Experiment, store: Store, ids: Path, folder: Path, facts: dict[str, Any]) -> Path:
    """``folder/export/1``, made anew."""
    shutil.rmtree(folder / EXPORT, ignore_errors=True)
    model = finished(e, store, ids, folder)
    told = json.loads((folder / TRAINED).read_text(encoding="utf-8"))
    training = {k: v for k, v in told.items() if k != "curves"}
    facts = {"commit": runs.commit(), "config": config.to_json(e), "training": training, **facts}
    return saved_model.save(
        model,
        store,
        folder / EXPORT,
        history=e.data.history,
        facts=facts,
        version=1,
        options=e.export,
    )


def demand_verified(folder: Path) -> list[str]:
    """The lines of an export's checks, made by a fresh process.

    Raises InputError where a check fails, RetryError where the process ended without an answer.
    """
    done = verify(folder)
    for line in done.lines:
        log.info("  %s", line)
    if not done.ok:
        wrong = next((line for line in done.lines if line.startswith("FAILED")), "no line")
        if not done.answered:
            raise RetryError(
                f"the verification of {folder} did not end ({wrong}); expected a machine with "
                "time and memory for it; run the same command again"
            )
        raise InputError(
            f"the export {folder} failed its verification ({wrong}); expected every check to "
            "pass; nothing was published: run the date anew with --again"
        )
    return list(done.lines)


def predicted(
    model: evaluation.Scored, e: Experiment, store: Store
) -> dict[str, evaluation.Predictions]:
    """Label -> predictions of the rows that judge the night."""
    return Assembly(e, store).predictions(model, "test")
