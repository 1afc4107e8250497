"""Prepares a dataset's store: raw log → user-grouped Parquet with vocabularies and a manifest."""

from __future__ import annotations

from absl import flags

from pipelines import train
from pipelines.main import main


def _main() -> None:
    f = flags.FLAGS
    print(train.open_store(train.options(f.dataset, f.raw, f.set)).path)


if __name__ == "__main__":
    main(_main)
