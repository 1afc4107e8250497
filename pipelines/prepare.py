"""Prepares a dataset's store: raw log → user-grouped Parquet with vocabularies and a manifest."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from at4ctr.data.prepare import prepare
from pipelines import train
from pipelines.main import main


def _main() -> None:
    f = flags.FLAGS
    data = train.options(f.dataset, f.raw, f.set)
    print(prepare(data, Path(f.root) / "data"))


if __name__ == "__main__":
    main(_main)
