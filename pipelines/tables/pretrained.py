"""Similarities and HashIDs (Pan et al., KDD 2024, §3.1) of vectors that `pipelines.vectors` makes.

``TABLE=pretrained`` compares DIN without vectors, with the similarity of user and candidate, and
with HashIDs of items in place of their ids and beside them. Run `make vectors` first, with the
dataset and the options of data that the table has.
"""

from __future__ import annotations

from collections.abc import Mapping

from at4ctr.errors import InputError
from pipelines.tables.plans import Cell, Plan

TABLES, FIGURES = ("pretrained",), ()
# Of every run: a third of Beauty's users, so that three seeds take a quarter of an hour.
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "amazon_beauty": ("data.user_rate=0.3", "fit.learning_rate=0.001", "fit.epochs=3",
                      "fit.patience=1"),
}  # fmt: skip
ROWS = {
    "DIN": (),
    "DIN + similarity": ("data.similarity=true",),
    "DIN, HashID alone": ("data.hash_id=alone",),
    "DIN, HashID beside the id": ("data.hash_id=beside",),
}
NOTE = (
    "The vectors are of a truncated SVD of the graph of the training rows (`make vectors`), of "
    "width 32. The graph holds each training row's own edge and no test row's. The paper's "
    "HashIDs are of images, which this log does not have."
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
