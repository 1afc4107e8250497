"""Weights of repeated exposures (REW), so that a model ranks what it showed before lower.

J. Pan et al., "Ad Recommendation in a Collapsed and Entangled World", KDD 2024, §6.2. Let E(i) be
the impressions j of the user of i with the same ad that have a smaller timestamp and no click.
The ad is the item, or the value of another item feature for similar ads (`Options.repeat_by`).
With the half-life h (`Options.repeat_days`), s = `Options.repeat_weight` and α =
`Options.repeat_count`:

    w_count   = Σ over j in E(i) of 2^(−(t_i − t_j) / h)
    w_recency = 2^(−(t_i − max t_j) / h)
    w_rep     = 1 + s · (α · w_count + (1 − α) · w_recency), and 1 where E(i) is empty

A negative weighs w_rep and a positive w_debias, the same for all, which keeps the weighted base
rate. Both multiply a weight that the log gives. The sums are over the training rows alone:

    w_debias = Σ (1 − y) · w_rep / Σ (1 − y)

The mean prediction over rows without weights does change. The odds of a row change by the factor
w_debias / E[w_rep | features], whose mean is above 1 where the model can tell repeated rows from
others. A calibrator fitted to validation rows without weights (``calibrator=platt``) corrects this
and changes no order of ads.

Deviations from the paper: w_recency is the gap in days there, which would grow the longer ago the
ad was shown; here it decays. The paper demands w_rep of at least 1, which its equation does not
give; here 1 is added. It counts all exposures; here only those without a click count, and the label
of an exposure is taken as known at the next one.

A night has the impressions of its own window, so E(i) begins with the window.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from at4ctr.data.dataset import Options
from at4ctr.data.days import DAY
from at4ctr.data.engines.base import name
from at4ctr.errors import InputError, unknown

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

REPEATED = "weight_repeated"  # the column of w_rep
SPAN = 1000  # half-lives of a log, at most: 2^SPAN is a DOUBLE


def add_repeats(engine: Engine, config: Options) -> None:
    """Adds `REPEATED` to ``impressions``: w_rep of each row, rounded to six digits.

    Does nothing where `Options.repeat_weight` is 0. Raises InputError for a log without
    impressions, a schema without weights, an unknown `Options.repeat_by`, or too short a half-life.
    """
    if not config.repeat_weight:
        return
    by = _ad(config, impressions=bool(engine.columns("impressions")))
    schema, half = config.schema(), config.repeat_days * DAY
    first, last = engine.one('SELECT min("timestamp"), max("timestamp") FROM impressions')
    if (last - first) / half > SPAN:
        days = (last - first) / DAY
        raise InputError(
            f"data options of {config.name}: repeat_days is {config.repeat_days:g}, and the "
            f"impressions span {days:.0f} days; expected at most {SPAN} half-lives; set "
            f"data.repeat_days={math.ceil(days / SPAN)}"
        )
    unclicked = f"{name(schema.labels[0].column)} = 0"
    grown = f"""power(2::DOUBLE, ("timestamp" - {first})::DOUBLE / {half}::DOUBLE)"""
    before = f"""OVER (PARTITION BY {name(schema.user_id.name)}, {by} ORDER BY "timestamp"
        RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"""
    count = f"repeat_sum / {grown}"
    recency = f"""power(2::DOUBLE, (repeat_latest - "timestamp")::DOUBLE / {half}::DOUBLE)"""
    alpha, strength = config.repeat_count, config.repeat_weight
    engine.replace(
        "impressions",
        f"""SELECT * EXCLUDE (repeat_sum, repeat_latest),
            CASE WHEN repeat_latest IS NULL OR {by} IS NULL THEN 1::DOUBLE
                ELSE round(1 + {strength}::DOUBLE * ({alpha}::DOUBLE * {count}
                    + {1 - alpha}::DOUBLE * {recency}), 6) END AS {REPEATED}
        FROM (SELECT *, sum(CASE WHEN {unclicked} THEN {grown} END) {before} AS repeat_sum,
            max(CASE WHEN {unclicked} THEN "timestamp" END) {before} AS repeat_latest
            FROM impressions) i""",
    )


def weigh(engine: Engine, config: Options) -> list[str]:
    """Multiplies ``weight`` of ``shown`` by w_rep or w_debias; returns notes of it."""
    if not config.repeat_weight:
        return []
    label = name(config.schema().labels[0].column)
    rows, repeated, negatives, weighed = engine.one(
        f"""SELECT sum(weight), sum(CASE WHEN {REPEATED} > 1 THEN weight ELSE 0 END),
            sum(CASE WHEN {label} = 0 THEN weight ELSE 0 END),
            sum(CASE WHEN {label} = 0 THEN weight * {REPEATED} ELSE 0 END) FROM shown
            WHERE split = 0"""
    )
    factor = round(weighed / negatives, 6) if negatives else 1.0
    engine.replace(
        "shown",
        f"""SELECT * EXCLUDE (weight, {REPEATED}), weight * CASE WHEN {label} = 1
            THEN {factor}::DOUBLE ELSE {REPEATED} END AS weight FROM shown""",
    )
    share = repeated / rows if rows else 0.0
    return [
        f"{share:.1%} of the training rows repeat an exposure without a click; a positive weighs "
        f"{factor:.4f}, the mean weight of the negatives"
    ]


def _ad(config: Options, *, impressions: bool) -> str:
    """The column that says which ad an impression is of."""
    where, schema = f"data options of {config.name}", config.schema()
    if not (impressions and schema.weighted):
        found = "the schema has no weights" if impressions else "the log has no impressions"
        raise InputError(
            f"{where}: repeat_weight is {config.repeat_weight:g}, and {found}; expected "
            "impressions and Schema(weighted=True); declare them or set data.repeat_weight=0"
        )
    if not config.timed:
        raise InputError(
            f"{where}: repeat_weight is {config.repeat_weight:g}, and the log has no times; "
            "expected seconds, as exposures decay with them; set data.repeat_weight=0"
        )
    ads = [f.name for f in schema.group("item") if f.length is None]
    if config.repeat_by and config.repeat_by not in ads:
        raise unknown("item feature of one value in data.repeat_by", config.repeat_by, ads)
    return name(config.repeat_by or schema.item_id.name)
