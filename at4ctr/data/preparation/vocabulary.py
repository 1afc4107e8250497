"""From raw ids to model ids: vocabularies by training frequency, hashing, and ``ids/*.npy``.

What training sees counts: the training rows, and the behaviours in their histories. An id that
only other rows have is unknown (``UNKNOWN``); a missing value is ``PADDING``. Under the ``paper``
protocol all rows count.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.dataset import Options
from at4ctr.data.engines.base import Engine, name
from at4ctr.data.preparation.attributes import Late
from at4ctr.data.preparation.raw_ids import demand_all_nameable
from at4ctr.data.preparation.sql import code, column
from at4ctr.data.store import Store
from at4ctr.schema import FIRST_ID, PADDING, UNKNOWN, Feature, Schema, Table


def give(engine: Engine, store: Store) -> None:
    """Makes ``known_<table>`` (``raw``, ``id``) of a store's vocabularies."""
    for table in store.schema.tables:
        if not table.buckets:
            text = store.vocabulary_path(table.name).read_text(encoding="utf-8")
            lines = text.split("\n")[:-1]
            whole = table.dtype == "int64"
            raw = pa.array(
                map(int, lines) if whole else lines, pa.int64() if whole else pa.string()
            )
            ids = pa.array(range(FIRST_ID, FIRST_ID + len(lines)), pa.int64())
            engine.register(f"known_{table.name}", pa.table({"raw": raw, "id": ids}))


def build(
    engine: Engine, config: Options, impressions: bool, late: Late, *, closed: bool = False
) -> dict[str, int]:
    """Makes ``vocabulary_<table>`` (``raw``, ``id``); returns every table's number of rows.

    closed: they are what is known before, and nothing is added.
    """
    schema = config.schema()
    _count(engine, config, impressions, late)
    rows = {}
    for table in schema.tables:
        if table.buckets:
            rows[table.name] = FIRST_ID + table.buckets
            continue
        features = [f for f in schema.features if f.table == table.name]
        counted = " UNION ALL ".join(_frequencies(engine, schema, f) for f in features)
        counted = counted or "SELECT CAST(NULL AS STRING) AS raw, 0 AS n"
        counted = f"SELECT raw, sum(n) AS n FROM ({counted}) f WHERE raw IS NOT NULL GROUP BY raw"
        step, named = f"vocabulary {table.name}", _vocabulary(table)
        known = _known(engine, table)
        if closed:
            counted = f"SELECT * FROM ({counted}) c WHERE 1 = 0"
        elif known:  # ids that were given before stay, and new ones follow them
            left = f"LEFT JOIN {_given(table)} k ON k.raw = c.raw WHERE k.raw IS NULL"
            counted = f"SELECT c.raw, c.n FROM ({counted}) c {left}"
        found = engine.ranked(step, named, counted, "n DESC, raw", FIRST_ID + known)
        if known:
            engine.execute(f"INSERT INTO {named} SELECT raw, 0 AS n, id FROM {_given(table)}")
        rows[table.name] = FIRST_ID + known + found
    return rows


def _known(engine: Engine, table: Table) -> int:
    """How many ids ``known_<table>`` (``raw``, ``id``) gives, where a night has brought it."""
    there = engine.columns(f"known_{table.name}")
    return int(engine.one(f"SELECT count(*) FROM {_given(table)}")[0]) if there else 0


def _count(engine: Engine, config: Options, impressions: bool, late: Late) -> None:
    """``count_<group or feature>`` (``idx``, ``n``): how often training sees what.

    Of users and items that is a row of ``dims``, so a value counts where it is known.
    """
    schema, paper = config.schema(), config.protocol == "paper"
    instances = "shown" if impressions else "behaviours"
    rows = f"{instances} WHERE split IS NOT NULL" if paper else f"{instances} WHERE split = 0"
    engine.run(
        "training horizon",
        f"""CREATE TABLE horizon AS SELECT "user", max(cut) AS cut FROM {rows} GROUP BY "user" """,
    )
    own = "" if impressions else "b.split = 0 OR "
    where = "" if paper else f"WHERE {own}b.pos < h.cut"
    engine.execute(
        f"""CREATE VIEW visible AS SELECT b.* FROM behaviours b
        LEFT JOIN horizon h ON h."user" = b."user" {where}"""
    )
    for group in ("user", "item"):
        source = f"SELECT {late.row(group)} AS idx FROM visible"
        if impressions:
            source += f" UNION ALL SELECT {late.row(group)} FROM {rows}"
        _grouped(engine, group, source)
    for f in schema.group("behaviour"):
        _grouped(engine, f.name, f"SELECT {code(f)} AS idx FROM visible", "feature_")
    for f in schema.group("context"):
        _grouped(engine, f.name, f"SELECT {code(f)} AS idx FROM {rows}", "feature_")


def _grouped(engine: Engine, what: str, source: str, prefix: str = "") -> None:
    engine.run(
        f"count {what}",
        f"""CREATE TABLE {name(f"count_{prefix}{what}")} AS
        SELECT idx, count(*) AS n FROM ({source}) s GROUP BY idx""",
    )


def _frequencies(engine: Engine, schema: Schema, feature: Feature) -> str:
    """SQL of (raw, n) of a feature's values."""
    dims, counts = _dims(feature), f"count_feature_{feature.name}"
    if feature.group in ("profile", "item"):
        counts = "count_user" if feature.group == "profile" else "count_item"
    source = f"d.{_column(schema, feature)}"
    value = f"{source} AS raw" if feature.length is None else engine.elements({"raw": source})
    joined = f"SELECT {value}, c.n FROM {name(counts)} c JOIN {dims} d ON d.idx = c.idx"
    return f"SELECT raw, n FROM ({joined}) e"


def _column(schema: Schema, feature: Feature) -> str:
    return column(schema, feature) if feature.group in ("profile", "item") else "raw"


def _dims(feature: Feature) -> str:
    tables = {"profile": "user_rows", "item": "item_rows"}
    return tables.get(feature.group, name(f"values_{feature.name}"))


def _vocabulary(table: Table) -> str:
    return name(f"vocabulary_{table.name}")


def _given(table: Table) -> str:
    return name(f"known_{table.name}")


def ids(engine: Engine, schema: Schema, feature: Feature) -> np.ndarray:
    """Model ids of a feature for every dims row: int32 [N], or [N, length] zero padded."""
    table = schema.table(feature.table)
    dims, raw = _dims(feature), _column(schema, feature)
    size = int(engine.one(f"SELECT count(*) FROM {dims}")[0])
    if feature.length is None:
        source = f"SELECT idx, 0 AS place, {raw} AS raw FROM {dims}"
    else:
        elements = engine.elements({"raw": raw})
        source = f"SELECT idx, place - 1 AS place, raw FROM (SELECT idx, {elements} FROM {dims}) e"
    found = np.full((size, feature.length or 1), PADDING, np.int32)
    if table.buckets:
        rows = engine.arrow(f"SELECT * FROM ({source}) s WHERE raw IS NOT NULL")
        demand_all_nameable(table, rows.column("raw").unique().to_pylist())
        model = hashed(rows.column("raw"), table.buckets)
    else:
        rows = engine.arrow(
            f"""SELECT s.idx, s.place, coalesce(v.id, {UNKNOWN}) AS id FROM ({source}) s
            LEFT JOIN {_vocabulary(table)} v ON v.raw = s.raw WHERE s.raw IS NOT NULL"""
        )
        model = rows.column("id").to_numpy()
    place = rows.column("place").to_numpy()
    fits = place < found.shape[1]
    found[rows.column("idx").to_numpy()[fits], place[fits]] = model[fits]
    return found[:, 0] if feature.length is None else found


def hashed(raw: pa.ChunkedArray, buckets: int) -> np.ndarray:
    """2 + FarmHash64(str(raw)) mod buckets, by TensorFlow's own op."""
    import tensorflow as tf

    text = tf.constant([str(value) for value in raw.to_pylist()], tf.string)
    return (FIRST_ID + tf.strings.to_hash_bucket_fast(text, buckets).numpy()).astype(np.int32)


def write_values(
    engine: Engine, schema: Schema, folder: Path, ids: Mapping[str, np.ndarray]
) -> None:
    """``values/<feature>.parquet`` of every context and behaviour feature; see `Store`."""
    folder.mkdir()
    for f in schema.group("behaviour") + schema.group("context"):
        raw = engine.arrow(f"SELECT raw FROM {_dims(f)} ORDER BY idx").column("raw")
        model, first = np.unique(ids[f.name], return_index=True)
        found = pa.table({"id": model, "raw": raw.take(pa.array(first))})
        pq.write_table(found, folder / f"{f.name}.parquet", compression="zstd")


def write(engine: Engine, schema: Schema, folder: Path) -> None:
    """``vocabulary/<table>.txt``: line i has id i + `FIRST_ID`."""
    folder.mkdir()
    for table in schema.tables:
        if table.buckets == 0:
            found = engine.arrow(f"SELECT raw FROM {_vocabulary(table)} ORDER BY id")
            raws = found.column("raw").to_pylist()
            demand_all_nameable(table, raws)
            lines = "".join(f"{raw}\n" for raw in raws)
            (folder / f"{table.name}.txt").write_text(lines, encoding="utf-8", newline="\n")
