"""Counts of a log's tables, made during preparation, so that a wrong join or unit shows at once.

The rows of a log of impressions are the impressions. The rows of another log are the positives, as
its negatives are drawn from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from at4ctr.data.dataset import SPLITS, Options
from at4ctr.data.days import DAY
from at4ctr.data.engines.base import name
from at4ctr.data.preparation import attributes
from at4ctr.data.preparation.sql import code, number
from at4ctr.schema import Feature

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

QUANTILES = (0.1, 0.5, 0.9, 1.0)  # of how many behaviours precede a row
FEWEST = 0.01  # of the rows that have a history, where a schema has one
MOST_DUPLICATES = 0.1  # of the rows
MOST_MISSING = 0.99  # of the users or items that an attribute is missing of
MOST_UNKNOWN = 0.9  # of the rows whose item training never saw
EARLIEST = 3652 * DAY  # 1980
APART = 365 * DAY  # between the last behaviour and the first impression
RATIO, EXPECTED = 2.0, 50  # of the base rates of two splits with so many positives expected in each

Json = dict[str, Any]


def measure(engine: Engine, config: Options, *, impressions: bool) -> Json:
    """Counts of the tables of a preparation that is nearly done.

    ``splits``: split -> ``rows``, ``first`` and ``last`` time (seconds, None where a log has no
        times), ``duplicates`` (rows whose user, item and time an earlier row has), ``history``
        (rows that have one) and ``lengths``, the `QUANTILES` of how many behaviours precede a row.
    ``behaviours``: ``rows``, ``first`` and ``last`` of those of the users that are kept.
    ``missing``: attribute, feature or number -> the share of its users, items or rows without it.
    ``several``: attribute -> how many users or items have several values of it.
    ``left_out``: reason -> how many impressions are no row.
    """
    table = "shown" if impressions else "behaviours"
    absent = _absent(engine, config)
    counts = "".join(f", count(*) FILTER (WHERE {sql}) AS a{k}"
                     for k, sql in enumerate(absent.values()))  # fmt: skip
    cells = engine.arrow(
        f"""SELECT split, cut, count(*) AS n, min("timestamp") AS first, max("timestamp") AS last,
            count(*) FILTER (WHERE duplicate) AS duplicates{counts}
        FROM {table} GROUP BY split, cut"""
    )
    column = {c: cells.column(c).to_numpy(zero_copy_only=False) for c in cells.column_names}
    split = np.nan_to_num(column["split"].astype(np.float64), nan=-1.0)
    kept = split >= 0
    rows = max(int(column["n"][kept].sum()), 1)
    missing = {x: int(column[f"a{k}"][kept].sum()) / rows for k, x in enumerate(absent)}
    several: dict[str, int] = {}
    for what, share, many in _attributes(engine, config):
        missing[what] = share
        several |= {what: many} if many else {}
    return {
        "impressions": impressions,
        "splits": {s: _split(column, split == k, timed=config.timed) for k, s in enumerate(SPLITS)},
        "behaviours": _behaviours(engine, timed=config.timed),
        "missing": {x: round(share, 6) for x, share in missing.items() if share},
        "several": several,
        "left_out": _left_out(engine, config, column, ~kept) if impressions else {},
    }


def _absent(engine: Engine, config: Options) -> dict[str, str]:
    """Context feature or number -> SQL of whether a row lacks it."""
    schema, found = config.schema(), {}
    for f in schema.group("context"):
        nothing = engine.one(f"SELECT idx FROM {name('values_' + f.name)} WHERE raw IS NULL")
        if nothing:
            found[f.name] = f"{code(f)} = {nothing[0]}"
    return found | {n.name: f"{number(n)} IS NULL" for n in schema.numbers if n.group == "context"}


def _attributes(engine: Engine, config: Options) -> Iterator[tuple[str, float, int]]:
    """Of each attribute: the share of users or items without it, and how many have several."""
    for table, group in attributes.GROUPS.items():
        every = attributes.first_seen(config.schema(), group)
        counts = "".join(
            f", count(*) FILTER (WHERE {_no(a)}), count(*) FILTER (WHERE {attributes.several(a)})"
            for a in every
        )
        size, *found = engine.one(f"SELECT count(*){counts} FROM {table}s")
        for a, without, many in zip(every, found[::2], found[1::2], strict=True):
            yield a.name, without / max(size, 1), int(many)


def _no(attribute: attributes.Attribute) -> str:
    value = attributes.value(attribute)
    if isinstance(attribute, Feature) and attribute.length is not None:
        return f"coalesce(array_size({value}), 0) <= 0"
    return f"{value} IS NULL"


def _split(column: Mapping[str, npt.NDArray], here: npt.NDArray[np.bool_], *, timed: bool) -> Json:
    cut, n = column["cut"][here], column["n"][here]
    order = np.argsort(cut, kind="stable")
    ends = np.cumsum(n[order])
    found: Json = {
        "rows": int(n.sum()),
        "first": int(column["first"][here].min()) if timed and n.size else None,
        "last": int(column["last"][here].max()) if timed and n.size else None,
        "duplicates": int(column["duplicates"][here].sum()),
        "history": int(n[cut > 0].sum()),
        "lengths": [],
    }
    if n.size:  # the smallest length that at least a share of the rows does not exceed
        places = np.searchsorted(ends, np.ceil(np.array(QUANTILES) * ends[-1]))
        found["lengths"] = [int(c) for c in cut[order][places]]
    return found


def _behaviours(engine: Engine, *, timed: bool) -> Json:
    rows, first, last = engine.one(
        'SELECT count(*), min("timestamp"), max("timestamp") FROM behaviours'
    )
    return {"rows": int(rows), "first": first if timed else None, "last": last if timed else None}


def _left_out(
    engine: Engine, config: Options, column: Mapping[str, npt.NDArray], gone: npt.NDArray[np.bool_]
) -> dict[str, int]:
    n, short = column["n"], column["cut"] < config.min_history
    logged = int(engine.one("SELECT count(*) FROM impressions")[0])
    found = {
        "of a user that is left out (data.min_behaviours, data.user_rate)": logged - int(n.sum()),
        f"fewer than {config.min_history} behaviours before (data.min_history)": int(
            n[gone & short].sum()
        ),
        "of no split": int(n[gone & ~short].sum()),
    }
    return {reason: rows for reason, rows in found.items() if rows}


def doubts(config: Options, summary: Json, counts: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that a wrong join, label or unit of time would explain.

    counts: of a manifest, split -> ``rows``, ``labels`` and ``unknown``.
    """
    schema, splits = config.schema(), summary["splits"]
    rows = max(sum(s["rows"] for s in splits.values()), 1)
    found = []
    share = sum(s["history"] for s in splits.values()) / rows
    if schema.history and share < FEWEST:
        found.append(
            f"{share:.2%} of the rows have a history; expected at least {FEWEST:.0%}; compare the "
            "users' ids of behaviours and impressions, and the times of both"
        )
    found += _odd_times(summary)
    share = sum(s["duplicates"] for s in splits.values()) / rows
    if share > MOST_DUPLICATES:
        found.append(
            f"{share:.1%} of the rows have user, item and time of another row; expected at most "
            f"{MOST_DUPLICATES:.0%}; look whether a join repeats rows, or a file is read twice"
        )
    for what, share in summary["missing"].items():
        if share >= MOST_MISSING:
            found.append(
                f"{what} is missing in {share:.1%} of what should have it; expected less than "
                f"{MOST_MISSING:.0%}; compare the ids of its file with those of the log"
            )
    unknown, tested = counts["test"]["unknown"][schema.item_id.name], counts["test"]["rows"]
    if unknown > MOST_UNKNOWN * tested > 0:
        found.append(
            f"{unknown / tested:.1%} of the test rows have an item that training never saw; "
            f"expected at most {MOST_UNKNOWN:.0%}; look whether items keep their ids over time"
        )
    return [*found, *_odd_rates(counts)]


def _odd_times(summary: Json) -> Iterator[str]:
    first = [s["first"] for s in summary["splits"].values() if s["first"] is not None]
    if not first:
        return
    past = summary["behaviours"]
    for what, begin in (("rows", min(first)), ("behaviours", past["first"])):
        if begin is not None and begin < EARLIEST:
            yield (
                f"the {what} begin at {moment(begin)} UTC; expected 1980 or later; look at the "
                "unit of time"
            )
    if past["last"] is not None and min(first) - past["last"] > APART:
        yield (
            f"the last behaviour is at {moment(past['last'])} UTC and the first row at "
            f"{moment(min(first))} UTC; expected less than a year between; look at the units of "
            "time of both"
        )


def _odd_rates(counts: Mapping[str, Any]) -> Iterator[str]:
    for label in counts["train"]["labels"]:
        here = {s: counts[s]["labels"][label] for s in SPLITS}
        known = sum(x["known"] for x in here.values())
        whole = sum(x["positives"] for x in here.values()) / max(known, 1)
        rates = {s: x["positives"] / x["known"] for s, x in here.items()
                 if x["known"] * whole >= EXPECTED}  # fmt: skip
        if rates and max(rates.values()) > RATIO * min(rates.values()):
            shown = " and ".join(f"{rate:.2%} in {s}" for s, rate in rates.items())
            yield (
                f"{label} is 1 in {shown}; expected rates within a factor of {RATIO:g}; look "
                "whether the labels of late rows are complete"
            )


def moment(second: int) -> str:
    """A time to the second."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}"
