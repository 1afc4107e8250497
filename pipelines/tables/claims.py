"""What is on disk of a dataset's runs: which are finished, which a process trains just now."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from at4ctr import runs

ASIDE = ".queue"  # under the runs: claims, and what running processes say


def identity(snapshot: Mapping[str, Any]) -> str:
    """What a run repeats: store, experiment and the form of the results, whatever the recipe's
    name, the log's path, the points of the curve or the form of an export. The store's name depends
    on ``data.times``. Results of both layouts of ``fit.layout`` agree to rounding."""
    experiment = {k: v for k, v in snapshot["experiment"].items() if k != "export"}
    left_out = {"data": ("raw", "times"), "fit": ("curve_points", "layout")}
    for part, gone in left_out.items():
        if part in experiment:
            experiment[part] = {k: v for k, v in experiment[part].items() if k not in gone}
    same = {"store": snapshot["store"], "form": snapshot.get("form"), "experiment": experiment}
    text = json.dumps(same, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Ledger:
    """The run folders of a dataset by identity; each snapshot is read once."""

    def __init__(self, root: Path, dataset: str) -> None:
        self.root, self.dataset = root, dataset
        self._keys: dict[Path, str] = {}

    def refresh(self) -> None:
        """Looks for folders that came since."""
        for folder in self.root.glob(f"{self.dataset}-*/*Z"):
            if folder not in self._keys:
                try:
                    self._keys[folder] = identity(json.loads((folder / runs.SNAPSHOT).read_text()))
                except (OSError, ValueError, KeyError, TypeError, AttributeError):
                    continue  # not a run that this version could repeat

    def folders(self, key: str) -> list[Path]:
        """Newest first."""
        found = [folder for folder, known in self._keys.items() if known == key]
        return sorted(found, key=_moment, reverse=True)

    def finished(self, key: str) -> Path | None:
        """The newest finished run's folder."""
        return next((f for f in self.folders(key) if (f / runs.METRICS).exists()), None)

    def unfinished(self, key: str) -> list[Path]:
        """Folders of runs that have not ended, newest first."""
        return [f for f in self.folders(key) if not (f / runs.METRICS).exists()]

    def in_use(self, key: str) -> bool:
        """Whether a process is training this very run."""
        return any(held(folder / ".lock") for folder in self.unfinished(key))


def _moment(folder: Path) -> tuple[str, int, str]:
    """Of ``20261121T054351Z``, and of ``20261121T054351-2Z`` after it."""
    stamp, _, count = folder.name.removesuffix("Z").partition("-")
    return stamp, int(count) if count.isdigit() else 1, str(folder)


def held(path: Path) -> bool:
    """Whether a process holds the lock of a file. Several processes may ask at the same time."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


class Orphan(NamedTuple):
    """A training process whose queue was killed: its claim, its id and what it trains."""

    claim: Path
    pid: int
    label: str


class Claims:
    """The right to start a run: a file's lock, which the training process holds to its end."""

    def __init__(self, root: Path, dataset: str) -> None:
        self.folder, self.dataset = root / ASIDE, dataset

    def take(self, key: str) -> int | None:
        """A descriptor that holds the claim until it is closed everywhere, or None."""
        handle = os.open(self.folder / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        return handle

    def sign(self, handle: int, pid: int, label: str) -> None:
        """Writes the training process, what it trains and its queue into a claim."""
        said = {"dataset": self.dataset, "queue": os.getpid(), "pid": pid, "label": label}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(said).encode(), 0)

    def orphans(self) -> Iterator[Orphan]:
        """Runs of this dataset that go on although the queue that started them is gone."""
        for path in sorted(self.folder.glob("*.lock")):
            if not held(path):
                continue
            try:
                said = json.loads(path.read_text())
                pid, dataset, queue = int(said["pid"]), said["dataset"], said["queue"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # just being taken
            if dataset == self.dataset and _parent(pid) != queue:
                yield Orphan(path, pid, str(said["label"]))


def _parent(pid: int) -> int | None:
    """The parent of a process; None where the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])
