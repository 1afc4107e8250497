"""The settings of a chain of nights: a snapshot, which later edits of a recipe do not change.

The first night writes ``registry/<model>/nightly.json``; every later one reads it. A flag of
another value is refused, unless ``--adopt --reason`` takes it over, which the file and the ledger
record.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import configs
from at4ctr import config, faults
from at4ctr.config import Experiment
from at4ctr.data.days import Periods
from at4ctr.data.nights import increment
from at4ctr.data.nights.state import difference
from at4ctr.durable import make_folder, write_json
from at4ctr.errors import InputError, unknown
from at4ctr.gates import anomaly, verdict
from at4ctr.registry import Entry
from pipelines.night.asked import DEFAULTS, Given
from pipelines.night.attempt import SETTINGS, Attempt, attempts, recorded
from pipelines.night.places import Places, now

FORM = 2
Value = TypeVar("Value")


@dataclass(frozen=True)
class Settings:
    """The settings of a chain. asked: the flags that they were made of. data: the root of the day
    folders."""

    asked: Mapping[str, str]
    experiment: Experiment
    periods: Periods
    data_gate: anomaly.Thresholds
    model_gate: verdict.Thresholds

    @property
    def data(self) -> Path:
        return Path(self.asked["data"])

    @property
    def cold_days(self) -> int:
        """How many of the latest days a cold start trains on; 0: all."""
        return int(self.asked["cold_days"])

    @property
    def expire_days(self) -> int:
        """After how many days without a row an id leaves the vocabularies; 0: never."""
        return int(self.asked["expire_days"])

    @property
    def still_nights(self) -> int:
        """After how many nights without a version the chain is said to stand still; 0: never."""
        return int(self.asked["still_nights"])

    @property
    def halves(self) -> bool:
        """Whether half of the evaluated users are the validation split: they fit a calibrator,
        choose the weight of the score, or teach structure weights."""
        e = self.experiment
        derived = not set(e.tasks) <= {label.name for label in e.data.schema().labels}
        return e.calibrator != "none" or derived or e.head.searches

    def to_json(self) -> dict[str, Any]:
        parts = {p: config.to_json(getattr(self, p)) for p in PARTS}
        return {"form": FORM, "asked": dict(self.asked), **parts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Settings:
        """The inverse of `to_json`; InputError for anything else."""
        try:
            if value["form"] != FORM:
                raise InputError(
                    f"{where} is of form {value['form']}, which another version of at4ctr wrote; "
                    f"expected form {FORM}; begin a chain of another name with MODEL="
                )
            known = configs.datasets()
            parts = {p: config.from_json(value[p], where, known) for p in PARTS}
            return cls(asked={**DEFAULTS, **value["asked"]}, **parts)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{where} is no snapshot of a chain ({error}); expected what the first night "
                "wrote; restore it from a backup"
            ) from error

    def meaning(self) -> dict[str, Any]:
        """The values by which two chains' settings are compared, however flags were written."""
        value = self.to_json()
        return {p: value[p] for p in PARTS} | {"data": _local(self.asked["data"]),
                                               "cold_days": self.cold_days,
                                               "expire_days": self.expire_days,
                                               "still_nights": self.still_nights}  # fmt: skip

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


PARTS = ("experiment", "periods", "data_gate", "model_gate")


def made(given: Given) -> Settings:
    """The settings of flags, None where one was not given; InputError for what no night can do."""
    asked = {k: v if (v := given.get(k)) is not None else d for k, d in DEFAULTS.items()}
    asked["data"] = _local(asked["data"] or f"data/{asked['dataset']}")
    words = _words("set", asked["set"])
    data = configs.dataset(asked["dataset"])()
    data = config.override({"data": data}, [w for w in words if w.startswith("data.")])["data"]
    increment.demand_possible(data)
    asked["utc_offset_hours"] = asked["utc_offset_hours"] or f"{data.UTC_OFFSET_HOURS:g}"
    experiment = config.override(
        configs.recipe(asked["config"], data),
        [w for w in words if not w.startswith("data.")],
        asked["config"],
    )
    if experiment.fit.watch:
        raise InputError(
            f"fit.watch is {experiment.fit.watch}; expected none, as a night keeps the weights of "
            "its last step; leave it out of --set"
        )
    fields = [f"{k}={asked[k]}" for k in ("days", "utc_offset_hours", "evaluation")]
    periods = config.override(Periods(), fields)
    for flag in ("cold_days", "expire_days"):
        _demand_days(flag, asked[flag], periods.days)
    _demand_still_nights(asked["still_nights"])
    model_gate = _gate(verdict.Thresholds(), asked, "model_gate")
    for label in model_gate.labels:
        if label not in experiment.evaluated:
            raise unknown("label of --model_gate", label, experiment.evaluated)
    data_gate = _gate(anomaly.Thresholds(), asked, "data_gate")
    return Settings(asked, experiment, periods, data_gate, model_gate)


def _demand_days(flag: str, text: str, period: int) -> None:
    whole = text.isascii() and text.isdecimal()
    if not whole or 0 < int(text) < period:
        none = "all" if flag == "cold_days" else "no end"
        raise InputError(
            f"--{flag} is {text!r}; expected a whole number of days, at least the {period} of a "
            f"period, or 0 for {none}; set --{flag}=0"
        )


def _demand_still_nights(text: str) -> None:
    if not (text.isascii() and text.isdecimal()):
        raise InputError(
            f"--still_nights is {text!r}; expected a whole number of nights, or 0 to say nothing; "
            "set --still_nights=3"
        )


def _local(data: str) -> str:
    """A folder below the current one as a relative path, which is the same on another machine."""
    path = Path(data)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else data


def _gate(value: Value, asked: Mapping[str, str], name: str) -> Value:
    return config.override(value, _words(name, asked[name]))


def _words(flag: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"--{flag}={text!r} cannot be split into words ({error}); expected field=value words; "
            "close the quotation"
        ) from None


def read(places: Places) -> Settings:
    """The chain's; InputError where there is none."""
    try:
        value = json.loads(places.snapshot.read_text(encoding="utf-8"))
        return Settings.from_json(value["settings"], str(places.snapshot))
    except FileNotFoundError:
        raise InputError(
            f"{places.snapshot} does not exist, so there is no chain of the model "
            f"{places.model!r}; expected one that a first night began; run a night with --date"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{places.snapshot} cannot be read ({error!r}); expected what the first night wrote; "
            "restore it from a backup"
        ) from error


def settle(places: Places, given: Given, *, adopt: bool, reason: str) -> Settings:
    """The chain's settings; of the flags where there is no chain yet, or they are adopted.

    Raises InputError for a flag that differs from the chain's.
    """
    if not places.snapshot.exists():
        left = [a for day in places.dates() for a in attempts(places, day)]
        if not left and not any(recorded(places, e) for e in places.ledger.entries(places.model)):
            settings = made(given)
            _write(places, settings, [])
            return settings
        _restore(places, left, reason if adopt else "")
    settings = read(places)
    changed = {k: v for k, v in given.items() if v is not None and v != settings.asked[k]}
    new = made({**settings.asked, **changed}) if changed else settings
    what = difference(settings.meaning(), new.meaning())
    if not what:
        return settings
    if not adopt:
        flag = next(iter(changed))
        raise InputError(
            f"--{flag} is {changed[flag]!r} and the chain of {places.model} runs with "
            f"{settings.asked[flag]!r} ({what}); expected the same, so that no chain changes "
            "unseen; leave the flag out, or take it over with --adopt --reason"
        )
    return _adopt(places, new, what, reason)


def _restore(places: Places, left: Sequence[Attempt], reason: str) -> None:
    """The lost snapshot, from the newest attempt's settings: never from flags alone."""
    lost = f"{places.snapshot} is missing, but {places.model} has nights or versions already"
    if not left:
        raise InputError(
            f"{lost}; expected the chain's settings, so that no defaults take their place; restore "
            "it from a backup, or begin another --model"
        )
    if not reason.strip():
        raise InputError(
            f"{lost}; expected the chain's settings, so that no defaults take their place; restore "
            f"it from a backup, or take over those of {left[-1].name} with --adopt --reason"
        )
    settings = Settings.from_json(left[-1].read(SETTINGS), str(left[-1].folder / SETTINGS))
    _remember(places, settings, [], {"reason": reason.strip(), "adopted": f"{left[-1].name}'s"})


def _adopt(places: Places, new: Settings, what: str, reason: str) -> Settings:
    if not reason.strip():
        raise InputError(
            f"the chain of {places.model} was to change ({what}) without a reason; expected one "
            'for the ledger; add --reason "why"'
        )
    changes = json.loads(places.snapshot.read_text(encoding="utf-8"))["changes"]
    _remember(places, new, changes, {"reason": reason.strip(), "adopted": what})
    return new


def _remember(
    places: Places, new: Settings, changes: Sequence[Mapping[str, Any]], facts: dict[str, str]
) -> None:
    """Records a change of the settings in the ledger, once, then writes the settings."""
    told = [e for e in places.ledger.entries(places.model) if "adopted" in e.facts]
    if not told or told[-1].facts != facts:  # none follows itself, but one that was cut short
        places.ledger.append(Entry("blessed", places.model, now(), None, facts))
    faults.point("adopt.recorded")
    _write(places, new, [*changes, {"at": now(), **facts}])


def _write(places: Places, settings: Settings, changes: Sequence[Mapping[str, Any]]) -> None:
    make_folder(places.snapshot.parent)
    write_json(places.snapshot, {"settings": settings.to_json(), "changes": changes})


def drifted(settings: Settings) -> str:
    """How the recipe's file differs from the chain's settings today, in words, or ""; the file may
    also be broken."""
    try:
        today = made(settings.asked)
    except InputError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return difference(settings.meaning(), today.meaning())
