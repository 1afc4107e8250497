"""The main job: raw log → store → trained, evaluated, calibrated, exported and verified model."""

from __future__ import annotations

import json
import logging
import shlex
import time
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import flags

from at4ctr import checkpoints, config, evaluation, fit, runs
from at4ctr.analysis import plots
from at4ctr.checkpoints import write_json
from at4ctr.config import Experiment
from at4ctr.data.dataset import Options, Split
from at4ctr.data.prepare import prepare
from at4ctr.data.reader import Reader
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.model.build import serving_model, training_model
from at4ctr.model.serving import ServingModel
from export import saved_model
from export.verify import verify
from pipelines.main import main

log = logging.getLogger("at4ctr.train")

flags.DEFINE_string("dataset", "taobao", "a module of at4ctr/data")
flags.DEFINE_string("config", "din_at4ctr", "a module of configs/")
flags.DEFINE_string("raw", "", "the raw log's file or folder; empty: data/raw/<dataset>")
flags.DEFINE_string("set", "", "overrides, such as 'fit.batch_size=2048 data.history=200'")
flags.DEFINE_string("snapshot", "", "repeat the experiment of this config.json instead")
flags.DEFINE_string("root", ".", "where data/ and runs/ lie")


def options(dataset: str, raw: str, assignments: str) -> Options:
    """A dataset's options with the overrides that begin with ``data.``."""
    chosen = [a for a in shlex.split(assignments) if a.startswith("data.")]
    return config.override({"data": config.dataset(dataset)(raw=raw)}, chosen)["data"]


def experiment(dataset: str, recipe: str, raw: str, assignments: str) -> Experiment:
    """The recipe's experiment for a dataset, overridden."""
    chosen = [a for a in shlex.split(assignments) if not a.startswith("data.")]
    return config.override(config.recipe(recipe, options(dataset, raw, assignments)), chosen)


def run(e: Experiment, recipe: str, root: Path) -> Path:
    """Runs an experiment, or takes up its unfinished run; the finished run's folder."""
    began = time.perf_counter()
    store = Store.open(prepare(e.data, root / "data"))
    snapshot = snapshot_of(e, recipe, store)
    folder = runs.open_run(root / "runs", f"{e.data.name}-{recipe}", snapshot)
    with runs.locked(folder), runs.logging_to(folder / "train.log"):
        label = " (simulated)" if store.simulated else ""
        log.info("%s on %s%s: %s", recipe, e.data.name, label, folder)
        metrics = _train(e, store, folder)
        metrics["seconds"] = round(time.perf_counter() - began, 1)
        write_json(folder / runs.METRICS, metrics)
        runs.point_latest(root / "runs", folder)
        log.info("%s", summary(metrics, folder))
    return folder


def snapshot_of(e: Experiment, recipe: str, store: Store) -> dict[str, Any]:
    """What a run is repeated from."""
    return {"recipe": recipe, "store": store.path.name, "experiment": config.to_json(e)}


def reader(e: Experiment, store: Store, split: Split, batch_size: int) -> Reader:
    """A split as the experiment reads it: training shuffled and down-sampled, others whole."""
    training = split == "train"
    return Reader(
        store,
        split,
        batch_size=batch_size,
        history=e.data.history,
        negative_rate=e.data.negative_rate if training else 1.0,
        seed=e.seed,
        shuffle=training,
        drop_remainder=training,
        truth=store.truth and not training,
    )


def serving(e: Experiment, store: Store) -> ServingModel:
    """The experiment's serving model, untrained."""
    return serving_model(
        store.schema,
        {table.name: store.rows(table.name) for table in store.schema.tables},
        embedding=e.embedding,
        backbone=e.backbone,
        head=e.head,
        negative_rate=e.data.negative_rate,
        seed=e.seed,
    )


def restored(e: Experiment, store: Store, folder: Path) -> ServingModel:
    """A run's best weights in a fresh serving model, outside any strategy."""
    best = folder / "checkpoints" / "best"
    if checkpoints.whole(best) is None:
        raise InputError(
            f"{best} is missing or damaged; expected the weights of a finished run; "
            "train it with make train"
        )
    model = serving(e, store)
    checkpoints.restore(best, tf.train.Checkpoint(model=model))
    return model


def _train(e: Experiment, store: Store, folder: Path) -> dict[str, Any]:
    """Trains, evaluates, draws, exports and verifies; the run's metrics."""
    with fit.strategy(e.fit.devices).scope():
        model = serving(e, store)
        training = training_model(
            model,
            store.schema,
            embedding=e.embedding,
            auxiliaries=e.auxiliaries,
            half_bce=e.fit.half_bce,
            seed=e.seed,
        )
        predict = evaluation.Predictor(model)
        validate = None
        if store.counts("validation")["rows"]:
            validation = reader(e, store, "validation", evaluation.BATCH)
            validate = lambda: evaluation.report(predict(validation))  # noqa: E731
        trainer = fit.Trainer(
            training, lambda size: reader(e, store, "train", size), e.fit, folder, validate
        )
        cursor = trainer.train()
    final = restored(e, store, folder)
    predict = evaluation.Predictor(final)
    found = predict(reader(e, store, "test", evaluation.BATCH))
    metrics: dict[str, Any] = evaluation.report(found) | {
        "examples_per_second": round(trainer.examples_per_second, 1),
        "steps": cursor.step,
        "best_step": cursor.best_step,
        "simulated": store.simulated,
        "unknown_share": _unknown(store),
    }
    if validate is not None:
        metrics["validation"] = evaluation.report(predict(validation))
    plots.curves(cursor.curves, folder / "curves.png", simulated=store.simulated)
    plots.reliability(found, folder / "reliability.png", simulated=store.simulated)
    facts = {"config": config.to_json(e), "metrics": metrics}
    version = saved_model.save(model, store, folder / "export", history=e.data.history, facts=facts)
    verify(version)
    return metrics


def _unknown(store: Store) -> dict[str, float]:
    """Share of test rows whose feature was never seen in training, where any was not."""
    counts = store.counts("test")
    return {k: round(v / counts["rows"], 4) for k, v in counts["unknown"].items() if v}


def summary(metrics: dict[str, Any], folder: Path) -> str:
    """The result in a few lines."""
    lines = [f"test{' (simulated log)' if metrics['simulated'] else ''}: {metrics['rows']:,} rows"]
    names = ("auc", "bayes_auc", "gauc", "logloss", "normalized_entropy", "pcoc")
    lines += [f"  {n:20s} {metrics[n]:.4f}" for n in names if n in metrics]
    export = max((folder / "export").glob("[0-9]*"), key=lambda p: int(p.name))
    return "\n".join([*lines, f"model: {export}", f"run:   {folder}"])


def load_snapshot(path: Path) -> tuple[Experiment, str]:
    """The experiment and the recipe's name of a run's ``config.json``."""
    try:
        value = json.loads(path.read_text())
        return config.from_json(value["experiment"], str(path)), str(value["recipe"])
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"snapshot {path} cannot be read ({error}); expected a run's {runs.SNAPSHOT}"
        ) from None


def _main() -> None:
    f = flags.FLAGS
    if f.snapshot:
        e, recipe = load_snapshot(Path(f.snapshot))
        e = config.override(e, shlex.split(f.set))
    else:
        e, recipe = experiment(f.dataset, f.config, f.raw, f.set), f.config
    run(e, recipe, Path(f.root))


if __name__ == "__main__":
    main(_main)
