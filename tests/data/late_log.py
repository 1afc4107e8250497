"""Logs whose attributes come late, change, or stand in some rows alone."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.datasets import taobao
from at4ctr.data.mapped.config import Mapped
from at4ctr.data.mapped.rows import Rows
from at4ctr.schema import Feature, Schema, Table

START, SECONDS = 1_700_000_000, 200


@dataclass(frozen=True)
class Log(Mapped):
    """Impressions that carry ages and brands, behaviours that carry ages and tags."""

    def schema(self):
        return Schema(
            tables=(Table("user", "string"), Table("age"), Table("item"), Table("brand", "string"),
                    Table("tag", "string")),
            features=(Feature("user", "profile", "user"), Feature("age", "profile", "age"),
                      Feature("item", "item", "item"), Feature("brand", "item", "brand"),
                      Feature("tags", "item", "tag", length=2)),
            history=("item", "brand", "tags"),
        )  # fmt: skip

    def impressions(self):
        columns = {"user": "who", "item": "sku", "age": "age", "brand": "brand"}
        return Rows(files="part-shown*", time="at", labels={"click": "clicked"}, columns=columns)

    def behaviours(self):
        columns = {"user": "who", "item": "sku", "age": "age", "tags": "string_split(tags, '|')"}
        return Rows(files="part-done*", time="at", columns=columns)


@dataclass(frozen=True)
class Gaps(taobao.Config):
    """Taobao's log with few categories: every so many-th row's, of even items from `since` on."""

    every: int = 4
    since: int = taobao.FIRST + 5 * 86_400

    def load(self, engine, source):
        super().load(engine, source)
        carries = f'ord % {self.every} = 0 AND (item % 2 = 1 OR "timestamp" >= {self.since})'
        engine.replace(
            "log",
            f"""SELECT "user", item, CASE WHEN {carries} THEN category END AS category, type,
            "timestamp", ord FROM log""",
        )


def tables(seed=0, number=500, users=15, items=20, begin=START, seconds=SECONDS):
    """``shown`` and ``done`` in random order, with ties; most rows carry no attribute.

    Ages and brands change, and those of the latest users and items are first said at the end.
    """
    rng = np.random.default_rng(seed)

    def some(values, at, who, most, share):
        late = (who < most / 2) | (at >= begin + 0.85 * seconds)
        carried = late & (rng.random(number) < share)
        return [v if one else None for v, one in zip(values, carried, strict=True)]

    made = {}
    for table in ("shown", "done"):
        at = begin + rng.integers(seconds, size=number)
        who, sku = rng.integers(users, size=number), rng.integers(items, size=number)
        columns = {"who": [f"r{k}" for k in who], "sku": sku, "at": at}
        ages = (who + 20 + rng.integers(2, size=number)).tolist()
        columns["age"] = pa.array(some(ages, at, who, users, 0.2), pa.int64())
        if table == "shown":
            brands = [
                f"b{k % 7}{n}" for k, n in zip(sku, rng.integers(2, size=number), strict=True)
            ]
            columns["brand"] = pa.array(some(brands, at, sku, items, 0.2), pa.string())
            columns["clicked"] = rng.integers(2, size=number)
        else:
            tags = [f"t{k % 5}|u" for k in sku]
            columns["tags"] = pa.array(some(tags, at, sku, items, 0.1), pa.string())
        made[table] = pa.table(columns)
    return made


def write(folder, made):
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in made.items():
        pq.write_table(table, folder / f"part-{name}.parquet")
    return str(folder)
