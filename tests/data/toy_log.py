"""A log of one's own as a recipe in ``configs/``, as a user writes it, and its files."""

import importlib
import sys

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import configs

RECIPE = '''
"""My shop: make train DATASET=mylog RAW=folder"""
from dataclasses import dataclass

from at4ctr.data.mapped.config import Mapped
from at4ctr.data.mapped.rows import Rows
from at4ctr.schema import Feature, Schema, Table


@dataclass(frozen=True)
class Config(Mapped):
    """My shop."""

    test_share: float = 0.25

    def schema(self):
        return Schema(
            tables=(Table("user", "string"), Table("item"), Table("genre", "string"),
                    Table("age"), Table("event", "string"), Table("slot")),
            features=(
                Feature("user", "profile", "user"),
                Feature("age", "profile", "age"),
                Feature("item", "item", "item"),
                Feature("genres", "item", "genre", length=2),
                Feature("event", "behaviour", "event"),
                Feature("slot", "context", "slot"),
            ),
            history=("item", "genres"),
        )

    def impressions(self):
        return Rows(
            files="shown.*",
            time="at",
            unit="milliseconds",
            labels={"click": "clicked"},
            columns={"user": "who", "item": "sku", "slot": "rank::INT + 1"},
        )

    def behaviours(self):
        return Rows(
            files="done-*",
            time="moment",
            unit="datetime",
            where="event <> 'scroll'",
            columns={"user": "who", "item": "sku", "event": "event", "age": "age"},
        )

    def items(self):
        genres = {"item": "sku", "genres": "string_split(genres, '|')"}
        return Rows(files="catalogue.*", columns=genres)
'''
START = 1_700_000_000


def tables(number=600):
    """The log as Arrow tables, by file: two of behaviours."""
    rng = np.random.default_rng(5)
    at = START + rng.integers(0, 500, number)
    shown = {
        "who": [f"r{k}" for k in rng.integers(30, size=number)],
        "sku": rng.integers(40, size=number),
        "rank": rng.integers(5, size=number),
        "at": at * 1000 + rng.integers(0, 1000, number),
        "clicked": rng.integers(2, size=number),
    }
    done = {
        "who": [f"r{k}" for k in rng.integers(25, size=number)],  # r25 to r29 do nothing
        "sku": rng.integers(45, size=number),
        "event": rng.choice(["view", "buy", "scroll"], number),
        "age": [k if k > 20 else None for k in rng.integers(18, 30, number).tolist()],
        "moment": (START + rng.integers(0, 500, number)).astype("datetime64[s]"),
    }
    catalogue = {
        "sku": np.arange(60),
        "genres": ["", "a", "a|b", "c|a|b"] * 15,
    }
    done = pa.table(done)
    return {"shown": pa.table(shown), "done-1": done[:250], "done-2": done[250:],
            "catalogue": pa.table(catalogue)}  # fmt: skip


def write(folder, end, logs):
    folder.mkdir(exist_ok=True)
    for name, table in logs.items():
        if end == "parquet":
            pq.write_table(table, folder / f"{name}.parquet")
        else:
            mark = "\t" if end == "tsv" else ","
            copy = (
                f"COPY table_ TO '{folder / name}.{end}' (HEADER, FORMAT csv, DELIMITER '{mark}')"
            )
            with duckdb.connect() as connection:
                connection.register("table_", table)
                connection.execute(copy)
    return str(folder)


def recipes(tmp_path, monkeypatch):
    """A folder whose modules are part of ``configs``, with ``mylog.py`` in it."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "mylog.py").write_text(RECIPE)
    monkeypatch.setattr(configs, "__path__", [*configs.__path__, str(folder)])
    importlib.invalidate_caches()
    return folder


def forget(module):
    """Undoes the import of a recipe."""
    sys.modules.pop(f"configs.{module}", None)
    vars(configs).pop(module, None)


def mylog_of(tmp_path, monkeypatch):
    """The user's dataset, found by its name; a generator for a fixture."""
    recipes(tmp_path, monkeypatch)
    yield configs.dataset("mylog")
    forget("mylog")
