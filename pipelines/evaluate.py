"""Evaluates a finished run again: its best weights on its test split.

RAW= names another log of the same dataset, SPLIT= another split. The main metrics are printed.
evaluations/<store>-<split>/ in the run's folder has all of them: evaluation.json, and the page
evaluation.md. The run's own files stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from absl import flags

from at4ctr import runs
from at4ctr.analysis import tables
from at4ctr.config import Experiment
from at4ctr.data.dataset import SPLITS, Split
from at4ctr.data.preparation.prepare import prepare
from at4ctr.data.store import Store
from at4ctr.durable import filled, write_json
from at4ctr.errors import InputError, unknown
from at4ctr.model.serving import ServingModel
from pipelines import fusion, measure, train
from pipelines.assembly import Assembly
from pipelines.main import main

flags.DEFINE_string("run", "runs/latest", "a run's folder")
flags.DEFINE_string("split", "", f"{', '.join(SPLITS)}; empty: test")

FOLDER, PAGE, DATA = "evaluations", "evaluation.md", "evaluation.json"
SHOWN = {"auc": "AUC", "gauc": "GAUC", "logloss": "log loss", "normalized_entropy": "NE",
         "pcoc": "PCOC", "bayes_auc": "AUC of the truth"}  # fmt: skip
NONE = "–"


@dataclass(frozen=True)
class Evaluated:
    """A split that a run was evaluated on. log: where its rows come from; metrics: as of a run."""

    log: str
    store: Store
    split: Split
    measured: Mapping[str, measure.Measured]
    metrics: Mapping[str, Any]

    @property
    def unknown(self) -> dict[str, float]:
        """Feature -> the share of rows whose value the model does not know, in the schema's
        order."""
        counts = self.store.counts(self.split)
        return {k: round(v / max(counts["rows"], 1), 4) for k, v in counts["unknown"].items()}


def of_model(data: Experiment, trained: Store, raw: str, root: Path = train.DATA) -> Store:
    """Another log of a run's dataset, prepared with the ids of the run's store.

    An id that the model does not know is unknown, whether or not the log's training rows have it.
    Splits, histories and drawn negatives are those of the log itself, by the run's options.
    """
    options = replace(data.data, raw=raw)
    path = prepare(options, root, model=trained)
    return Store.open(path, schema=options.schema(), options=options.preparation())


def evaluate(
    model: ServingModel, e: Experiment, trained: Store, store: Store, split: Split, log: str
) -> Evaluated:
    """Every metric of a run's report, on all rows of a split.

    trained: the store that the model learned from. store: of the rows; it has the same ids.
    Raises InputError where the split has no row.
    """
    rows = Assembly(e, store).whole(split)
    found = measure.measure(model, rows, trained)
    metrics = measure.metrics_of(found)
    metrics |= fusion.metrics(model, {k: m.found for k, m in found.items()})
    return Evaluated(log, store, split, found, metrics)


def write(found: Evaluated, run: Path, own: Mapping[str, Any]) -> Path:
    """Writes the page, its data and the pictures into ``evaluations/`` of a run; the page.

    own: the run's metrics of its own test split, which stand beside on the page.
    """
    out = run / FOLDER / f"{found.store.path.name}-{found.split}"
    simulated = found.store.simulated
    with filled(out, PAGE) as aside:
        measure.draw(found.measured, aside, simulated=simulated, split=found.split)
        (aside / PAGE).write_text("\n".join(page(found, run, own)) + "\n", encoding="utf-8")
        write_json(aside / DATA, plain(found))
    return out / PAGE


def plain(found: Evaluated) -> dict[str, Any]:
    """The metrics, and of which rows they are, as JSON can hold them."""
    of = {
        "log": found.log,
        "store": found.store.path.name,
        "split": found.split,
        "unknown_share": found.unknown,
    }
    return {**found.metrics, "simulated": found.store.simulated, "evaluated": of}


def printed(found: Evaluated, page: Path) -> list[str]:
    """The main metrics as `make train` prints them, and where all of them are."""
    return [
        *measure.table(plain(found), found.split),
        f"page:        {page}",
        f"all metrics: {page.with_name(DATA)}",
    ]


def page(found: Evaluated, run: Path, own: Mapping[str, Any]) -> list[str]:
    """The page in Markdown, line by line."""
    lines = [f"# {run} evaluated on {found.split}", ""]
    lines += ["Simulated log.", ""] if found.store.simulated else []
    lines += [f"The rows are the {found.split} split of {found.log}, store "
              f"{found.store.path.name}.", ""]  # fmt: skip
    shares = [[name, f"{share:.2%}"] for name, share in found.unknown.items()]
    if shares:
        lines += ["Rows whose value the model does not know:", ""]
        lines += [*tables.markdown(["feature", "share of rows"], shares), ""]
    lines += [*tables.markdown(["label", "rows of", "rows", "positives", *SHOWN.values(),
                                "PCOC, 95 %"], _rows(found, own)), ""]  # fmt: skip
    for number, (label, one) in enumerate(found.measured.items()):
        if one.found.labels.size:
            end = f"_{label}" if number else ""
            lines += [f"[{label} by segment](segments{end}.md), with 95 % intervals over users.",
                      "", f"![reliability](reliability{end}.png)", "",
                      f"![segments](segments{end}.png)", ""]  # fmt: skip
    return lines[:-1]


def _rows(found: Evaluated, own: Mapping[str, Any]) -> Iterator[list[str]]:
    """The metrics of each label, on these rows and on the run's own test split."""
    for label, one in found.measured.items():
        kept = own.get("labels", {next(iter(found.measured)): own}).get(label, {})
        for rows, metrics in ((f"this {found.split}", one.metrics), ("the run's test", kept)):
            if "rows" in metrics:
                yield [label, rows, f"{metrics['rows']:,}", f"{metrics['positives']:,}",
                       *(_number(metrics.get(k)) for k in SHOWN), _interval(metrics)]  # fmt: skip


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _interval(metrics: Mapping[str, Any]) -> str:
    mean = metrics.get("mean_prediction", {})
    return f"{mean['low']:.4f} … {mean['high']:.4f}" if "low" in mean else NONE


def _asked(text: str) -> Split:
    for split in SPLITS:
        if text in (split, ""):
            return split if text else "test"
    raise unknown("SPLIT", text, SPLITS)


def _main() -> None:
    f = flags.FLAGS
    folder, split = Path(f.run), _asked(f.split)
    if not (folder / runs.METRICS).exists():
        raise InputError(
            f"{folder} holds no {runs.METRICS}; expected a finished run; name one with RUN=, or "
            "make one with make train"
        )
    e, _, name = train.load_snapshot(folder / runs.SNAPSHOT)
    trained = train.open_store(e.data, name)
    store = of_model(e, trained, f.raw) if f.raw else trained
    log = f"the log {f.raw}" if f.raw else "the run's own log"
    found = evaluate(Assembly(e, trained).restored(folder), e, trained, store, split, log)
    own = json.loads((folder / runs.METRICS).read_text(encoding="utf-8"))
    print("\n".join(printed(found, write(found, folder, own))))


if __name__ == "__main__":
    main(_main)
