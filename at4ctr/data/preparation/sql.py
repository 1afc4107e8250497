"""The steps of preparation as SQL, from ``log`` to numbered rows with their cuts and splits.

The dialect is what `engine` says. No window spans a whole table, so that a cluster never sorts one
in a single task. Dense indices are numbered bucket by bucket: the index of a raw id is the number
of ids in lower buckets plus its rank in its own, buckets being a hash of the id. Running sums over
users go block by block of users likewise.
"""

from __future__ import annotations

from collections.abc import Sequence

from at4ctr.data.dataset import SPLITS, Options
from at4ctr.data.engines.base import name
from at4ctr.data.preparation.attributes import carried as columns_of
from at4ctr.data.preparation.attributes import first_seen, firsts_of_log, value
from at4ctr.data.sampling import PRIME, coefficient, linear_sql, mix_sql, reduced_sql, uniform31_sql
from at4ctr.schema import Feature, Number, Schema

BUCKETS = 256
BLOCK = 65_536  # users or items whose running sums one task makes
NUMBERING = 20_171_125  # seed of the buckets, the same for every preparation
NEGATIVE = 4  # the word after user key, item key, time and ordinal: number of a negative


def column(schema: Schema, feature: Feature) -> str:
    """The column of a profile or item feature in ``users`` or ``items``; an id is ``raw``."""
    if feature in (schema.user_id, schema.item_id):
        return "raw"
    return value(feature)


def code(feature: Feature) -> str:
    """The column of a behaviour or context feature where rows carry an index of its values."""
    return name(f"c_{feature.name}")


def number(declared: Number) -> str:
    """The column of a context number where rows carry it."""
    return name(f"n_{declared.name}")


def users(schema: Schema, least: int, shown: Sequence[str]) -> str:
    """``user_raw``: raw id, behaviours, first seen attributes of users with at least `least`.

    shown: the columns of ``impressions``; with `least` 0 its users count too.
    """
    user = name(schema.user_id.name)
    attributes = first_seen(schema, "profile")
    source = "(SELECT *, 1 AS one FROM log) l"
    if shown and (attributes or least == 0):
        columns = [column for column, _ in columns_of(attributes)]
        own = ", ".join([user, *columns])
        there = set(map(name, shown))
        given = [c if c in there else f"NULL AS {c}" for c in columns]
        source = f"""(SELECT {own}, "timestamp", ord, 1 AS one FROM log UNION ALL
            SELECT {", ".join([user, *given])}, "timestamp", ord, 0 AS one FROM impressions) l"""
    return f"""CREATE TABLE user_raw AS
        SELECT {user} AS raw, sum(one)::INTEGER AS n{firsts_of_log(attributes)} FROM {source}
        GROUP BY {user} HAVING sum(one) >= {least}"""


def items(schema: Schema, impressions: bool) -> str:
    """``item_raw``: raw id and first seen attributes of every item of the users kept."""
    item, user = name(schema.item_id.name), name(schema.user_id.name)
    attributes = [column for column, _ in columns_of(first_seen(schema, "item"))]
    columns = ", ".join([user, item, *attributes, '"timestamp"', "ord"])
    source = f"SELECT {columns} FROM log"
    if impressions:
        source += f" UNION ALL SELECT {columns} FROM impressions"
    firsts = firsts_of_log(first_seen(schema, "item"))
    return f"""CREATE TABLE item_raw AS
        SELECT {item} AS raw{firsts} FROM ({source}) s
        WHERE {user} IN (SELECT raw FROM user_raw) GROUP BY {item}"""


def numbered(table: str, source: str, key: str) -> str:
    """``table``: the rows of `source` with ``key`` (an SQL of ``raw``) and dense ``idx``."""
    bucket = uniform31_sql(["key"], NUMBERING, PRIME)
    return f"""CREATE TABLE {table} AS
        WITH keyed AS (SELECT *, {key} AS key FROM {source}),
        bucketed AS (SELECT *, {bucket} % {BUCKETS} AS bucket FROM keyed),
        sizes AS (SELECT bucket, count(*) AS size FROM bucketed GROUP BY bucket),
        starts AS (SELECT bucket, sum(size) OVER (ORDER BY bucket) - size AS start FROM sizes)
        SELECT b.* EXCLUDE (bucket), (s.start
            + row_number() OVER (PARTITION BY b.bucket ORDER BY b.raw) - 1)::INTEGER AS idx
        FROM bucketed b JOIN starts s ON b.bucket = s.bucket"""


def values(feature: Feature, relation: str, key: str) -> str:
    """``values_<feature>``: the distinct raw values of a behaviour or context feature.

    key: an SQL of ``raw``, as in `numbered`. A missing value has an index too.
    """
    column = name(feature.name)
    source = f"(SELECT DISTINCT {column} AS raw FROM {relation}) v"
    return numbered(name(f"values_{feature.name}"), source, f"coalesce({key}, 0)")


def encoded(
    table: str, relation: str, schema: Schema, carried: Sequence[Feature], more: str
) -> str:
    """``table``: the rows of a relation with dense indices in place of raw ids."""
    user, item = name(schema.user_id.name), name(schema.item_id.name)
    joins, columns = [], []
    for number, f in enumerate(carried):
        joins.append(
            f"LEFT JOIN {name('values_' + f.name)} v{number}"
            f" ON v{number}.raw IS NOT DISTINCT FROM l.{name(f.name)}"
        )
        columns.append(f", v{number}.idx AS {code(f)}")
    return f"""CREATE TABLE {table} AS
        SELECT u.idx AS "user", i.idx AS item, i.key::INTEGER AS item_key,
            l."timestamp", l.ord{"".join(columns)}{more}
        FROM {relation} l JOIN users u ON u.raw = l.{user} JOIN items i ON i.raw = l.{item}
        {" ".join(joins)}"""


def placed(source: str, config: Options, cut: str, within: str) -> str:
    """The rows of `source` with ``pos``, ``cut``, ``split``, ``rank`` and ``form``.

    split: 0, 1, 2 in the order of `SPLITS`; NULL for a row that is no instance.
    rank: 0-based place among the user's instances of the split.
    form: the linear form of the row's stable words, which are the keys of its user and item, its
        time and its ordinal among the rows of the same three, by ``ord``: neither the order of
        other rows in the file nor a filter of them changes the forms of an impression.
    """
    split = " ".join(f"WHEN '{s}' THEN {number}" for number, s in enumerate(SPLITS))
    words = ["user_key", "item_key", reduced_sql('"timestamp"'), "ordinal"]
    gone, earlier = ", seen" if cut == "seen" else "", ""
    asked = config.schema().times, config.counted_from() is not None, config.expires_before()
    gone += "" if any(asked) else ', "timestamp"'
    if "earlier" in f"{config.split()} {cut}":  # a window that few ask for
        gone += ", earlier"
        earlier = """(rank() OVER (PARTITION BY e."user" ORDER BY e."timestamp")
                - 1)::INTEGER AS earlier,"""
    return f"""
        SELECT * EXCLUDE (asked), CASE WHEN cut >= {config.min_history} THEN asked END AS split,
            (row_number() OVER (PARTITION BY "user", CASE WHEN cut >= {config.min_history}
                THEN asked END ORDER BY pos) - 1)::INTEGER AS rank
        FROM (SELECT * EXCLUDE (item_key, user_key, n, ord, ordinal{gone}),
            (CASE {config.split()} {split} END)::TINYINT AS asked, ({cut})::INTEGER AS cut,
            {linear_sql(words, config.seed, PRIME)}::INTEGER AS form
        FROM (SELECT e.*, u.key AS user_key, c.n,
            (row_number() OVER (PARTITION BY e."user" ORDER BY e."timestamp", e.ord)
                - 1)::INTEGER AS pos,
            {earlier}
            row_number() OVER (PARTITION BY e."user", e.item, e."timestamp" ORDER BY e.ord)
                - 1 AS ordinal
        FROM {source} e JOIN users u ON u.idx = e."user"
        JOIN (SELECT "user", count(*) AS n FROM {source} WHERE "user" {within} GROUP BY "user") c
            ON c."user" = e."user" WHERE e."user" {within}) p) q"""


def sees() -> str:
    """``seen``: of every impression, by ``ord``, how many behaviours have a smaller timestamp."""
    return """CREATE TABLE seen AS
        SELECT ord, cut::INTEGER AS cut FROM (
            SELECT ord, past, sum(past) OVER (PARTITION BY "user" ORDER BY "timestamp", past
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS cut
            FROM (SELECT "user", "timestamp", ord, 0 AS past FROM shown_bare
                UNION ALL SELECT "user", "timestamp", NULL, 1 FROM events) b) c
        WHERE past = 0"""


def instances(table: str, relation: str) -> str:
    """``table``: how many instances ``n`` of each split each user has."""
    return f"""CREATE TABLE {table} AS SELECT "user", split, count(*) AS n FROM {relation}
        WHERE split IS NOT NULL GROUP BY "user", split"""


def offsets(table: str, counts: str, place: str = '"user"') -> str:
    """``table``: how many rows of a split all lower places have, as ``start``.

    counts: SQL of a place, a column of numbers from 0, of ``split`` and of their rows ``n``.
    """
    within = f"PARTITION BY c.split, c.block ORDER BY c.{place}"
    return f"""CREATE TABLE {table} AS
        WITH counts AS (SELECT c.*, {place} - {place} % {BLOCK} AS block FROM ({counts}) c),
        blocks AS (SELECT split, block, sum(n) AS n FROM counts GROUP BY split, block),
        before AS (SELECT split, block,
            sum(n) OVER (PARTITION BY split ORDER BY block) - n AS start FROM blocks)
        SELECT c.{place}, c.split,
            (b.start + sum(c.n) OVER ({within}) - c.n)::INTEGER AS start
        FROM counts c JOIN before b ON b.split = c.split AND b.block = c.block"""


def u31(number: str, seed: int) -> str:
    """SQL of a row's ``u31``: its form, shifted by the number of the negative, mixed."""
    shift = coefficient(seed, "linear", NEGATIVE)
    return mix_sql(f"((form + {shift} * ({number})::BIGINT) % {PRIME})", seed)
