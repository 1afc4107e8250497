"""Replays a simulated log of conversions that are reported late, and writes the page.

``make waits``: advertisers report a conversion at once, once a day, or all of some days in a burst.
Cutoffs are a day apart. A row is learned once, at the first cutoff at which it is ripe, with the
label known there. An advertiser's rate is that of the rows learned in the last `MEMORY` days. The
page compares it with the true rate of the day after the cutoff, for no wait, one fixed wait, and
the waits that `at4ctr.data.preparation.waits` chooses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from at4ctr.analysis.tables import markdown
from at4ctr.data.days import DAY
from at4ctr.data.engines.duck import Engine
from at4ctr.data.preparation import waits
from at4ctr.data.simulation.world import START
from at4ctr.schema import OPEN, Label
from pipelines.main import main

PAGE = Path("docs/results/simulated/waits.md")
KINDS = ("at once", "once a day", "in bursts")
DAYS, FIRST, MEMORY = 42, 14, 7  # of the log; before the first cutoff; that an estimate looks back
LONGEST, TOLERANCE = 7 * DAY, 0.1
LABEL = Label("conversion", within="click")
WAITS: Mapping[str, int | None] = {  # None: chosen
    "no wait": 0,
    "one day": DAY,
    "seven days": LONGEST,
    "chosen": None,
}


@dataclass(frozen=True)
class Clicks:
    """A log of clicks [N]. reported: the second of the conversion's report, -1 without one.

    rate: [advertisers, DAYS] the true conversion rate, which drifts. kind: [advertisers] of KINDS.
    """

    advertiser: NDArray[np.int64]
    time: NDArray[np.int64]
    reported: NDArray[np.int64]
    rate: NDArray[np.float64]
    kind: NDArray[np.int64]

    @classmethod
    def drawn(cls, seed: int = 1, each: int = 24, clicks: int = 120) -> Clicks:
        """each: advertisers of every kind. clicks: of an advertiser in a day, on average."""
        rng = np.random.default_rng(seed)
        kind = np.repeat(np.arange(len(KINDS)), each)
        walk = np.cumsum(rng.normal(0, 0.02, (len(kind), DAYS)), axis=1)
        rate = rng.uniform(0.05, 0.2, len(kind))[:, None] * np.exp(walk - walk.mean(1)[:, None])
        number = rng.poisson(clicks, (len(kind), DAYS))
        advertiser = np.repeat(np.arange(len(kind)), number.sum(axis=1))
        day = np.concatenate([np.repeat(np.arange(DAYS), row) for row in number])
        time = START + day * DAY + rng.integers(DAY, size=len(day))
        converted = time + rng.exponential(3600, len(day)).astype(np.int64)
        reports = converted + rng.exponential(600, len(day)).astype(np.int64)
        for k in np.flatnonzero(kind):
            gaps = np.full(2 * DAYS, DAY) if kind[k] == 1 else np.clip(
                rng.exponential(2.5 * DAY, 4 * DAYS), DAY // 4, 6 * DAY)  # fmt: skip
            moments = START - DAY // 6 + np.cumsum(gaps).astype(np.int64)
            own = advertiser == k
            reports[own] = moments[np.searchsorted(moments, converted[own])]
        happens = rng.random(len(day)) < rate[advertiser, day]
        return cls(advertiser, time, np.where(happens, reports, -1), rate, kind)


def learned(log: Clicks, fixed: int | None, cutoffs: range, folder: Path) -> dict[str, NDArray]:
    """Of every row the cutoff at which it is learned, 0 for never, and the label known there.

    fixed: the wait of all rows; None: of each advertiser as it is chosen at every cutoff.
    """
    cutoff_of = np.zeros(len(log.time), np.int64)
    label = np.zeros(len(log.time), np.int64)
    table = pa.table({
        "ord": np.arange(len(log.time)),
        "advertiser": log.advertiser,
        "timestamp": log.time,
        waits.reported(LABEL.name): pa.array(log.reported, mask=log.reported < 0),
    })  # fmt: skip
    with Engine(folder) as engine:
        engine.register("clicks", table)
        for cutoff in cutoffs:
            rows = f"""SELECT *, NULL::TINYINT AS {LABEL.column} FROM clicks
                WHERE "timestamp" < {cutoff} AND "timestamp" >= {cutoff - 4 * LONGEST}"""
            engine.execute(f"CREATE TABLE impressions AS {rows}")
            if fixed is None:
                given = "true", "advertiser", cutoff, LONGEST, TOLERANCE
                pooled = waits.choose(engine, LABEL.name, *given)
            else:
                pooled = fixed
                columns = "NULL::BIGINT AS wait_key, NULL::BIGINT AS wait LIMIT 0"
                engine.execute(f"CREATE TABLE waits AS SELECT {columns}")
            until = str(cutoff)
            waits.as_known(engine, LABEL, "true", "advertiser", until, LONGEST, pooled)
            ripe = f"FROM impressions WHERE {LABEL.column} <> {OPEN}"
            found = engine.arrow(f"SELECT ord, {LABEL.column} AS label {ripe}")
            engine.execute("DROP TABLE impressions")
            engine.execute("DROP TABLE waits")
            row, value = (found.column(c).to_numpy() for c in ("ord", "label"))
            fresh = cutoff_of[row] == 0
            cutoff_of[row[fresh]], label[row[fresh]] = cutoff, value[fresh]
    return {"cutoff": cutoff_of, "label": label}


def errors(log: Clicks, found: Mapping[str, NDArray], cutoffs: range) -> NDArray[np.float64]:
    """[kinds, cutoffs] the predicted conversions of the next day over the expected ones, less 1.

    Cutoffs less than the longest wait and `MEMORY` days after the first one are left out.
    """
    result = []
    number = len(log.kind)
    day = (log.time - START) // DAY
    for cutoff in cutoffs:
        if cutoff < cutoffs[0] + LONGEST + MEMORY * DAY:
            continue
        known = (found["cutoff"] > cutoff - MEMORY * DAY) & (found["cutoff"] <= cutoff)
        rows = np.bincount(log.advertiser[known], minlength=number)
        positives = np.bincount(log.advertiser[known], found["label"][known], minlength=number)
        today = (cutoff - START) // DAY
        clicks = np.bincount(log.advertiser[day == today], minlength=number)
        predicted = clicks * positives / np.maximum(rows, 1)
        expected = clicks * log.rate[:, today]
        by_kind = [np.bincount(log.kind, x, minlength=len(KINDS)) for x in (predicted, expected)]
        result.append(by_kind[0] / by_kind[1] - 1)
    return np.array(result).T


def delays(log: Clicks, found: Mapping[str, NDArray]) -> NDArray[np.float64]:
    """[kinds] the mean days from a row after the first cutoff to the one at which it is learned."""
    there = log.time >= START + FIRST * DAY
    there &= found["cutoff"] > 0
    age = (found["cutoff"] - log.time)[there] / DAY
    kind = log.kind[log.advertiser[there]]
    return np.bincount(kind, age) / np.bincount(kind)


def page(log: Clicks, cutoffs: range) -> str:
    """The page's Markdown."""
    header = ["wait", *(f"{what}, {kind}" for kind in KINDS for what in ("bias", "days"))]
    rows = []
    for label, fixed in WAITS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = learned(log, fixed, cutoffs, Path(folder))
        bias, age = errors(log, found, cutoffs), delays(log, found)
        cells = [(f"{b.mean():+.1%} ± {b.std(ddof=1):.1%}", f"{a:.1f}")
                 for b, a in zip(bias, age, strict=True)]  # fmt: skip
        rows.append([label, *(cell for pair in cells for cell in pair)])
    return "\n".join([
        "# Waiting for late conversions (simulated log)",
        "",
        f"Made by `make waits`. {len(log.time):,} simulated clicks of {len(log.kind)} advertisers "
        f"in {DAYS} days. A third of them reports conversions at once, a third once a day, and a "
        "third in bursts of up to six days. A row is learned once, at the first daily cutoff at "
        "which it is ripe, with the label known there. An advertiser's rate is that of the rows "
        f"learned in {MEMORY} days. True rates drift, so that old rows mislead.",
        "",
        "Bias is predicted over expected conversions of the next day, less 1: mean ± standard "
        "deviation over the cutoffs. Days is the mean age of a row when it is learned.",
        "",
        *markdown(header, rows),
        "",
    ])  # fmt: skip


def _main() -> None:
    log = Clicks.drawn()
    text = page(log, range(START + FIRST * DAY, START + DAYS * DAY, DAY))
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(_main)
