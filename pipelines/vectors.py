"""Makes pre-trained vectors of a dataset's users and items, from the training rows alone.

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

flags.DEFINE_integer("width", 32, "width of the vectors, the rank of the SVD", lower_bound=1)
flags.DEFINE_integer(
    "first", 0, "how many of each user's behaviours are in the graph; 0: all", lower_bound=0
)


def make(asked: Options, width: int, first: int) -> tuple[Path, Path]:
    """The files of users' and items' vectors, made of the store without vectors.

    The store has rows of all histories, so that what a user did first is in the graph.
    """
    data = replace(asked, similarity=False, hash_id="", min_history=min(asked.min_history, 1))
    store = train.open_store(data)
    return graph_vectors.write(store, folder_of(data, data.acquire()), width, first)


def _main() -> None:
    f = flags.FLAGS
    for path in make(train.options(f.dataset, f.raw, f.set), f.width, f.first):
        print(path)


if __name__ == "__main__":
    main(_main)
