"""The top of a night's page: the outcome, and the operator's next step."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.night.places import PYTHON
from pipelines.night.report.facts import Night, check, gained, overall
from pipelines.pages.html import NONE, Html, command, element

MODULE = "pipelines.nightly"
RUN = "Run commands in the checkout of this chain, after make setup."
CIRCLE = '<circle cx="12" cy="12" r="10"/>'


@dataclass(frozen=True)
class Look:
    """How an outcome is shown: in words, as a colour, and by a shape of its own.

    css: its colour in the page. color, marker: in figures. shape: inside a 24 × 24 SVG.
    """

    words: str
    css: str
    color: str
    marker: str
    shape: str


LOOKS = {
    "PUBLISHED": Look("Published", "good", "#1b6e3c", "o",
                      f'{CIRCLE}<path d="M7 12.5l3.5 3.5L17 9"/>'),
    "BLESSED": Look("Published by hand", "hand", "#5b3a9e", "D",
                    '<path d="M12 1.5L22.5 12 12 22.5 1.5 12z"/><path d="M8 12.3l3 3 5-6"/>'),
    "REJECTED": Look("Rejected", "rejected", "#a6231c", "X",
                     '<path d="M8 2h8l6 6v8l-6 6H8l-6-6V8z"/>'
                     '<path d="M8.5 8.5l7 7M15.5 8.5l-7 7"/>'),
    "HOLD": Look("On hold", "held", "#855400", "s",
                 '<rect x="2.5" y="2.5" width="19" height="19" rx="2"/>'
                 '<path d="M9.5 8v8M14.5 8v8"/>'),
    "SKIPPED": Look("Skipped: no data", "skipped", "#4a5568", ">",
                    '<path d="M4 5l8 7-8 7z"/><path d="M12.5 5l8 7-8 7z"/>'),
    "FAILED": Look("Failed", "failed", "#7a1552", "^",
                   '<path d="M12 2.5L22.5 21h-21z"/><path d="M12 9v6M12 17.6v.6"/>'),
    "UNFINISHED": Look("Not finished", "unfinished", "#2f5270", "p",
                       f'{CIRCLE}<path d="M7 12h.1M12 12h.1M17 12h.1"/>'),
}  # fmt: skip
SIGNS = {"pass": "✓ pass", "warn": "! warning", "fail": "✗ fail", "hold": "‖ hold"}


def look(night: Night) -> Look:
    return LOOKS.get(night.kind, LOOKS["UNFINISHED"])


def icon(shown: Look) -> Html:
    return Html(
        '<svg viewBox="0 0 24 24" fill="none" stroke="#fff" stroke-width="2" stroke-linecap="round"'
        f' stroke-linejoin="round" aria-hidden="true">{shown.shape}</svg>'
    )


def words(night: Night) -> str:
    """The verdict: ``Rejected: the data``."""
    of = night.outcome.get("of")
    said = look(night).words
    if night.kind == "REJECTED" and of in ("data", "model"):
        return f"{said}: the {of}"
    if night.kind == "FAILED" and of:
        return f"{said} on the way to {of}"
    if night.kind == "BLESSED" or (night.kind == "PUBLISHED" and night.record.get("version")):
        return f"{said}: version {night.record.get('version')}"
    return said


def banner(night: Night, standing: str) -> Html:
    """The verdict in words, colour and shape, and the reason in one sentence.

    standing: how long the chain has stood still, or "".
    """
    shown = look(night)
    said = str(night.outcome.get("sentence") or _unfinished(night))
    area = check(night, "auc")
    if night.kind == "PUBLISHED" and area:
        said = f"{said}: {area.sentence}"
    parts: list[object] = [
        element("div", words(night), css="word"),
        element("p", _sentence(said)),
    ]
    if night.blessed:
        parts.append(element("p", f"A gate was overridden. Reason: {night.blessed}"))
    if standing:
        parts.append(element("p", _sentence(standing) + "."))
    return element("div", icon(shown), element("div", *parts), css=f"banner {shown.css}")


def _sentence(said: str) -> str:
    """With a capital, unless it begins with a path or a name."""
    return said[:1].upper() + said[1:] if said.split(" ")[0].isalpha() else said


def _unfinished(night: Night) -> str:
    return f"the job reached {night.record.get('stage', 'no stage')} and has not ended"


def headline(night: Night, *, simulated: bool) -> Html:
    badge = element("span", "simulated data", css="badge") if simulated else ""
    attempt = str(night.record.get("attempt", night.folder.name))
    model = str(night.record.get("model", "model"))
    return element("h1", element("span", f"{model}: night of {night.day}, {attempt}"), badge)


def following(night: Night) -> Html:
    """What the operator does next, with the commands."""
    parts: list[object] = [element("h2", "What to do")]
    for said, line in advice(night):
        parts += [element("p", said), command(line) if line else ""]
    if any(line for _, line in advice(night)):
        parts.append(element("p", RUN, css="soft"))
    return element("div", *parts, css="next")


def advice(night: Night) -> Sequence[tuple[str, str]]:
    """Sentences, each with its command or ""."""
    bless = _night(night, "--bless", '--reason "why this is right in spite of the gate"')
    stays = "What is live stays live" if night.record.get("parent") else "Nothing is live yet"
    if night.kind in ("PUBLISHED", "BLESSED"):
        return _published(night)
    if night.kind == "REJECTED" and night.outcome.get("of") == "data":
        said = (
            f"{stays}, and the next night spans this day too. Have the day delivered anew (the "
            "anomalies below say what is odd), then run the night again:"
        )
        by_hand = "If the day is right, a real event for example, accept it; the reason is kept:"
        return [(said, _night(night)), (by_hand, bless)]
    if night.kind == "REJECTED":
        said = (
            f"{stays}, and the next night trains on this day too: one rejected night needs "
            "nothing. After several, begin anew from all days so far:"
        )
        by_hand = "If the model is right in spite of the failed checks, publish it; the reason is "
        cold = [] if night.record.get("cold_asked") else ["--cold_start"]
        return [(said, _night(night, *cold, "--again")), (by_hand + "kept:", bless)]
    if night.kind == "HOLD":
        said = (
            f"{stays}. Nobody can tell whether this model is better: read the checks that did not "
            "pass (a first model always holds). To publish it by your own judgement; the reason is "
            "kept:"
        )
        return [(said, bless)]
    return [(_again(night, stays), _night(night))]


def _published(night: Night) -> Sequence[tuple[str, str]]:
    parent = (night.record.get("parent") or {}).get("version")
    done = [("Nothing. The model server takes the newest version by itself.", "")]
    if parent is None:
        return done
    back = _operate(night, "rollback", f"--to={shlex.quote(str(parent))}", '--reason "why"')
    return [*done, ("If it misbehaves in service, make its parent live again:", back)]


def _again(night: Night, stays: str) -> str:
    """Why the same command helps."""
    if night.kind == "SKIPPED":
        return (
            f"{stays}. When the log is delivered, with its _SUCCESS, run the night again; the next "
            "night spans this day in any case:"
        )
    if night.kind == "FAILED":
        first = "Correct what the sentence above names (log.jsonl has the details), then run"
        if night.outcome.get("retryable"):
            first = "The cause may pass by itself: run"
        return f"{stays}. {first} the same command, which goes on where it stopped:"
    return (
        "If no job is at work, it was killed: run the same command, which goes on where it stopped:"
    )


def _words(night: Night) -> list[str]:
    """The command of this night, as it was given."""
    given = night.record.get("command")
    if isinstance(given, list) and given:
        return [str(w) for w in given]
    model = f"--model={night.record.get('model', 'ctr')}"
    return [PYTHON, "-m", MODULE, model, f"--date={night.day}"]


def _night(night: Night, *more: str) -> str:
    """This night again, and some words more."""
    words = _words(night)
    if night.record.get("cold_asked") and "--cold_start" not in words:
        words = [*words, "--cold_start"]
    return " ".join([shlex.join(words), *more])


def _operate(night: Night, verb: str, *more: str) -> str:
    """Another command on the same places."""
    kept = [w for w in _words(night) if not w.startswith(("--date", "--cold_start"))]
    place = kept.index(MODULE) + 1 if MODULE in kept else len(kept)
    return " ".join([shlex.join([*kept[:place], verb, *kept[place:]]), *more])


def tiles(night: Night) -> Html:
    """The numbers at a glance."""
    shown = [*_quality(night), *_amounts(night)]
    return element("div", *shown, css="tiles") if shown else Html("")


def _quality(night: Night) -> list[Html]:
    found = []
    gain, area = gained(night), check(night, "auc")
    if gain is not None:
        note = _interval(area.interval, "+.4f") if area else ""
        found.append(_tile("ΔAUC against incumbent", f"{gain:+.4f}", note, area))
    entropy = check(night, "normalized entropy")
    if entropy and entropy.value is not None:
        note = _interval(entropy.interval, "+.2%")
        found.append(_tile("change of NE (less is better)", f"{entropy.value:+.2%}", note, entropy))
    whole = overall(night.candidate)
    if whole and whole.pcoc is not None:
        note = _interval(whole.pcoc_interval, ".3f")
        name = "PCOC, predicted / seen clicks"
        found.append(_tile(name, f"{whole.pcoc:.4f}", note, check(night, "pcoc")))
    return found


def _amounts(night: Night) -> list[Html]:
    found = []
    if night.period:
        rows, clicks = sum(r.rows for r in night.period), [r.clicks for r in night.period]
        note = ""
        if rows and None not in clicks:
            note = f"click rate {sum(c or 0 for c in clicks) / rows:.4f}"
        found.append(_tile("rows of the day" if night.days == 1 else "rows of the period",
                           f"{rows:,}", note))  # fmt: skip
    if night.record.get("stages"):
        found.append(
            _tile("work", duration(night.seconds), f"{len(night.record['stages'])} stages")
        )
    return found


def _tile(name: str, value: str, note: str, of: object = None) -> Html:
    outcome = getattr(of, "outcome", "")
    sign = element("span", SIGNS[outcome], css=outcome) if outcome in SIGNS else ""
    return element("div", element("div", name, css="name"), element("div", value, css="value"),
                   element("div", note, css="note"), sign,
                   css="tile")  # fmt: skip


def _interval(found: tuple[float, float] | None, form: str) -> str:
    return "" if found is None else f"95 %: {found[0]:{form}} to {found[1]:{form}}"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def number(value: float | None, form: str = ".4f") -> str:
    return NONE if value is None else f"{value:{form}}"
