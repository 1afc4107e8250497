"""How well one property of the candidate alone separates positives from drawn negatives, as an AUC.

- ``popularity``: how many training positives the item has.
- ``novelty``: whether no training row has the item, as its candidate or in its history (under
  ``paper`` no row of the log has it: never).
- ``repetition``: whether the history that the row sees holds the item.

Classes of real impressions may differ in all of them. Drawn negatives should not differ from
positives: a model that learns such a difference predicts how negatives were drawn. 0.5 is no
difference; below 0.5 negatives have larger values.
"""

from __future__ import annotations

import sys

import numpy as np

from at4ctr.data.dataset import SPLITS, Options
from at4ctr.data.engines.base import Engine

MEASURES = ("popularity", "novelty", "repetition")
WITHIN = 0.02  # of 0.5: no warning
ERRORS = 2.0  # standard errors beyond which a difference is no chance
ROWS = 2**23  # positives that are measured; of a larger log, those of an even share of the users

AUCs = dict[str, dict[str, float]]


def measure(engine: Engine) -> tuple[AUCs, AUCs]:
    """By split and measure, the AUC, and its standard error if both classes had one distribution.

    Needs ``behaviours``, ``negatives`` and ``count_item``. A split without both classes is left
    out.
    """
    count = "SELECT count(*) FROM behaviours WHERE split IS NOT NULL"
    part = 1 + int(engine.one(count)[0]) // ROWS
    share = f'"user" % {part} = 0'
    cells = engine.arrow(
        f"""WITH counts AS (
            SELECT item, count(*) AS n FROM behaviours WHERE split = 0 GROUP BY item),
        firsts AS (SELECT "user", item, min(pos) AS pos FROM behaviours WHERE {share}
            GROUP BY "user", item),
        instances AS (
            SELECT "user", split, cut, item, 1 AS y FROM behaviours
            WHERE {share} AND split IS NOT NULL UNION ALL
            SELECT "user", split, cut, item, 0 AS y FROM negatives WHERE {share} AND item <> own)
        SELECT i.split::INTEGER AS split, coalesce(c.n, 0)::BIGINT AS popularity,
            (CASE WHEN k.idx IS NULL THEN 1 ELSE 0 END)::BIGINT AS novelty,
            (CASE WHEN f.pos < i.cut THEN 1 ELSE 0 END)::BIGINT AS repetition,
            sum(y)::BIGINT AS positives, sum(1 - y)::BIGINT AS negatives
        FROM instances i LEFT JOIN counts c ON c.item = i.item
        LEFT JOIN (SELECT DISTINCT r.entity AS idx FROM count_item n
            JOIN item_rows r ON r.idx = n.idx) k ON k.idx = i.item
        LEFT JOIN firsts f ON f."user" = i."user" AND f.item = i.item
        GROUP BY ALL"""
    )
    column = {name: cells.column(name).to_numpy() for name in cells.column_names}
    aucs: AUCs = {}
    errors: AUCs = {}
    for number, split in enumerate(SPLITS):
        here = column["split"] == number
        of = column["positives"][here], column["negatives"][here]
        if not (of[0].sum() and of[1].sum()):
            continue
        found = {name: _auc(column[name][here], *of) for name in MEASURES}
        aucs[split] = {name: auc for name, (auc, _) in found.items()}
        errors[split] = {name: error for name, (_, error) in found.items()}
    return aucs, errors


def warnings(config: Options, aucs: AUCs, errors: AUCs) -> list[str]:
    """A sentence for each measure that separates the classes in some split; printed too."""
    found = []
    for name in MEASURES:
        beyond = [
            f"{aucs[split][name]:.3f} in {split}"
            for split in aucs
            if abs(aucs[split][name] - 0.5) > max(WITHIN, ERRORS * errors[split][name])
        ]
        if beyond:
            found.append(
                f"{name} alone separates positives from drawn negatives with AUC "
                f"{' and '.join(beyond)}; expected {0.5 - WITHIN:.2f} to {0.5 + WITHIN:.2f}, or a "
                f"model learns how negatives were drawn; {_remedy(config, name)}"
            )
    for sentence in found:
        print(f"prepare: warning: {sentence}", file=sys.stderr)
    return found


def _auc(score: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> tuple[float, float]:
    """The AUC of scores with their numbers of rows, ties counted half, and its standard error.

    The error is that of the Mann-Whitney statistic with ties under equal laws.
    """
    values, place = np.unique(score, return_inverse=True)
    p, q = (np.zeros(len(values), np.int64) for _ in range(2))
    np.add.at(p, place, positives)
    np.add.at(q, place, negatives)
    m, n, tied = float(p.sum()), float(q.sum()), (p + q).astype(np.float64)
    below = np.cumsum(q) - q / 2
    ties = (tied**3 - tied).sum() / ((m + n) * (m + n - 1))
    return float((p * below).sum() / (m * n)), float(((m + n + 1 - ties) / (12 * m * n)) ** 0.5)


def _remedy(config: Options, name: str) -> str:
    if name != "repetition" and config.protocol == "paper":
        return "set data.protocol=strict"
    if name == "popularity" and config.draw == "uniform":
        return "set data.draw=popularity"
    if name == "repetition" and config.reject != "history":
        return "set data.reject=history"
    return "use a log of impressions, whose negatives are real"
