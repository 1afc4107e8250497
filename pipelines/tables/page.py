"""The inputs of every body of a report: the plan, its stores, the folder of the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from at4ctr.analysis import storage
from at4ctr.analysis.tables import NONE, Row, count, difference
from at4ctr.data.store import Store
from pipelines.tables import printed as _printed
from pipelines.tables.plans import Cell, Plan

Folders = Mapping[str, Mapping[int, Path]]  # cell's label -> seed -> finished run


@dataclass(frozen=True)
class Page:
    """A plan's report. stores: of every cell that can run, by its label. seeds: of every cell."""

    plan: Plan
    stores: Mapping[str, Store]
    seeds: int
    folder: Path

    @property
    def store(self) -> Store:
        """Of the first cell."""
        return next(iter(self.stores.values()))

    @property
    def title(self) -> str:
        simulated = " (simulated log)" if self.store.simulated else ""
        return f"{self.store.path.parent.name}{simulated}: {self.plan.title}"

    @property
    def picture(self) -> Path:
        return self.folder / f"{self.plan.name}.png"

    @property
    def shown(self) -> list[str]:
        """The link to the picture."""
        name = self.plan.name
        return [f"![{self.plan.title}]({name}.png) ([SVG]({name}.svg))", ""]

    @cached_property
    def sizes(self) -> dict[float, storage.Size]:
        return storage.sizes(self.store, _printed.RATES)

    def whole(self, rows: Iterable[Row]) -> bool:
        """Whether rows have all their seeds."""
        return all(len(row.runs) == self.seeds for row in rows)

    def runs(self, *rows: Row) -> str:
        """How many runs stand behind some rows."""
        return count(sum(len(row.runs) for row in rows), self.seeds * len(rows))

    def groups(self, rows: Sequence[Row]) -> dict[str, list[tuple[Row, Cell]]]:
        """Rows and their cells by the cells' group."""
        found: dict[str, list[tuple[Row, Cell]]] = {}
        for row, cell in zip(rows, self.plan.cells, strict=True):
            found.setdefault(cell.group, []).append((row, cell))
        return found

    def by_rate(self, rows: Sequence[Row]) -> list[tuple[float, Row, Row]]:
        """(w, without the tasks, with them)."""
        without, tasks = self.groups(rows).values()
        at = {cell.x: row for row, cell in tasks}
        return [(cell.x or 0.0, row, at[cell.x]) for row, cell in without]


def change(row: Row, base: Row) -> list[str]:
    """Mean paired difference of test AUC and its p."""
    d = difference(row, base, "auc")
    if d is None:
        return [NONE, NONE]
    return [f"{d.mean:+.4f}", NONE if d.p is None else f"{d.p:.2g}"]


def uncorrected(comparisons: int) -> str:
    """What is to be known of a table that prints many p values."""
    return f"{comparisons} comparisons by Student's paired t test; p is not corrected for that."
