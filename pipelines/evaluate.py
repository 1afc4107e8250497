"""Evaluates a finished run again: its best weights on its test split, all metrics as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from absl import flags

from at4ctr import runs
from at4ctr.errors import InputError
from pipelines import fusion, measure, train
from pipelines.assembly import Assembly
from pipelines.main import main

flags.DEFINE_string("run", "runs/latest", "a run's folder")


def _main() -> None:
    f = flags.FLAGS
    folder = Path(f.run)
    if not (folder / runs.METRICS).exists():
        raise InputError(
            f"{folder} holds no {runs.METRICS}; expected a finished run; name one with RUN=, or "
            "make one with make train"
        )
    e, _, name = train.load_snapshot(folder / runs.SNAPSHOT)
    store = train.open_store(e.data, name)
    made = Assembly(e, store)
    model = made.restored(folder)
    measured = measure.measure(model, made.reader("test"))
    metrics = measure.metrics_of(measured)
    metrics |= fusion.metrics(model, {k: m.found for k, m in measured.items()})
    print(json.dumps(metrics | {"simulated": store.simulated}, indent=2))


if __name__ == "__main__":
    main(_main)
