"""Search spaces as text, such as ``fit.learning_rate=log:0.0003:0.01 head.dropout=0|0.1|0.2``."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from at4ctr import config
from at4ctr.config import Experiment
from at4ctr.errors import InputError
from pipelines.words import split

EXAMPLE = "fit.learning_rate=log:0.0003:0.01 head.dropout=0|0.1|0.2 data.history=int:10:50"
FORMS = "log:low:high, low:high, int:low:high or a|b|c"


@dataclass(frozen=True)
class Space:
    """The values that a field of an experiment may take.

    kind: ``log`` and ``uniform`` are intervals of floats, log-uniform and uniform; ``int`` is an
        interval of whole numbers; ``choice`` is a list of texts.
    """

    field: str
    kind: Literal["log", "uniform", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()

    @property
    def distribution(self) -> BaseDistribution:
        if self.kind == "choice":
            return CategoricalDistribution(self.choices)
        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high))
        return FloatDistribution(self.low, self.high, log=self.kind == "log")

    def text(self, value: Any) -> str:
        """A value as an override writes it. Floats have four significant digits."""
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    @property
    def limits(self) -> tuple[str, ...]:
        """The values that are tried when a space is checked."""
        if self.kind == "choice":
            return self.choices
        if self.kind == "int":
            return (str(int(self.low)), str(int(self.high)))
        return (self.text(self.low), self.text(self.high))


def parse(text: str) -> tuple[Space, ...]:
    """The spaces of ``TUNE``; InputError for what is no space."""
    found = tuple(_space(word) for word in split("TUNE", text, EXAMPLE))
    if not found:
        raise InputError(
            f'TUNE is empty; expected fields and the values they may take; write TUNE="{EXAMPLE}"'
        )
    names = [s.field for s in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"TUNE names {name} twice; expected each field once; drop one")
    return found


def _space(word: str) -> Space:
    field, equals, values = word.partition("=")
    if not (field and equals and values):
        raise InputError(
            f"TUNE has {word!r}; expected field=values, where values are {FORMS}; "
            f'for example TUNE="{EXAMPLE}"'
        )
    if "|" in values:
        choices = tuple(values.split("|"))
        if len(set(choices)) < len(choices) or "" in choices:
            raise InputError(
                f"TUNE has {word!r}, where a choice is empty or stands twice; expected different "
                f"values; write {field}=0|0.1|0.2"
            )
        return Space(field, "choice", choices=choices)
    kind, *limits = values.split(":")
    if len(limits) == 1:
        kind, limits = "uniform", [kind, *limits]
    if kind not in ("log", "uniform", "int") or len(limits) != 2:
        raise InputError(
            f"TUNE has {word!r}; expected {FORMS} after {field}=; write {field}=log:0.001:1"
        )
    low, high = (_number(x, word, whole=kind == "int") for x in limits)
    if not low < high or (kind == "log" and low <= 0):
        above = "0 < low < high" if kind == "log" else "low < high"
        raise InputError(
            f"TUNE has {word!r}, from {limits[0]} to {limits[1]}; expected {above}; change them"
        )
    return Space(field, kind, low, high)  # type: ignore[arg-type]


def _number(text: str, word: str, *, whole: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (whole and value != int(value)):
        kind = "a whole number" if whole else "a finite number"
        raise InputError(
            f"TUNE has {word!r}, where {text!r} is a limit; expected {kind}; write one"
        )
    return value


def demand_fit(spaces: Sequence[Space], e: Experiment) -> None:
    """InputError where an experiment cannot take what a space gives: before the first trial."""
    for space in spaces:
        for value in space.limits:
            try:
                config.override(e, [f"{space.field}={value}"])
            except InputError as error:
                raise InputError(f"TUNE cannot set {space.field} to {value}: {error}") from None
        now = value_of(e, space.field)
        number = space.kind in ("log", "uniform")
        if number and isinstance(now, int) and not isinstance(now, bool):
            raise InputError(
                f"TUNE gives {space.field} fractions, but it is {now} in the recipe; expected "
                f"whole numbers; write {space.field}=int:{space.low:.0f}:{space.high:.0f}"
            )


def value_of(e: Experiment, field: str) -> Any:
    """What an experiment has at a field's path."""
    first, dot, rest = field.partition(".")
    found: Any = e
    for name in (e.shortcuts.get(first, first) + dot + rest).split("."):
        found = found[name] if isinstance(found, Mapping) else getattr(found, name)
    return found


def own_values(spaces: Sequence[Space], e: Experiment) -> dict[str, Any] | None:
    """The experiment's own values, where all of them lie in the spaces; else None."""
    found: dict[str, Any] = {}
    for space in spaces:
        now = value_of(e, space.field)
        if space.kind == "choice":
            same = (c for c in space.choices if config.override(e, [f"{space.field}={c}"]) == e)
            now = next(same, None)
            if now is None:
                return None
        elif dataclasses.is_dataclass(now) or now is None or not space.low <= now <= space.high:
            return None
        found[space.field] = now if space.kind in ("choice", "int") else float(now)
    return found


def assignments(spaces: Sequence[Space], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Values as overrides."""
    return tuple(f"{s.field}={s.text(values[s.field])}" for s in spaces)


def quoted(overrides: Sequence[str]) -> str:
    """Overrides as one text, such as ``SET`` takes."""
    return " ".join(map(shlex.quote, overrides))
