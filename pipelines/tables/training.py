"""Ways to train one model, compared: ``TABLE=grouping``, ``optimizers`` and ``tuned``.

``grouping``: shuffled rows against shuffled requests. The rows of a request share their user's
history (``data.grouping=requests``), which saves work. A batch then has fewer users, and
contrastive tasks have each history once among their negatives.

``optimizers``: LazyAdam against row-wise Adagrad, each at the rates that validation chose.

``tuned``: DIN with and without UIM and NIP, each at the rates that validation chose.
"""

from __future__ import annotations

from collections.abc import Mapping

from at4ctr.errors import InputError
from pipelines.tables.plans import Cell, Plan

FIGURES = ()
SIZES: Mapping[str, tuple[str, ...]] = {  # of every run, beside what the dataset's recipes have
    "amazon_beauty": ("data.user_rate=0.5",),
    "tafeng": ("data.user_rate=0.5", "data.history=50"),
    "trivago": (),
}
RECIPES = {"DIN": "din", "DIN + UIM + NIP": "din+uim+nip"}
OPTIMIZERS = {"LazyAdam": "lazy_adam", "row-wise Adagrad": "rowwise_adagrad"}
TASKS = "DIN + UIM + NIP"
# Dataset -> row -> the rates of the towers and of the tables. Each pair had eight trials of `make
# tune` on seed 0, over log:0.001:0.03 and, of tables, the same or Adagrad's log:0.003:0.3. The
# first two rows are DIN by that optimizer, the third one is DIN with its tasks by LazyAdam.
RATES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "amazon_beauty": {
        "LazyAdam": ("0.01179", "0.02599"),
        "row-wise Adagrad": ("0.006466", "0.08082"),
        TASKS: ("0.006466", "0.01139"),
    },
    "tafeng": {
        "LazyAdam": ("0.003371", "0.02752"),
        "row-wise Adagrad": ("0.00413", "0.08275"),
        TASKS: ("0.006466", "0.01139"),
    },
}


def grouping(dataset: str) -> Plan:
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


def optimizers(dataset: str) -> Plan:
    cells = [
        Cell(label, "din", _rates(dataset, label, name), base)
        for (label, name), base in zip(OPTIMIZERS.items(), (None, "LazyAdam"), strict=True)
    ]
    return _at_own_rates("optimizers", "DIN by LazyAdam and by row-wise Adagrad", dataset, cells)


def tuned(dataset: str) -> Plan:
    cells = [
        Cell("DIN", "din", _rates(dataset, "LazyAdam")),
        Cell(TASKS, "din+uim+nip", _rates(dataset, TASKS), "DIN"),
    ]
    title = "DIN with and without UIM and NIP, each at its own rates"
    return _at_own_rates("tuned", title, dataset, cells)


def _rates(dataset: str, row: str, optimizer: str = "lazy_adam") -> tuple[str, ...]:
    rate, table = RATES[dataset][row]
    return f"fit.optimizer={optimizer}", f"fit.learning_rate={rate}", f"fit.table_rate={table}"


def _at_own_rates(name: str, title: str, dataset: str, cells: list[Cell]) -> Plan:
    note = (
        "The rates are those of [the trials](rate_trials.md), eight for each row on validation "
        "with a seed that no row has. All else is that of the dataset's recipes."
    )
    return Plan(name, "activeness", title, tuple(cells), notes=(note,), defaults=SIZES[dataset])


TABLES = {"grouping": (grouping, SIZES), "optimizers": (optimizers, RATES), "tuned": (tuned, RATES)}


def plan(dataset: str, table: str, figure: str) -> Plan:
    """InputError for a dataset without settings."""
    del figure
    made, known = TABLES[table]
    if dataset not in known:
        raise InputError(
            f"TABLE={table} has no settings for DATASET={dataset}; expected one of "
            f"{', '.join(known)}; choose it"
        )
    return made(dataset)
