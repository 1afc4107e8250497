"""From raw ids to model ids: vocabularies by training frequency, hashing, and ``ids/*.npy``.

What training sees counts: the training rows, and the behaviours in their histories, each once. A
drawn negative counts nothing. Under the ``paper`` protocol all rows count. An id that counts fewer
than `Table.least` times is unknown (``UNKNOWN``), as is one that only other rows have; a missing
value is ``PADDING``.

A night gives ``known_<table>`` (``raw``, ``id``), whose ids stay, and of a table with a least count
``pending_<table>`` (``raw``, ``n``): how often earlier nights have seen ids that are not known yet.
To these it adds the rows and behaviours of its own window (`Options.counted_from`). Where ids may
leave (`Options.expires_before`), these tables and ``vocabulary_<table>`` also have ``last``, the
second at which training last saw an id. Ids that stay move up, in their order.
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
        step, named = f"vocabulary {table.name}", _vocabulary(table)
        counted, limit = _counted(engine, config, table), config.expires_before()
        last = "" if limit is None else ", last"
        if limit is not None:
            counted = f"SELECT * FROM ({counted}) s WHERE last >= {limit}"
        known = _known(engine, table, counted, limit)
        if closed:
            counted = f"SELECT * FROM ({counted}) c WHERE 1 = 0"
        elif known:  # ids that were given before stay, and new ones follow them
            left = f"LEFT JOIN {_given(table)} k ON k.raw = c.raw WHERE k.raw IS NULL"
            counted = f"SELECT c.* FROM ({counted}) c {left}"
        if table.least > 1:
            engine.run(f"ids of {table.name}", f"CREATE TABLE {_unknown(table)} AS {counted}")
            counted = f"SELECT * FROM {_unknown(table)} WHERE n >= {table.least}"
        found = engine.ranked(step, named, counted, "n DESC, raw", FIRST_ID + known)
        if known:
            given = f"SELECT raw, 0 AS n{last}, id FROM {_given(table)}"
            engine.execute(f"INSERT INTO {named} {given}")
        rows[table.name] = FIRST_ID + known + found
    return rows


def _counted(engine: Engine, config: Options, table: Table) -> str:
    """SQL of a table's ids and how often each counts: (raw, n), and ``last`` where ids expire."""
    features = [f for f in config.schema().features if f.table == table.name]
    own = " UNION ALL ".join(_frequencies(engine, config, f) for f in features)
    own = own or "SELECT CAST(NULL AS STRING) AS raw, 0 AS n, 0 AS fresh, 0 AS last"
    n = "n" if config.counted_from() is None or table.least == 1 else "fresh"
    expires = config.expires_before() is not None
    latest = ", max(last) AS last" if expires else ""
    own = f"SELECT raw, sum({n}) AS n{latest} FROM ({own}) f WHERE raw IS NOT NULL GROUP BY raw"
    if not engine.columns(f"pending_{table.name}"):
        return own
    both = "coalesce(c.n, 0) + coalesce(p.n, 0) AS n"
    both += ", greatest(c.last, p.last) AS last" if expires else ""
    return f"""SELECT coalesce(c.raw, p.raw) AS raw, {both}
        FROM ({own}) c FULL JOIN {name(f"pending_{table.name}")} p ON p.raw = c.raw"""


def rare(table: Table) -> str:
    """SQL of the ids of a table with a least count that are not known yet: (raw, n), and ``last``
    where ids expire."""
    return f"SELECT * FROM {_unknown(table)} WHERE n < {table.least}"


def rare_ids(engine: Engine, schema: Schema) -> dict[str, int]:
    """Table with a least count -> how many ids that training sees share the unknown row."""
    tables = (t for t in schema.tables if t.least > 1)
    return {t.name: int(engine.one(f"SELECT count(*) FROM ({rare(t)}) r")[0]) for t in tables}


def notes(
    schema: Schema,
    found: Mapping[str, int],
    sizes: Mapping[str, int],
    unknown: Mapping[str, int],
    trained: int,
) -> list[str]:
    """What least counts left to the unknown row, a sentence for each table.

    found: as `rare_ids`. sizes: rows of each table. unknown: of each feature, training rows with
    an unknown value. trained: training rows.
    """
    said = []
    for table, ids in found.items():
        shares = [
            f"{unknown[f.name] / trained:.2%} have one in {f.name!r}"
            for f in schema.features
            if f.table == table and f.name in unknown
        ]
        rows = f"; of {trained:,} training rows {' and '.join(shares)}" if shares else ""
        least, own = schema.table(table).least, sizes[table] - FIRST_ID
        said.append(
            f"{ids:,} ids of table {table!r} were seen fewer than {least} times in training and "
            f"share the unknown row, beside {own:,} that have rows of their own{rows}"
        )
    return said


def _known(engine: Engine, table: Table, seen: str, limit: int | None) -> int:
    """How many ids ``known_<table>`` gives, where a night has brought it.

    seen: SQL of the ids that training has seen since `limit`. Of the others those leave that it
    has not seen since then before either; a note says how many.
    """
    if not engine.columns(f"known_{table.name}"):
        return 0
    given = int(engine.one(f"SELECT count(*) FROM {_given(table)}")[0])
    if limit is None:
        return given
    engine.replace(
        _given(table),
        f"""SELECT raw, (row_number() OVER (ORDER BY id) + {FIRST_ID - 1})::INTEGER AS id, last
        FROM (SELECT k.raw, k.id, greatest(k.last, s.last) AS last
            FROM {_given(table)} k LEFT JOIN ({seen}) s ON s.raw = k.raw) e
        WHERE last >= {limit}""",
    )
    left = int(engine.one(f"SELECT count(*) FROM {_given(table)}")[0])
    if left < given:
        engine.notes.append(
            f"{given - left:,} of {given:,} ids of table {table.name!r} have left the vocabulary, "
            "as their last row or behaviour is too old; a model reads them as unknown"
        )
    return left


def _count(engine: Engine, config: Options, impressions: bool, late: Late) -> None:
    """``count_<group or feature>`` (``idx``, ``n``): how often training sees what; where a night
    asks for it also ``fresh``, how often from `Options.counted_from` on, and ``last``, when.

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
    measures = _measures(config)
    time = ', "timestamp"' if len(measures) > 1 else ""
    for group in ("user", "item"):
        source = f"SELECT {late.row(group)} AS idx{time} FROM visible"
        if impressions:
            source += f" UNION ALL SELECT {late.row(group)}{time} FROM {rows}"
        _grouped(engine, group, source, measures)
    for f in schema.group("behaviour"):
        source = f"SELECT {code(f)} AS idx{time} FROM visible"
        _grouped(engine, f.name, source, measures, "feature_")
    for f in schema.group("context"):
        source = f"SELECT {code(f)} AS idx{time} FROM {rows}"
        _grouped(engine, f.name, source, measures, "feature_")


def _measures(config: Options) -> dict[str, str]:
    """What is counted of each value: name -> SQL."""
    since, found = config.counted_from(), {"n": "count(*)"}
    if since is not None:
        found["fresh"] = f'sum(CASE WHEN "timestamp" >= {since} THEN 1 ELSE 0 END)'
    if config.expires_before() is not None:
        found["last"] = 'max("timestamp")'
    return found


def _grouped(
    engine: Engine, what: str, source: str, measures: Mapping[str, str], prefix: str = ""
) -> None:
    chosen = ", ".join(f"{sql} AS {measure}" for measure, sql in measures.items())
    engine.run(
        f"count {what}",
        f"""CREATE TABLE {name(f"count_{prefix}{what}")} AS
        SELECT idx, {chosen} FROM ({source}) s GROUP BY idx""",
    )


def _frequencies(engine: Engine, config: Options, feature: Feature) -> str:
    """SQL of a feature's values and their `_measures`."""
    schema, measured = config.schema(), ", ".join(_measures(config))
    dims, counts = _dims(feature), f"count_feature_{feature.name}"
    if feature.group in ("profile", "item"):
        counts = "count_user" if feature.group == "profile" else "count_item"
    source = f"d.{_column(schema, feature)}"
    value = f"{source} AS raw" if feature.length is None else engine.elements({"raw": source})
    counted = ", ".join(f"c.{measure}" for measure in _measures(config))
    joined = f"SELECT {value}, {counted} FROM {name(counts)} c JOIN {dims} d ON d.idx = c.idx"
    return f"SELECT raw, {measured} FROM ({joined}) e"


def _column(schema: Schema, feature: Feature) -> str:
    return column(schema, feature) if feature.group in ("profile", "item") else "raw"


def _dims(feature: Feature) -> str:
    tables = {"profile": "user_rows", "item": "item_rows"}
    return tables.get(feature.group, name(f"values_{feature.name}"))


def _vocabulary(table: Table) -> str:
    return name(f"vocabulary_{table.name}")


def _unknown(table: Table) -> str:
    return name(f"unknown_{table.name}")


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
