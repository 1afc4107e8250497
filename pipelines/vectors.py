"""Pre-trained vectors of a dataset's users and items, made here of the training rows alone.

It prepares the dataset, makes vectors by truncated SVD of the graph of users and items
(`at4ctr.data.graph_vectors`), and writes them beside the raw log, where ``data.similarity`` and
``data.hash_id`` find them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from absl import flags

from at4ctr.data import graph_vectors
from at4ctr.data.dataset import Options
from at4ctr.data.preparation.vectors import folder_of
from pipelines import train
from pipelines.main import main

flags.DEFINE_integer("width", 32, "of the vectors: the rank of the SVD", lower_bound=1)


def make(asked: Options, width: int) -> tuple[Path, Path]:
    """The files of users' and items' vectors, made of the store without vectors."""
    data = replace(asked, similarity=False, hash_id="")
    store = train.open_store(data)
    return graph_vectors.write(store, folder_of(data, data.acquire()), width)


def _main() -> None:
    f = flags.FLAGS
    for path in make(train.options(f.dataset, f.raw, f.set), f.width):
        print(path)


if __name__ == "__main__":
    main(_main)
