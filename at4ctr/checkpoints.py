"""Checkpoints that are whole or absent: written aside, hashed, renamed; verified before use."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from at4ctr.data.disk import demand_room
from at4ctr.durable import digest, sync, write_json
from at4ctr.errors import InputError

KEPT = 2  # newest checkpoints, and weights of the best validation

log = logging.getLogger(__name__)


def save(folder: Path, name: str, checkpoint: tf.train.Checkpoint, cursor: dict) -> Path:
    """Writes ``folder/name`` with the checkpoint's files and ``cursor.json`` (cursor, digests)."""
    aside, final, old = folder / f".{name}.tmp", folder / name, folder / f".{name}.old"
    try:
        for left in (aside, old):  # of a process that was killed here
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(parents=True)
        checkpoint.write(str(aside / "variables"))
        files = sorted(p for p in aside.iterdir())
        for path in files:
            sync(path)
        write_json(
            aside / "cursor.json", {"cursor": cursor, "files": {p.name: digest(p) for p in files}}
        )
        if final.exists():
            final.replace(old)
        aside.replace(final)
        sync(folder)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        if old.exists() and not final.exists():
            old.replace(final)
        raise InputError(
            f"checkpoint {final} could not be written ({str(error).splitlines()[0]}); "
            "older checkpoints are intact: free some space and run the same command again"
        ) from error
    shutil.rmtree(old, ignore_errors=True)
    return final


def prune(folder: Path, kind: str, keep: int) -> None:
    """Deletes all but the newest ``keep`` of the checkpoints called ``<kind>-<step>``."""
    for path in sorted(folder.glob(f"{kind}-*"))[: -keep or None]:
        shutil.rmtree(path, ignore_errors=True)


def whole(path: Path) -> dict | None:
    """The cursor of a checkpoint whose files match their digests, or None."""
    try:
        value = json.loads((path / "cursor.json").read_text())
        files = value["files"]
        if files and all(digest(path / name) == sha for name, sha in files.items()):
            return value["cursor"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def newest(folder: Path) -> tuple[Path, dict] | None:
    """The newest whole step checkpoint and its cursor; a warning names damaged ones.

    InputError when there are checkpoints but none is whole: training never starts over silently.
    """
    found = sorted(folder.glob("step-*"), reverse=True)
    for path in found:
        cursor = whole(path)
        if cursor is not None:
            return path, cursor
        log.warning(
            "checkpoint %s is damaged (its files differ from their digests): passed over", path
        )
    if found:
        raise InputError(
            f"{folder} holds {len(found)} checkpoints and none is whole; "
            "delete the run's folder to train from the start"
        )
    return None


def restore(path: Path, checkpoint: tf.train.Checkpoint) -> None:
    """Reads every variable back; InputError where they are not those of the checkpoint."""
    try:
        checkpoint.read(str(path / "variables")).assert_consumed()
    except (ValueError, AssertionError, tf.errors.OpError) as error:
        raise InputError(
            f"checkpoint {path} does not fit the model ({str(error).splitlines()[0][:150]}); "
            "expected the same code and configuration that wrote it; delete the run's folder to "
            "train from the start"
        ) from error


class Keeper:
    """The checkpoints of a training in a folder: ``step-<n>`` with all that resuming needs,
    ``best-<n>`` with the served weights of the best validation, ``best`` with those of a finished
    training.

    optimizers: by name, of the model's weights and of other weights, such as structure weights.
    share: the largest share of training time that ``save_if_due`` spends on checkpoints.
    """

    def __init__(
        self,
        folder: Path,
        model: Any,
        optimizers: Mapping[str, tf.keras.optimizers.Optimizer],
        share: float,
    ) -> None:
        self.folder, self.model, self.optimizers, self.share = folder, model, optimizers, share
        self._due = 0.0

    def whole(self) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(model=self.model, **self.optimizers)

    def served(self) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(model=self.model.serving)

    def _trained(self) -> list[tf.Variable]:
        slots = [v for optimizer in self.optimizers.values() for v in optimizer.variables]
        return [*self.model.variables, *slots]

    def find(self) -> tuple[str, dict] | None:
        """Name and cursor of the checkpoint to resume from, as ``newest``."""
        found = newest(self.folder)
        return found and (found[0].name, found[1])

    def resume(self, name: str) -> None:
        restore(self.folder / name, self.whole())

    def save_if_due(self, step: int, cursor: dict) -> None:
        """``save``, unless the last save took more than ``share`` of the time since it began."""
        if time.perf_counter() >= self._due:
            self.save(step, cursor)

    def save(self, step: int, cursor: dict) -> None:
        """Writes a checkpoint. Raises InputError for weights that are not finite."""
        began = time.perf_counter()
        for v in self._trained():
            if v.dtype.is_floating and not _finite(v):
                raise InputError(
                    f"{v.name} is not finite after step {step}, which is not saved; expected "
                    "finite weights; try a smaller fit.learning_rate"
                )
        save(self.folder, f"step-{step:09d}", self.whole(), cursor)
        for kind in ("step", "best"):
            prune(self.folder, kind, keep=KEPT)
        ended = time.perf_counter()
        self._due = ended + (ended - began) * (1.0 / self.share - 1.0)

    def save_best(self, step: int) -> None:
        """The served weights of the best validation so far."""
        save(self.folder, _best(step), self.served(), {"step": step})

    def take_best(self, step: int) -> None:
        """Puts the weights that ``save_best`` wrote after a step in the model."""
        best = self.folder / _best(step)
        if whole(best) is None:
            raise InputError(
                f"{best} is missing or damaged; expected the weights of the best validation "
                "AUC; delete the run's folder to train again"
            )
        self.take(best.name)

    def finish(self, name: str, best_step: int | None) -> None:
        """Keeps the model's served weights under ``name``. best_step: None for the last ones."""
        save(self.folder, name, self.served(), {"step": best_step or 0})

    def take(self, name: str) -> None:
        """Puts served weights that ``finish`` or ``save_best`` wrote in the model."""
        restore(self.folder / name, self.served())

    def demand_room(self, saves: int, *, validated: bool) -> None:
        """Raises InputError where the disk has no room for what a training of so many saves writes:
        the checkpoints kept and one being written, the best weights and an export."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there = sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
        trained = sum(map(_bytes, self._trained()))
        served = sum(map(_bytes, self.model.serving.variables))
        size = min(saves, KEPT + 1) * trained + (2 + validated) * served - there
        demand_room(self.folder, size, "checkpoints, the best weights and their export")


def _best(step: int) -> str:
    return f"best-{step:09d}"


def _finite(v: tf.Variable) -> bool:
    """Of this host's first copy. A plain read would copy a whole table."""
    copy = tf.distribute.get_strategy().experimental_local_results(v)[0]
    try:
        tf.debugging.check_numerics(copy.read_value_no_copy(), v.name)
    except tf.errors.InvalidArgumentError:
        return False
    return True


def _bytes(v: tf.Variable) -> int:
    return int(v.shape.num_elements() or 0) * int(v.dtype.size)
