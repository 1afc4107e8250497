"""The middle of a night's page: the gate, both models, the pictures, the last nights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from at4ctr.gates.verdict import Check
from pipelines.night.report import scores as nightly_scores
from pipelines.night.report.facts import Night, check, dates, gained, overall, trusts
from pipelines.night.report.scores import Scores
from pipelines.night.report.verdict import LOOKS, SIGNS, duration, icon, look, number, words
from pipelines.pages.html import (
    NONE,
    Html,
    element,
    folded,
    markup,
    picture,
    section,
    table,
)

Interval = tuple[float, float] | None
NAMES = {
    "auc": "AUC",
    "gauc": "GAUC, by user",
    "logloss": "log loss",
    "normalized_entropy": "NE",
    "pcoc": "PCOC",
    "expected_calibration_error": "ECE",
}
RANK = {"fail": 0, "hold": 0, "warn": 1, "pass": 2}


def between(found: Interval, form: str) -> str:
    return NONE if found is None else f"{found[0]:{form}} to {found[1]:{form}}"


def gate(night: Night) -> Html:
    """Every check of the model gate, those that did not pass first."""
    if night.verdict is None:
        return Html("")
    verdict = night.verdict
    rows = [
        (
            c.name,
            element("span", SIGNS[c.outcome], css=c.outcome),
            c.sentence,
            _plain(c.value),
            _bound(c),
            NONE if c.interval is None else f"{_plain(c.interval[0])} to {_plain(c.interval[1])}",
        )
        for c in sorted(verdict.checks, key=lambda c: RANK[c.outcome])
    ]
    decision = f"The gate says {verdict.decision}"
    if verdict.was:
        decision = f"The gate said {verdict.was}, and the model was blessed by hand"
    said = element(
        "p",
        f"{decision}. {verdict.rows:,} rows, {verdict.clicks:,} clicks, "
        f"{verdict.users:,} users, all later than anything either model trained on, not sampled.",
    )
    head = ("check", "outcome", "in words", "value", "bound", "95 %")
    return section(
        "gate", "Model gate", said, table(head, rows, words=(0, 1), sentences=(2,), css="stack")
    )


def _plain(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.5f}"


def _bound(c: Check) -> str:
    if c.bound is None:
        return NONE
    if c.name.endswith("pcoc") or "segment " in c.name:
        return f"1 ± {c.bound:.4f}"
    at_most = c.name.endswith(("normalized entropy", "candidate numbers", "incumbent"))
    return f"{'at most' if at_most else 'at least'} {_plain(c.bound)}"


def models(night: Night, scores: Scores | None) -> Html:
    """Today's model against yesterday's on the same rows, with intervals."""
    new, old = night.candidate, night.incumbent
    if not new:
        return Html("")
    sides = [(new, _intervals(new, scores, "candidate"))]
    if old:
        sides.append((old, _intervals(old, scores, "incumbent")))
    rows = []
    for name, shown in NAMES.items():
        if name not in new:
            continue
        cells: list[object] = [shown]
        for values, intervals in sides:
            cells += [number(values.get(name), ".5f"), between(intervals.get(name), ".4f")]
        if old:
            both = name in old
            cells += [f"{new[name] - old[name]:+.5f}" if both else NONE, _change(night, name)]
        rows.append(cells)
    head = ["", "candidate", "95 %", *(["incumbent", "95 %", "difference", "95 %"] if old else [])]
    parent = (night.record.get("parent") or {}).get("version")
    why = night.metrics.get("no_incumbent")
    said = f"The incumbent is version {parent}." if old else f"There is no incumbent: {why}."
    note = element(
        "p",
        f"{said} Both on the same rows, later than the cutoff; the 95 % intervals take a "
        "user's rows together, and those of differences pair the two models.",
        css="soft",
    )
    return section("models", "Candidate against incumbent", table(head, rows), note, _labels(night))


def _labels(night: Night) -> Html:
    """Of a model of several labels, a row each; the tables above are of the first."""
    new, old = (side.get("labels") or {} for side in (night.candidate, night.incumbent))
    if not new:
        return Html("")
    rows = [
        (label, f"{m.get('rows', 0):,}", f"{m.get('positives', 0):,}",
         *(number(side.get(name), ".4f") for name in ("auc", "normalized_entropy", "pcoc")
           for side in (m, old.get(label) or {})))
        for label, m in new.items()
    ]  # fmt: skip
    head = ["label", "rows", "positives"]
    for name in ("AUC", "NE", "PCOC"):
        head += [name, f"{name}, incumbent"]
    note = element("p", "What is above and below is of the first label.", css="soft")
    return Html(element("h3", "By label") + table(head, rows) + note)


def _intervals(
    values: Mapping[str, object], scores: Scores | None, side: str
) -> dict[str, Interval]:
    whole = overall(values)
    found: dict[str, Interval] = {}
    if whole:
        found = {"pcoc": whole.pcoc_interval, "expected_calibration_error": whole.ece_interval}
    if scores is not None and scores.both and side in scores.models:
        given = (scores.labels, scores.models[side], scores.users)
        found["auc"] = nightly_scores.auc_interval(*given)
        found["normalized_entropy"] = nightly_scores.entropy_interval(*given)
    return found


def _change(night: Night, name: str) -> str:
    """The interval of a difference, of which the gate has two."""
    known = {"auc": ("auc", "+.4f"), "normalized_entropy": ("normalized entropy", "+.2%")}
    if name not in known:
        return NONE
    of, form = known[name]
    found: Check | None = check(night, of)
    said = between(found.interval, form) if found else NONE
    return f"{said}, relative" if form.endswith("%") and said != NONE else said


def pictures(folder: Path, said: Mapping[str, str]) -> Html:
    """Reliability and ROC side by side."""
    shown = [picture(folder / n, said[n]) for n in ("reliability.png", "roc.png") if n in said]
    if not shown:
        return Html("")
    return section("curves", "Reliability and ROC", element("div", *shown, css="pictures"))


def segments(night: Night, folder: Path, said: Mapping[str, str]) -> Html:
    """Calibration by segment, candidate beside incumbent."""
    new, old = trusts(night.candidate), trusts(night.incumbent)
    rows = []
    for family, group in new.items():
        for name, t in group.items():
            if not t.rows:
                continue
            label = name if name == family else f"{family} {name}"
            other = old.get(family, {}).get(name)
            rows.append((
                label + (" *" if t.small else ""), f"{t.clicks:,}", number(t.pcoc),
                between(t.pcoc_interval, ".3f"), number(other.pcoc if other else None),
                number(t.ece), between(t.ece_interval, ".4f"), f"{t.rows:,}", f"{t.users:,}",
            ))  # fmt: skip
    if not rows:
        return Html("")
    head = ("segment", "clicks", "PCOC", "95 %", "PCOC, incumbent", "ECE", "95 %", "rows", "users")
    small = any(t.small and t.rows for group in new.values() for t in group.values())
    note = element("p", "* fewer than 30 clicks or users: the intervals are not to be believed.",
                    css="soft")  # fmt: skip
    name = "segments.png"
    image = picture(folder / name, said[name]) if name in said else ""
    return section("segments", "Segments", image, table(head, rows), note if small else "")


def trend(nights: Sequence[Night | None], folder: Path, said: Mapping[str, str]) -> Html:
    """The last nights: outcomes as a strip, pictures, and the numbers."""
    days = dates(list(nights))
    strip = element("ul", *(_cell(n, f"{d:%d}", str(d)) for n, d in zip(nights, days, strict=True)),
                    css="strip")  # fmt: skip
    legend = element("p", *_keys(nights), css="soft")
    shown = [picture(folder / n, text) for n, text in said.items() if n.startswith("trend_")]
    images = element("div", *shown, css="pictures") if shown else ""
    rows = [_line(n, str(d)) for n, d in reversed(list(zip(nights, days, strict=True)))]
    head = ("night", "outcome", "AUC", "AUC, incumbent", "ΔAUC", "PCOC", "rows", "work")
    body = folded("The numbers, night by night", table(head, rows, words=(0, 1)))
    return section("trend", f"The last {len(nights)} nights" if len(nights) > 1 else "This night",
                   strip, legend, images, body)  # fmt: skip


def _keys(nights: Sequence[Night | None]) -> list[Html]:
    """What the shapes and colours stand for, in the strip and in the pictures."""
    kinds = [k for k in LOOKS if any(n and n.kind == k for n in nights)]
    keys = [element("span", element("i", icon(LOOKS[k]), css=LOOKS[k].css), LOOKS[k].words,
                    css="key") for k in kinds]  # fmt: skip
    keys.append(element("span", "hollow, at the foot: no value", css="key"))
    if None in nights:
        keys.append(element("span", "dashed, grey bands: no night of that date", css="key"))
    return keys


def _cell(night: Night | None, short: str, day: str) -> Html:
    if night is None:
        return Html(f'<li class="none" title="{day}: no night">{short}</li>')
    shown = look(night)
    inside = markup(icon(shown), short)
    label = markup(f"{day}: {words(night)}")
    return Html(f'<li class="{shown.css}" title="{label}" aria-label="{label}">{inside}</li>')


def _line(night: Night | None, day: str) -> Sequence[object]:
    if night is None:
        return (day, "no night", *[NONE] * 6)
    gain = gained(night)
    rows = sum(r.rows for r in night.period)
    return (
        day, words(night), number(night.candidate.get("auc")), number(night.incumbent.get("auc")),
        number(gain, "+.4f"), number(night.candidate.get("pcoc")), f"{rows:,}" if rows else NONE,
        duration(night.seconds),
    )  # fmt: skip
