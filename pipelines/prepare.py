"""Prepares a dataset's store: raw log → user-grouped Parquet with vocabularies and a manifest.

It prints a summary of the log, also if the store exists already. The manifest keeps that summary.
"""

from __future__ import annotations

from absl import flags

from at4ctr.data.engines import duck
from at4ctr.data.engines.base import NAMES
from pipelines import train
from pipelines.main import main

flags.DEFINE_enum("engine", NAMES[0], NAMES, "what runs the SQL; spark: see docs/spark.md")


def _main() -> None:
    f = flags.FLAGS
    duck.ask_memory(f.memory)
    data = train.options(f.dataset, f.raw, f.set)
    print(train.open_store(data, engine=f.engine, again=True).path)


if __name__ == "__main__":
    main(_main)
