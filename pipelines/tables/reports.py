"""The report of a plan, from the run folders there are: Markdown, and the figures beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from at4ctr import runs
from at4ctr.analysis import abundance, figures, relevance
from at4ctr.analysis.tables import NONE, Row, count, markdown, spread
from at4ctr.data.store import Store
from at4ctr.durable import write_json
from at4ctr.errors import InputError
from pipelines import train
from pipelines.assembly import Assembly
from pipelines.tables import bodies
from pipelines.tables.page import Folders, Page
from pipelines.tables.plans import Plan

RELEVANCE_NOTE = (
    "{samples:,} positive test samples with a history, the same for every model. User: the mean of "
    "the real behaviours' embeddings; item: the candidate's embeddings, from the same tables (the "
    "paper's concatenations of user and item features differ in width on Taobao, so its exact "
    "vectors are unknown). Shuffled: the same users with one another's candidates; what is high "
    "there too is a direction common to all embeddings and no relevance. Nearer: share of samples "
    "whose cosine exceeds the shuffled one."
)
ABUNDANCE = "abundance.json"  # of a run: space -> table -> information abundance
ABUNDANCE_NOTE = (
    "Information abundance is the sum of a table's singular values over the largest "
    "(`at4ctr/analysis/abundance.py`); of several spaces it is that of the columns of all spaces "
    "side by side. Each cell is its mean over seeds, and its share of the columns."
)
SEEDS_NOTE = "Seeds vary initialisation, order and draws; the split and the negatives are fixed."

Body = Callable[[Page, Sequence[Row], Folders], list[str]]


class Report:
    """Writes ``<folder>/<plan's name>.md`` as often as it is asked to, each time whole."""

    def __init__(
        self, plan: Plan, stores: Mapping[str, Store], seeds: int, command: str, folder: Path
    ) -> None:
        """stores: of every cell that can run, by its label."""
        self.page, self.command = Page(plan, stores, seeds, folder), command
        self._chosen: dict[tuple[Path, int], Any] = {}
        self._relevance: dict[Path, relevance.Relevance] = {}
        self._unreadable: dict[str, str] = {}  # finished run -> why it has no relevance

    def write(self, folders: Folders, missing: Mapping[str, str]) -> Path:
        """The report of the finished runs. missing: label of a cell or run -> why."""
        plan = self.page.plan
        rows = [
            Row(c.label, {s: _metrics(f) for s, f in sorted(folders[c.label].items())},
                c.base, c.paper)
            for c in plan.cells
        ]  # fmt: skip
        self.page.folder.mkdir(parents=True, exist_ok=True)
        kinds: dict[str, Body] = {
            "results": bodies.results,
            "labels": bodies.labels,
            "activeness": bodies.activeness,
            "item_clicks": bodies.item_clicks,
            "cost": bodies.cost,
            "rates": bodies.rates,
            "sweep": bodies.sweep,
            "relevance": self._relevant,
            "spaces": self._spaces,
            "tuning": bodies.tuning,
            "external": bodies.external,
        }
        lines = [*self._head(rows), *kinds[plan.kind](self.page, rows, folders)]
        lines += [line for note in plan.notes for line in ("", note)]
        if missing := {**missing, **self._unreadable}:
            lines += ["", "## Missing", ""]
            lines += [f"- {label}: {' '.join(why.split())}" for label, why in missing.items()]
        path = self.page.folder / f"{plan.name}.md"
        aside = path.with_name(f".{path.name}.tmp")
        aside.write_text("\n".join(lines) + "\n")
        aside.replace(path)
        return path

    def _head(self, rows: Sequence[Row]) -> list[str]:
        seeds = self.page.seeds
        metrics = [m for row in rows for m in row.runs.values()]
        tests = {(m["rows"], m["positives"]) for m in metrics if "rows" in m}  # trials have none
        what = f"{seeds} seed{'s' * (seeds > 1)}"
        if len(tests) == 1:
            ((size, positive),) = tests
            what += f", test split of {size:,} rows ({positive:,} positive)"
        what += "; mean ± standard deviation over seeds." if seeds > 1 else "."
        lines = [f"# {self.page.title}", "", f"`{self.command}`", "", f"{what} {SEEDS_NOTE}"]
        lines += ["", said] if (said := _commits(metrics)) else []
        wanted = seeds * len(rows)
        if len(metrics) < wanted:
            lines += ["", f"**Not complete: {len(metrics)} of {wanted} runs.**"]
        return [*lines, ""]

    def _relevant(self, page: Page, rows: Sequence[Row], folders: Folders) -> list[str]:
        lines, drawn = [], []
        for row in rows:
            found = [r for f in folders[row.label].values() if (r := self._relevance_of(f))]
            if found:
                drawn.append((row.label, found))
            columns = [
                [r.summary[k] for r in found] for k in ("paired", "shuffled", "gap", "nearer")
            ]
            lines.append([row.label, *map(spread, columns), count(len(found), page.seeds)])
        if drawn:
            figures.densities(drawn, page.picture, page.title)
        header = ["model", "cosine", "shuffled candidates", "gap", "nearer than a shuffled one"]
        samples = len(drawn[0][1][0].paired) if drawn else 0
        said = RELEVANCE_NOTE.format(samples=samples)
        shown = page.shown if drawn else []
        return [*shown, *markdown([*header, "runs"], lines), "", said]

    def _spaces(self, page: Page, rows: Sequence[Row], folders: Folders) -> list[str]:
        """AUC as for active users, and the information abundance of every embedding table."""
        lines = []
        found = {row.label: [_abundance(f) for f in folders[row.label].values()] for row in rows}
        tables = dict.fromkeys(t for of_runs in found.values() for run in of_runs for t in run)
        for row in rows:
            cells = [row.label]
            for table in tables:
                values = [run[table] for run in found[row.label] if table in run]
                mean = sum(v["abundance"] for v in values) / len(values) if values else 0.0
                share = mean / values[0]["width"] if values else 0.0
                cells.append(f"{mean:.2f} ({share:.0%})" if values else NONE)
            lines.append(cells)
        shown = ["", *markdown(["method", *tables], lines), "", ABUNDANCE_NOTE]
        return [*bodies.activeness(page, rows, folders), *shown]

    def _relevance_of(self, folder: Path) -> relevance.Relevance | None:
        if folder not in self._relevance:
            try:
                e, _, name = train.load_snapshot(folder / runs.SNAPSHOT)
                store = train.open_store(e.data, name)
                made = Assembly(e, store)
                if (store.path, e.data.history) not in self._chosen:
                    chosen = relevance.positives(made.reader("test"))
                    self._chosen[store.path, e.data.history] = chosen
                model = made.restored(folder)
                batch = self._chosen[store.path, e.data.history]
                self._relevance[folder] = relevance.relevance(model, batch)
            except InputError as error:  # of one run: the others are shown
                self._unreadable[str(folder)] = str(error)
                return None
        return self._relevance[folder]


def _abundance(folder: Path) -> dict[str, dict[str, float]]:
    """Table -> ``abundance`` and ``width`` of all spaces together; kept in the run's folder."""
    path = folder / ABUNDANCE
    if not path.exists():
        e, _, name = train.load_snapshot(folder / runs.SNAPSHOT)
        model = Assembly(e, train.open_store(e.data, name)).restored(folder)
        tables: dict[str, list[Any]] = {}
        for embedder in model.spaces.values():
            for table, values in embedder.tables.items():
                tables.setdefault(table, []).append(values.numpy())
        joined = {t: np.concatenate(v, axis=1) for t, v in tables.items()}
        found = {
            table: {"abundance": s.abundance, "width": s.width}
            for table, s in abundance.spectra(joined).items()
            if s.width > 1
        }
        write_json(path, found)
    read: dict[str, dict[str, float]] = json.loads(path.read_text())
    return read


def _metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / runs.METRICS).read_text())
    return found


def _commits(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Which code made the runs, ``+`` where it had been changed; "" where there is no run."""
    found = Counter(m.get("commit") or "unknown" for m in metrics)
    if len(found) < 2:
        return "".join(f"Commit {name}." for name in found)
    each = ", ".join(f"{name} ({n})" for name, n in sorted(found.items()))
    return f"**Runs of {len(found)} commits: {each}.**"
