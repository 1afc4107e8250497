"""A night's store and state, from the parent's state and the log since then.

So a night's work grows with the new days and not with the whole log. The night's log is each active
user's latest behaviours of the parent's state, which are history alone, and the rows of the window.
The ordinary preparation (`preparation.build`) makes the store of it, so all that is true of a store
is true here. What differs from a preparation of the whole log at once:

- rows are split by time: those in [begin, cutoff) train, those in [cutoff, end) are evaluated.
- an instance sees the behaviours of its user with a smaller timestamp: neither itself nor what else
  happened in the same second, whatever the dataset's own `cut` says.
- a user's sequence begins with the latest `keep` behaviours before the window, which is
  ``max(history, min_history)``: no model sees more.
- `min_behaviours` does not apply: a user with few behaviours today may have many tomorrow, and a
  count that includes later rows would let the future choose what is trained on. `min_history`
  demands the same of each row's own past.
- an id that the parent knows stays. New ids of this window's training rows and their histories
  follow, by falling frequency, ties by the raw id. Rows at or after the cutoff add no id. Where ids
  expire, ids that training has not seen for so long leave, and the others move up.
- a table with a least count (`schema.Table.least`) adds an id on the night on which its count over
  all nights reaches that: a row or a behaviour counts on the night in whose window it lies, and of
  a night without a parent also what its rows see of the time before.
- attributes of users and items are those of the parent's state where it knows them, each from its
  own time on. No row has a value that was logged after it, so no training row has a value from
  after the cutoff.
- negatives are drawn from the window's own rows: a training row's from training rows, an
  evaluation row's from evaluation rows.

So the rows of a window do not depend on how its past was reached: state after state, or all raw
days at once (a window that begins after the first day, and no parent, gives the same).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from at4ctr.data.dataset import Options
from at4ctr.data.days import Day, Window, demand_order
from at4ctr.data.disk import demand_room, explained, locked
from at4ctr.data.engines.base import announce
from at4ctr.data.engines.duck import Engine
from at4ctr.data.nights import log as night_log
from at4ctr.data.nights import state as states
from at4ctr.data.nights.log import Protocol
from at4ctr.data.nights.state import State
from at4ctr.data.preparation.build import build as build_store
from at4ctr.data.store import FORMAT as STORE_FORMAT
from at4ctr.data.store import MANIFEST
from at4ctr.durable import digest, sync, write_json
from at4ctr.errors import InputError

FORMAT = 1
FACTS = "night.json"
SPACE = 16  # bytes of scratch, store and state for a byte of the days' files, at most


@dataclass(frozen=True)
class Night:
    """A night's data: ``store`` for the `Reader`, ``state`` for the next night's parent."""

    folder: Path
    window: Window

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def state(self) -> Path:
        return self.folder / "state"


def build(
    base: Options,
    days: Sequence[Day],
    window: Window,
    parent: Path | None,
    folder: Path,
    *,
    halves: bool = False,
    expire_days: int = 0,
) -> Night:
    """Makes ``folder/store`` and ``folder/state``, or finds them there, made of the same.

    base: the dataset's options, of which `load` reads the days' files; where a dataset asks
        `Options.raw` instead, that is the day's folder.
    days: every day that the window touches, in order; without a parent also days before it, which
        are then history. Other rows outside the window are left out.
    window: begins at the parent's cutoff.
    parent: the parent's state, or None.
    halves: a keyed half of the users of evaluation rows is validation, which fits a calibrator,
        and the other half test; otherwise all are test.
    expire_days: an id leaves the vocabularies when its last training row, or last behaviour that a
        training row sees, is older than so many days before the cutoff; 0 keeps all.
    The folder is renamed into place when it is whole. Raises NoData for a window without training
    or evaluation rows; InputError for days out of order, another schema, options or cutoff than the
    parent's, a damaged state, a protocol that needs what a night does not know, a folder that was
    made of something else, and all that the dataset refuses.
    """
    folder = Path(folder)
    demand_order(days)
    demand_possible(base)
    _demand_window(window)
    past = None if parent is None else states.opened(parent)
    if past is not None:
        states.demand_same(past, base)
        _demand_next(past, window)
    with explained(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        night = {"halves": halves} | ({"expire_days": expire_days} if expire_days else {})
        key = _key(base, days, window, past, night)
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not _finished(folder, key):
                _make(base, days, window, past, folder, key, night)
    return Night(folder, window)


def opened(folder: Path) -> Night:
    """A finished night; InputError where there is none."""
    try:
        facts = json.loads((Path(folder) / FACTS).read_text(encoding="utf-8"))
        return Night(Path(folder), Window(*facts["window"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} is no finished night ({error!r}); expected {FACTS} and what it tells of; "
            "build it again"
        ) from error


def demand_possible(base: Options) -> None:
    """Raises InputError for a dataset, or options of one, of which no night can be made."""
    base.demand_daily()
    where = f"data options of {base.name}"
    schema = base.schema()
    found = [f"number {n.name!r}" for n in schema.numbers]
    found += [f"table {t.name!r} with pre-trained vectors" for t in schema.tables if t.vectors]
    found += [f"similarity {s.name!r}" for s in schema.similarities]
    found += [f"weighted feature {f.name!r}" for f in schema.features if f.weighted]
    if found:
        raise InputError(
            f"{where}: the schema has {found[0]}; expected a nightly model of ids alone, as a "
            "night does not carry the parent's statistics and vectors; take it out of the schema, "
            "or train the log as a whole (make train)"
        )
    for option, wrong, right, why in (
        (
            "protocol",
            "paper",
            "strict",
            "the evaluated rows would shape vocabularies and negatives",
        ),
        ("reject", "seen", "own", "what a user meets later would choose the negatives of today"),
    ):
        if getattr(base, option) == wrong:
            raise InputError(
                f"{where}: {option} is {wrong!r}; expected {right!r} of a nightly "
                f"model, as {why}; set data.{option}={right}"
            )


def _demand_window(window: Window) -> None:
    if not window.begin < window.cutoff < window.end:
        raise InputError(
            f"window {tuple(window)} is empty; expected begin < cutoff < end in epoch seconds; "
            "name a later date than the parent's"
        )


def _demand_next(past: State, window: Window) -> None:
    if past.cutoff != window.begin:
        order = "before" if window.begin < past.cutoff else "after"
        raise InputError(
            f"the window begins at {window.begin}, {order} the cutoff {past.cutoff} of the "
            f"parent's state {past.path}; expected the same second, so that every row is trained "
            "on once; take the nights in order, each from its parent's cutoff on"
        )


def _key(
    base: Options,
    days: Sequence[Day],
    window: Window,
    past: State | None,
    night: Mapping[str, int],
) -> str:
    """A digest of all that a night is made of."""
    inputs = [[str(d.date), d.simulated, [(f.name, digest(f)) for f in d.files]] for d in days]
    options = [base.name, base.schema().to_json(), base.preparation(), base.history]
    parts = [FORMAT, STORE_FORMAT, options, inputs, window, past and past.digest]
    parts += night.values()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _finished(folder: Path, key: str) -> bool:
    """Whether the night is there; InputError where it is another."""
    if not folder.exists():
        return False
    facts = folder / FACTS
    found = json.loads(facts.read_text(encoding="utf-8")).get("key") if facts.is_file() else None
    if found != key:
        raise InputError(
            f"{folder} holds a night of other days, options, window or parent; expected none, or "
            "the same; choose another folder, or move that one away"
        )
    return True


def _make(
    base: Options,
    days: Sequence[Day],
    window: Window,
    past: State | None,
    folder: Path,
    key: str,
    night: Mapping[str, int],
) -> None:
    for old in sorted(folder.parent.glob(f".{folder.name}.tmp-*")):
        print(f"increment: deleting {old}, an interrupted night", file=sys.stderr)
        shutil.rmtree(old)
    size = sum(f.stat().st_size for d in days for f in d.files)
    kept = 0 if past is None else sum(f.stat().st_size for f in past.path.glob("*.parquet"))
    demand_room(folder.parent, SPACE * size + 2 * kept, f"the night {folder.name}")
    aside = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    aside.mkdir()
    try:
        _fill(base, days, window, past, aside, night)
        write_json(aside / FACTS, {"format": FORMAT, "key": key, "window": list(window)})
        for path in sorted(aside.rglob("*")):
            sync(path)
        aside.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fill(
    base: Options,
    days: Sequence[Day],
    window: Window,
    past: State | None,
    folder: Path,
    night: Mapping[str, int],
) -> None:
    """The store and the state. night: the fields of `Protocol` that were asked for."""
    simulated = any(d.simulated for d in days) or bool(past and past.facts["simulated"])
    began, scratch = time.monotonic(), folder / "scratch"
    scratch.mkdir()
    with Engine(scratch) as engine:
        begin = None if past is None else window.begin
        loaded, truth = night_log.load(engine, base, days, begin, window.end)
        night_log.demand_rows(engine, base, window, loaded)
        shown, follows = bool(loaded.impressions), past is not None
        config = Protocol.of(base, window, impressions=shown, follows=follows, **night)
        schema = base.schema()
        states.attach(engine, schema, past, expires=config.expires_before() is not None)
        if past is None:
            before = loaded.within(f'"timestamp" < {window.begin}')
            states.advance(engine, base, before, config.keep)
        learned = f'"timestamp" >= {window.begin} AND "timestamp" < {window.cutoff}'
        states.write(engine, base, folder / "state", loaded.within(learned), config.keep)
        night_log.compose(engine, base, loaded, window)
        (folder / "store").mkdir()
        manifest = build_store(engine, config, folder / "store")
        states.write_vocabularies(engine, schema, folder / "state")
        notes = [*engine.notes, *manifest["notes"]]
    announce(notes)
    shutil.rmtree(scratch)
    simulated |= truth
    states.finish(base, folder / "state", window.cutoff, config.keep, simulated=simulated)
    inputs = [f for d in days for f in d.files]
    manifest |= {
        "format": STORE_FORMAT,
        "dataset": base.name,
        "simulated": simulated,
        "inputs": [{"name": f"{f.parent.name}/{f.name}", "bytes": f.stat().st_size,
                    "sha256": digest(f)} for f in inputs],
        "notes": notes,
        "seconds": time.monotonic() - began,
    }  # fmt: skip
    write_json(folder / "store" / MANIFEST, manifest)
