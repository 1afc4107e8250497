"""The bodies of the reports, each by a plan's kind: Markdown of the finished runs' numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from at4ctr import evaluation, runs
from at4ctr.analysis import comparison, figures, tables
from at4ctr.analysis.figures import Line
from at4ctr.analysis.tables import METRICS, NONE, Row, markdown, spread
from at4ctr.metrics import intervals
from pipelines.measure import PREDICTIONS
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
CONSTANT_NOTE = (
    "NE is the log loss over that of the constant base rate of the test rows: above 1 the model is "
    "worse than a constant. {who}."
)
SCORE_NOTE = (
    "The score's AUC is that of conversions, ranked by the fused score with the weight s that "
    "validation chose; the paper's conversion AUC may be measured on it."
)
DIFFERENCES_NOTE = (
    "Differences are paired by seed and test row. The intervals are over seeds and users "
    "(`at4ctr/analysis/comparison.py`). p is of each test alone; p (Holm) is adjusted for the "
    "{tests} tests of this table; the intervals are not."
)
BANDS_NOTE = (
    "The differences by clicks of the candidate are paired by seed, and their 95 % intervals and p "
    "(Student's t) are over seeds alone. No p of them is adjusted."
)
EXTERNAL_NOTE = (
    "Ours, in brackets ours − AQCL's; distance: the sum of the absolute differences, smallest "
    "first. AQCL (§5.2, Table 3) states neither the number nor the law of its negatives. Training "
    "is AQCL's: learning rate 0.001, dropout 0.2; the L2 weight of the embeddings, which AQCL "
    "searched over 1e-5 … 1e-1, is fixed at 0.001 here."
)


def results(page: Page, rows: Sequence[Row], folders: Folders) -> list[str]:
    """Metrics of the first label, and differences over seeds and users."""
    by_label = {row.label: row for row in rows}
    pairs = [(r, by_label[r.base]) for r in rows if r.base in by_label and r.base != r.label]
    pairs += [(by_label[a], by_label[b]) for a, b in page.plan.pairs]
    lines = [*tables.results(rows, page.seeds), "", *_constant(rows, {"": "normalized_entropy"})]
    if page.plan.champion in by_label:
        said, rival = best_other(page, rows, by_label[page.plan.champion])
        pairs += [p for p in rival if p not in pairs]
        lines += [said, ""]
    lines += _differences(page, pairs, [], folders, loss=True)
    return [*lines, *(["", PAPER_NOTE] if any(row.paper for row in rows) else [])]


def best_other(page: Page, rows: Sequence[Row], champion: Row) -> tuple[str, list[tuple[Row, Row]]]:
    """Names the row of the highest validation AUC among the others that have all their seeds, and
    pairs the champion with it."""
    others = [row for row in rows if row is not champion and page.whole([row])]
    best = tables.best(others, "validation.auc")
    if best is None:
        return "No other row has all its seeds yet.", []
    end = "." if len(others) == len(rows) - 1 else " (of those with all their seeds)."
    return f"The best of the other rows by validation AUC is {best.label}{end}", [(champion, best)]


def labels(page: Page, rows: Sequence[Row], folders: Folders) -> list[str]:
    """Metrics of each label, and paired differences of its AUC and GAUC over seeds and users."""
    rows = [_by_name(row, folders[row.label]) for row in rows]
    names = list(
        dict.fromkeys(k for r in rows for m in r.runs.values() for k in m.get("labels", ()))
    )
    lines = []
    printed = [k for k in names if any(f"{k}.auc" in c.printed for c in page.plan.cells)]
    scored = any(row.values("score.auc") for row in rows)
    for row, cell in zip(rows, page.plan.cells, strict=True):
        cells = [row.label, tables.count(len(row.runs), page.seeds)]
        for name in names:
            cells.append(_label(row, name, "auc"))
            if name in printed:
                theirs = cell.printed.get(f"{name}.auc")
                cells.append(NONE if theirs is None else f"{theirs:.4f}")
            cells += [
                _label(row, name, metric) for metric in ("gauc", "normalized_entropy", "pcoc")
            ]
        cells += [spread(row.values("score.auc").values())] if scored else []
        lines.append([*cells, spread(row.values("seconds").values(), 0)])
    header = ["method", "runs"]
    for name in names:
        header.append(f"{name}: AUC")
        header += ["paper's"] if name in printed else []
        header += ["GAUC", "NE", "PCOC"]
    header += ["score: AUC"] if scored else []
    found = [*markdown([*header, "s a run"], lines), "", *_constants(rows, names)]
    found += [SCORE_NOTE, ""] if scored else []
    if page.plan.axis:
        figures.labels(_by_label(page, rows, names), page.plan.axis, page.picture, page.title)
        found = [*page.shown, *found]
    by_label = {row.label: row for row in rows}
    pairs = [(r, by_label[r.base]) for r in rows if r.base in by_label]
    return [*found, *_differences(page, pairs, names, folders)]


def item_clicks(page: Page, rows: Sequence[Row], folders: Folders) -> list[str]:
    """AUC, overall and by how many clicks the candidate has in training, and differences."""
    bands = {band for row in rows for run in row.runs.values() for band in run["item_clicks"]}
    ordered = sorted(bands, key=lambda band: int(re.split("[–+]", band)[0]))
    lines = []
    for row in rows:
        keys = ["auc", *(f"item_clicks.{band}.auc" for band in ordered)]
        cells = [spread(row.values(key).values()) for key in (*keys, "gauc", "normalized_entropy")]
        lines.append([row.label, tables.count(len(row.runs), page.seeds), *cells])
    top = ["model", "runs", "AUC", *(f"{band} clicks: AUC" for band in ordered), "GAUC", "NE"]
    by_label = {row.label: row for row in rows}
    pairs = [(r, by_label[r.base]) for r in rows if r.base in by_label]
    by_band = [
        [f"{row.label} − {base.label}"]
        + [_over_seeds(tables.difference(row, base, f"item_clicks.{b}.auc")) for b in ordered]
        for row, base in pairs
    ]
    header = ["difference in AUC", *(f"{band} clicks" for band in ordered)]
    found = [*markdown(top, lines), "", *_differences(page, pairs, ["click"], folders), ""]
    return [*found, *markdown(header, by_band), "", BANDS_NOTE]


def _over_seeds(d: tables.Difference | None) -> str:
    if d is None or d.half is None or d.p is None:
        return NONE if d is None else f"{d.mean:+.4f}"
    return f"{d.mean:+.4f} ({d.mean - d.half:+.4f} … {d.mean + d.half:+.4f}, p {d.p:.2g})"


def activeness(page: Page, rows: Sequence[Row], folders: Folders) -> list[str]:
    """AUC and RelaImpr, overall and by how active users are, and differences over seeds and users.

    RelaImpr = (AUC − 0.5) / (AUC of the base − 0.5) − 1 (AQCL, Eq. 9).
    """
    by_label = {row.label: row for row in rows}
    groups = {"auc": "overall", **{k: f"{k} activeness" for k in evaluation.ACTIVENESS_GROUPS}}
    printed = {key for key in groups if any(key in c.printed for c in page.plan.cells)}
    lines = []
    for row, cell in zip(rows, page.plan.cells, strict=True):
        base = by_label.get(row.base or "")
        cells = [row.label, tables.count(len(row.runs), page.seeds)]
        for key in groups:
            metric = key if key == "auc" else f"activeness.{key}.auc"
            cells += [spread(row.values(metric).values()), _relative(row, base, metric)]
            if key in printed:
                theirs = cell.printed.get(key)
                cells.append(NONE if theirs is None else f"{theirs:.4f}")
        cells += [spread(row.values(m).values()) for m in ("gauc", "normalized_entropy", "pcoc")]
        lines.append([*cells, spread(row.values("seconds").values(), 0)])
    header = ["method", "runs"]
    for key, name in groups.items():
        header += [f"{name}: AUC", "RelaImpr", *(["paper's AUC"] if key in printed else [])]
    header += ["GAUC", "NE", "PCOC", "s a run"]
    found = [*markdown(header, lines), "", *_constant(rows, {"": "normalized_entropy"})]
    if page.plan.axis:
        drawn = [Line(g or "AQCL", [(c.x or 0.0, list(r.values("auc").values())) for r, c in m])
                 for g, m in page.groups(rows).items()]  # fmt: skip
        figures.labels({"click": drawn}, page.plan.axis, page.picture, page.title)
        found = [*page.shown, *found]
    pairs = [(r, by_label[r.base]) for r in rows if r.base in by_label]
    pairs += [(by_label[a], by_label[b]) for a, b in page.plan.pairs]
    return [*found, *_differences(page, pairs, ["click"], folders)]


def _relative(row: Row, base: Row | None, metric: str) -> str:
    ours, theirs = row.mean(metric), base.mean(metric) if base else None
    if ours is None or theirs is None or theirs == 0.5:
        return NONE
    return f"{100 * ((ours - 0.5) / (theirs - 0.5) - 1):+.1f} %"


def _by_name(row: Row, runs_of: Mapping[int, Path]) -> Row:
    """A row whose runs have ``labels``, also where a model serves one label alone."""
    found = {}
    for seed, run in row.runs.items():
        if "labels" not in run:
            (label,) = comparison.read(runs_of[seed] / PREDICTIONS)
            run = {**run, "labels": {label: run}}
        found[seed] = run
    return replace(row, runs=found)


def _label(row: Row, label: str, metric: str) -> str:
    return spread(row.values(f"labels.{label}.{metric}").values())


def _constants(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """What stands below the table: who is worse than a constant, and what could be reached."""
    lines = _constant(rows, {f" ({k})": f"labels.{k}.normalized_entropy" for k in names})
    best = {name: rows[0].mean(f"labels.{name}.bayes_auc") for name in names}
    known = [f"{name} {value:.4f}" for name, value in best.items() if value is not None]
    if known:
        lines.append(f"The best AUC that the true probabilities reach: {', '.join(known)}.")
    return [*lines, ""] if known else lines


def _constant(rows: Sequence[Row], metrics: Mapping[str, str]) -> list[str]:
    """Names the rows that are worse than a constant. metrics: what follows a row's name -> the
    path of its NE. Nothing where no run has one."""
    found = {row.label + after: row.mean(path) for row in rows for after, path in metrics.items()}
    if not any(found.values()):
        return []
    worse = [name for name, value in found.items() if (value or 0.0) > 1]
    who = f"Worse than a constant: {', '.join(worse)}" if worse else "No row is"
    return [CONSTANT_NOTE.format(who=who), ""]


def _by_label(page: Page, rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[Line]]:
    """Label -> the lines of its AUC over the cells' x, one a group of cells."""
    found: dict[str, list[Line]] = {}
    for name in names:
        for group, members in page.groups(rows).items():
            points = [
                (cell.x or 0.0, list(values.values()))
                for row, cell in members
                if (values := row.values(f"labels.{name}.auc"))
            ]
            found.setdefault(name, []).append(Line(group or name, points))
    return found


def _differences(
    page: Page,
    pairs: Sequence[tuple[Row, Row]],
    names: Sequence[str],
    folders: Folders,
    *,
    loss: bool = False,
) -> list[str]:
    """The table of differences. names: of labels; of the first one that all runs serve where there
    is none. loss: has log loss too, or half of it where the paper prints that."""
    cells = {cell.label: cell for cell in page.plan.cells}
    every = {row.label for pair in pairs for row in pair}
    scores = {label: _scores(folders[label]) for label in sorted(every)}
    served = [list(of_run) for of_seed in scores.values() for of_run in of_seed.values()]
    names = names or [k for k in (served or [[]])[0] if all(k in one for one in served)][:1]
    found: list[tuple[Row, Row, str, str, comparison.Estimate]] = []
    missing = []
    for row, base in pairs:
        for name in names:
            ours, theirs = (
                {
                    seed: by_label[name]
                    for seed, by_label in scores[r.label].items()
                    if name in by_label
                }
                for r in (row, base)
            )
            estimates = comparison.differences(ours, theirs, loss=loss)
            missing += [] if estimates else [f"{row.label} − {base.label} ({name})"]
            for metric, e in estimates.items():
                half = metric == "logloss" and any(r.paper for r, _ in pairs)
                shown = ("logloss_half", e.halved) if half else (metric, e)
                found.append((row, base, name, *shown))
    none = [f"No difference, as no seed has test rows of both: {', '.join(missing)}."]
    if not found:
        return none if missing else []
    tests = [e.p for *_, e in found if e.p is not None]
    adjusted = iter(intervals.holm(tests))
    papers = {r.label: tables.printed(r) | dict(cells[r.label].printed) for p in pairs for r in p}
    printed = any(papers.values())
    lines = []
    for row, base, name, metric, e in found:
        interval = NONE if e.half is None else f"{e.mean - e.half:+.4f} … {e.mean + e.half:+.4f}"
        p, holm = (NONE, NONE) if e.p is None else (f"{e.p:.2g}", f"{next(adjusted):.2g}")
        keys = (f"{name}.{metric}", metric)
        both = [next((p[k] for k in keys if k in p), None)
                for p in (papers[r.label] for r in (row, base))]  # fmt: skip
        paper = NONE if None in both else f"{both[0] - both[1]:+.4f}"  # type: ignore[operator]
        lines.append([
            f"{row.label} − {base.label}", name, METRICS[metric], f"{e.mean:+.4f}", interval, p,
            holm, str(e.seeds), *([paper] if printed else []),
        ])  # fmt: skip
    header = ["difference", "label", "metric", "mean", "95 % interval", "p", "p (Holm)", "seeds",
              *(["paper's"] if printed else [])]  # fmt: skip
    note = DIFFERENCES_NOTE.format(tests=len(tests))
    return [*markdown(header, lines), "", note, *(["", *none] if missing else [])]


def _scores(runs_of: Mapping[int, Path]) -> dict[int, dict[str, comparison.Scores]]:
    """Seed -> label -> the test predictions of its run."""
    return {seed: comparison.read(folder / PREDICTIONS) for seed, folder in runs_of.items()}


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
        best = tables.best(trials, page.plan.metric) if page.whole(trials) else None
        undecided += [method] if best is None else []
        for row, cell in members:
            mark = "**" if row is best else ""
            value = f"{mark}{spread(row.values(page.plan.metric).values())}{mark}"
            lines.append([method, f"`{cell.recipe}`", _setting(cell), value])
    budgets = sorted({len(members) for members in groups.values()})
    note = (
        f"{' to '.join(str(b) for b in budgets)} trials of every method, on one seed that no "
        "result uses; the best of each in bold. The choice is made on validation; no trial reads "
        f"a test row. Nothing changes until the bold rows are copied into {page.plan.chosen}."
    )
    if undecided:
        note += f" Not decided, because trials are missing: {', '.join(undecided)}."
    of = page.plan.metric.removeprefix("validation.").removeprefix("labels.").removesuffix("auc")
    header = ["method", "recipe", "setting", f"validation AUC{of and ' of ' + of.strip('.')}"]
    return [*markdown(header, lines), "", note]


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
