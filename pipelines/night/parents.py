"""Parents: published versions, with their nights' files, that a night begins from and is compared
with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from at4ctr import checkpoints, warm
from at4ctr.data.dataset import Options
from at4ctr.data.nights import state
from at4ctr.errors import InputError
from at4ctr.fit import BEST
from pipelines.night.attempt import SETTINGS, Attempt, opened, recorded
from pipelines.night.chain import Settings
from pipelines.night.places import Places


@dataclass(frozen=True)
class Parent:
    """A published version. folder: its attempt's. cutoff: it was trained on rows before that."""

    version: int
    folder: Path
    cutoff: int

    @property
    def state(self) -> Path:
        return self.folder / "data" / "state"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def settings(self) -> Settings:
        """Those that it was trained with."""
        value = Attempt(self.folder).read(SETTINGS)
        if value is None:
            raise _gone(self, f"{self.folder / SETTINGS} is missing")
        return Settings.from_json(value, str(self.folder / SETTINGS))

    def demand_whole(self, data: Options) -> None:
        """Raises InputError unless its state and checkpoints are there, each file as written, and
        its state is of the log that `data` describes."""
        if not self.folder.is_dir():
            raise _gone(self, f"{self.folder} is missing")
        self.settings()
        state.demand_same(state.opened(self.state), data)
        warm.served(self.checkpoints)

    def demand_servable(self) -> None:
        """Raises InputError unless the files for its predictions are there."""
        if not self.folder.is_dir():
            raise _gone(self, f"{self.folder} is missing")
        self.settings()
        state.opened(self.state)
        if checkpoints.whole(self.checkpoints / BEST) is None:
            raise _gone(self, f"{self.checkpoints / BEST} is missing or damaged")

    def to_json(self) -> dict[str, Any]:
        found = opened(self.folder).record if self.folder.is_dir() else {}
        return {"version": self.version, "cutoff": self.cutoff, "date": found.get("date"),
                "attempt": "/".join(self.folder.parts[-2:])}  # fmt: skip


def _gone(parent: Parent, what: str) -> InputError:
    return InputError(
        f"the parent, version {parent.version}, cannot be trained on: {what}; expected the files "
        "that its night left; restore them, or begin anew with --cold_start"
    )


def of_record(places: Places, record: dict[str, Any] | None) -> Parent | None:
    """The inverse of `Parent.to_json`."""
    if record is None:
        return None
    return Parent(record["version"], places.nights / record["attempt"], record["cutoff"])


def choose(places: Places, cutoff: int) -> Parent | None:
    """The newest version in service whose own cutoff lies before ``cutoff``, in epoch seconds.

    For a night after the live version's it is the live version. None before the first version.
    Raises InputError for a version that no night made, from which no night can train on.
    """
    known = places.ledger.entries(places.model)
    retired = places.retired
    found = [e for e in known if e.kind == "published" and e.version not in retired]
    for entry in sorted(found, key=lambda e: e.version or 0, reverse=True):
        folder, its = recorded(places, entry), entry.facts.get("notes", {}).get("cutoff")
        if folder is None or not isinstance(its, int):
            raise InputError(
                f"version {entry.version} of {places.model} was published by hand, so its state "
                "and checkpoints are unknown; expected a night's; begin anew with --cold_start"
            )
        if its < cutoff:
            return Parent(entry.version or 0, folder, its)
    return None
