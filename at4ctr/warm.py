"""Warm start: a model begins with its parent's weights and optimizer state, row by row of its ids.

The parent's rows of a table and their slots are copied bit for bit to the rows of the same ids, and
rows of new ids keep a fresh model's initial values and zero slots. Vocabularies only grow, so that
row i means the same id in parent and child. Where ids may expire, the rows and slots of expired ids
are left out, and the other ids move up in their order. Every other variable is copied as it is,
population statistics among them, which the night estimates anew after its training
(`population`). The parent's posterior of Gaussian-process logits becomes the night's prior
(`posterior`), so that evidence adds up over a chain of nights.
What is not copied, and why:

- the state of random generators (dropout, `layers.mlp.Draws`): a night draws with its own seed;
- the learning rate, which is the night's: its warm-up and decay begin at the night's first step,
  while the optimizer's step, by which Adam corrects its moments, goes on from the parent's;
- ``logit_shift``, which is ln w of the night. A logit learned on negatives kept at rate w estimates
  the odds of that sample, logit_w = logit − ln w, so where w changes, the output bias of the
  sampled label moves by ln(w_old) − ln(w_new): the served σ(logit_w + ln w) is what it was.

The parent's state is its step checkpoint of the weights that it serves (`served`), because the
final checkpoint ``best`` has no optimizer slots. In a training without validation, as that of
nightly models, it is the newest checkpoint.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from at4ctr import checkpoints
from at4ctr.data.nights.state import difference
from at4ctr.errors import InputError
from at4ctr.fit import BEST
from at4ctr.model.serving import ServingModel
from at4ctr.model.training import TrainingModel
from at4ctr.schedules import Schedule
from at4ctr.schema import FIRST_ID
from at4ctr.search import Search, optimizer_of

log = logging.getLogger(__name__)

Optimizer: TypeAlias = tf.keras.optimizers.Optimizer
Vocabularies = Mapping[str, pa.ChunkedArray]
Variables = dict[str, tf.Variable]
Slots = dict[str, list[tf.Variable]]
AUXILIARIES, SHIFT = "auxiliaries/", "serving/shift"
TABLE = re.compile(r"serving/spaces/[^/]+/tables/([^/]+)")  # and /linear or /output after it


@dataclass(frozen=True)
class Parent:
    """What a warm start begins from.

    model: an untrained one of the parent's recipe and table sizes, into which `start` reads the
        checkpoint.
    optimizer: of the parent's recipe, not built yet.
    checkpoints: the folder that the parent's `Trainer` wrote (``<run>/checkpoints``).
    vocabularies: table -> raw ids in the order of their ids, as `data.state.vocabularies` reads
        them; none of hashed tables.
    """

    model: TrainingModel
    optimizer: Optimizer
    checkpoints: Path
    vocabularies: Vocabularies


@dataclass(frozen=True)
class Warm:
    """What a warm start copied.

    path: the checkpoint. step: of the optimizer. new: table -> ids that the parent did not know.
    gone: table -> ids that it knew and the night does not. fresh: auxiliaries that the parent did
    not have. moved: by how much the output bias of the sampled label moved.
    """

    path: Path
    step: int
    new: Mapping[str, int]
    gone: Mapping[str, int]
    fresh: tuple[str, ...]
    moved: float


def served(folder: Path) -> Path:
    """The step checkpoint whose weights a finished run serves, in its folder of checkpoints.

    Raises InputError for an unfinished run, and where the checkpoint is missing or damaged. Pruning
    keeps the two newest, so the checkpoint of an early best evaluation may have been deleted.
    """
    folder = Path(folder)
    best = checkpoints.whole(folder / BEST)
    if best is None:
        raise InputError(
            f"{folder / BEST} is missing or damaged; expected a finished run as the parent; finish "
            "it, name another parent, or begin anew with a cold start"
        )
    newest = checkpoints.newest(folder)
    path = newest[0] if newest and not best["step"] else folder / f"step-{best['step']:09d}"
    if checkpoints.whole(path) is None:
        raise InputError(
            f"{path} is missing or damaged, and the parent serves the weights of that step; "
            "expected them with their optimizer's state; train the parent without validation, or "
            "begin anew with a cold start"
        )
    return path


def start(
    model: TrainingModel,
    optimizer: Optimizer,
    vocabularies: Vocabularies,
    parent: Parent,
    search: Search | None = None,
    *,
    expires: bool = False,
) -> Warm:
    """Gives a fresh model and its optimizer, not built yet, the parent's weights and slots.

    Call it before `Trainer.train`, on its ``model`` and ``optimizer``: a checkpoint of the night's
    own, found there, then replaces all of it, and an interrupted night goes on where it was.

    vocabularies: the night's, of which the parent's must be the beginning unless ids expire.
    search: of the night's structure weights, for a head that has such. expires: whether ids of the
        parent may be missing.
    Raises InputError, naming the first difference, for another schema, expert, head or shape, and
    for ids that moved.
    """
    serving, before = model.serving, parent.model.serving
    _demand_same_parts(serving, before)
    _demand_same_rate(serving, before)
    old, new = _variables(parent.model), _variables(model)
    fresh = _demand_same_variables(old, new)
    _demand_rows(serving, new, vocabularies, "the night")
    _demand_rows(before, old, parent.vocabularies, "the parent")
    places = {
        table: _places(table, ids, vocabularies.get(table), expires=expires)
        for table, ids in parent.vocabularies.items()
    }
    _demand_shapes(old, new)
    old_slots = _built(parent.optimizer, parent.model)
    new_slots = _built(optimizer, model)
    path = served(parent.checkpoints)
    learned = {"optimizer": parent.optimizer}
    head: Any = parent.model.serving.head
    if getattr(head, "searched", ()):
        learned["search"] = optimizer_of(head)
        learned["search"].build(head.searched)
    checkpoints.restore(path, tf.train.Checkpoint(model=parent.model, **learned))
    if before.uncertain:  # the posterior was made after the last step
        checkpoints.restore(parent.checkpoints / BEST, tf.train.Checkpoint(model=before))
    if search is not None:
        search.build()
        for old_slot, own in zip(
            learned["search"].variables, search.optimizer.variables, strict=True
        ):
            _copy(old_slot, own)
    for name in (n for n in new if n in old):
        match = TABLE.match(name)
        rows = places.get(match[1]) if match else None
        _copy(old[name], new[name], rows)
        pairs = zip(old_slots.get(name, []), new_slots.get(name, []), strict=True)
        for slot, own in pairs:
            of_rows = slot.shape[:1] == old[name].shape[:1]  # not what a table has as a whole
            _copy(slot, own, rows if of_rows else None)
    optimizer.iterations.assign(parent.optimizer.iterations)
    moved = _move_bias(serving, float(before.shift.numpy()) - float(serving.shift.numpy()))
    added = {t: int((rows < 0).sum()) for t, rows in places.items()}
    gone = {t: len(ids) + added[t] - len(vocabularies[t])
            for t, ids in parent.vocabularies.items()}  # fmt: skip
    step = int(optimizer.iterations.numpy())
    rate = _inner(optimizer)._learning_rate
    if isinstance(rate, Schedule):
        rate.begin_at(step)
    log.info("warm start from %s, step %d; new ids: %s; gone: %s", path, step, added, gone)
    for name in fresh:
        log.info("auxiliary %s is new to the parent and starts fresh", name)
    return Warm(path, step, added, gone, fresh, moved)


def _places(
    table: str, old: pa.ChunkedArray, new: pa.ChunkedArray | None, *, expires: bool
) -> np.ndarray:
    """[rows of the night's table] int64: the parent's row of each, -1 of a new id's.

    Raises InputError unless the parent's ids, of which some may be missing where ids expire, come
    first and in their order.
    """
    ids = pa.chunked_array([], old.type) if new is None else new
    found = pc.fill_null(pc.index_in(ids, value_set=old.combine_chunks()), -1).to_numpy()
    kept = found[found >= 0]
    first = np.array_equal(kept, found[: len(kept)]) and bool((np.diff(kept) > 0).all())
    if new is None or not first or (len(kept) < len(old) and not expires):
        which = "those of the parent's" if expires else "the parent's"
        how = " that stay, in their order" if expires else ""
        raise _refused(f"vocabulary {table!r} does not begin with {which} {len(old)} ids{how}")
    rows = np.where(found >= 0, found + FIRST_ID, -1)
    return np.concatenate([np.arange(FIRST_ID), rows]).astype(np.int64)


def _copy(old: tf.Variable, new: tf.Variable, rows: np.ndarray | None = None) -> None:
    """The values of `old` in the place of `new`'s. rows: of each row of `new` the row of `old`;
    those below 0, which come last, stay as they are."""
    value = tf.convert_to_tensor(old)
    if rows is not None:
        kept = rows[rows >= 0]
        if len(kept) < len(value):
            value = tf.gather(value, kept)
        if len(kept) < len(rows):
            value = tf.concat([value, tf.convert_to_tensor(new)[len(kept) :]], 0)
    new.assign(value)


def _move_bias(serving: ServingModel, by: float) -> float:
    """by: ln(w_old) − ln(w_new)."""
    for label in serving.labels:
        if by and label.sampled:
            bias = serving.head.bias(label.name)
            bias.assign_add(tf.fill(bias.shape, by))
            log.info(
                "the output bias of %s moves by %+.6f, as negatives are kept at another rate",
                label.name,
                by,
            )
    return by


def _variables(model: TrainingModel) -> Variables:
    """Path in the model -> every variable that a warm start copies."""
    return {
        path: v
        for path, v in _walk(model)
        if v.dtype.is_floating and path != SHIFT  # integers are states of random generators
    }


def _walk(model: TrainingModel) -> Iterator[tuple[str, tf.Variable]]:
    """Every variable once, by its shortest path of attributes and keys."""
    view, met = tf.train.TrackableView(model), {id(model)}
    queue: list[tuple[str, Any]] = [("", model)]
    for path, node in queue:
        if isinstance(node, tf.Variable):
            yield path.removeprefix("/"), node
            continue
        for name, child in view.children(node).items():
            if id(child) not in met:
                met.add(id(child))
                queue.append((f"{path}/{name}", child))


def _built(optimizer: Optimizer, model: TrainingModel) -> Slots:
    """Path in the model -> the variables that the optimizer makes for that one, in order."""
    paths = {v.ref(): path for path, v in _walk(model)}
    slots: Slots = {}
    inner = _inner(optimizer)
    with _recorded(inner, lambda v, slot: slots.setdefault(paths[v.ref()], []).append(slot)):
        optimizer.build(model.trainable_variables)
    if sum(map(len, slots.values())) + 1 != len(inner.variables):  # 1: the step
        raise RuntimeError(
            f"{inner.name} has variables that belong to none of the model's; a warm start "
            "needs them made by add_variable_from_reference, on one that is not built yet"
        )
    return slots


def _inner(optimizer: Optimizer) -> Optimizer:
    """What makes the slots: without the scaling of losses, whose scale a night finds anew."""
    return getattr(optimizer, "inner_optimizer", optimizer)


@contextmanager
def _recorded(optimizer: Optimizer, record: Any) -> Iterator[None]:
    """Tells `record` of each slot and the variable that it is made for."""
    make = optimizer.add_variable_from_reference

    def make_and_record(model_variable: tf.Variable, *args: Any, **options: Any) -> tf.Variable:
        slot = make(model_variable, *args, **options)
        record(model_variable, slot)
        return slot

    optimizer.add_variable_from_reference = make_and_record
    try:
        yield
    finally:
        del optimizer.add_variable_from_reference


def _demand_same_parts(new: ServingModel, old: ServingModel) -> None:
    found = difference(old.embedder.schema.to_json(), new.embedder.schema.to_json())
    before, after = _parts(old), _parts(new)
    for part in before:
        if not found and before[part] != after[part]:
            found = f"{part} changed from {before[part]} to {after[part]}"
    if found:
        raise _refused(found)


def _demand_same_rate(new: ServingModel, old: ServingModel) -> None:
    """A derived label's logit would move by another amount in each row (`tasks.unsampled`)."""
    before, after = (math.exp(float(model.shift.numpy())) for model in (old, new))
    if new.without is not None and before != after:
        raise _refused(
            f"data.negative_rate was {before:.6g} and is {after:.6g}, and no constant moves the "
            f"logit of {new.towers[-1]} with it"
        )


def _parts(model: ServingModel) -> dict[str, str]:
    """The classes that a model is made of, in words."""
    experts = (
        f"{name} ({type(body).__name__} in {model.space_of[name]})"
        for name, body in model.backbones.items()
    )
    return {"the experts": ", ".join(experts), "the head": type(model.head).__name__}


def _demand_same_variables(old: Variables, new: Variables) -> tuple[str, ...]:
    """Raises InputError unless both have the same variables but for those of whole auxiliaries.

    Returns the new auxiliaries.
    """
    before, after = ({_auxiliary(path) for path in paths} for paths in (old, new))
    for path in new:
        if path not in old and _auxiliary(path) in before:
            raise _refused(f"variable {path} is new")
    for path in old:
        if path not in new and _auxiliary(path) in after:
            raise _refused(f"variable {path} is gone")
    return tuple(sorted(after - before))


def _auxiliary(path: str) -> str:
    """The auxiliary that a variable belongs to, or "" of the serving model."""
    found = path.removeprefix(AUXILIARIES)
    return found.split("/")[0] if found != path else ""


def _demand_shapes(old: Variables, new: Variables) -> None:
    for path in (p for p in new if p in old):
        before, after = old[path].shape, new[path].shape
        first = 1 if TABLE.match(path) else 0  # rows may differ: they were compared by id
        if before.rank != after.rank or before[first:] != after[first:]:
            raise _refused(f"variable {path} was of shape {before} and is {after}")


def _demand_rows(
    serving: ServingModel, variables: Variables, ids: Vocabularies, whose: str
) -> None:
    """Raises InputError unless the tables have a row for each id, padding and unknown."""
    for table in serving.embedder.schema.tables:
        size = table.buckets or (len(ids[table.name]) if table.name in ids else 0)
        for path, v in variables.items():
            match = TABLE.match(path)
            if match and match[1] == table.name and v.shape[0] != FIRST_ID + size:
                raise InputError(
                    f"table {table.name!r} of {whose} has {v.shape[0]} rows and {size} ids; "
                    f"expected {FIRST_ID} rows more than ids; give the vocabularies of that model"
                )


def _refused(found: str) -> InputError:
    return InputError(
        f"no warm start from the parent: {found}; expected the parent's schema, backbone and "
        "shapes, and its vocabularies but for ids that expire; take back the change, or begin anew "
        "with a cold start"
    )
