"""``reject="history"``: negatives that repeat the history as often as positives do, and are as
popular.

A log in which users never meet an item twice has no positive that its own history holds. A negative
drawn by popularity alone is in the history of an active user often, which gives it away. So a
positive that is new to its user gets a negative that is new to the user, and a positive that the
history holds gets a negative that the history holds.

Rejecting items of the history makes popular items rare among the negatives, as most users have met
them. So each item is drawn with a weight under which it is a negative as often as it is a positive.
With H(s) the items of instance s that are no candidates (history and own item), the weights solve

    w(i) · Σ over s without i in H(s) of 1 / Z(s) = positives of item i
    Z(s) = Σ over j not in H(s) of w(j)

`ROUNDS` steps of fixed-point iteration solve them approximately. A weight is at most `MOST` times
what popularity alone gives, so an item that nearly every history holds stays a little rarer than
among positives.
Weights are integers and quotients of exact doubles, so that both engines find the same.
"""

from __future__ import annotations

from at4ctr.data.dataset import SPLITS, Options
from at4ctr.data.engines.base import Engine
from at4ctr.data.sampling import PRIME

ROUNDS = 4
MOST = 16
UNIT = 2**30  # the sum of the weights before the first round
INVERSE = 2**50  # over Z(s) is the share of an instance
SMALLEST = 64  # Z(s) is at least this part of the sum of the weights


def weigh(engine: Engine, config: Options) -> None:
    """Makes ``keeps``: of every split and item, how many of `PRIME` draws are kept.

    ``met`` ("user", item, pos: where the user first has it) must be there.
    """
    fresh = """behaviours b JOIN met m ON m."user" = b."user" AND m.item = b.item
        WHERE m.pos >= b.cut"""
    engine.run(
        "new to their users",
        f"""CREATE TABLE fresh AS SELECT b."user", b.split, b.cut, b.item FROM {fresh}
            AND b.split IS NOT NULL""",
    )
    engine.execute(
        """CREATE TABLE walk AS
        SELECT "user", split, item, cut AS place, 0 AS past FROM fresh UNION ALL
        SELECT m."user", c.split, m.item, m.pos AS place, 1 AS past FROM met m
        JOIN (SELECT "user", split, max(cut) AS last FROM fresh GROUP BY "user", split) c
            ON c."user" = m."user" AND m.pos < c.last"""
    )
    if config.protocol == "paper":  # every split draws from all rows
        splits = ", ".join(f"({split})" for split in range(len(SPLITS)))
        wanted = f"""SELECT s.split, w.item, w.n FROM (
            SELECT b.item, count(*) AS n FROM {fresh} GROUP BY b.item) w
            CROSS JOIN (VALUES {splits}) s(split)"""
        there = "SELECT item, count(*) AS n FROM behaviours GROUP BY item"
        same = "t.item = w.item"
    else:
        wanted = "SELECT split, item, count(*) AS n FROM fresh GROUP BY split, item"
        there = """SELECT split, item, count(*) AS n FROM behaviours WHERE split IS NOT NULL
            GROUP BY split, item"""
        same = "t.item = w.item AND t.split = w.split"
    engine.execute(
        f"""CREATE TABLE weights AS SELECT w.split, w.item, w.n AS wanted, t.n AS there, l.total,
            greatest(floor({UNIT}::DOUBLE * w.n::DOUBLE / l.total::DOUBLE)::BIGINT, 1) AS weight
        FROM ({wanted}) w JOIN ({there}) t ON {same}
        JOIN (SELECT split, sum(n)::BIGINT AS total FROM ({wanted}) a GROUP BY split) l
            ON l.split = w.split"""
    )
    for _ in range(ROUNDS):
        engine.replace("weights", _improved())
    engine.run(
        "weights of items",
        f"""CREATE TABLE keeps AS SELECT w.split, w.item, floor({PRIME}::DOUBLE
            * ((w.weight::DOUBLE / w.there::DOUBLE) / m.most))::BIGINT AS keep
        FROM weights w JOIN (SELECT split, max(weight::DOUBLE / there::DOUBLE) AS most
            FROM weights GROUP BY split) m ON m.split = w.split""",
    )


def _improved() -> str:
    """SQL of ``weights`` after one more round."""
    within = 'PARTITION BY "user", split ORDER BY place'
    rows = "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    return f"""
        WITH sums AS (SELECT split, sum(weight)::BIGINT AS all_of FROM weights GROUP BY split),
        weighed AS (SELECT s.*, coalesce(w.weight, 0)::BIGINT AS weight FROM walk s
            LEFT JOIN weights w ON w.split = s.split AND w.item = s.item),
        passed AS (SELECT *, (CASE past WHEN 0 THEN weight ELSE 0 END
            + sum(CASE past WHEN 1 THEN weight ELSE 0 END)
                OVER ({within}, past {rows}))::BIGINT AS barred FROM weighed),
        shares AS (SELECT p."user", p.split, p.item, p.place, p.past,
            CASE p.past WHEN 0 THEN floor({INVERSE}::DOUBLE / greatest(s.all_of - p.barred,
                s.all_of / {SMALLEST})::DOUBLE)::BIGINT ELSE 0 END AS share
            FROM passed p JOIN sums s ON s.split = p.split),
        barring AS (SELECT split, item, past, share,
            sum(share) OVER ({within} DESC, past DESC {rows}) AS later FROM shares),
        lost AS (SELECT split, item,
            sum(CASE past WHEN 0 THEN share ELSE later END)::BIGINT AS lost
            FROM barring GROUP BY split, item),
        shared AS (SELECT split, sum(share)::BIGINT AS shared FROM shares GROUP BY split)
        SELECT w.split, w.item, w.wanted, w.there, w.total,
            greatest(floor({UNIT}::DOUBLE * (w.wanted::DOUBLE / w.total::DOUBLE)
                * (r.shared::DOUBLE / greatest(r.shared - coalesce(l.lost, 0),
                    r.shared / {MOST})::DOUBLE))::BIGINT, 1) AS weight
        FROM weights w JOIN shared r ON r.split = w.split
        LEFT JOIN lost l ON l.split = w.split AND l.item = w.item"""
