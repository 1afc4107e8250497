"""The statistics of a day's log, in counts of bounded size. The data gate compares days by them.

Everything is counted by DuckDB after the dataset's own `load`, so the gate judges what preparation
would read. A log that `load` refuses has statistics too, which hold the refusal's sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from at4ctr.data.dataset import Options, Source
from at4ctr.data.engines.base import Engine as AnyEngine
from at4ctr.data.engines.base import quoted
from at4ctr.data.engines.duck import FULL, Engine, literal
from at4ctr.errors import InputError
from at4ctr.gates import counting

RELATIONS = ("log", "impressions")
UNREADABLE = (duckdb.BinderException, duckdb.CatalogException, duckdb.ConversionException,
              duckdb.InvalidInputException)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A feature's values in a day's rows.

    dtype: DuckDB's. nulls: rows without a value. values: those with one, every entry of a list.
    unknown: of the values, those that the vocabulary does not know; None: no vocabulary was given,
        or the table is hashed. buckets: how many fall into each of `counting.BUCKETS` keyed
        buckets. top: the most frequent values as text, and their numbers.
    """

    dtype: str
    nulls: int
    values: int
    unknown: int | None
    buckets: tuple[int, ...]
    top: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Relation:
    """One relation of a day: ``log`` or ``impressions``.

    duplicates: rows that repeat another in every column, those that `load` dropped included.
    events: rows that differ in more than their label: distinct impressions.
    clicks: rows labelled 1; None without labels.
    first, last: timestamps; None without rows.
    early, late: rows before and after the day.
    hours: rows by hour, from 24 hours before the day to 24 after it.
    days: rows by whole days from the day's begin (0: the day itself), the most frequent ones.
    """

    rows: int
    users: int
    duplicates: int
    events: int
    clicks: int | None
    first: int | None
    last: int | None
    early: int
    late: int
    hours: tuple[int, ...]
    days: tuple[tuple[int, int], ...]
    columns: Mapping[str, Column]


@dataclass(frozen=True)
class Stats:
    """A day's statistics.

    begin, end: the day in epoch seconds, end excluded.
    relations: ``log``, and ``impressions`` where the log has them.
    dropped: rows that `load` left out, by reason.
    negative_rate: w, at which the night's training keeps negatives.
    refusal: the sentence with which `load` refused the day, else empty.
    """

    dataset: str
    begin: int
    end: int
    negative_rate: float
    relations: Mapping[str, Relation] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    refusal: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``stats.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Stats:
        """The inverse of `to_json`, also of what JSON made of it.

        Raises InputError where ``stats.json`` is not that of a day.
        """
        try:
            relations = {name: _relation(r) for name, r in value["relations"].items()}
            return cls(**{**value, "relations": relations})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"stats.json does not hold a day's statistics ({error}); expected what this "
                "version writes; count the day again"
            ) from error


def _relation(value: Mapping[str, Any]) -> Relation:
    columns = {name: Column(**{**c, "buckets": tuple(c["buckets"]), "top": _pairs(c["top"])})
               for name, c in value["columns"].items()}  # fmt: skip
    return Relation(**{**value, "hours": tuple(value["hours"]), "days": _pairs(value["days"]),
                       "columns": columns})  # fmt: skip


def _pairs(values: Sequence[Sequence[Any]]) -> tuple[tuple[Any, int], ...]:
    return tuple((first, second) for first, second in values)


def of(
    base: Options,
    files: Sequence[Path],
    begin: int,
    end: int,
    vocabulary: Path | None = None,
    scratch: Path | None = None,
) -> Stats:
    """The statistics of a day's files.

    Args:
        base: the dataset; its options shape what `load` keeps.
        files: all data files of the day, in the dataset's raw format.
        begin, end: the day in epoch seconds, end excluded.
        vocabulary: folder of ``<table>.parquet`` (raw, id) of the days before, or None.
        scratch: folder with room for the day once more; None: the system's, often in memory. A
            killed process leaves ``at4ctr-gate-*`` there, which the folder's owner must delete.

    Raises:
        InputError: no files, or no disk or memory for the work. A log that `load` refuses is no
            error: the statistics hold its sentence.
    """
    if not files or begin >= end:
        raise InputError(
            f"statistics of {base.name}: {len(files)} files for the seconds {begin} to {end}; "
            "expected at least one file and begin < end; name the day's files"
        )
    if vocabulary is not None:
        counting.demand_vocabulary(base.schema(), vocabulary)
    known = Stats(base.name, begin, end, base.negative_rate)
    with TemporaryDirectory(prefix="at4ctr-gate-", dir=scratch) as aside:
        try:
            return _counted(base, files, known, vocabulary, Path(aside))
        except (InputError, *UNREADABLE) as error:
            cause = error.__cause__ or error
            if isinstance(cause, duckdb.OutOfMemoryException) or FULL.search(str(cause)):
                raise
            refusal = str(error).strip().splitlines()[0]
            return replace(known, refusal=refusal)


def _counted(
    base: Options, files: Sequence[Path], known: Stats, vocabulary: Path | None, scratch: Path
) -> Stats:
    dropped: Counter[str] = Counter()
    for number, (options, source) in enumerate(_loads(base, files)):
        folder = scratch / str(number)
        folder.mkdir()
        with Engine(folder) as engine:
            options.load(engine, source)
            dropped.update(engine.dropped)
            for relation in RELATIONS:
                if counting.columns(engine, relation):
                    target = quoted(str(scratch / f"{relation}-{number:05d}.parquet"))
                    engine.execute(f"COPY {relation} TO '{target}' (FORMAT parquet)")
    with Engine(scratch) as engine:
        parts = {r: f"{literal(scratch)}/{r}-*.parquet" for r in RELATIONS
                 if any(scratch.glob(f"{r}-*.parquet"))}  # fmt: skip
        for relation, path in parts.items():
            parquet = f"read_parquet('{path}', union_by_name = true)"
            engine.execute(f"CREATE VIEW {relation} AS SELECT * FROM {parquet}")
        found = {r: _relation_of(base, engine, r, known, vocabulary) for r in parts}
    if dropped["duplicates"]:
        log = found["log"]
        found["log"] = replace(log, duplicates=log.duplicates + dropped["duplicates"])
    return replace(known, relations=found, dropped=dict(dropped))


def _relation_of(
    base: Options, engine: AnyEngine, relation: str, known: Stats, vocabulary: Path | None
) -> Relation:
    counter = counting.Counter(engine, base.schema(), relation, known.begin, known.end)
    counter.demand_columns(bool(counting.columns(engine, "impressions")))
    columns = {f.name: Column(**counter.column(f, vocabulary)) for f in counter.features}
    return Relation(**counter.count(), columns=columns)


def _loads(base: Options, files: Sequence[Path]) -> list[tuple[Options, Source]]:
    """What to load, folder by folder: a day's parts together, as preparation reads them."""
    folders = sorted({path.parent for path in files})
    parts = {f: tuple(sorted(p for p in files if p.parent == f)) for f in folders}
    return [(replace(base, raw=str(f)), Source(found)) for f, found in parts.items()]
