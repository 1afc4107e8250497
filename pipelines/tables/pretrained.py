"""Similarities and HashIDs (Pan et al., KDD 2024, §3.1) of vectors that `pipelines.vectors` makes.

``TABLE=pretrained`` compares DIN without vectors, with the similarity of user and candidate, and
with HashIDs of items in place of their ids and beside them. First run
``make vectors DATASET=amazon_beauty ARGS="--first=4"``, which makes the vectors that it reads.
"""

from __future__ import annotations

from collections.abc import Mapping

from at4ctr.errors import InputError
from pipelines.tables.plans import Cell, Plan

TABLES, FIGURES = ("pretrained",), ()
# Of every run. The vectors are of each user's first four behaviours.
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "amazon_beauty": ("data.min_history=4", "fit.learning_rate=0.001", "fit.epochs=3",
                      "fit.patience=1"),
}  # fmt: skip
ROWS = {
    "DIN": (),
    "DIN + similarity": ("data.similarity=true",),
    "DIN, HashID alone": ("data.hash_id=alone",),
    "DIN, HashID beside the id": ("data.hash_id=beside",),
}
NOTE = (
    "The vectors are of a truncated SVD of the graph of each user's first four behaviours (`make "
    "vectors`), of width 32, and every row of these runs comes later. The paper's HashIDs are of "
    "images, which this log does not have."
)


def plan(dataset: str, table: str, figure: str) -> Plan:
    """InputError for a dataset without settings."""
    del figure
    if dataset not in DEFAULTS:
        raise InputError(
            f"TABLE={table} has no settings for DATASET={dataset}; expected one of "
            f"{', '.join(DEFAULTS)}; choose it"
        )
    cells = [
        Cell(label, "din", setting, "DIN" if setting else None) for label, setting in ROWS.items()
    ]
    title = "Similarities and HashIDs of pre-trained vectors"
    return Plan(
        "pretrained", "item_clicks", title, tuple(cells), notes=(NOTE,), defaults=DEFAULTS[dataset]
    )
