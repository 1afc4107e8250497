"""Delayed conversions: labels as they were known at a cutoff, and how long to wait for them.

J. Pan et al., "Ad Recommendation in a Collapsed and Entangled World", KDD 2024, §6.3, sets a
waiting time where the variance of an advertiser's conversion feedback is large, and states no
equation. The reading here: an advertiser k (`Options.wait_by`, any feature of the impressions)
has on day d among its rows c_kd(w) conversions that were reported at most w seconds after the
row. L is the longest wait (`Options.wait_days`). Over the D_k days whose rows are all older than
L,

    v_k(w) = (1 / D_k) Σ_d (c_kd(w) − c_kd(L))² / ((1 / D_k) Σ_d c_kd(L))²

is the mean squared deviation of the count at w from the count at L, relative to its mean: the
variance of what is missing plus its squared bias. The wait of k is the least of `candidates` with
v_k(w) ≤ `Options.wait_tolerance`². An advertiser with fewer than `LEAST` conversions has the wait
of all rows together, and L is the wait where these have none.

A report is known at a cutoff T if its second is before T. A row at second t is ripe at T if
t + w_k < T. Then its label is 1 if the conversion was reported before T and at most L after t, and
otherwise 0. The label of a row that is not ripe is `schema.OPEN`, with or without a conversion or a
click, because only positives of such rows can be known. Waits are chosen at the earliest cutoff.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from at4ctr.data.dataset import Options
from at4ctr.data.days import DAY
from at4ctr.data.engines.base import name
from at4ctr.errors import InputError, unknown
from at4ctr.schema import OPEN, Label

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

LEAST = 20  # conversions from which on an advertiser has a wait of its own
HALVINGS = 8


def reported(label: str) -> str:
    """The column of the second at which a label was reported; NULL where it was not."""
    return f"reported_{label}"


def candidates(longest: int) -> list[int]:
    """The waits to choose from in seconds: 0, and the longest halved zero to eight times."""
    return sorted({0, *(longest >> k for k in range(HALVINGS + 1))})


def mark_open(engine: Engine, config: Options) -> list[str]:
    """Replaces labels of ``impressions`` that have a column `reported` by what each cutoff knows.

    The column is dropped. Returns notes; [] and no change where there is no such column. Raises
    InputError for a label that no other one holds, a report before its row, an unknown
    `Options.wait_by`, and an `Options.wait_days` that leaves no training row ripe.
    """
    notes, there = [], engine.columns("impressions")
    for label in config.schema().labels:
        if reported(label.name) in there:
            notes.append(_mark(engine, config, label, there))
    return notes


def choose(
    engine: Engine, label: str, within: str, by: str, at: int, longest: int, tolerance: float
) -> int:
    """Makes ``waits`` (``wait_key``, ``wait`` in seconds) and returns the wait of all rows.

    by: SQL of the advertiser. within: SQL of whether a row can have the label. at: the cutoff.
    """
    steps, seen = candidates(longest), name(reported(label))
    late = f'({seen} - "timestamp")'
    counts = ", ".join(f"sum(CASE WHEN {late} <= {w} THEN 1 ELSE 0 END) AS c{k}"
                       for k, w in enumerate(steps))  # fmt: skip
    age = engine.quotient(f'({at - 1 - longest} - "timestamp")', DAY)
    mature = f'FROM impressions WHERE {within} AND "timestamp" + {longest} < {at}'
    last = f"c{len(steps) - 1}"
    rules = " ".join(
        f"WHEN avg(power((c{k} - {last})::DOUBLE, 2)) <= "
        f"{tolerance**2}::DOUBLE * power(avg({last}::DOUBLE), 2) THEN {w}"
        for k, w in enumerate(steps)
    )
    few = f"WHEN coalesce(sum({last}), 0) < {{least}} THEN NULL"
    wait = f"(CASE {few} {rules} END)::BIGINT AS wait"
    every = engine.one(
        f"SELECT {wait.format(least=1)} FROM (SELECT {age} AS age, {counts} {mature} GROUP BY 1) d"
    )
    pooled = longest if not every or every[0] is None else int(every[0])
    engine.execute(
        f"""CREATE TABLE waits AS SELECT wait_key, coalesce(wait, {pooled}) AS wait FROM (
            SELECT wait_key, {wait.format(least=LEAST)} FROM (
                SELECT {by} AS wait_key, {age} AS age, {counts} {mature} GROUP BY 1, 2) d
            GROUP BY wait_key) w"""
    )
    return pooled


def as_known(
    engine: Engine, label: Label, within: str, by: str, until: str, longest: int, pooled: int
) -> None:
    """Replaces a label of ``impressions`` by what is known before the second `until` (SQL), by
    ``waits``.

    pooled: the wait of a row whose advertiser has none there.
    """
    seen = name(reported(label.name))
    column = name(label.column)
    known = f'{seen} < wait_until AND {seen} - "timestamp" <= {longest}'
    gone = ", ".join([column, "wait", "wait_until", "wait_key"])
    engine.replace(
        "impressions",
        f"""SELECT * EXCLUDE ({gone}), (CASE
                WHEN "timestamp" + coalesce(wait, {pooled}) >= wait_until THEN {OPEN}
                WHEN {within} THEN CASE WHEN {known} THEN 1 ELSE 0 END END)::TINYINT
            AS {column} FROM (SELECT i.*, w.wait, w.wait_key, ({until})::BIGINT AS wait_until
            FROM impressions i LEFT JOIN waits w ON w.wait_key IS NOT DISTINCT FROM i.{by}) k""",
    )


def _mark(engine: Engine, config: Options, label: Label, there: list[str]) -> str:
    where, schema = f"data options of {config.name}", config.schema()
    if label.within is None:
        raise InputError(
            f"{where}: label {label.name!r} has times of reports and is within no other; expected "
            "a label that may be unknown, as a conversion within a click; declare it within one"
        )
    ids = [f.name for f in schema.features if f.name in there and f.length is None]
    if config.wait_by and config.wait_by not in ids:
        raise unknown("feature of one value in data.wait_by", config.wait_by, ids)
    column = name(reported(label.name))
    odd = engine.one(f'SELECT "timestamp", {column} FROM impressions WHERE {column} < "timestamp"')
    if odd:
        raise InputError(
            f"the row of impressions with timestamp {odd[0]} has its {label.name} reported at "
            f"{odd[1]}; expected a report at or after the row; correct the log"
        )
    by, longest = config.wait_by or schema.item_id.name, round(config.wait_days * DAY)
    outer = name(schema.label(label.within).column)
    within, until = f"coalesce({outer}, 0) = 1", config.known_until()
    first, at = engine.one(f'SELECT min("timestamp"), min({until}) FROM impressions')
    if at - first <= longest:
        raise InputError(
            f"{where}: wait_days is {config.wait_days:g}, and the rows to learn from span "
            f"{(at - first) / DAY:.2f} days; expected less, so that some rows are older than the "
            "longest wait; lower data.wait_days, or use a longer log or nights of more days"
        )
    key = name(by)
    pooled = choose(engine, label.name, within, key, at, longest, config.wait_tolerance)
    as_known(engine, label, within, key, until, longest, pooled)
    number, mean = engine.one("SELECT count(*), coalesce(avg(wait), 0) FROM waits")
    unripe = f"CASE WHEN {name(label.column)} = {OPEN} THEN 1.0 ELSE 0.0 END"
    opened = engine.one(f"SELECT avg({unripe}) FROM impressions")[0]
    engine.execute("DROP TABLE waits")
    engine.replace("impressions", f"SELECT * EXCLUDE ({column}) FROM impressions")
    return (
        f"{label.name}: {number:,} values of {by} wait {mean / 3600:.1f} hours on average, others "
        f"{pooled / 3600:.1f}; {opened:.1%} of the rows are not ripe"
    )
