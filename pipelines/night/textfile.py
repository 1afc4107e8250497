"""Prometheus metrics of a model's nights: node_exporter's textfile, old or new, never half."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from at4ctr.durable import replaced
from pipelines.night import still
from pipelines.night.attempt import METRICS, Attempt, attempts
from pipelines.night.places import Places

OUTCOMES = ("PUBLISHED", "REJECTED", "HOLD", "SKIPPED", "FAILED")


def write(path: Path, places: Places, attempt: Attempt | None) -> None:
    """attempt: of this night; None where an error came before or after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path, str(os.getpid())) as aside:
        aside.write_text("\n".join(lines(places, attempt)) + "\n", encoding="utf-8")
        aside.chmod(0o644)  # whatever the umask: node_exporter is another user


def lines(places: Places, attempt: Attempt | None) -> Iterator[str]:
    """Gauges. An age is ``time()`` less a timestamp, so that it grows when no night runs."""
    label = f'{{model="{places.model}"}}'
    found = ((attempt.outcome or {}) if attempt else {"name": "FAILED"}).get("name")
    yield from _gauge("outcome", "1 for how the last night ended")
    for name in OUTCOMES:
        yield (f'at4ctr_nightly_outcome{{model="{places.model}",outcome="{name}"}} '
               f"{int(name == found)}")  # fmt: skip
    yield from _gauge("nights_without_version", "latest nights in a row that published nothing")
    yield f"at4ctr_nightly_nights_without_version{label} {still.of(places).nights}"
    retired = places.retired
    good = [a for day in places.dates() for a in attempts(places, day)
            if a.record["version"] and a.record["version"] not in retired]  # fmt: skip
    if good:
        yield from _gauge("last_success_timestamp_seconds", "when a night last published")
        last = max(map(_published, good))
        yield f"at4ctr_nightly_last_success_timestamp_seconds{label} {last}"
        help_ = "end of the newest day whose night published; data age is time() minus this"
        yield from _gauge("data_end_timestamp_seconds", help_)
        end = max(a.window.end for a in good)
        yield f"at4ctr_nightly_data_end_timestamp_seconds{label} {end}"
    if attempt is None:
        return
    candidate = (attempt.read(METRICS) or {}).get("candidate") or {}
    rows = attempt.record.get("rows", {})
    values = {
        "pcoc": (candidate.get("pcoc"), "predicted over observed clicks of the last candidate"),
        "auc": (candidate.get("auc"), "AUC of the last candidate"),
        "training_rows": (rows.get("train"), "rows that the last night trained on"),
        "evaluation_rows": (rows.get("test"), "rows that judged the last night"),
        "version": (attempt.record["version"], "version of the last night, if it published"),
    }
    for name, (value, help_) in values.items():
        if value is not None:
            yield from _gauge(name, help_)
            yield f"at4ctr_nightly_{name}{label} {value}"


def _published(attempt: Attempt) -> int:
    """The moment in epoch seconds."""
    at = max(s["at"] for s in attempt.record["stages"] if s["stage"] == "PUBLISHED")
    return round(datetime.fromisoformat(at).timestamp())


def _gauge(name: str, help_: str) -> Iterator[str]:
    yield f"# HELP at4ctr_nightly_{name} {help_}"
    yield f"# TYPE at4ctr_nightly_{name} gauge"
