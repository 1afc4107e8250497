"""The bodies of the reports, each by a plan's kind: Markdown of the finished runs' numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from at4ctr import runs
from at4ctr.analysis import figures, tables
from at4ctr.analysis.figures import Line
from at4ctr.analysis.tables import NONE, Row, markdown, spread
from pipelines.tables import printed as _printed
from pipelines.tables.page import Folders, Page, change, uncorrected
from pipelines.tables.plans import Cell

PAPER_NOTE = (
    "The paper's columns are of its full Taobao log and stand for the order and the size of the "
    "differences, not for the level; its *Logloss* is half the log loss, and so stands beside ours."
)
COST_NOTE = (
    "Megabytes are those of the kept training instances, written with the store's own Parquet "
    "settings; the users' sequences are stored once, whatever w is, where the paper's samples each "
    "carry their own. Seconds are those of the training steps, input included, without the first "
    "step of each epoch and of each process (JOBS=1 on a quiet machine; runs that were trained "
    "side by side are slower). The paper's columns (its Table 5) are of its Industry log, which is "
    "not public: they stand for the growth with w alone. At w = 0.1 and 1.0 our copy of the paper "
    "shows one value for two; that 6.1 h is without the tasks and 39.5 h with them is inferred "
    "from the growth of the storage."
)
RATES_NOTE = (
    "Samples are nested: what is kept at a rate is kept at every larger one. The test split is not "
    "sampled and the probabilities are recalibrated (+ ln w); bars are ± 1 standard deviation."
)
EXTERNAL_NOTE = (
    "Ours, in brackets ours − AQCL's; distance: the sum of the absolute differences, smallest "
    "first. AQCL (§5.2, Table 3) states neither the number nor the law of its negatives. Training "
    "is AQCL's: learning rate 0.001, dropout 0.2; the L2 weight of the embeddings, which AQCL "
    "searched over 1e-5 … 1e-1, is fixed at 0.001 here."
)


def results(page: Page, rows: Sequence[Row], _: Folders) -> list[str]:
    by_label = {row.label: row for row in rows}
    pairs = [(r, by_label[r.base]) for r in rows if r.base in by_label and r.base != r.label]
    pairs += [(by_label[a], by_label[b]) for a, b in page.plan.pairs]
    lines = tables.results(rows, page.seeds)
    champion = by_label.get(page.plan.champion or "")
    if champion:
        others = [row for row in rows if row is not champion and page.whole([row])]
        best = tables.best(others, "validation.auc")
        said = "No other row has all its seeds yet."
        if best:
            said = f"The best of the other rows by validation AUC is {best.label}"
            said += "." if len(others) == len(rows) - 1 else " (of those with all their seeds)."
            pairs += [(champion, best)] * ((champion, best) not in pairs)
        lines += ["", said]
    if pairs:
        lines += ["", "Differences are paired by seed (Student's t).", ""]
        lines += tables.differences(pairs)
    if any(row.paper for row in rows):
        lines += ["", PAPER_NOTE]
    return lines


def cost(page: Page, rows: Sequence[Row], _: Folders) -> list[str]:
    lines = []
    for w, base, ours in page.by_rate(rows):
        size, hours = page.sizes[w], _printed.HOURS[w]
        means = [r.mean("train_seconds") for r in (base, ours)]
        ratio = means[1] / means[0] if means[0] and means[1] is not None else None
        lines.append([
            f"{w}", f"{size.rows:,}", f"{size.instances / 1e6:.2f}",
            f"{(size.instances + size.behaviours) / 1e6:.2f}",
            *(spread(r.values("train_seconds").values(), 1) for r in (base, ours)),
            NONE if ratio is None else f"{ratio:.2f}", page.runs(base, ours),
            f"{_printed.STORAGE[w]}", *(NONE if h is None else f"{h}" for h in hours),
        ])  # fmt: skip
    header = ["w", "training rows", "instances, MB", "with behaviours, MB"]
    header += [f"{name}, s" for name in page.groups(rows)]
    header += ["ratio", "runs", "paper, TB", "paper, h", "paper AT, h"]
    return [*markdown(header, lines), "", COST_NOTE]


def rates(page: Page, rows: Sequence[Row], _: Folders) -> list[str]:
    names = list(page.groups(rows))
    found = page.by_rate(rows)
    lines = [
        [f"{w}", *(spread(r.values("auc").values()) for r in (base, ours)), *change(ours, base),
         *(spread(r.values("pcoc").values()) for r in (base, ours)), page.runs(base, ours)]
        for w, base, ours in found
    ]  # fmt: skip
    drawn = [
        Line(name, [(w, list(pair[k].values("auc").values())) for w, *pair in found])
        for k, name in enumerate(names)
    ]
    figures.rates(drawn, page.picture, page.title)
    header = ["w", *(f"{n}: test AUC" for n in names), "difference", "p"]
    header += [*(f"{n}: PCOC" for n in names), "runs"]
    note = f"{RATES_NOTE} {uncorrected(len(lines))}"
    return [*page.shown, *markdown(header, lines), "", note]


def sweep(page: Page, rows: Sequence[Row], _: Folders) -> list[str]:
    base, swept = rows[0], rows[1:]
    best = tables.best(swept, "validation.auc") if page.whole(swept) else None
    lines = []
    for row, cell in zip(rows, page.plan.cells, strict=True):
        mark = "**" if row is best else ""
        values = [spread(row.values(m).values()) for m in ("validation.auc", "auc")]
        changed = change(row, base) if row is not base else [NONE, NONE]
        lines.append([f"{mark}{cell.x:g}{mark}", *values, *changed, page.runs(row)])
    _draw_sweep(page, rows, best)
    header = ["λ", "validation AUC", "test AUC", "test AUC − that of λ = 0", "p", "runs"]
    chosen = "λ is chosen on validation (bold)"
    if best is None:
        chosen = "λ is not decided: not every run of the sweep is there"
    note = f"{chosen}; λ = 0 is {base.label}. {uncorrected(len(swept))}"
    return [*page.shown, *markdown(header, lines), "", note]


def _draw_sweep(page: Page, rows: Sequence[Row], best: Row | None) -> None:
    base, swept = rows[0], list(zip(rows[1:], page.plan.cells[1:], strict=True))
    parts = (("validation.auc", "validation"), ("auc", "test"))
    drawn = [
        Line(name, [(c.x or 0.0, list(r.values(m).values())) for r, c in swept])
        for m, name in parts
    ]
    without = [
        Line(f"{name}, {base.label}", [(0.0, list(base.values(m).values()))])
        for m, name in parts
        if base.values(m)
    ]
    weight = next((c.x for r, c in swept if r is best), None)
    task = page.plan.cells[-1].overrides[-1].split(".")[1].upper()
    figures.sweep(drawn, without, weight, f"weight of {task}", page.picture, page.title)


def tuning(page: Page, rows: Sequence[Row], _: Folders) -> list[str]:
    groups = page.groups(rows)
    lines, undecided = [], []
    for method, members in groups.items():
        trials = [row for row, _ in members]
        best = tables.best(trials, "validation.auc") if page.whole(trials) else None
        undecided += [method] if best is None else []
        for row, cell in members:
            mark = "**" if row is best else ""
            value = f"{mark}{spread(row.values('validation.auc').values())}{mark}"
            lines.append([method, f"`{cell.recipe}`", _setting(cell), value])
    budgets = sorted({len(members) for members in groups.values()})
    note = (
        f"{' to '.join(str(b) for b in budgets)} trials of every method, on one seed that no "
        "result uses; the best of each in bold. The choice is made on validation; test is not "
        "shown. Nothing changes until the bold rows are copied into `configs/_tuned.py`."
    )
    if undecided:
        note += f" Not decided, because trials are missing: {', '.join(undecided)}."
    return [*markdown(["method", "recipe", "setting", "validation AUC"], lines), "", note]


def _setting(cell: Cell) -> str:
    return ", ".join(s.removeprefix("auxiliaries.") for s in cell.overrides)


def external(page: Page, rows: Sequence[Row], folders: Folders) -> list[str]:
    published = _printed.AQCL[page.store.path.parent.name]
    lines: list[tuple[float, list[str]]] = []
    for group, found in page.groups(rows).items():
        members = {cell.recipe: row for row, cell in found}
        cells, distance = [], 0.0
        for recipe, theirs in published.items():
            mean = members[recipe].mean("auc")
            distance += float("inf") if mean is None else abs(mean - theirs)
            ours = spread(members[recipe].values("auc").values())
            cells.append(ours if mean is None else f"{ours} ({mean - theirs:+.4f})")
        shown = NONE if distance == float("inf") else f"{distance:.4f}"
        lines.append((distance, [group, *cells, shown, page.runs(*members.values())]))
    header = ["protocol", *(f"{r} (AQCL {v:.4f})" for r, v in published.items()), "distance"]
    ordered = [cells for _, cells in sorted(lines, key=lambda line: line[0])]
    note = EXTERNAL_NOTE + "".join(f" {said}" for said in _lengths(folders))
    table = markdown([*header, "runs"], ordered)
    return [*table, "", note, *_preparations(page)]


def _lengths(folders: Folders) -> list[str]:
    """How long the runs were allowed to train."""
    found = set()
    for of_seed in folders.values():
        for folder in of_seed.values():
            snapshot: Mapping[str, Any] = json.loads((folder / runs.SNAPSHOT).read_text())
            fit = snapshot["experiment"]["fit"]
            found.add((fit["epochs"], fit["patience"], fit["evaluations"]))
    return [
        f"At most {epochs} epochs, {each} evaluations on validation in each; "
        + (f"stopped after {patience} without a better one." if patience else "not stopped early.")
        for epochs, patience, each in sorted(found)
    ]


def _preparations(page: Page) -> list[str]:
    """What the stores of the protocols say of themselves; what all say, once."""
    notes = {
        cell.group: list(page.stores[cell.label].manifest["notes"])
        for cell in page.plan.cells
        if cell.label in page.stores
    }
    every = [n for n in next(iter(notes.values())) if all(n in said for said in notes.values())]
    lines = [f"- every protocol: {note}" for note in every]
    lines += [f"- {g}: {note}" for g, said in notes.items() for note in said if note not in every]
    return ["", "What the preparations say:", "", *lines]
