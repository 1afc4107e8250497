"""Calibration where it may differ: unknown ids, rare items, activeness, history, category."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from at4ctr.data.store import Store
from at4ctr.evaluation import Predictions
from at4ctr.metrics.intervals import Trust, by_segment
from at4ctr.schema import PADDING, UNKNOWN, Schema

LENGTHS = (0, 1, 5, 20, 50)  # where the bands of history length begin
CLICKS = (0, 1, 5, 20, 100)  # where the bands of an item's clicks begin
CATEGORIES, OTHERS = 10, "other"  # how many, the largest ones; all others together
WIDEST = 30  # characters of a category's name

_FAMILIES = ("all", "item", "user", "item clicks", "activeness", "history")
_NAMED = {PADDING: "missing", UNKNOWN: "unknown"}

Families = dict[str, dict[str, np.ndarray]]


class Category(NamedTuple):
    """The item feature whose largest values are segments, and what the log calls them.

    family: the feature's name, which the family has. values: model ids -> the log's values of those
    that have one.
    """

    family: str = "category"
    values: Callable[[Collection[int]], Mapping[int, str]] = lambda _: {}

    @classmethod
    def of(cls, store: Store) -> Category:
        """The category that `ids` takes. Its values have no names where they are hashed."""
        feature = _category(store.schema)
        if feature is None:
            return cls()
        family = "category" if feature in _FAMILIES else feature
        return cls(family, partial(store.raw_ids, feature))


UNNAMED = Category()


def ids(schema: Schema, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``user``, ``item`` and, where there is one, ``category`` -> model ids [N], for `masks`.

    columns: feature -> model ids [N]. The category is the schema's second item feature of one
        value. A feature that ``columns`` lacks is left out, and so are its segments.
    """
    category = _category(schema)
    names = {"user": schema.user_id.name, "item": schema.item_id.name}
    names |= {} if category is None else {"category": category}
    return {role: columns[name] for role, name in names.items() if name in columns}


def masks(
    found: Predictions,
    ids: Mapping[str, np.ndarray],
    category: Category = UNNAMED,
) -> Families:
    """Family -> segment -> rows [N]; the segments of a family hold every row once.

    ids: some of ``user``, ``item``, ``category`` -> model ids [N]. An unknown id is one that
    training did not see. ``item_clicks`` -> how many clicks the candidate has in the training rows
    [N]. A value of ``category`` without a name, or with that of another segment, is ``#`` and its
    model id.
    """
    families: Families = {"all": {"all": np.ones(found.labels.size, bool)}}
    for name in ("item", "user"):
        if name in ids:
            new = np.asarray(ids[name]) == UNKNOWN
            families[name] = {"known": ~new, "unknown": new}
    if "item_clicks" in ids:
        families["item clicks"] = bands(ids["item_clicks"], CLICKS)
    families["activeness"] = found.activeness
    families["history"] = bands(found.lengths, LENGTHS)
    if "category" in ids:
        families[category.family] = _largest(np.asarray(ids["category"]), category)
    return families


def report(
    found: Predictions,
    ids: Mapping[str, np.ndarray],
    category: Category = UNNAMED,
) -> dict[str, dict[str, Trust]]:
    """PCOC and ECE with 95 % intervals of every segment of `masks`, by family."""
    families = masks(found, ids, category)
    flat = {(f, name): mask for f, segments in families.items() for name, mask in segments.items()}
    keyed = {"\t".join(key): mask for key, mask in flat.items()}
    values = by_segment(found.labels, found.probability, found.users, keyed)
    trusted = dict(zip(flat, values.values(), strict=True))
    return {f: {name: trusted[f, name] for name in segments} for f, segments in families.items()}


def to_json(segments: Mapping[str, Mapping[str, Trust]]) -> dict[str, Any]:
    """For a run's metrics."""
    return {f: {name: t.to_json() for name, t in group.items()} for f, group in segments.items()}


def table(segments: Mapping[str, Mapping[str, Trust]]) -> str:
    """A Markdown table; * marks a segment too small for its interval to be believed."""
    lines = [
        "| segment | rows | clicks | users | PCOC | 95 % | ECE | 95 % |",
        "|---|--:|--:|--:|--:|---|--:|---|",
    ]
    for family, group in segments.items():
        for name, t in group.items():
            label = name if family == name else f"{family} {name}"
            cells = [
                f"{label}{' *' if t.small else ''}",
                *(f"{n:,}" for n in (t.rows, t.clicks, t.users)),
                *_cells(t.pcoc, t.pcoc_interval, 3),
                *_cells(t.ece, t.ece_interval, 4),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cells(value: float | None, interval: tuple[float, float] | None, digits: int) -> list[str]:
    shown = "–" if value is None else f"{value:.{digits}f}"
    between = "–" if interval is None else f"{interval[0]:.{digits}f} – {interval[1]:.{digits}f}"
    return [shown, between]


def bands(counts: np.ndarray, starts: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Rows by a count; the bands begin at ``starts``."""
    band = np.searchsorted(starts, counts, side="right") - 1
    ends = [*(n - 1 for n in starts[1:]), None]
    names = [
        f"{first}+" if last is None else f"{first}" if first == last else f"{first}–{last}"
        for first, last in zip(starts, ends, strict=True)
    ]
    return {name: band == number for number, name in enumerate(names)}


def _category(schema: Schema) -> str | None:
    return next((f.name for f in schema.group("item")[1:] if f.length is None), None)


def _largest(values: np.ndarray, category: Category) -> dict[str, np.ndarray]:
    """Rows of each of the most frequent ids, and all others."""
    every, code, rows = np.unique(values, return_inverse=True, return_counts=True)
    first = np.argsort(-rows, kind="stable")[:CATEGORIES]
    found: dict[str, np.ndarray] = {}
    raw = category.values({int(every[i]) for i in first})
    for i in first:
        model_id = int(every[i])
        name = _NAMED.get(model_id) or _shown(raw.get(model_id, ""))
        if model_id not in _NAMED and name in ("", OTHERS, *_NAMED.values(), *found):
            name = f"#{model_id}"
        while name in found:
            name += "'"
        found[name] = code == i
    rest = ~np.isin(code, first)
    return found | ({OTHERS: rest} if rest.any() else {})


def _shown(value: str) -> str:
    """A value of the log as the name of a segment, which stands in one cell of a table."""
    printable = "".join(c if c.isprintable() else " " for c in value.replace("|", "/"))
    name = " ".join(printable.split())
    return name if len(name) <= WIDEST else name[: WIDEST - 1] + "…"
