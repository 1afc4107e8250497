"""The summary of a store's log in words, which preparation prints and reports show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from at4ctr.data.dataset import SPLITS
from at4ctr.data.preparation.summary import QUANTILES, moment

NONE = "–"
NOT_KEPT = "it was prepared before summaries were kept; delete it and prepare it again for one"
Row = tuple[str, ...]


def splits(manifest: Mapping[str, Any]) -> list[Row]:
    """A row a fact, a column a split: what it is, then train, validation and test.

    manifest: of a store with a summary.
    """
    counts, found = manifest["counts"], manifest["summary"]["splits"]
    each = [(counts[s], found[s]) for s in SPLITS]
    rows: list[Row] = [("rows", *(f"{c['rows']:,}" for c, _ in each))]
    for end in ("first", "last"):
        if any(s[end] is not None for _, s in each):
            shown = (NONE if s[end] is None else moment(s[end]) for _, s in each)
            rows.append((f"{end} time, UTC", *shown))
    for label in counts["train"]["labels"]:
        every = [(c["labels"][label], c["rows"]) for c, _ in each]
        rows.append(
            (f"{label}: base rate", *(_share(x["positives"], x["known"]) for x, _ in every))
        )
        if any(x["known"] < n for x, n in every):
            rows.append((f"{label}: unknown", *(_share(n - x["known"], n) for x, n in every)))
    for feature in counts["train"]["unknown"]:
        if any(c["unknown"][feature] for c, _ in each):
            shown = (_share(c["unknown"][feature], c["rows"]) for c, _ in each)
            rows.append((f"{feature}: not seen in training", *shown))
    rows.append(("with a history", *(_share(s["history"], s["rows"]) for _, s in each)))
    shares = ", ".join("most" if q == 1 else f"{q:.0%}" for q in QUANTILES)
    lengths = (", ".join(f"{n:,}" for n in s["lengths"]) or NONE for _, s in each)
    rows.append((f"its length ({shares})", *lengths))
    rows.append(("duplicates", *(f"{s['duplicates']:,}" for _, s in each)))
    return rows


def facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts that do not belong to a split: name and value."""
    counts, summary = manifest["counts"], manifest["summary"]
    past = summary["behaviours"]
    said = f"{past['rows']:,}"
    if past["first"] is not None:
        said += f", {moment(past['first'])} to {moment(past['last'])} UTC"
    rows = [
        ("users and items", f"{counts['users']:,} and {counts['items']:,}"),
        ("behaviours", said),
        *((f"{what}: missing", f"{share:.1%}") for what, share in summary["missing"].items()),
        *((f"{what}: several values", f"{n:,} ids") for what, n in summary["several"].items()),
    ]
    gone = {f"behaviours left out: {k}": n for k, n in counts["dropped"].items()}
    gone |= {f"impressions left out: {k}": n for k, n in summary["left_out"].items()}
    return rows + [(reason, f"{n:,}") for reason, n in gone.items() if n]


def lines(manifest: Mapping[str, Any]) -> list[str]:
    """The summary for a terminal; a sentence of a store that has none."""
    if "summary" not in manifest:
        return [f"no summary of this store: {NOT_KEPT}"]
    kind = "impressions" if manifest["summary"]["impressions"] else "positives and drawn negatives"
    head = f"summary of {manifest['dataset']}{' (simulated)' if manifest['simulated'] else ''}"
    return [
        f"{head}, rows are {kind}",
        *_aligned([("", *SPLITS), *splits(manifest)]),
        *_aligned(facts(manifest)),
        *(f"warning: {doubt}" for doubt in manifest["summary"]["doubts"]),
    ]


def _aligned(rows: Sequence[Row]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *others = widths
    return [
        f"  {name:<{first}}" + "".join(f"  {v:>{w}}" for v, w in zip(cells, others, strict=True))
        for name, *cells in rows
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else NONE
