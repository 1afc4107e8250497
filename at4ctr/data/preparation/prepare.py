"""From a raw log to a store: runs the steps, writes the files, and the manifest last.

A store is built in a hidden folder beside its final place and renamed when it is whole, so a store
under its name is complete. A lock file beside it is held from before the last check for a finished
store until after the rename, so a second process waits and uses the first one's store. A
preparation that was killed leaves a hidden folder whose lock is free; the next one deletes it and
begins again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from at4ctr.data.dataset import Options, Source
from at4ctr.data.datasets._acquire import sha256
from at4ctr.data.disk import demand_room, explained, locked
from at4ctr.data.engines.base import NAMES, Engine, Name, announce, report_span
from at4ctr.data.engines.csv_file import check_file
from at4ctr.data.preparation import vectors
from at4ctr.data.preparation.build import build
from at4ctr.data.sampling import sampled_label
from at4ctr.data.store import FORMAT, MANIFEST, Store
from at4ctr.data.summary import lines
from at4ctr.errors import InputError, unknown

PACKED = (".gz", ".parquet")
SPACE = 4  # bytes of scratch and store for a byte of raw text, and one more for each negative
DEFLATED = 4  # bytes of text in a byte of gzip or Parquet, at most


def prepare(
    config: Options,
    root: Path = Path("data"),
    engine: Name = "duckdb",
    model: Store | None = None,
    *,
    again: bool = False,
) -> Path:
    """The folder of the store for these options, prepared unless it is there already.

    root: the store is ``root/store/<dataset>/<12 hex>``, named after the format, the schema, the
        preparation options and the raw files' names, sizes and times. On a cluster all nodes must
        see it under this path.
    engine: ``duckdb``, on this machine, or ``spark``; they make the same store.
    model: the store of a model that is to read this log. Its vocabularies and vectors are taken as
        they are: a raw id has the model's id, and one that the vocabularies lack is unknown.
    again: whether to print the summary of a store that is there already; that of a new store is
        always printed.
    Raises InputError for a rate of negatives at which a label could not be corrected, for a bad
    log, for one that changes meanwhile or gives no training or test rows, and for a disk that is
    too small or may not be written.
    """
    stores = Path(root) / "store" / config.name
    if config.negative_rate < 1:
        where = f"data options of {config.name}"
        sampled_label(config.schema().labels, config.negative_rate, where)
    with explained(stores):
        source = config.acquire()
        place = stores / _key(config, source, model)
        if _finished(place):
            if again:
                _print_summary(json.loads((place / MANIFEST).read_text(encoding="utf-8")))
            return place
        stores.mkdir(parents=True, exist_ok=True)
        with locked(_lock(place)):
            if not _finished(place):
                _sweep(place)
                _make(config, source, place, engine, model)
    return place


def _finished(place: Path) -> bool:
    return (place / MANIFEST).is_file()


def _lock(place: Path) -> Path:
    return place.with_name(f".{place.name}.lock")


def _key(config: Options, source: Source, model: Store | None) -> str:
    """Twelve hex digits of all that the store depends on."""
    read = _files(config, source, model)
    for file in read:
        check_file(file)
    files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in read]
    facts = [FORMAT, config.schema().fingerprint(), config.preparation(), files]
    facts += [model.path.name] if model is not None else []
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _files(config: Options, source: Source, model: Store | None) -> list[Path]:
    """The raw log and, unless a model has them, the pre-trained vectors."""
    return [*source.files, *_vectors(config, source, model).values()]


def _vectors(config: Options, source: Source, model: Store | None) -> dict[str, Path]:
    return vectors.files(config, source) if model is None else {}


def engine_at(folder: Path, name: Name) -> Engine:
    """The engine of a name, with its tables in a folder; InputError where it is not installed."""
    if name not in NAMES:
        raise unknown("engine", name, NAMES)
    module = importlib.import_module(f"at4ctr.data.engines.{'duck' if name == 'duckdb' else name}")
    made: Engine = module.Engine(folder)
    return made


def _make(config: Options, source: Source, place: Path, name: Name, model: Store | None) -> None:
    """Builds the store in a hidden folder, deleted unless it becomes the store."""
    text = sum(f.stat().st_size * (DEFLATED if f.suffix in PACKED else 1) for f in source.files)
    demand_room(place.parent, (SPACE + config.negatives) * text, f"the store {place.name}")
    folder = place.with_name(f".{place.name}.tmp-{os.getpid()}")
    folder.mkdir()
    try:
        begin = time.monotonic()
        scratch = folder / "scratch"
        scratch.mkdir()
        with engine_at(scratch, name) as engine:
            config.load(engine, source)
            config.check_whole(engine)
            engine.notes += _spans(engine) if config.timed else []
            inputs = [_described(file) for file in _files(config, source, model)]
            _demand_unchanged(config, source, place, model)
            pretrained = _vectors(config, source, model)
            manifest = build(engine, config, folder, pretrained, model)
        shutil.rmtree(scratch)
        manifest |= {
            "format": FORMAT,
            "dataset": config.name,
            "simulated": source.simulated,
            "inputs": inputs,
            "notes": [*source.notes, *engine.notes, *manifest["notes"]],
            "seconds": time.monotonic() - begin,
            **({} if model is None else {"vocabulary_of": model.path.name}),
        }
        _write_manifest(folder, manifest)
        announce(manifest["notes"])
        _print_summary(manifest)
        folder.rename(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _print_summary(manifest: dict[str, Any]) -> None:
    for line in lines(manifest):
        print(f"prepare: {line}", file=sys.stderr)


def _spans(engine: Engine) -> list[str]:
    """From when to when the rows of the log are, a sentence for each relation."""
    return [
        report_span(
            what, *engine.one(f'SELECT count(*), min("timestamp"), max("timestamp") FROM {r}')
        )
        for r, what in (("log", "the log"), ("impressions", "the log of impressions"))
        if engine.columns(r)
    ]


def _demand_unchanged(config: Options, source: Source, place: Path, model: Store | None) -> None:
    """Raises InputError unless what was read and hashed is what the store is named after."""
    if _key(config, source, model) != place.name:
        raise InputError(
            f"{' or '.join(map(str, source.files))} changed while it was read; expected a log that "
            "stays as it is; prepare it again once it is complete"
        )


def _sweep(place: Path) -> None:
    """Deletes what killed preparations of any store here have left, each in one line.

    The lock of `place` is held; of another store, what is left is deleted if its lock is free.
    """
    _delete_leftovers(place)
    if place.exists():
        print(f"prepare: deleting {place}, which has no {MANIFEST}", file=sys.stderr)
        shutil.rmtree(place)
    hidden = {p.name.split(".")[1] for p in place.parent.glob(".*.*")} - {place.name}
    for other in sorted(place.with_name(name) for name in hidden):
        with locked(_lock(other), wait=False) as held:
            if held:
                _delete_leftovers(other)


def _delete_leftovers(place: Path) -> None:
    for old in sorted(place.parent.glob(f".{place.name}.tmp-*")):
        print(f"prepare: deleting {old}, an interrupted preparation", file=sys.stderr)
        shutil.rmtree(old)


def _described(file: Path) -> dict[str, Any]:
    return {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)}


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    with (folder / "new").open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    (folder / "new").rename(folder / MANIFEST)
