"""The facts of a night, from its attempt's folder; missing files are no error, as a night may end
at any stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from at4ctr.errors import InputError
from at4ctr.gates.anomaly import Anomaly
from at4ctr.gates.anomaly import Thresholds as DataThresholds
from at4ctr.gates.statistics import Relation, Stats
from at4ctr.gates.verdict import Verdict
from at4ctr.metrics.intervals import Trust
from pipelines.night import still
from pipelines.night.asked import DEFAULTS

Json = Mapping[str, Any]
Value = TypeVar("Value")
SPAN = 30  # nights of a trend


@dataclass(frozen=True)
class Night:
    """An attempt's files. What was never written is empty or None.

    damaged: a sentence for each file that is there and cannot be read.
    """

    folder: Path
    record: Json
    settings: Json
    stats: Mapping[str, Stats]
    anomalies: Mapping[str, tuple[Anomaly, ...]]
    metrics: Json
    verdict: Verdict | None
    damaged: tuple[str, ...] = ()

    @property
    def day(self) -> date:
        return date.fromisoformat(self.record["date"])

    @property
    def outcome(self) -> Json:
        return self.record.get("outcome") or {}

    @property
    def kind(self) -> str:
        """The outcome's name; BLESSED: published, or on its way, by hand; UNFINISHED without."""
        name = str(self.outcome.get("name", "UNFINISHED"))
        by_hand = self.blessed or (self.verdict and self.verdict.was)
        return "BLESSED" if name == "PUBLISHED" and by_hand else name

    @property
    def blessed(self) -> str:
        """The reason of who overrode a gate, or ""."""
        found = self.record.get("blessed") or ""
        if isinstance(found, Mapping):
            found = found.get("reason") or ""
        return str(found) or (self.verdict.reason if self.verdict else "")

    @property
    def simulated(self) -> bool:
        return bool(self.record.get("simulated") or self.metrics.get("simulated"))

    @property
    def candidate(self) -> Json:
        return self.metrics.get("candidate") or {}

    @property
    def incumbent(self) -> Json:
        return self.metrics.get("incumbent") or {}

    @property
    def seconds(self) -> float:
        """Of work, over all stages."""
        return sum(float(s.get("seconds", 0)) for s in self.record.get("stages", ()))

    @property
    def days(self) -> int:
        """Of a period."""
        return int((self.settings.get("periods") or {}).get("days", 1))

    @property
    def zone(self) -> timezone:
        hours = float((self.settings.get("periods") or {}).get("utc_offset_hours", 0))
        return timezone(timedelta(hours=hours))

    @property
    def today(self) -> Stats | None:
        """The statistics of the night's own day, the last one counted."""
        return self.stats[max(self.stats)] if self.stats else None

    @property
    def period(self) -> list[Relation]:
        """The statistics of the labelled rows (`main`), of each day of the period."""
        days = [self.stats[d] for d in sorted(self.stats)[-self.days :]]
        return [found for s in days if (found := main(s)) is not None]

    @property
    def accepted(self) -> list[Stats]:
        """The statistics of days that no gate refused."""
        refused = {d for d, found in self.anomalies.items()
                   if any(a.severity == "reject" for a in found)}  # fmt: skip
        return [s for d, s in sorted(self.stats.items()) if self.blessed or d not in refused]

    @property
    def data_gate(self) -> DataThresholds:
        known = {k: v for k, v in (self.settings.get("data_gate") or {}).items() if k != "type"}
        try:
            return DataThresholds(**known)
        except (TypeError, InputError):
            return DataThresholds()


def read(folder: Path) -> Night:
    """An attempt's folder. Raises InputError where its ``run.json`` is none."""
    damaged: list[str] = []
    record = _json(folder / "run.json", damaged)
    if _day(folder) is None:
        raise InputError(
            f"{folder}/run.json is missing or no record of a night; expected what the nightly job "
            "writes; name an attempt's folder, or run the date again"
        )

    def part(name: str, make: Callable[[Any], Value], none: Value) -> Value:
        value = _json(folder / name, damaged)
        try:
            return make(value) if value else none
        except (InputError, KeyError, TypeError, AttributeError, ValueError) as error:
            damaged.append(f"{name} is not as this version writes it: {error}")
            return none

    return Night(
        folder,
        record,
        part("config.json", dict, {}),
        part("stats.json", lambda v: {d: Stats.from_json(s) for d, s in v.items()}, {}),
        part("anomalies.json",
             lambda v: {d: tuple(map(Anomaly.from_json, a)) for d, a in v.items()}, {}),
        part("metrics.json", _metrics, {}),
        part("gate.json", Verdict.from_json, None),
        tuple(damaged),
    )  # fmt: skip


def _metrics(value: Json) -> Json:
    """Of both models; an error where the page could not show them."""
    for side in ("candidate", "incumbent"):
        model = value.get(side) or {}
        trusts(model)
        for name in ("auc", "pcoc"):
            float(model.get(name, 0.0))
    return dict(value)


def _json(path: Path, damaged: list[str]) -> Any:
    """A file's value, or {} where there is none or it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        damaged.append(f"{path.name} cannot be read: {error}")
        return {}


def trend(night: Night, chain: Iterable[Path]) -> list[Night | None]:
    """`SPAN` nights up to this one, oldest first; None where there is none of a date.

    Of several attempts at a date the last one given counts. The span begins with the first night
    that is known.
    """
    step = timedelta(night.days)
    span = [night.day - step * k for k in reversed(range(SPAN))]
    folders = {day: folder for folder in chain if (day := _day(folder)) in span}
    found = {day: read(folder) for day, folder in folders.items()} | {night.day: night}
    first = min(found)
    return [found.get(day) for day in span if day >= first]


def standing(nights: list[Night | None]) -> str:
    """A sentence on how many of `trend`'s nights published nothing, or "". A version that was
    rolled back since counts as published, because a page describes its own night's state."""
    last = nights[-1]
    assert last is not None
    asked = last.settings.get("asked") or {}
    limit = int(asked.get("still_nights", DEFAULTS["still_nights"]))
    return str(still.count((n.record for n in reversed(nights) if n), set(), limit))


def _day(folder: Path) -> date | None:
    """An attempt's date; None where it is none."""
    record = _json(folder / "run.json", [])
    try:
        return date.fromisoformat(record["date"])
    except (KeyError, TypeError, ValueError):
        return None


def dates(nights: list[Night | None]) -> list[date]:
    """Of `trend`'s nights, those without a night among them."""
    last = nights[-1]
    assert last is not None
    return [last.day - timedelta(last.days) * k for k in reversed(range(len(nights)))]


def main(stats: Stats) -> Relation | None:
    """The relation that holds the labelled rows, else the log."""
    return stats.relations.get("impressions") or stats.relations.get("log")


def trusts(metrics: Json) -> dict[str, dict[str, Trust]]:
    """Family -> segment -> calibration, of a model's metrics; empty where they have none."""

    def trust(value: Json) -> Trust:
        found: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        return Trust(**found)

    return {f: {name: trust(t) for name, t in group.items()}
            for f, group in (metrics.get("segments") or {}).items()}  # fmt: skip


def overall(metrics: Json) -> Trust | None:
    """The calibration of all rows."""
    return trusts(metrics).get("all", {}).get("all")


def unknown(relation: Relation) -> dict[str, float]:
    """Feature -> share of ids that the parent's vocabulary does not know."""
    return {name: c.unknown / c.values for name, c in relation.columns.items()
            if c.unknown is not None and c.values}  # fmt: skip


def gained(night: Night) -> float | None:
    """ΔAUC, candidate − incumbent."""
    new, old = night.candidate.get("auc"), night.incumbent.get("auc")
    return None if new is None or old is None else float(new) - float(old)


def check(night: Night, name: str) -> Any:
    """A row of the verdict by name, or None."""
    checks = night.verdict.checks if night.verdict else ()
    return next((c for c in checks if c.name == name), None)


def moment(second: int, zone: timezone) -> str:
    """``2017-12-01 18:00 UTC, 2017-12-02 02:00 +08:00``."""
    at = datetime.fromtimestamp(second, UTC)
    local = at.astimezone(zone)
    shown = f"{at:%Y-%m-%d %H:%M} UTC"
    same = zone.utcoffset(None) == timedelta(0)
    return shown if same else f"{shown}, {local:%Y-%m-%d %H:%M} {local.isoformat()[-6:]}"
