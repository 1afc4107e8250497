"""The record of a night: a folder an attempt, whose ``run.json`` is old or new, never half."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from at4ctr import faults
from at4ctr.data.days import Window
from at4ctr.durable import make_folder, write_json
from at4ctr.errors import InputError
from at4ctr.registry import Entry
from pipelines.night import logs
from pipelines.night.logs import log
from pipelines.night.places import Places, now

FORM = 2
NAME = re.compile(r"dt=\d{4}-\d{2}-\d{2}/attempt-\d{2,}")
RECORD, SETTINGS = "run.json", "config.json"
STATS, ANOMALIES, METRICS, GATE = "stats.json", "anomalies.json", "metrics.json", "gate.json"
PREDICTIONS = "predictions.npz"
STAGES = ("PLANNED", "WAIT_DATA", "DATA_OK", "TRAINING", "TRAINED", "EXPORTED", "INFRA_OK",
          "EVALUATED", "BLESSED", "PUBLISHED")  # fmt: skip
ENDS = ("REJECTED", "HOLD", "SKIPPED", "FAILED")
FINAL = ("PUBLISHED", "REJECTED", "HOLD")  # outcomes after which only --bless or --again goes on

for _stage in (*STAGES, *ENDS):
    faults.declare(f"night.{_stage.lower()}.before", f"night.{_stage.lower()}.after")
faults.declare("accept.recorded", "adopt.recorded")  # in the ledger, and nowhere else yet


@dataclass
class Attempt:
    """folder: ``runs/nightly/<model>/dt=D/attempt-01``. record: its ``run.json``:

    form, model, date, attempt; settings: digest of ``config.json``; cold; parent: its version,
    date, attempt and cutoff, or null; incumbent: likewise, what it is compared with; window;
    command: words; inputs: date -> file -> SHA-256; passed_over: date -> missing or refused, of a
    cold start; simulated: any of the inputs; stage: the last that was reached; stages: every
    transition with its moment and seconds of work; outcome: null while it is at work, else exit,
    name, sentence and, of REJECTED and FAILED, of what; blessed; version.
    """

    folder: Path
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Within its chain: ``dt=2017-12-01/attempt-01``."""
        return "/".join(self.folder.parts[-2:])

    @property
    def day(self) -> date:
        return date.fromisoformat(self.record["date"])

    @property
    def stage(self) -> str:
        return str(self.record["stage"])

    @property
    def outcome(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.record.get("outcome")
        return found

    @property
    def finished(self) -> bool:
        return bool(self.outcome) and self.outcome["name"] in FINAL  # type: ignore[index]

    @property
    def window(self) -> Window:
        return Window(*self.record["window"])

    @property
    def store(self) -> Path:
        return self.folder / "data" / "store"

    @property
    def state(self) -> Path:
        return self.folder / "data" / "state"

    def reached(self, stage: str) -> bool:
        return STAGES.index(self.stage) >= STAGES.index(stage)

    def enter(self, stage: str, seconds: float = 0.0, **facts: Any) -> None:
        """Records that a stage was reached, with what was found on the way."""
        self._write(stage, seconds, {**facts, "stage": stage})

    def end(self, name: str, exit_code: int, sentence: str, **facts: Any) -> None:
        """Records how the night ended; the stage stays that which was reached."""
        outcome = {"name": name, "exit": exit_code, "sentence": sentence, **facts}
        self._write(name, 0.0, {"outcome": outcome})

    def reopen(self, stage: str, **facts: Any) -> None:
        """Takes up an ended night at a stage."""
        self.record |= {**facts, "stage": stage, "outcome": None}
        write_json(self.folder / RECORD, self.record)

    def _write(self, name: str, seconds: float, facts: Mapping[str, Any]) -> None:
        point = f"night.{name.lower()}"
        faults.point(f"{point}.before")
        entry = {"stage": name, "at": now(), "seconds": round(seconds, 3)}
        stages = [*self.record.get("stages", []), entry]
        record = {**self.record, **facts, "stages": stages}
        write_json(self.folder / RECORD, record)
        self.record = record
        shown = logs.SHOWN if name in STAGES else {}
        log.info("%s", logs.stage(self.record["date"], name, seconds, facts), extra=shown)
        faults.point(f"{point}.after")

    def read(self, name: str) -> Any:
        """A JSON file of the attempt, or None where it was never written."""
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(
                f"{path} cannot be read ({error}); expected what the night wrote; run the date "
                "anew with --again"
            ) from error


def recorded(places: Places, entry: Entry) -> Path | None:
    """The folder of the attempt that published a version. None where no night did, and where the
    ledger's entry names no attempt; a recovered ledger takes it from the version's own folder."""
    name = str(entry.facts.get("notes", {}).get("attempt"))
    return places.nights / name if NAME.fullmatch(name) else None


def attempts(places: Places, day: date) -> tuple[Attempt, ...]:
    """Those of a date, oldest first."""
    return tuple(opened(p) for p in _folders(places, day))


def _folders(places: Places, day: date) -> list[Path]:
    """Those with a record, by number; one that was renamed by hand is no attempt."""
    found = (p for p in places.night(day).glob("attempt-*") if (p / RECORD).is_file())
    named = (p for p in found if NAME.fullmatch(f"{p.parent.name}/{p.name}"))
    return sorted(named, key=_number)


def _number(folder: Path) -> int:
    return int(folder.name.partition("-")[2])


def opened(folder: Path) -> Attempt:
    """An attempt's folder; InputError where it is none."""
    attempt = Attempt(folder)
    record = attempt.read(RECORD)
    if not isinstance(record, dict) or record.get("form") != FORM:
        raise InputError(
            f"{folder} has no {RECORD} of form {FORM}; expected a night's attempt; restore it, or "
            "move the folder away"
        )
    attempt.record = record
    return attempt


def begin(
    places: Places, day: date, settings: Mapping[str, Any], facts: Mapping[str, Any]
) -> Attempt:
    """A new attempt of a date, PLANNED."""
    last = max(map(_number, _folders(places, day)), default=0)
    name = f"attempt-{last + 1:02d}"
    folder = places.night(day) / name
    make_folder(folder)  # one without a record was never begun
    write_json(folder / SETTINGS, settings)
    attempt = Attempt(folder)
    attempt.record = {"form": FORM, "model": places.model, "date": str(day), "attempt": name,
                      "command": places.command(day), "outcome": None, "version": None,
                      "blessed": None, **facts}  # fmt: skip
    attempt.enter("PLANNED")
    return attempt
