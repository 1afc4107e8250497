"""The main job: raw log → store → trained, evaluated, calibrated, exported and verified model."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from absl import flags

import configs
from at4ctr import cluster, config, evaluation, runs, stopping
from at4ctr.analysis import baselines, plots
from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.data.engines import duck
from at4ctr.data.engines.base import Name as Engine
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import MANIFEST, Store
from at4ctr.durable import write_json
from at4ctr.errors import InputError
from at4ctr.fit import too_few
from at4ctr.model.serving import ServingModel
from export import saved_model
from export.verify import verify
from pipelines import fusion, measure
from pipelines.assembly import Assembly
from pipelines.main import main
from pipelines.pages import run as page
from pipelines.words import split

log = logging.getLogger("at4ctr.train")

flags.DEFINE_string("dataset", "taobao", "a module of at4ctr/data/datasets")
flags.DEFINE_string("config", "", "a recipe of configs/; empty: the dataset's own")
flags.DEFINE_string("raw", "", "the raw log's file or folder; empty: data/raw/<dataset>")
flags.DEFINE_string("set", "", "overrides, such as 'fit.batch_size=2048 data.history=200'")
flags.DEFINE_string("memory", "", "of preparation, as 6GB; empty: a quarter of the machine's")
flags.DEFINE_string("snapshot", "", "repeat the experiment of this config.json instead")
flags.DEFINE_boolean("export", True, "export and verify the model; without, only measure it")
flags.DEFINE_boolean("predictions", False, "also keep every test prediction of the run")
flags.DEFINE_string(
    "trial", "", "a folder for the run, which reads no test row and exports nothing"
)

DATA, RUNS = Path("data"), Path("runs")


def words(assignments: str) -> list[str]:
    """The words of ``SET``, as a shell splits them."""
    return split("SET", assignments, "fit.batch_size=2048 data.history=200")


def open_store(
    data: Options, name: str | None = None, engine: Engine = "duckdb", *, again: bool = False
) -> Store:
    """The store of a dataset's options, prepared where need be by an engine.

    name: the store that a snapshot names. It is used if it still exists; InputError if it is gone
        and the raw log, or a newer preparation, gives another one.
    again: prints the summary of the log also where the store was there already.
    """
    path = DATA / "store" / data.name / (name or "")
    if name is None or not (path / MANIFEST).is_file():
        path = prepare(data, DATA, engine, again=again)
        if path.name != (name or path.name):
            raise InputError(
                f"store {name} of {data.name} is gone and the raw log gives {path.name} now; "
                "expected the log of the run; restore the log, or train anew"
            )
    return Store.open(path, schema=data.schema(), options=data.preparation())


def options(dataset: str, raw: str, assignments: str) -> Options:
    """A dataset's options with the overrides that begin with ``data.``."""
    chosen = [a for a in words(assignments) if a.startswith("data.")]
    return config.override({"data": configs.dataset(dataset)(raw=raw)}, chosen)["data"]


def experiment(dataset: str, recipe: str, raw: str, assignments: str) -> Experiment:
    """The recipe's experiment for a dataset, overridden."""
    data = options(dataset, raw, assignments)  # an override is above what a recipe sets of them
    return config.override(configs.recipe(recipe, data), words(assignments), recipe)


def run(
    e: Experiment,
    recipe: str,
    store: Store,
    *,
    export: bool = True,
    predictions: bool = False,
    trial: Path | None = None,
) -> Path:
    """Runs an experiment, or resumes its unfinished run; returns the finished run's folder.

    With several hosts (``cluster``) all train, and only the chief writes, evaluates and exports.
    export: False leaves export and verification out, and the metrics say so.
    predictions: keeps every test prediction in the run (`measure.keep`).
    trial: the folder of a run that is judged by validation. It reads no test row, its metrics are
        those of validation, and it is not exported. Such runs have a folder of their own, so that
        no table takes one for a whole run.
    """
    root, export = trial or RUNS, export and trial is None
    began = time.perf_counter()
    Assembly(e, store).reader("train", e.fit.batch_size)  # refuses bad input before a run exists
    with ExitStack() as held, cluster.loss_explained():
        folder = Path(cluster.chief_does(lambda: str(_open(root, e, recipe, store, held))))
        try:
            finish = _train(e, store, folder)
        except InputError:
            if cluster.is_chief() and not any((folder / "checkpoints").glob("step-*")):
                shutil.rmtree(folder)  # refused before it began: nothing half-written
            raise

        def end() -> None:
            metrics = finish(export, predictions, trial is None)
            metrics["seconds"] = round(time.perf_counter() - began, 1)
            if trial is None:
                page.write(folder, store, metrics)
            write_json(folder / runs.METRICS, metrics)
            runs.point_latest(root, folder)
            log.info(
                "%s", measure.summary(metrics, folder) if trial is None else f"trial: {folder}"
            )

        cluster.chief_does(end)
    return folder


def _open(root: Path, e: Experiment, recipe: str, store: Store, held: ExitStack) -> Path:
    """The run's folder, locked and logged to for as long as ``held`` is."""
    folder = runs.open_run(root, f"{e.data.name}-{recipe}", snapshot_of(e, recipe, store))
    held.enter_context(runs.locked(folder))
    held.enter_context(runs.logging_to(folder / "train.log"))
    label = " (simulated)" if store.simulated else ""
    log.info("%s on %s%s: %s", recipe, e.data.name, label, folder)
    shutil.rmtree(folder / "export", ignore_errors=True)  # of an unfinished end
    return folder


def snapshot_of(e: Experiment, recipe: str, store: Store) -> dict[str, Any]:
    """The snapshot of a run, from which it can be repeated on any number of hosts."""
    e = replace(e, fit=replace(e.fit, shards=e.fit.shards or cluster.hosts().size))
    found = {"recipe": recipe, "store": store.path.name, "experiment": config.to_json(e)}
    return {**found, "form": runs.FORM}


def _train(
    e: Experiment, store: Store, folder: Path
) -> Callable[[bool, bool, bool], dict[str, Any]]:
    """Trains. Returns the rest, which only the chief does: (export, keep predictions, test) -> the
    run's metrics."""
    made = Assembly(e, store)
    with cluster.strategy(e.fit.devices).scope():
        model = made.serving()
        validate = sample = None
        if store.counts("validation")["rows"]:
            predict, validation = evaluation.Predictor(model), made.reader("validation")

            def validate() -> dict[str, Any]:
                return {k: evaluation.report(rows) for k, rows in predict(validation).items()}

            def sample(rows: int) -> dict[str, Any]:
                size = min(rows, evaluation.BATCH)
                found = predict(made.reader("validation", size), math.ceil(rows / size))
                return {k: evaluation.report(rows) for k, rows in found.items()}

        trainer = made.trainer(made.training(model), folder, validate, sample)
        few = too_few(e.fit, trainer.total)
        if few and cluster.is_chief():
            log.warning("%s", few)
        with stopping.deferred():
            cursor = trainer.train()

    def finish(export: bool, predictions: bool, test: bool) -> dict[str, Any]:
        final = made.restored(folder)
        validated = made.predictions(final, "validation")
        metrics = measure.facts(trainer, cursor, store, exported=export)
        if few:
            metrics["too_few_steps"] = few
        if validated:
            plain = {k: measure.uncalibrated(rows) for k, rows in validated.items()}
            metrics["validation"] = evaluation.reports(plain)
        plots.curves(cursor.curves, folder / "curves.png", simulated=store.simulated)
        if not test:
            return metrics
        choices = measure.calibrate(e.calibrator, final, validated, folder, e.seed)
        curve = fusion.choose(final, validated, choices, folder)
        measured = measure.measure(final, made.reader("test"))
        found = {label: m.found for label, m in measured.items()}
        scores = baselines.scores(store, found)
        metrics = measure.metrics_of(measured) | metrics
        metrics |= fusion.metrics(final, found)
        metrics["baselines"] = baselines.report(found, scores)
        if curve:
            metrics["score"]["validation"] = curve
        metrics["calibrator"] = {label: choice.to_json() for label, choice in choices.items()}
        metrics["training_sample"] = measure.means_of_sample(made.training_sample(final))
        if validated:
            measure.warn_of_validation(plain, choices)
        popular = {k: {baselines.POPULARITY: z[baselines.POPULARITY]} for k, z in scores.items()}
        measure.draw(measured, folder, simulated=store.simulated, others=popular)
        if predictions:
            measure.keep(measured, folder)
        if export:
            _export(e, store, folder, final, metrics)
        return metrics

    return finish


def _export(
    e: Experiment, store: Store, folder: Path, final: ServingModel, metrics: dict[str, Any]
) -> None:
    """Exports the model once it is verified; where a check fails, InputError and no version."""
    facts = {"commit": runs.commit(), "config": config.to_json(e), "metrics": metrics}

    def check(staged: Path) -> None:
        checked = verify(staged)
        for line in checked.lines:
            log.info("  %s", line)
        if not checked.ok:
            raise InputError(
                "the export failed its verification, the lines above say where; expected every "
                "check to pass; no version was written"
            )

    saved_model.save(
        final,
        store,
        folder / "export",
        history=e.data.history,
        facts=facts,
        check=check,
        options=e.export,
    )


def load_snapshot(path: Path) -> tuple[Experiment, str, str]:
    """The experiment, the recipe's name and the store's name of a run's ``config.json``."""
    try:
        value = json.loads(path.read_text())
        found = config.from_json(value["experiment"], str(path), configs.datasets())
        return found, str(value["recipe"]), str(value["store"])
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"snapshot {path} cannot be read ({error}); expected a run's {runs.SNAPSHOT}"
        ) from None


def _main() -> None:
    with stopping.on_signals():
        if cluster.hosts().size > 1:
            cluster.strategy()  # before any operation runs in this process
        _train_as_asked()


def _train_as_asked() -> None:
    f = flags.FLAGS
    duck.ask_memory(f.memory)
    trial = Path(f.trial) if f.trial else None
    if f.snapshot:
        first, recipe, name = load_snapshot(Path(f.snapshot))
        e = config.override(first, words(f.set), recipe)
        same = e.data.preparation() == first.data.preparation()
        store = _shared_store(e.data, name if same else None)
    else:
        recipe = f.config or configs.dataset(f.dataset).RECIPE
        e = experiment(f.dataset, recipe, f.raw, f.set)
        store = _shared_store(e.data)
    run(e, recipe, store, export=f.export, predictions=f.predictions, trial=trial)


def _shared_store(data: Options, name: str | None = None) -> Store:
    """``open_store``; with several hosts the chief calls it first."""
    with cluster.loss_explained():
        return open_store(data, cluster.chief_does(lambda: open_store(data, name).path.name))


if __name__ == "__main__":
    main(_main)
