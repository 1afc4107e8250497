"""Popularity-proportional negatives: each is the item of another row drawn from a pool.

The pool holds numbered rows, so one draw is a keyed hash modulo the pool's size and a join. Under
``strict`` a split draws from its own positives: its negatives then have the distribution of its
positives over items (but for the rejected draws, below), and neither popularity nor novelty tells
one from the other. Under ``paper`` every split draws from all behaviours of all users kept.

A draw that hits the positive's own item is repeated, at most `ATTEMPTS` times in all, then given
up. Rejection makes frequent items rarer among the negatives: an item of share p by a factor of
about 1 - p + Σ p². What that tells is bounded. Before rejection positive and negative have the same
law, so any score of the item has AUC ½; a pair is redrawn with probability Σ p², and counted ½
before, so the AUC moves by at most Σ p² / 2. `notes` warns where that is more than `TELLS`.
"""

from __future__ import annotations

from at4ctr.data.dataset import SPLITS, Options
from at4ctr.data.duck import Engine
from at4ctr.data.sampling import uniform31_sql
from at4ctr.data.steps import code

ATTEMPTS = 8
TELLS = 0.02  # how far rejection may move an AUC before the manifest says so
ROWS = 2**29  # more than a split has; indices are 32-bit integers


def draw(engine: Engine, config: Options) -> int:
    """Makes ``negatives``; returns how many were given up.

    ``negatives``: the columns of the positive, ``own`` its item, ``item`` the negative, ``number``
    from 1, ``attempt``. Rows with ``item = own`` are failed draws.
    """
    sizes = _pool(engine, config)
    context = "".join(f", {code(f)}" for f in config.schema().group("context"))
    kept = f'"user", split, pos, cut, form{context}, item AS own, row, number'
    first = f"""SELECT {kept}, 0 AS attempt FROM (
        SELECT b.*, b.rank + o.start AS row FROM behaviours b
        JOIN offsets o ON o."user" = b."user" AND o.split = b.split) b
        CROSS JOIN (SELECT unnest(range(1, {config.negatives + 1})) AS number) k"""
    drawn = _drawn(first, config, sizes, context)
    engine.run("negatives", f"CREATE TABLE negatives AS {drawn}")
    for attempt in range(1, ATTEMPTS):
        failed = f"FROM negatives WHERE attempt = {attempt - 1} AND item = own"
        if not engine.one(f"SELECT count(*) {failed}")[0]:
            return 0
        again = f"""SELECT "user", split, pos, cut, form{context}, own, row, number,
            {attempt} AS attempt {failed}"""
        engine.run(
            f"negatives, attempt {attempt + 1}",
            f"INSERT INTO negatives {_drawn(again, config, sizes, context)}",
        )
    last = f"attempt = {ATTEMPTS - 1} AND item = own"
    return int(engine.one(f"SELECT count(*) FROM negatives WHERE {last}")[0])


def notes(engine: Engine, config: Options, given_up: int) -> list[str]:
    """What a report should say about the negatives."""
    said = []
    if given_up:
        said.append(f"{given_up:,} negatives were given up after {ATTEMPTS} draws of the "
                    "positive's own item")  # fmt: skip
    if config.protocol == "paper":
        return said
    shares = engine.rows(
        """SELECT split, sum(n::DOUBLE * n) / sum(n) ** 2 FROM (
            SELECT split, item, count(*) AS n FROM behaviours WHERE split IS NOT NULL
            GROUP BY split, item) c GROUP BY split ORDER BY split"""
    )
    return said + [
        f"Σp² of the items of the {SPLITS[split]} positives is {collide:.3f}, and a negative that "
        "is the positive's own item is drawn again, so item popularity alone may reach an AUC up "
        f"to {collide / 2:.3f} from 0.5"
        for split, collide in shares
        if collide / 2 > TELLS
    ]


def _pool(engine: Engine, config: Options) -> list[tuple[int, int]]:
    """Makes ``pool`` (``row``, ``item``); returns (first row, rows) of each split's part."""
    if config.protocol == "paper":
        size = engine.run(
            "pool",
            """CREATE TABLE pool AS
            SELECT (s.start + b.pos)::INTEGER AS row, b.item FROM behaviours b
            JOIN (SELECT idx, sum(n) OVER (ORDER BY idx) - n AS start FROM users) s
            ON s.idx = b."user" """,
        )
        return [(0, size)] * len(SPLITS)
    sizes = dict(
        engine.rows("SELECT split, count(*) FROM behaviours WHERE split IS NOT NULL GROUP BY split")
    )
    parts, first = [], 0
    for split in range(len(SPLITS)):
        parts.append((first, sizes.get(split, 0)))
        first += sizes.get(split, 0)
    base = _by_split([start for start, _ in parts], "b.split")
    engine.run(
        "pool",
        f"""CREATE TABLE pool AS SELECT ({base} + o.start + b.rank)::INTEGER AS row, b.item
        FROM behaviours b JOIN offsets o ON o."user" = b."user" AND o.split = b.split""",
    )
    return parts


def _drawn(rows: str, config: Options, sizes: list[tuple[int, int]], context: str) -> str:
    """SQL of one attempt: `rows` with the item of the pool's row that each draws."""
    words = ["split", "row", "number", "attempt"]
    high, low = (uniform31_sql(words, f"{config.seed}/draw/{half}", ROWS) for half in (0, 1))
    start = _by_split([first for first, _ in sizes], "split")
    size = _by_split([max(rows, 1) for _, rows in sizes], "split")
    return f"""SELECT d."user", d.split, d.pos, d.cut, d.form{context}, d.own, d.row, d.number,
            d.attempt, p.item
        FROM (SELECT *, ({start} + ({high} * {2**31} + {low}) % {size})::INTEGER AS target
            FROM ({rows}) r) d
        JOIN pool p ON p.row = d.target"""


def _by_split(values: list[int], column: str) -> str:
    cases = " ".join(f"WHEN {split} THEN {value}" for split, value in enumerate(values))
    return f"(CASE {column} {cases} END)::BIGINT"
