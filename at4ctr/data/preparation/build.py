"""The contents of a store from ``log`` and ``impressions``: runs the steps in order."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from at4ctr.data.dataset import SPLITS, Options
from at4ctr.data.days import NoData
from at4ctr.data.engines.base import Engine, name, report
from at4ctr.data.preparation import (
    attributes,
    columns,
    exposures,
    negatives,
    numbers,
    parts,
    shortcuts,
    summary,
    vectors,
    vocabulary,
    waits,
)
from at4ctr.data.preparation import sql as steps
from at4ctr.data.sampling import PRIME, uniform31_sql
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import Schema, weights_name

NONE: Mapping[str, Path] = MappingProxyType({})


def build(
    engine: Engine,
    config: Options,
    folder: Path,
    pretrained: Mapping[str, Path] = NONE,
    model: Store | None = None,
) -> dict[str, Any]:
    """Writes all of a store but its manifest; returns the manifest's entries that follow from it.

    pretrained: name of `Schema.vectors` -> its file.
    model: the store of a model, whose vocabularies and vectors are taken as they are.
    Raises InputError when no user is left. Raises NoData, a subclass of it, when a split has no
    rows, or rows of one class of a label only.
    """
    schema = config.schema()
    shown = engine.columns("impressions")
    impressions = bool(shown)
    truths = tuple(x.name for x in schema.labels if columns.truth(x.name) in shown)
    columns.check_and_cast(engine, config)
    waited = waits.mark_open(engine, config)
    exposures.add_repeats(engine, config)
    _sample(engine, config)
    logged = int(engine.one("SELECT count(*) FROM log")[0])
    chunks = _index(engine, config, impressions)
    late, notes = _place(engine, config, impressions, chunks)
    notes += waited + exposures.weigh(engine, config)
    if model is not None:
        vocabulary.give(engine, model)
    rows = vocabulary.build(engine, config, impressions, late, closed=model is not None)
    rare = {} if model is not None else vocabulary.rare_ids(engine, schema)
    aucs, separate = shortcuts.AUCs(), list[str]()
    if not impressions:
        notes += negatives.notes(config, negatives.draw(engine, config, late))
        aucs, errors = shortcuts.measure(engine)
        separate = shortcuts.warnings(config, aucs, errors)
        notes += separate
    ids = {f.name: vocabulary.ids(engine, schema, f) for f in schema.features}
    vocabulary.write(engine, schema, folder / "vocabulary")
    if model is None:
        vectors.write(engine, config, pretrained, folder / "vectors")
    else:
        vectors.copy(model, folder / "vectors")
    vocabulary.write_values(engine, schema, folder / "values", ids)
    values = _write_dims(engine, schema, folder, ids, late)
    ranges = _parts(engine, config, impressions)
    writer = parts.Writer(folder / "data", ranges, schema, ids, truths)
    counts = _write_parts(engine, writer, config.seed, impressions, late)
    _demand_classes(config, counts)
    _demand_weights(config, counts)
    notes += vocabulary.notes(schema, rare, rows, counts.unknown["train"], counts.rows["train"])
    files = [part["file"] for part in counts.parts]
    trained, versions = counts.rows["train"], bool(late.user)
    quantities = numbers.summarise(folder, schema, files, trained, values, ids, versions)
    behaviours = int(engine.one("SELECT count(*) FROM behaviours")[0])
    dropped = engine.dropped | {"min_behaviours": logged - behaviours}
    raw = logged + sum(engine.dropped.values())
    splits: dict[str, Any] = {s: {"rows": counts.rows[s], "labels": _labels(counts, s),
                  "unknown": counts.unknown[s]} for s in SPLITS}  # fmt: skip
    held = summary.measure(engine, config, impressions=impressions)
    held["doubts"] = [*separate, *summary.doubts(config, held, splits)]
    size = {g: int(engine.one(f"SELECT count(*) FROM {g}s")[0]) for g in attributes.GROUPS}
    return {
        "truth": list(truths),
        "numbers": quantities,
        "summary": held,
        "options": config.preparation(),
        "schema": schema.to_json(),
        "counts": {
            "users": size["user"],
            "items": size["item"],
            "behaviours": behaviours,
            "raw": raw,
            "dropped": dropped,
            **splits,
        },
        "versions": {
            g: len(ids[f.name]) - size[g]
            for g, f in (("user", schema.user_id), ("item", schema.item_id))
        },
        "vocabulary": rows,
        "rare": rare,
        "parts": counts.parts,
        "shortcuts": aucs,
        "notes": [_left_out(raw, dropped), *notes],
    }


def _parts(engine: Engine, config: Options, impressions: bool) -> list[tuple[int, int]]:
    """The ranges of users of the parts."""
    instances, each = ("shown", 1) if impressions else ("behaviours", 1 + config.negatives)
    found = engine.arrow(
        f"""SELECT u.n + {each} * coalesce(c.n, 0) AS size FROM users u LEFT JOIN (
            SELECT "user", count(*) AS n FROM {instances} WHERE split IS NOT NULL GROUP BY "user") c
            ON c."user" = u.idx ORDER BY u.idx"""
    )
    return parts.ranges(found.column("size").to_numpy())


def _sample(engine: Engine, config: Options) -> None:
    """Leaves in ``log`` the share of users that is asked for, and counts what it leaves out."""
    if config.user_rate == 1:
        return
    schema = config.schema()
    user = name(schema.user_id.name)
    key = engine.key(user, schema.table(schema.user_id.table).dtype)
    draw = uniform31_sql([key], f"{config.seed}/share", PRIME)
    found = int(engine.one("SELECT count(*) FROM log")[0])
    keep = f"WHERE {draw} < {math.floor(config.user_rate * PRIME)}"
    kept = engine.run("share of users", f"CREATE TABLE sampled AS SELECT * FROM log {keep}")
    engine.execute("DROP TABLE log")
    engine.execute("ALTER TABLE sampled RENAME TO log")
    engine.dropped["users"] = found - kept
    if config.min_behaviours == 0:  # their users need not be in the log
        engine.replace("impressions", f"SELECT * FROM impressions {keep}")
        kept += int(engine.one("SELECT count(*) FROM impressions")[0])
    if not kept:
        raise InputError(
            f"data options of {config.name}: user_rate {config.user_rate} keeps none of the log's "
            "users; expected some; raise data.user_rate"
        )


def _index(engine: Engine, config: Options, impressions: bool) -> list[tuple[int, int]]:
    """Numbers users, items and values; returns ranges of users with bounded behaviours."""
    schema = config.schema()
    user, item = (schema.table(f.table).dtype for f in (schema.user_id, schema.item_id))
    shown = engine.columns("impressions")
    if not engine.run("users", steps.users(schema, config.min_behaviours, shown)):
        column = name(schema.user_id.name)
        sizes = f"SELECT count(*) AS n FROM log GROUP BY {column}"
        found, most = engine.one(f"SELECT count(*), coalesce(max(n), 0) FROM ({sizes}) s")
        raise InputError(
            f"data options of {config.name}: none of the log's {found:,} users has "
            f"min_behaviours={config.min_behaviours} behaviours; the most active has {most}; lower "
            "data.min_behaviours or use a longer log"
        )
    engine.run("user index", steps.numbered("users", "user_raw", engine.key("raw", user)))
    engine.run("items", steps.items(schema, impressions))
    engine.run("item index", steps.numbered("items", "item_raw", engine.key("raw", item)))
    for f in schema.group("behaviour") + schema.group("context"):
        relation = "impressions" if impressions and f.group == "context" else "log"
        key = engine.key("raw", schema.table(f.table).dtype)
        engine.run(f"values {f.name}", steps.values(f, relation, key))
    sizes = engine.arrow("SELECT n FROM users ORDER BY idx").column("n").to_numpy()
    return parts.ranges(sizes)


def _place(
    engine: Engine, config: Options, impressions: bool, chunks: list[tuple[int, int]]
) -> tuple[attributes.Late, list[str]]:
    """Makes ``behaviours``, and ``shown`` of impressions: rows with place, cut and split.

    Returns which attributes are late, and notes of attributes.
    """
    schema = config.schema()
    late, several = attributes.find(engine, config)
    behaviour, context = schema.group("behaviour"), schema.group("context")
    carried = behaviour if impressions else behaviour + context
    quantities = "".join(f", l.{name(n.name)} AS {steps.number(n)}" for n in parts.numbers(schema))
    hidden = attributes.hidden(engine, late, "log") + ("" if impressions else quantities)
    engine.run("events", steps.encoded("events", "log", schema, carried, hidden))
    engine.execute("DROP TABLE log")
    if impressions:
        shown = engine.columns("impressions")
        kinds = {label.column: "TINYINT" for label in schema.labels}
        kinds |= {columns.truth(x.name): "DOUBLE" for x in schema.labels}
        more = "".join(f", l.{name(c)}::{k} AS {name(c)}" for c, k in kinds.items() if c in shown)
        more += ", l.weight::DOUBLE AS weight" if schema.weighted else ""
        more += f", l.{exposures.REPEATED}" if config.repeat_weight else ""
        more += quantities + attributes.hidden(engine, late, "impressions")
        engine.run("impressions", steps.encoded("shown_bare", "impressions", schema, context, more))
    late, missing = attributes.number(
        engine, late, ("events", "shown_bare") if impressions else ("events",)
    )
    attributes.rows(engine, schema, late)
    engine.execute(
        "CREATE TABLE behaviours AS " + steps.placed("events", config, config.cut(), "< 0")
    )
    engine.each(
        "behaviours",
        chunks,
        lambda within: (
            "INSERT INTO behaviours " + steps.placed("events", config, config.cut(), within)
        ),
    )
    if impressions:
        engine.run("cuts", steps.sees())
        engine.execute(
            """CREATE VIEW shown_events AS SELECT b.*, s.cut AS seen
            FROM shown_bare b JOIN seen s ON s.ord = b.ord"""
        )
        engine.run(
            "instances",
            "CREATE TABLE shown AS " + steps.placed("shown_events", config, "seen", ">= 0"),
        )
    engine.execute("DROP TABLE events")
    return late, several + missing


def _write_dims(
    engine: Engine,
    schema: Schema,
    folder: Path,
    ids: dict[str, np.ndarray],
    late: attributes.Late,
) -> dict[str, np.ndarray]:
    """``dims/*.parquet``, ``ids/*.npy``, ``numbers/*.npy`` and ``weights/*.npy``.

    Returns the numbers of users and items by dims row.
    """
    values = {}
    for kind in ("dims", "ids", "numbers", "weights"):
        (folder / kind).mkdir()
    for table, group in attributes.GROUPS.items():
        features = [f for f in schema.features if f.group == group]
        own = attributes.carried(attributes.first_seen(schema, group))
        chosen = ", ".join(f"{made} AS {column}" for column, made in
                           [(name(features[0].name), "raw"), *own])  # fmt: skip
        if getattr(late, table):
            chosen += f", entity AS {table}_index"
        found = engine.arrow(f"SELECT {chosen} FROM {table}_rows ORDER BY idx")
        pq.write_table(found, folder / "dims" / f"{table}.parquet", compression="zstd")
        for f in features:
            np.save(folder / "ids" / f"{f.name}.npy", ids[f.name])
            if f.weighted:
                weights = numbers.padded(found.column(weights_name(f.name)), ids[f.name])
                np.save(folder / "weights" / f"{f.name}.npy", weights)
        for n in schema.numbers:
            if n.group == group:
                values[n.name] = numbers.floats(found.column(n.name))
                np.save(folder / "numbers" / f"{n.name}.npy", values[n.name])
    return values


def _write_parts(
    engine: Engine, writer: parts.Writer, seed: int, impressions: bool, late: attributes.Late
) -> parts.Counts:
    writer.folder.mkdir()
    begin, schema = time.monotonic(), writer.schema
    rows = parts.instances(schema, seed, late, writer.truths, impressions=impressions)
    found = engine.parts(writer.ranges, parts.behaviours(schema, late), rows, writer)
    for aside in writer.folder.glob(".*"):  # of a task that was killed
        aside.unlink()
    counts = parts.Counts.of(found)
    report("parts", sum(counts.rows.values()), time.monotonic() - begin)
    return counts


def _demand_classes(config: Options, counts: parts.Counts) -> None:
    """Raises NoData for an empty training or test split, or a split of one class only."""
    for split in SPLITS:
        rows = counts.rows[split]
        if rows == 0 and split != "validation":
            out = "fewer" if split == "train" else "more"
            raise NoData(
                f"data options of {config.name}: the {split} split has no row; expected some; use "
                f"a longer log, or lower data.min_history, or hold out {out} rows"
            )
        for label in config.labels_of_both_classes() if rows else ():
            known, positives = counts.known[split][label.name], counts.positives[split][label.name]
            if positives in (0, known):
                what = f"all {'positives' if positives else 'negatives'}" if known else "none known"
                raise NoData(
                    f"data options of {config.name}: the {split} split has {known:,} rows with a "
                    f"known label {label.name!r}, {what}; expected both classes; use a longer log "
                    "or another split"
                )


def _demand_weights(config: Options, counts: parts.Counts) -> None:
    """Raises InputError where no training row has a weight above 0."""
    if config.schema().weighted and not counts.weighed["train"]:
        raise InputError(
            f"data options of {config.name}: the weights of all {counts.rows['train']:,} training "
            "rows are 0; expected some above 0; correct the weight or the split"
        )


def _labels(counts: parts.Counts, split: str) -> dict[str, dict[str, int]]:
    positives = counts.positives[split]
    return {k: {"known": n, "positives": positives[k]} for k, n in counts.known[split].items()}


def _left_out(raw: int, dropped: dict[str, int]) -> str:
    reasons = ", ".join(f"{rows:,} ({reason})" for reason, rows in dropped.items())
    return f"of {raw:,} behaviours of the log these were left out, by reason: {reasons}"
