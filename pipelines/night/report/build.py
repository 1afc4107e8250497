"""A night on one page: ``report.html``, which needs nothing beside it, and its pictures.

The decision and the next command come first; then the gate, both models, the last nights, the log,
and the origin of data and model. All of it is read from run folders.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from at4ctr.analysis import plots
from at4ctr.durable import sync
from at4ctr.evaluation import Predictions
from pipelines.night.report import data, facts, figures, sections, verdict
from pipelines.night.report import scores as nightly_scores
from pipelines.night.report.facts import Night, read, trend, trusts
from pipelines.night.report.scores import Scores
from pipelines.pages.html import document

FOLDER, PAGE = "report", "report.html"
NARROW = 3.6  # inches: a picture whose text can be read on a phone


def write(folder: Path, chain: Sequence[Path] | None = None) -> Path:
    """Writes ``folder/report.html`` and, in ``folder/report``, its PNGs; the page's path.

    The same run folders give the same bytes. Each file is old or new, never half, and the page,
    which holds its pictures, comes last; pictures of an earlier page that this one lacks are
    deleted.

    Args:
        folder: an attempt's, with ``run.json``. The page leaves out what the folder lacks of
            config.json, stats.json, anomalies.json, metrics.json, gate.json and predictions.npz
            (labels, users, lengths, candidate; incumbent and uncalibrated where there are such,
            [N] each).
        chain: folders of earlier attempts, newest last; of a date the last one counts. None: those
            beside the folder, ``../../dt=*/attempt-*``.

    Raises:
        InputError: the folder has no ``run.json`` of a night.
    """
    folder = Path(folder)
    night = read(folder)
    nights = trend(night, earlier(folder) if chain is None else chain)
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    for left in folder.glob(".report-*"):  # of a killed job
        shutil.rmtree(left)
    with TemporaryDirectory(prefix=".report-", dir=folder) as scratch:
        aside = Path(scratch)
        page = _page(night, nights, aside)
        (aside / PAGE).write_text(page, encoding="utf-8")
        made = sorted(p.name for p in aside.glob("*.png"))
        for name in made:
            sync(aside / name)
            os.replace(aside / name, target / name)
        sync(aside / PAGE)
        os.replace(aside / PAGE, folder / PAGE)
    for old in target.glob("*.png"):
        if old.name not in made:
            old.unlink()
    for changed in (target, folder):
        sync(changed)
    return folder / PAGE


def earlier(folder: Path) -> list[Path]:
    """The attempts beside an attempt's folder, by date and number."""
    found = (p.parent for p in Path(folder).parents[1].glob("dt=*/attempt-*/run.json"))
    named = (p for p in found if p.name.removeprefix("attempt-").isdecimal())
    return sorted(named, key=lambda p: (p.parent.name, int(p.name.removeprefix("attempt-"))))


def _page(night: Night, nights: list[Night | None], aside: Path) -> str:
    """The page, with its pictures in ``aside``."""
    damaged: list[str] = []
    scores = nightly_scores.read(night.folder / "predictions.npz", damaged)
    simulated = any(n.simulated for n in nights if n)
    said = _pictures(night, scores, aside, simulated=simulated)
    said |= figures.trends(nights, aside, simulated=simulated)
    return document(
        f"{verdict.words(night)} – {night.record.get('model', '')} {night.day}",
        verdict.headline(night, simulated=simulated),
        verdict.banner(night, facts.standing(nights)),
        verdict.following(night),
        verdict.tiles(night),
        data.damaged(night, damaged),
        *_middle(night, nights, scores, aside, said),
        data.data(night),
        data.lineage(night),
    )


def _middle(
    night: Night,
    nights: list[Night | None],
    scores: Scores | None,
    aside: Path,
    said: dict[str, str],
) -> list[str]:
    """The sections in the order in which they answer for the outcome."""
    log = [data.anomalies(night), data.drift(night, nights[:-1])]
    model = [sections.gate(night), sections.models(night, scores), sections.pictures(aside, said),
             sections.segments(night, aside, said)]  # fmt: skip
    past = sections.trend(nights, aside, said)
    if night.outcome.get("of") == "data":
        return [*log, past, *model]
    return [*model, past, *log]


def _pictures(
    night: Night, scores: Scores | None, folder: Path, *, simulated: bool
) -> dict[str, str]:
    """Draws what the scores and metrics allow: file name -> what it shows."""
    said = {}
    note = ", simulated log" if simulated else ""
    if scores is not None:
        found = Predictions(scores.labels, scores.candidate, scores.users, scores.lengths, None)
        before = scores.uncalibrated
        plots.reliability(found, folder / "reliability.png", simulated=simulated, before=before)
        what = "before and after the fitted calibrator" if before is not None else "as served"
        said["reliability.png"] = (
            f"Reliability of the candidate {what}: mean label against mean probability{note}"
        )
        if scores.both:
            figures.curves(scores, folder / "roc.png", simulated=simulated)
            said["roc.png"] = f"ROC curves of candidate and live model{note}"
    if parts := trusts(night.candidate):
        plots.segments(parts, folder / "segments.png", simulated=simulated, width=NARROW)
        said["segments.png"] = f"PCOC of the candidate by segment with 95 % intervals{note}"
    return said
