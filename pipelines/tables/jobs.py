"""Jobs of a dataset for the queue: recipes with overrides, each on the store that it needs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from absl import flags

from at4ctr import config
from at4ctr.data.store import Store
from pipelines import train
from pipelines.tables.queue import Job

flags.DEFINE_integer("jobs", 1, "runs at a time, each with its share of the cores", lower_bound=1)


class Workshop:
    """Makes the jobs of a dataset. A store is prepared once, whatever the number of its jobs.

    trials: the folder of runs that read no test row; None for whole runs.
    """

    def __init__(self, dataset: str, raw: str, trials: Path | None = None) -> None:
        self.dataset, self.raw, self.trials = dataset, raw, trials
        self._stores: dict[str, Store] = {}

    def job(self, label: str, recipe: str, assignments: Iterable[str]) -> tuple[Job, Store]:
        """The job of a recipe with overrides, and its store; InputError as `train.experiment`."""
        chosen = " ".join(filter(None, assignments))
        e = train.experiment(self.dataset, recipe, self.raw, chosen)
        key = config.to_json(e)["data"]  # a simulated log has options that preparation has not
        key = json.dumps(key, sort_keys=True)
        if key not in self._stores:
            self._stores[key] = train.open_store(e.data)
        store = self._stores[key]
        given = {"dataset": self.dataset, "config": recipe, "raw": self.raw, "set": chosen}
        if self.trials is not None:
            given["trial"] = str(self.trials)
        snapshot = json.loads(json.dumps(train.snapshot_of(e, recipe, store)))
        return Job(label, given, snapshot), store
