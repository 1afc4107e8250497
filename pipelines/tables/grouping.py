"""Training on shuffled rows against training on shuffled requests: ``TABLE=grouping``.

The rows of a request share their user's history (``data.grouping=requests``), which saves work. A
batch then has fewer users, and contrastive tasks have each history once among their negatives. The
table shows what that does to the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping

from at4ctr.errors import InputError
from pipelines.tables.plans import Cell, Plan

TABLES, FIGURES = ("grouping",), ()
SIZES: Mapping[str, tuple[str, ...]] = {  # of every run, beside what the dataset's recipes have
    "amazon_beauty": ("data.user_rate=0.5",),
    "tafeng": ("data.user_rate=0.2", "data.history=50"),
    "trivago": (),
}
RECIPES = {"DIN": "din", "DIN + UIM + NIP": "din+uim+nip"}


def plan(dataset: str, table: str, figure: str) -> Plan:
    """InputError for a dataset without a size."""
    del figure
    if dataset not in SIZES:
        raise InputError(
            f"TABLE={table} has no settings for DATASET={dataset}; expected one of "
            f"{', '.join(SIZES)}; choose it"
        )
    cells = []
    for label, recipe in RECIPES.items():
        cells.append(Cell(f"{label}, rows", recipe, ("data.grouping=rows",)))
        requests = ("data.grouping=requests",)
        cells.append(Cell(f"{label}, requests", recipe, requests, f"{label}, rows"))
    note = "All settings are those of the dataset's recipes; only the order of training differs."
    return Plan(
        "grouping", "activeness", "Training on rows against training on requests", tuple(cells),
        notes=(note,), defaults=SIZES[dataset],
    )  # fmt: skip
