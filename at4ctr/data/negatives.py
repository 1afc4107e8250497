"""Drawn negatives: each is the item of a row of a pool, popularity-proportional by default.

The pool holds numbered rows, so one draw is a keyed hash modulo the pool's size and a join. Under
``strict`` a split draws from its own positives: its negatives then have the distribution of its
positives over items (but for the rejected draws, below), and neither popularity nor novelty tells
one from the other. Under ``paper`` every split draws from all behaviours of all users kept.

``draw="uniform"``: the pool holds each of those items once. Positives still follow popularity, so
popularity alone tells them from negatives; `notes` says how well, as an AUC.

A negative has the item as the pool's row has it, with the attributes known there (`attributes`), not
those known at the time of its positive: a draw may take an item that the log has not met by then,
and a missing attribute would tell it from a positive. So positives and negatives have one law of
item and attributes. Under ``draw="uniform"`` it is one row's of the split, picked by a hash.

A draw that hits the positive's own item is repeated, at most `ATTEMPTS` times in all, then given
up. Rejection makes frequent items rarer among the negatives: an item of share p by a factor of
about 1 - p + Σ p². What that tells is bounded. Before rejection positive and negative have the same
law, so any score of the item has AUC ½; a pair is redrawn with probability Σ p², and counted ½
before, so the AUC moves by at most Σ p² / 2. `notes` warns where that is more than `TELLS`.

``reject="seen"``: a draw is repeated too where its user has the item anywhere in the log, before
the row or after. Published baselines are often measured so. No such bound holds, and it tells:
frequent items are redrawn most; an item of the user's history is never a negative, so a repeated
one is a positive for sure; and which items are never a user's training negatives depends on what
that user does in the test split.
"""

from __future__ import annotations

from at4ctr.data import steps
from at4ctr.data.attributes import Late
from at4ctr.data.dataset import SPLITS, Options
from at4ctr.data.engine import Engine
from at4ctr.data.sampling import uniform31_sql
from at4ctr.data.steps import code
from at4ctr.errors import InputError

ATTEMPTS = {"own": 8, "seen": 64}  # an active user has met much of the pool
SAID = 8  # attempts that have a line each
TELLS = 0.02  # how far rejection may move an AUC before the manifest says so
ROWS = 2**29  # the most that a split may have: indices are 32-bit integers


def draw(engine: Engine, config: Options, late: Late) -> int:
    """Makes ``negatives``; returns how many were given up.

    ``negatives``: the columns of the positive, ``own`` its item, ``item`` the negative, ``number``
    from 1, ``attempt``. Rows with ``item = own`` are failed draws.
    """
    engine.run("instances of users", steps.instances("rows_of_users", "behaviours"))
    engine.run("offsets", steps.offsets("offsets", "SELECT * FROM rows_of_users"))
    sizes = _pool(engine, config, late)
    if config.reject == "seen":
        met = 'CREATE TABLE met AS SELECT DISTINCT "user", item FROM behaviours'
        engine.run("items of users", met)
    context = "".join(f", {code(f)}" for f in config.schema().group("context"))
    context += f", {late.row('user')}" if late.user else ""
    kept = f'"user", split, pos, cut, form{context}, item AS own, row, number'
    numbers = ", ".join(f"({number + 1})" for number in range(config.negatives))
    first = f"""SELECT {kept}, 0 AS attempt FROM (
        SELECT b.*, b.rank + o.start AS row FROM behaviours b
        JOIN offsets o ON o."user" = b."user" AND o.split = b.split) b
        CROSS JOIN (VALUES {numbers}) k(number)"""
    drawn = _drawn(first, config, sizes, context, late)
    engine.run("negatives", f"CREATE TABLE negatives AS {drawn}")
    last = ATTEMPTS[config.reject] - 1
    for attempt in range(1, last + 1):
        failed = f"FROM negatives WHERE attempt = {attempt - 1} AND item = own"
        if not engine.one(f"SELECT count(*) {failed}")[0]:
            return 0
        again = f"""SELECT "user", split, pos, cut, form{context}, own, row, number,
            {attempt} AS attempt {failed}"""
        redraw = f"INSERT INTO negatives {_drawn(again, config, sizes, context, late)}"
        if attempt < SAID:
            engine.run(f"negatives, attempt {attempt + 1}", redraw)
        else:
            engine.execute(redraw)
    given_up = f"SELECT count(*) FROM negatives WHERE attempt = {last} AND item = own"
    return int(engine.one(given_up)[0])


def notes(engine: Engine, config: Options, given_up: int) -> list[str]:
    """What a report should say about the negatives."""
    said = []
    if given_up:
        what = "the positive's own item" if config.reject == "own" else "items of the user's"
        said.append(f"{given_up:,} negatives were given up after {ATTEMPTS[config.reject]} draws "
                    f"of {what}")  # fmt: skip
    if config.reject == "seen":
        said.append("a negative is never an item that its user has anywhere in the log, before or "
                    "after the row: one that is in the history is a positive for sure, and a "
                    "user's training negatives are none of that user's test positives")  # fmt: skip
    if config.draw == "uniform" or config.reject == "seen":
        return [*said, *_popularity(engine, config)]
    return said + ([] if config.protocol == "paper" else _collisions(engine))


def _collisions(engine: Engine) -> list[str]:
    shares = engine.rows(
        """SELECT split, sum(n::DOUBLE * n) / (sum(n)::DOUBLE * sum(n)::DOUBLE) FROM (
            SELECT split, item, count(*) AS n FROM behaviours WHERE split IS NOT NULL
            GROUP BY split, item) c GROUP BY split ORDER BY split"""
    )
    return [
        f"Σp² of the items of the {SPLITS[split]} positives is {collide:.3f}, and a negative that "
        "is the positive's own item is drawn again, so item popularity alone may reach an AUC up "
        f"to {collide / 2:.3f} from 0.5"
        for split, collide in shares
        if collide / 2 > TELLS
    ]


def _popularity(engine: Engine, config: Options) -> list[str]:
    """The AUC, on the later splits, of how many training positives an item has."""
    found = engine.rows(
        """WITH counts AS (
            SELECT item, count(*) AS n FROM behaviours WHERE split = 0 GROUP BY item),
        instances AS (SELECT split, item, 1 AS y FROM behaviours WHERE split > 0
            UNION ALL SELECT split, item, 0 FROM negatives WHERE split > 0 AND item <> own),
        cells AS (SELECT split, coalesce(n, 0) AS n, sum(y)::DOUBLE AS p, sum(1 - y)::DOUBLE AS q
            FROM instances i LEFT JOIN counts c ON c.item = i.item GROUP BY ALL),
        ranked AS (
            SELECT *, sum(q) OVER (PARTITION BY split ORDER BY n) - q / 2 AS below FROM cells)
        SELECT split, sum(p * below) / (sum(p) * sum(q)) FROM ranked
        GROUP BY split HAVING sum(p) * sum(q) > 0 ORDER BY split"""
    )
    if not found:
        return []
    how = "uniformly from the distinct items" if config.draw == "uniform" else "by popularity"
    aucs = " and ".join(f"{auc:.3f} in {SPLITS[split]}" for split, auc in found)
    return [
        f"negatives are drawn {how}, none that is {_rejected(config)}: the number of an item's "
        f"training positives, alone, has AUC {aucs}"
    ]


def _rejected(config: Options) -> str:
    return "the positive's own" if config.reject == "own" else "any of the user's own"


def _pool(engine: Engine, config: Options, late: Late) -> list[tuple[int, int]]:
    """Makes ``pool`` (``row``, ``item`` and its version); returns (first row, rows) of each split's part."""
    paper = config.protocol == "paper"
    if config.draw == "uniform":
        part = "0" if paper else "split"
        where = "" if paper else "WHERE split IS NOT NULL"
        size = f"SELECT {part}, count(DISTINCT item) FROM behaviours {where} GROUP BY ALL"
    elif paper:
        size = "SELECT 0, count(*) FROM behaviours"
    else:
        size = "SELECT split, count(*) FROM behaviours WHERE split IS NOT NULL GROUP BY split"
    sizes = dict(engine.rows(size))
    if max(sizes.values(), default=0) > ROWS:
        raise InputError(
            f"data options of {config.name}: a split has {max(sizes.values()):,} rows; expected at "
            f"most {ROWS:,} where negatives are drawn; lower data.user_rate"
        )
    if paper:
        parts = [(0, sizes[0])] * len(SPLITS)
    else:
        counts = [sizes.get(split, 0) for split in range(len(SPLITS))]
        parts = [(sum(counts[:split]), count) for split, count in enumerate(counts)]
    split, where = ("0 AS split", "") if paper else ("split", "WHERE split IS NOT NULL")
    if config.draw == "uniform":
        items = f"SELECT DISTINCT item, {split}, 1 AS n FROM behaviours {where}"
        engine.execute(steps.offsets("begins", items, "item"))
    elif paper:
        engine.execute(steps.offsets("begins", f'SELECT idx AS "user", {split}, n FROM users'))
    engine.run("pool", f"CREATE TABLE pool AS {_rows(config, parts, late)}")
    return parts


def _rows(config: Options, parts: list[tuple[int, int]], late: Late) -> str:
    """SQL of the pool's rows, numbered part after part."""
    base = _by_split([first for first, _ in parts], "b.split")
    version = late.row("item")
    if config.draw == "uniform":
        numbered = f"SELECT ({base} + b.start)::INTEGER AS row, b.item"
        if not late.item:
            return f"{numbered} FROM begins b"
        return f"""{numbered}, v.{version} FROM begins b JOIN (
            SELECT item, split, min_by({version}, (form, {version})) AS {version} FROM behaviours
            WHERE split IS NOT NULL GROUP BY item, split) v
            ON v.item = b.item AND v.split = b.split"""
    if config.protocol == "paper":
        return """SELECT (s.start + b.pos)::INTEGER AS row, b.item FROM behaviours b
            JOIN begins s ON s."user" = b."user" """
    more = f", b.{version}" if late.item else ""
    return f"""SELECT ({base} + o.start + b.rank)::INTEGER AS row, b.item{more}
        FROM behaviours b JOIN offsets o ON o."user" = b."user" AND o.split = b.split"""


def _drawn(
    rows: str, config: Options, sizes: list[tuple[int, int]], context: str, late: Late
) -> str:
    """SQL of one attempt: `rows` with the item of the pool's row that each draws, or ``own``."""
    words = ["split", "row", "number", "attempt"]
    high, low = (uniform31_sql(words, f"{config.seed}/draw/{half}", ROWS) for half in (0, 1))
    start = _by_split([first for first, _ in sizes], "split")
    size = _by_split([max(rows, 1) for _, rows in sizes], "split")
    item, met = "p.item", ""
    if config.reject == "seen":
        item = "CASE WHEN m.item IS NULL THEN p.item ELSE d.own END AS item"
        met = 'LEFT JOIN met m ON m."user" = d."user" AND m.item = p.item'
    item += f", p.{late.row('item')}" if late.item else ""
    return f"""SELECT d."user", d.split, d.pos, d.cut, d.form{context}, d.own, d.row, d.number,
            d.attempt, {item}
        FROM (SELECT *, ({start} + ({high} * {2**31} + {low}) % {size})::INTEGER AS target
            FROM ({rows}) r) d
        JOIN pool p ON p.row = d.target {met}"""


def _by_split(values: list[int], column: str) -> str:
    cases = " ".join(f"WHEN {split} THEN {value}" for split, value in enumerate(values))
    return f"(CASE {column} {cases} END)::BIGINT"
