"""Drawn negatives: each is the item of a row of a pool, by default in proportion to popularity.

The pool holds numbered rows, so one draw is a keyed hash modulo the pool's size and a join. Under
``strict`` a split draws from its own positives: its negatives then have the distribution of its
positives over items (but for the rejected draws, below), and neither popularity nor novelty
separates them. Under ``paper`` every split draws from all behaviours of all users kept.

``draw="uniform"``: the pool holds each of those items once. Positives still follow popularity, so
popularity alone separates them from negatives.

A negative has the item's attributes as the pool's row knows them (`attributes`), not as they were
known at the time of its positive. A draw may take an item that the log has not met by then, and a
missing attribute would separate it from a positive. So item and attributes have the same joint
distribution in positives and negatives. Under ``draw="uniform"`` the attributes are those of one
row of the split, picked by a hash.

A draw that is rejected is repeated, at most `ATTEMPTS` times in all, then given up. ``reject``:

- ``own``: the positive's own item. Rejection makes frequent items rarer among the negatives: an
  item of share p by a factor of about 1 - p + Σ p², which moves an AUC by at most Σ p² / 2. Where
  users rarely meet an item twice, a candidate that the history holds is a negative.
- ``history``: if the history holds the positive, its negative is another behaviour of that history.
  Otherwise the negative is an item that the history does not hold; the weights of `repetition` keep
  the popularity of these negatives equal to their positives'.
- ``seen``: every item that the user has anywhere in the log, before the row or after. Published
  baselines are often measured so. Frequent items are rejected most; an item of the user's history
  is never a negative; and which items are never a user's training negatives depends on what that
  user does in the test split.

`shortcuts` measures how much of these differences a model could learn.
"""

from __future__ import annotations

from at4ctr.data.dataset import SPLITS, Options
from at4ctr.data.engines.base import Engine
from at4ctr.data.preparation import repetition
from at4ctr.data.preparation import sql as steps
from at4ctr.data.preparation.attributes import Late
from at4ctr.data.preparation.sql import code
from at4ctr.data.sampling import uniform31_sql
from at4ctr.errors import InputError

ATTEMPTS = {"own": 8, "history": 12, "seen": 64}  # an active user has met much of the pool
TRIES = 64  # the most draws of one attempt; the first that is not rejected counts
SAID = 8  # attempts that have a line each
ROWS = 2**29  # the most that a split may have: indices are 32-bit integers


def draw(engine: Engine, config: Options, late: Late) -> int:
    """Makes ``negatives``; returns how many were given up.

    ``negatives``: the columns of the positive, ``own`` its item, ``item`` the negative, ``number``
    from 1, ``attempt``. Rows with ``item = own`` are failed draws.
    """
    if config.reject == "history" and late.item:
        names = ", ".join(f.name for f in late.item)
        raise InputError(
            f"data options of {config.name}: reject is history and the log tells {names} of some "
            "items only after their first rows; expected attributes that every row knows, as a "
            "negative of the history would be recognised by what was missing then; set "
            "data.reject=own, or give the attributes in a file of their own"
        )
    engine.run("instances of users", steps.instances("rows_of_users", "behaviours"))
    engine.run("offsets", steps.offsets("offsets", "SELECT * FROM rows_of_users"))
    sizes = _pool(engine, config, late)
    if config.reject != "own":
        met = """CREATE TABLE met AS SELECT "user", item, min(pos)::INTEGER AS pos FROM behaviours
            GROUP BY "user", item"""
        engine.run("items of users", met)
    schema = config.schema()
    context = [code(f) for f in schema.group("context")]
    context += [steps.number(n) for n in schema.numbers if n.group == "context"]
    context += [late.row("user")] if late.user else []
    context += ['"timestamp"'] if schema.times else []
    rows = "behaviours"
    if config.reject == "history":
        if config.draw == "popularity":
            repetition.weigh(engine, config)
        rows = """(SELECT b.*, m.pos < b.cut AS again FROM behaviours b
            JOIN met m ON m."user" = b."user" AND m.item = b.item)"""
        context.append("again")
    more = "".join(f", {column}" for column in context)
    kept = f'"user", split, pos, cut, form{more}, item AS own, row, number'
    numbers = ", ".join(f"({number + 1})" for number in range(config.negatives))
    first = f"""SELECT {kept}, 0 AS attempt FROM (
        SELECT b.*, b.rank + o.start AS row FROM {rows} b
        JOIN offsets o ON o."user" = b."user" AND o.split = b.split) b
        CROSS JOIN (VALUES {numbers}) k(number)"""
    drawn = _drawn(first, config, sizes, context, 0, late)
    engine.run("negatives", f"CREATE TABLE negatives AS {drawn}")
    last = ATTEMPTS[config.reject] - 1
    for attempt in range(1, last + 1):
        failed = f"FROM negatives WHERE attempt = {attempt - 1} AND item = own"
        if not engine.one(f"SELECT count(*) {failed}")[0]:
            return 0
        again = f"""SELECT "user", split, pos, cut, form{more}, own, row, number,
            {attempt} AS attempt {failed}"""
        redraw = f"INSERT INTO negatives {_drawn(again, config, sizes, context, attempt, late)}"
        if attempt < SAID:
            engine.run(f"negatives, attempt {attempt + 1}", redraw)
        else:
            engine.execute(redraw)
    given_up = f"SELECT count(*) FROM negatives WHERE attempt = {last} AND item = own"
    return int(engine.one(given_up)[0])


def notes(config: Options, given_up: int) -> list[str]:
    """What a report should say about the negatives."""
    found = []
    if given_up:
        what = {
            "own": "the positive's own item",
            "history": "items that do not go with the history",
            "seen": "items of the user's",
        }[config.reject]
        found.append(
            f"{given_up:,} negatives were given up after {sum(_tries(config))} draws of {what}"
        )
    if config.reject == "seen":
        found.append(
            "a negative is never an item that its user has anywhere in the log, before or after "
            "the row: one that is in the history is a positive for sure, and a user's training "
            "negatives are none of that user's test positives"
        )
    return found


def _pool(engine: Engine, config: Options, late: Late) -> list[tuple[int, int]]:
    """Makes ``pool`` (``row``, ``item``, its version); returns each split's (first row, rows)."""
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


def _tries(config: Options) -> list[int]:
    """How many draws each attempt makes; they double where many are rejected by design."""
    attempts = range(ATTEMPTS[config.reject])
    return [min(2**k, TRIES) if config.reject == "history" else 1 for k in attempts]


def _drawn(
    rows: str,
    config: Options,
    sizes: list[tuple[int, int]],
    context: list[str],
    attempt: int,
    late: Late,
) -> str:
    """SQL of one attempt: `rows` with the item of the row that each draws, or ``own`` where it is
    rejected."""
    tries = _tries(config)
    words = ["split", "row", "number", "draw"]
    high, low = (uniform31_sql(words, f"{config.seed}/draw/{half}", ROWS) for half in (0, 1))
    start = _by_split([first for first, _ in sizes], "split")
    size = _by_split([max(rows, 1) for _, rows in sizes], "split")
    more = "".join(f", d.{column}" for column in context)
    kept = f"""d."user", d.split, d.pos, d.cut, d.form{more}, d.own, d.row, d.number,
        d.attempt"""
    numbers = ", ".join(f"({sum(tries[:attempt]) + k})" for k in range(tries[attempt]))
    drawn = f"""(SELECT *, ({start} + word % {size})::INTEGER AS target FROM (
        SELECT *, {high} * {2**31} + {low} AS word
        FROM ({rows}) r CROSS JOIN (VALUES {numbers}) t(draw)) w) d"""
    pooled = f"{drawn} JOIN pool p ON p.row = d.target"
    row = late.row("item") if late.item else ""
    of_pool, of_history = (f", {t}.{row}" if row else "" for t in "ph")
    if config.reject == "own":
        return f"SELECT {kept}, p.item{of_pool} FROM {pooled}"
    pooled += ' LEFT JOIN met m ON m."user" = d."user" AND m.item = p.item'
    if config.reject == "seen":
        item = "CASE WHEN m.item IS NULL THEN p.item ELSE d.own END AS item"
        return f"SELECT {kept}, {item}{of_pool} FROM {pooled}"
    fits = "(m.pos IS NULL OR m.pos >= d.cut)"
    if config.draw == "popularity":
        pooled += " LEFT JOIN keeps k ON k.split = d.split AND k.item = p.item"
        thinned = uniform31_sql([f"d.{word}" for word in words], f"{config.seed}/keep", ROWS)
        fits += f" AND {thinned} < k.keep"
    first = ", ".join(
        f"min_by(d.{column}, d.draw) FILTER (WHERE d.fits AND d.item <> d.own) AS {made}"
        for column, made in (("item", "found"), *([(row, row)] if row else []))
    )
    return f"""SELECT * EXCLUDE (found), coalesce(found, own) AS item FROM (
        SELECT {kept}, {first} FROM (
        SELECT {kept}, d.draw, p.item{of_pool}, {fits} AS fits FROM {pooled} WHERE NOT d.again
        UNION ALL
        SELECT {kept}, d.draw, h.item{of_history}, TRUE AS fits FROM {drawn} JOIN behaviours h
            ON h."user" = d."user" AND h.pos = d.word % greatest(d.cut, 1) WHERE d.again) d
        GROUP BY ALL) f"""


def _by_split(values: list[int], column: str) -> str:
    cases = " ".join(f"WHEN {split} THEN {value}" for split, value in enumerate(values))
    return f"(CASE {column} {cases} END)::BIGINT"
