"""A log with all that a row may hold: two labels, numbers, a weight, weighted tags, vectors."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.mapped.config import Mapped
from at4ctr.data.mapped.rows import Rows
from at4ctr.schema import Feature, Label, Number, Schema, Table
from tests.data import toy_log

START, ITEMS, WIDTH = 1_700_000_000, 40, 3


@dataclass(frozen=True)
class Log(Mapped):
    """The log."""

    test_share: float = 0.25

    def schema(self):
        return Schema(
            tables=(Table("user", "string"), Table("item", vectors="vectors.parquet"),
                    Table("tag", "string"), Table("event", "string"), Table("slot")),
            features=(
                Feature("user", "profile", "user"),
                Feature("item", "item", "item"),
                Feature("tags", "item", "tag", length=2, weighted=True),
                Feature("event", "behaviour", "event"),
                Feature("slot", "context", "slot"),
            ),
            history=("item", "event"),
            labels=(Label("click", sampled=True), Label("conversion", within="click")),
            numbers=(Number("age", "profile"), Number("price", "item"), Number("rate", "context")),
            weighted=True,
            times=True,
        )  # fmt: skip

    def impressions(self):
        return Rows(
            files="shown.*",
            time="at",
            labels={"click": "clicked", "conversion": "bought"},
            weight="weight",
            columns={"user": "who", "item": "sku", "slot": "rank", "rate": "rate", "age": "age"},
        )

    def behaviours(self):
        columns = {"user": "who", "item": "sku", "event": "event"}
        return Rows(files="done.*", time="at", columns=columns)

    def items(self):
        columns = {"item": "sku", "price": "price", "tags": "string_split(tags, '|')",
                   "weights_tags": "string_split(scores, '|')"}  # fmt: skip
        return Rows(files="catalogue.*", columns=columns)


def tables(number=600):
    """The log's tables by file, in texts as a CSV file has them; '' is missing."""
    rng = np.random.default_rng(11)
    clicked = rng.random(number) < 0.5
    bought = [str(k) for k in rng.integers(2, size=number)]
    ages = [str(k) if k > 24 else "" for k in rng.integers(18, 30, number).tolist()]
    kinds, draws = rng.integers(5, size=number), rng.random(number)
    rates = [["0.25", "nan", "", "-1.5e-3", f"{x:.4f}"][k]
             for k, x in zip(kinds, draws, strict=True)]  # fmt: skip
    shown = {
        "who": [f"r{k}" for k in rng.integers(20, size=number)],
        "sku": [str(k) for k in rng.integers(ITEMS, size=number)],
        "rank": [str(k) for k in rng.integers(5, size=number)],
        "at": [str(START + k) for k in rng.integers(400, size=number)],
        "clicked": [str(int(c)) for c in clicked],
        "bought": [["0", "", b][int(k) if c else int(k) % 2] for c, b, k in
                   zip(clicked, bought, rng.integers(3, size=number), strict=True)],
        "weight": [["0", "1", "2.5"][k] for k in rng.integers(3, size=number)],
        "rate": rates,
        "age": ages,
    }  # fmt: skip
    done = {
        "who": [f"r{k}" for k in rng.integers(20, size=number)],
        "sku": [str(k) for k in rng.integers(ITEMS, size=number)],
        "event": rng.choice(["view", "buy"], number).tolist(),
        "at": [str(START + k) for k in rng.integers(400, size=number)],
    }
    catalogue = {
        "sku": [str(k) for k in range(ITEMS)],
        "price": ["" if k % 7 == 0 else str(k / 8) for k in range(ITEMS)],
        "tags": [["", "a", "a|b", "c|a|b"][k % 4] for k in range(ITEMS)],
        "scores": [["", "0.5", "1|0.25", "3|2|1"][k % 4] for k in range(ITEMS)],
    }
    return {"shown": pa.table(shown), "done": pa.table(done), "catalogue": pa.table(catalogue)}


def vectors(ids=range(ITEMS + 5)):
    """A vector of each id, whose mean over any ids is known."""
    made = [[float(k), 2.0 * k, 1.0] for k in ids]
    return pa.table({"id": list(ids), "vector": pa.array(made, pa.list_(pa.float32()))})


def write(folder, logs=None, rows=None):
    """The folder of the log, as ``Config.raw``."""
    path = toy_log.write(folder, "csv", logs or tables())
    pq.write_table(rows or vectors(), folder / "vectors.parquet")
    return path
