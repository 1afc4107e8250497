"""The end of a night's page: what is odd about the log, where data and model come from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from at4ctr.gates.history import DAY, Usual, jensen_shannon, shares
from at4ctr.gates.statistics import Stats
from at4ctr.plural import counted
from pipelines.night.report.facts import Json, Night, main, moment, unknown
from pipelines.night.report.verdict import duration
from pipelines.pages.html import NONE, Html, bar, element, section, table

SEVERITIES = {"reject": ("✗ rejects", "fail"), "warn": ("! warning", "hold"), "note": ("note", "")}
WEEKS = 4 * 7 * DAY  # before a day, as the data gate compares it
DIFFERENCES = 40  # between two configurations that are listed
PASSED = 20  # days that a cold start passed over, that are listed


def anomalies(night: Night) -> Html:
    """The anomalies that the data gate found, those that reject the day first."""
    found = [(day, a) for day, some in sorted(night.anomalies.items()) for a in some]
    if not night.stats:
        return Html("")
    if not found:
        said = element("p", "The log is like the logs of the days before: nothing odd was found.")
        return section("anomalies", "Data gate", said)
    rank = list(SEVERITIES)
    rows = [
        (day, element("span", SEVERITIES[a.severity][0], css=SEVERITIES[a.severity][1]), a.name,
         a.where, a.sentence)
        for day, a in sorted(found, key=lambda pair: rank.index(pair[1].severity))
    ]  # fmt: skip
    head = ("day", "what it does", "anomaly", "where", "in words")
    return section(
        "anomalies", "Data gate", table(head, rows, words=range(4), sentences=(4,), css="stack")
    )


def drift(night: Night, before: Sequence[Night | None]) -> Html:
    """How far every feature lies from the days before, and the share of unknown ids."""
    today = night.today
    if today is None or not today.relations:
        return Html("")
    past = _past(today, before)
    rows = [row for name in today.relations for row in _features(today, name, past, night)]
    head = ("feature", "missing", "unknown ids", "divergence", "usual", "allowed", "of allowed",
            "since the night before")  # fmt: skip
    days = f"the {counted(len(past), 'accepted day')} before" if past else "no earlier day is known"
    said = element(
        "p",
        f"Day {max(night.stats)} against {days}: divergence (Jensen–Shannon, base 2, over keyed "
        "buckets) from the nearest of them, what is usual between two days, and how much more the "
        "data gate allows.",
        css="soft",
    )
    return section("drift", "Drift and unknown ids", table(head, rows), said)


def _past(today: Stats, before: Sequence[Night | None]) -> list[Stats]:
    """The accepted days of the four weeks before, oldest first, each as counted last."""
    found = {s.begin: s for n in before if n for s in n.accepted if not s.refusal}
    since = today.begin - WEEKS
    return [s for begin, s in sorted(found.items()) if since <= begin < today.begin]


def _features(
    today: Stats, relation: str, past: Sequence[Stats], night: Night
) -> Iterator[Sequence[object]]:
    limits, now = night.data_gate, today.relations[relation]
    news = unknown(now)
    for name, column in now.columns.items():
        days = [s for s in past if relation in s.relations
                and name in s.relations[relation].columns
                and s.relations[relation].columns[name].values]  # fmt: skip
        known = f"{news[name]:.2%}" if name in news else NONE
        missing = f"{column.nulls / max(now.rows, 1):.2%}"
        cells: list[object] = [f"{relation}.{name}", missing, known]
        if not column.values or len(days) < limits.fewest:
            yield [*cells, *[NONE] * 5]
            continue
        shape = shares(column.buckets)
        spreads = [shares(s.relations[relation].columns[name].buckets) for s in days]
        usual = Usual(tuple(days), limits.recent, limits.deviations)
        d = usual.shape(spreads, shape, now.users, limits.jensen_shannon, False)
        yield [*cells, f"{d.value:.4f}", f"{d.usual:.4f}", f"+{d.allowed:.4f}",
               bar(max(d.difference, 0.0) / d.allowed if d.allowed else 0.0),
               f"{jensen_shannon(shape, spreads[-1]):.4f}"]  # fmt: skip


def data(night: Night) -> Html:
    """The window, and the days' files."""
    window = night.record.get("window")
    rows: list[tuple[str, object]] = []
    if isinstance(window, list) and len(window) == 3:
        begin, cutoff, end = (moment(int(s), night.zone) for s in window)
        rows = [("trained on", f"from {begin} to the cutoff"), ("cutoff", cutoff),
                ("judged by", f"the cutoff to {end}, unsampled")]  # fmt: skip
    split = night.record.get("rows") or {}
    if split:
        rows.append(("rows of the store", ", ".join(f"{k} {v:,}" for k, v in split.items())))
    passed = [f"{d} {why}" for d, why in sorted((night.record.get("passed_over") or {}).items())]
    if passed:
        more = f" and {len(passed) - PASSED} more" if len(passed) > PASSED else ""
        rows.append(("passed over, not read", ", ".join(passed[:PASSED]) + more))
    return section(
        "data", "Data", table(("", ""), rows, sentences=(1,), css="facts stack"), _days(night)
    )


def _days(night: Night) -> Html:
    inputs: Mapping[str, Mapping[str, str]] = night.record.get("inputs") or {}
    rows = []
    for day in sorted({*inputs, *night.stats}):
        stats = night.stats.get(day)
        relation = main(stats) if stats else None
        files = [element("div", f"{name} ", element("code", digest[:12]))
                 for name, digest in inputs.get(day, {}).items()]  # fmt: skip
        counts: Sequence[int | None] = [None] * 4
        if relation:
            counts = (relation.rows, relation.clicks, relation.users, relation.duplicates)
        gone = sum(stats.dropped.values()) if stats else None
        shown = element("div", *files) if files else NONE
        rows.append((day, shown, *map(_count, (*counts, gone))))
    head = ("day", "files, begin of SHA-256", "rows", "clicks", "users", "duplicates", "left out")
    return table(head, rows, words=(0, 1))


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def lineage(night: Night) -> Html:
    """Parent, candidate, code, warm start, configuration."""
    record, training = night.record, night.metrics.get("training") or {}
    parent = record.get("parent")
    rows: list[tuple[str, object]] = []
    if parent:
        rows.append(("parent", f"version {parent.get('version')}, {parent.get('attempt')}"))
    else:
        rows.append(("parent", "none"))
    other = record.get("incumbent")
    if other and other != parent:
        rows.append(("compared with", f"version {other.get('version')}, {other.get('attempt')}"))
    rows.append(("start", _start(record, training.get("warm"))))
    rows.append(("this version", str(record.get("version") or "not published")))
    if night.blessed:
        rows.append(("overridden because", night.blessed))
    data = (night.settings.get("experiment") or {}).get("data") or {}
    if data.get("negative_rate") is not None:
        rows.append(("w, rate of kept negatives", f"{data['negative_rate']:g}"))
    rows += [(shown, _shown(training[key])) for key, shown in (
        ("commit", "commit of the code"), ("steps", "training steps"),
        ("train_seconds", "seconds of training"), ("examples_per_second", "examples a second"),
        ("unknown_share", "test rows with an unknown id"),
    ) if training.get(key) not in (None, {})]  # fmt: skip
    for label, fitted in (training.get("calibrator") or {}).items():
        if fitted.get("kind") not in (None, "none"):
            said = f"{fitted['kind']}, fitted to {fitted.get('rows', 0):,} rows"
            rows.append((f"calibrator of {label}", said))
    facts = table(("", ""), rows, sentences=(1,), css="facts stack")
    return section("lineage", "Lineage", facts, _configured(night), _stages(night))


def _start(record: Json, warm: Json | None) -> str:
    if not warm:
        return "cold: every weight begins anew" if record.get("cold") else NONE
    new = ", ".join(f"{table} {n:,}" for table, n in (warm.get("new") or {}).items())
    said = f"warm, from version {warm.get('parent')} after {warm.get('step', 0):,} steps"
    said += f"; new ids: {new}" if new else ""
    gone = ", ".join(f"{table} {n:,}" for table, n in (warm.get("gone") or {}).items() if n)
    said += f"; ids that expired: {gone}" if gone else ""
    fresh = warm.get("fresh")
    said += f"; begun anew: {', '.join(map(str, fresh))}" if fresh else ""
    moved = warm.get("moved")
    return said + (f"; output bias moved by {moved:+.4f}, as w changed" if moved else "")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _configured(night: Night) -> Html:
    """The differences between the configuration and the parent's."""
    attempt = (night.record.get("parent") or {}).get("attempt")
    parts = Path(str(attempt)).parts if attempt else ()
    if len(parts) != 2 or ".." in parts or Path(str(attempt)).is_absolute():
        return Html("")
    try:
        path = night.folder.parents[1].joinpath(*parts, "config.json")
        before = dict(_flat(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError):
        return element(
            "p", "The parent's configuration is gone, so it is not compared.", css="soft"
        )
    now = dict(_flat(night.settings))
    rows = [(k, str(before.get(k, NONE)), str(now.get(k, NONE)))
            for k in dict.fromkeys([*before, *now]) if before.get(k) != now.get(k)]  # fmt: skip
    if not rows:
        return element("p", "The configuration is the parent's.", css="soft")
    more = len(rows) - DIFFERENCES
    left = element("p", f"and {more} more", css="soft") if more > 0 else ""
    shown = table(("setting", "parent", "this night"), rows[:DIFFERENCES], sentences=(0, 1, 2))
    return Html(element("h3", "Changed since the parent") + shown + left)


def _flat(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """``experiment.fit.batch_size`` -> 1024, for every leaf; a list is one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{where}.{key}" if where else str(key))
    else:
        yield where, value


def _stages(night: Night) -> Html:
    rows = [(s.get("stage"), s.get("at"), duration(float(s.get("seconds", 0))))
            for s in night.record.get("stages") or ()]  # fmt: skip
    if not rows:
        return Html("")
    return Html(element("h3", "Stages") + table(("reached", "at", "work"), rows, words=(0, 1)))


def damaged(night: Night, more: Sequence[str]) -> Html:
    """What could not be read."""
    said = [element("p", text) for text in dict.fromkeys([*night.damaged, *more])]
    return section("damaged", "Could not be read", *said)
