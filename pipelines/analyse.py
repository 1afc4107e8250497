"""What runs learned, on one offline page with its data: ``make analyse RUN=runs/latest``.

It reads run folders and their store. The page has the mutual information of behaviours and
responses, the singular values of every embedding table, and user-item pairs that are near in one
embedding space and far in another. RUN=a,b,… compares runs of one store. docs/analysis.md explains
every value.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import flags

from at4ctr import evaluation, runs
from at4ctr.analysis import abundance, entanglement, mutual_information, plots
from at4ctr.analysis.abundance import Spectrum
from at4ctr.analysis.entanglement import Distances, Pairs
from at4ctr.analysis.mutual_information import BOUNDS, POSITIONS, Correlation
from at4ctr.backbones.tin import TIN
from at4ctr.data.reader import Reader
from at4ctr.durable import write_json
from at4ctr.errors import InputError, unknown
from at4ctr.model.serving import ServingModel
from pipelines import train
from pipelines.assembly import Assembly
from pipelines.main import main
from pipelines.pages.html import (
    NONE,
    Html,
    document,
    element,
    markup,
    picture,
    section,
    table,
)

flags.DEFINE_list("runs", ["runs/latest"], "folders of finished runs, of one store")
flags.DEFINE_string("to", "", "folder of the page; empty: analysis in the first run's folder")
flags.DEFINE_integer("rows", 100_000, "training rows of the mutual information", lower_bound=1)
flags.DEFINE_integer("pairs", 20_000, "user-item pairs that are compared", lower_bound=1)
flags.DEFINE_string("category", "", "raw category of the candidates; empty: the best filled one")
flags.DEFINE_string("label", "", "the response; empty: the first label")

PAGE, DATA = "analysis.html", "analysis.json"
GROUPS = ("near in the first, far in the second", "near in the second, far in the first")


@dataclass(frozen=True)
class Run:
    """A finished run: its name on the page, and what it is made of."""

    name: str
    folder: Path
    made: Assembly
    model: ServingModel

    @property
    def spaces(self) -> dict[str, str]:
        """Embedding space -> its name on the page."""
        several = len(self.model.spaces) > 1
        return {s: f"{self.name}, {s}" if several else self.name for s in self.model.spaces}

    def reader(self) -> Reader:
        """Training rows in random order, unsampled, with every known id."""
        e = self.made.experiment
        return Reader(
            self.made.store,
            "train",
            batch_size=evaluation.BATCH,
            history=e.data.history,
            seed=e.seed,
            drop_remainder=False,
        )


@dataclass(frozen=True)
class Correlations:
    """The data of the first section. values: title -> unit and values by category."""

    label: str
    feature: str
    target: str
    categories: tuple[str, ...]
    rows: int
    positives: int
    alike: Correlation
    values: Mapping[str, tuple[str, Correlation]]
    notes: tuple[str, ...] = ()


def opened(folders: list[str]) -> list[Run]:
    """InputError for a folder that holds no finished run, and for runs of several stores."""
    found: list[Run] = []
    for text in dict.fromkeys(folders):
        folder = Path(text)
        if not (folder / runs.METRICS).exists():
            raise InputError(
                f"{folder} holds no {runs.METRICS}; expected a finished run; name one with RUN=, "
                "or make one with make train"
            )
        e, recipe, name = train.load_snapshot(folder / runs.SNAPSHOT)
        if found and name != found[0].made.store.path.name:
            raise InputError(
                f"{folder} is a run of the store {name} and {found[0].folder} one of "
                f"{found[0].made.store.path.name}; expected runs of one store, whose rows can be "
                "compared; analyse them one by one"
            )
        _say(f"{folder}: {recipe}")
        made = Assembly(e, found[0].made.store if found else train.open_store(e.data, name))
        taken = any(run.name == recipe for run in found)
        called = f"{recipe} {folder.resolve().name}" if taken else recipe
        found.append(Run(called, folder, made, made.restored(folder)))
    if not found:
        raise InputError("RUN names no run; expected folders joined by commas; set RUN=runs/latest")
    return found


def correlations(every: list[Run], rows: int, label: str, category: str) -> Correlations:
    """Raises InputError where the store has no behaviours of a category, or the category none."""
    first = every[0]
    store, schema = first.made.store, first.made.store.schema
    name = schema.label(label or schema.labels[0].name).name
    feature = mutual_information.category_of(schema)
    known = store.raw_ids(feature)
    reader = first.reader()
    found = mutual_information.sample(reader, name, rows, feature)
    target = mutual_information.target_of(found)
    if category:
        of_raw = {raw: number for number, raw in known.items()}
        if category not in of_raw:
            raise unknown(f"category of {feature} (--category)", category, list(of_raw)[:20])
        target = of_raw[category]
    chosen = mutual_information.categories_of(found, target)
    own = found.targets == target
    if not own.any():
        raise InputError(
            f"no candidate among {len(found.targets):,} rows has the {feature} {category!r}; "
            "expected some; choose another --category or more --rows"
        )
    values = {"Mutual information": ("nats", mutual_information.correlation(found, target, chosen))}
    notes = [] if found.ages is not None else [
        "The store has no times, so that there are no intervals; data.times=true keeps them."
    ]  # fmt: skip
    for run in every:
        for expert, backbone in run.model.backbones.items():
            if isinstance(backbone, TIN):
                _say(f"learned correlation of {run.name}, {expert}")
                learned = mutual_information.learned(
                    run.model, expert, run.reader(), name, rows, feature, target, chosen
                )
                values[f"Learned by {run.name}, {expert}"] = ("mean length", learned)
    if len(values) == 1:
        notes.append("None of the runs has the backbone tin, whose learned correlation would "
                     "stand here.")  # fmt: skip
    return Correlations(
        name,
        feature,
        known.get(target, str(target)),
        tuple(known.get(c, str(c)) for c in chosen),
        int(own.sum()),
        int(found.labels[own].sum()),
        mutual_information.same_category(found),
        values,
        tuple(notes),
    )


def spectra(every: list[Run]) -> dict[tuple[str, str], Spectrum]:
    """(Space, table) -> its singular values."""
    found = {}
    for run in every:
        for space, embedder in run.model.spaces.items():
            tables = {name: v.numpy() for name, v in embedder.tables.items() if v.shape[1] > 1}
            for name, values in abundance.spectra(tables).items():
                found[run.spaces[space], name] = values
    return found


def distances(every: list[Run], pairs: int) -> tuple[dict[str, np.ndarray], dict[str, Distances]]:
    """The rows of the pairs, and their distances in every space."""
    rows = entanglement.drawn(every[0].reader(), pairs)
    found = {
        run.spaces[space]: entanglement.distances(embedder, rows)
        for run in every
        for space, embedder in run.model.spaces.items()
    }
    return rows, found


def _intervals() -> list[str]:
    """Names of the intervals, each by where it begins."""
    names = [f"{b // 3600} h" if b < 86_400 else f"{b / 86_400:.3g} d" for b in BOUNDS]
    return ["0 h", *names]


def _correlation_section(found: Correlations, aside: Path, simulated: str) -> Html:
    shown: list[Html] = []
    for number, (title, (unit, values)) in enumerate(found.values.items()):
        kinds = [("position", [str(p + 1) for p in range(POSITIONS)], values.positions)]
        if values.intervals is not None:
            kinds.append(("interval", _intervals(), values.intervals))
        for kind, columns, cells in kinds:
            path = aside / f"correlation_{number}_{kind}.png"
            axis = "position, 1 the latest" if kind == "position" else "age, from"
            axes = (axis, f"{found.feature} of the behaviour")
            plots.correlation(
                cells, found.categories, columns, path, title + simulated, axes=axes, unit=unit
            )
            shown.append(picture(path, f"{title} by {found.feature} and {kind}"))
    mean = found.alike.positions[0]
    rows = [(str(p + 1), f"{mean[p]:.2e}") for p in (0, 1, 2, 4, 9, 19) if p < len(mean)]
    return section(
        "correlation", "Behaviours and the response",
        element("p", f"Candidates have the {found.feature} {found.target}, the first row of each "
                f"picture: {found.rows:,} training rows, {found.positives:,} of them with "
                f"{found.label}. Independent values would give about {0.5 / found.rows:.1e} nats."),
        element("div", *shown, css="pictures"),
        element("p", f"Behaviours of the candidate's own {found.feature}, all candidates:"),
        table(("position", "mutual information, nats"), rows),
        *(element("p", note, css="soft") for note in found.notes),
    )  # fmt: skip


def _spectra_section(
    found: Mapping[tuple[str, str], Spectrum], aside: Path, simulated: str
) -> Html:
    path = aside / "spectra.png"
    lines = {", ".join(key): one.singular for key, one in found.items() if one.singular}
    plots.spectra(lines, path, "Singular values" + simulated)
    rows = [
        (space, name, f"{one.rows:,}", one.width, f"{one.abundance:.2f}",
         f"{one.abundance / max(min(one.rows, one.width), 1):.2f}",
         "at least" if len(one.singular) < min(one.rows, one.width) else "")
        for (space, name), one in found.items()
    ]  # fmt: skip
    head = ("space", "table", "rows", "width", "information abundance", "of its largest", "")
    return section(
        "collapse", "Dimensional collapse",
        element("p", "Information abundance is the sum of a table's singular values over the "
                "largest one. It is 1 where all rows lie on a line, and the width where all "
                "directions are used alike."),
        table(head, rows, words=(0, 1, 6)),
        picture(path, "Singular values of every table over its largest one"),
    )  # fmt: skip


def _entanglement_section(
    rows: Mapping[str, np.ndarray],
    found: Mapping[str, Distances],
    pairs: Pairs | None,
    label: str,
    aside: Path,
    simulated: str,
) -> Html:
    path = aside / "pairs.png"
    spaces = list(found)
    masks: dict[str, np.ndarray]
    if pairs is None:
        labels = rows[f"label_{label}"]
        masks = {f"{label} 1": labels == 1, f"{label} 0": labels == 0}
        said = ("Pairs are contradictory where two spaces judge them oppositely. There is one "
                "space here, so that the picture shows pairs by their response. Name further runs "
                "of this store: RUN=a,b.")  # fmt: skip
    else:
        masks = dict(zip(GROUPS, pairs, strict=True))
        share = f"{entanglement.SHARE:.0%}"
        said = (f"A pair is contradictory where it is among the nearest {share} in {spaces[0]}, "
                f"the first space, and the farthest {share} in {spaces[1]}, the second, or the "
                "other way round.")  # fmt: skip
    ranks = {space: {n: one.ranks[m] for n, m in masks.items()} for space, one in found.items()}
    plots.groups(ranks, path, "User-item distances" + simulated,
                 "rank of the Euclidean distance among all pairs")  # fmt: skip
    lines = [
        (space, *(_mean(ranks[space][n]) for n in masks),
         *(_mean(one.cosine[m]) for m in masks.values()),
         NONE if pairs is None or (order := pairs.order(one)) is None else f"{order:+.3f}")
        for space, one in found.items()
    ]  # fmt: skip
    counts = ", ".join(f"{int(m.sum()):,} {name}" for name, m in masks.items())
    head = ("space", *(f"mean rank, {n}" for n in masks), *(f"mean cosine, {n}" for n in masks),
            "order")  # fmt: skip
    return section(
        "entanglement", "Interest entanglement",
        element("p", said), element("p", f"Of {len(rows['user_index']):,} pairs: {counts}."),
        table(head, lines), picture(path, "Ranks of the distances of these pairs in each space"),
        element("p", "Order is the mean rank of the pairs near in the second space less that of "
                "those near in the first. A space that ranks them as the first one has it above "
                "0, one that ranks them as the second one below 0, and one that can hold neither "
                "taste near 0."),
    )  # fmt: skip


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" if len(values) else NONE


def _correlation_rows(found: Correlations) -> Iterator[dict[str, Any]]:
    """The data of the first section, a row a value."""
    for title, (_, values) in found.values.items():
        yield from _cells(title, found.categories, values)
    yield from _cells("Mutual information, all candidates", ("the candidate's",), found.alike)


def _cells(title: str, categories: tuple[str, ...], found: Correlation) -> Iterator[dict[str, Any]]:
    kinds = (("position", range(1, POSITIONS + 1), found.positions),
             ("interval", (0, *BOUNDS), found.intervals))  # fmt: skip
    for kind, places, values in kinds:
        if values is not None:
            for category, line in zip(categories, values, strict=True):
                for place, value in zip(places, line, strict=True):
                    yield {"what": title, "category": category, "by": kind, "at": int(place),
                           "value": float(value)}  # fmt: skip


def analyse(every: list[Run], out: Path, *, rows: int, pairs: int, label: str = "",
            category: str = "") -> Path:  # fmt: skip
    """Writes the page, its pictures and its data to a folder; the page's path.

    The same runs give the same bytes. The page comes last, and each file is old or new.
    """
    store = every[0].made.store
    name = store.schema.label(label or store.schema.labels[0].name).name
    simulated = " (simulated log)" if store.simulated else ""
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".analysis-", dir=out) as scratch:
        aside = Path(scratch)
        data: dict[str, Any] = {
            "runs": {run.name: str(run.folder) for run in every},
            "store": store.path.name,
            "simulated": store.simulated,
        }
        parts = []
        if store.schema.history:
            _say(f"mutual information over {rows:,} rows")
            correlated = correlations(every, rows, name, category)
            parts.append(_correlation_section(correlated, aside, simulated))
            cells = list(_correlation_rows(correlated))
            pq.write_table(pa.Table.from_pylist(cells), aside / "correlation.parquet")
            data["correlation"] = {
                key: getattr(correlated, key)
                for key in ("label", "feature", "target", "categories", "rows", "positives")
            }
        else:
            parts.append(element("p", "The log has no behaviours, so that there is no correlation "
                                 "of behaviours and responses."))  # fmt: skip
        _say("singular values")
        spectrum = spectra(every)
        parts.append(_spectra_section(spectrum, aside, simulated))
        data["tables"] = [{"space": s, "table": t, **x.to_json()}
                          for (s, t), x in spectrum.items()]  # fmt: skip
        _say(f"distances of {pairs:,} pairs")
        drawn, found = distances(every, pairs)
        spaces = list(found.values())
        chosen = entanglement.contradictory(spaces[0], spaces[1]) if len(spaces) > 1 else None
        parts.append(_entanglement_section(drawn, found, chosen, name, aside, simulated))
        columns: dict[str, Any] = dict(drawn)
        for space, one in found.items():
            columns |= {f"euclidean {space}": one.euclidean, f"cosine {space}": one.cosine}
        if chosen is not None:
            columns |= dict(zip(("near_first", "near_second"), chosen, strict=True))
            data["order"] = {space: chosen.order(one) for space, one in found.items()}
        pq.write_table(pa.table(columns), aside / "pairs.parquet")
        write_json(aside / DATA, data)
        title = f"Analysis of {', '.join(run.name for run in every)}{simulated}"
        facts = [(run.name, str(run.folder)) for run in every] + [("store", store.path.name)]
        page = document(title, element("h1", title),
                        table(("run", "folder"), facts, words=(0, 1)), markup(*parts))  # fmt: skip
        (aside / PAGE).write_text(page, encoding="utf-8")
        made = sorted(p.name for p in aside.iterdir() if p.name != PAGE)
        for old in out.glob("correlation_*.png"):  # of more runs, or of a store with times
            if old.name not in made:
                old.unlink()
        for file in (*made, PAGE):
            os.replace(aside / file, out / file)
    return out / PAGE


def _say(line: str) -> None:
    print(f"analyse: {line}", file=sys.stderr, flush=True)


def _main() -> None:
    f = flags.FLAGS
    every = opened(f.runs)
    out = Path(f.to) if f.to else every[0].folder / "analysis"
    given = {"rows": f.rows, "pairs": f.pairs, "label": f.label, "category": f.category}
    print(analyse(every, out, **given))


if __name__ == "__main__":
    main(_main)
