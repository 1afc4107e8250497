"""Amazon Beauty, 5-core: one row a review, the official files of McAuley's group.

R. He, J. McAuley, "Ups and downs: modeling the visual evolution of fashion trends with one-class
collaborative filtering", WWW 2016. Split as AQCL §5.1: each user's last interaction is test, the
one before validation, the rest training; Table 1's counts are 22,363 users, 12,101 items, 198,502
samples. A review is a positive. Negatives are drawn.

What to know of the log:

- `unixReviewTime` is midnight of a day. A user's reviews of one day keep the order of the file,
  which is arbitrary in the official file (grouped by item); "the last interaction" is then one of
  the last day's. (Anonymised copies with one invented day an event have no such ties.)
- the lines of `reviews_Beauty_5.json.gz` are JSON; those of the official `meta_Beauty.json.gz` are
  literals of Python dictionaries, in single quotes. Both forms are read.
- `categories` is a list of paths from the root. The first path counts, as in the public DIN code;
  its last node is the leaf. Copies made from S3-Rec's files have no root "Beauty", may hold a
  brand as first node, and 65 of their 12,101 items have a path of a single node, brand or not.
- items without a line in the metadata, or without a path, have no category.
"""

from __future__ import annotations

import ast
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from at4ctr.data.dataset import Options, Source, holdout
from at4ctr.data.datasets._acquire import MILLISECONDS, present
from at4ctr.data.engines.csv_file import lines, open_text
from at4ctr.data.preparation.raw_ids import EXPECTED, unnameable
from at4ctr.errors import InputError, unknown
from at4ctr.schema import Feature, Schema, Table

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

REVIEWS, META = "reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"
HOW = "download the 5-core reviews and the metadata of Beauty from the Amazon product data (2014)"
CITATION = (
    "Amazon Beauty 5-core: R. He and J. McAuley, Ups and downs: modeling the visual evolution of "
    "fashion trends with one-class collaborative filtering, WWW 2016"
)
LONGEST = 1 << 20  # characters of a line; a literal takes some hundred bytes of memory for each
UNPARSED = (ValueError, SyntaxError, RecursionError, MemoryError)  # of a nested or broken literal
DEEPEST = 6  # nodes of a path that count; the longest path of the 5-core items has six
ASIN = re.compile(r"""['"]asin['"]\s*:\s*['"]([^'"]+)['"]""")
Ways = Literal["leaf", "all"]
WAYS: tuple[Ways, ...] = ("leaf", "all")


@dataclass(frozen=True)
class Config(Options):
    """Amazon Beauty.

    min_behaviours: 1, as the log is 5-core already.
    categories: ``leaf``, the last node of the first path; ``all``, its distinct nodes, root
        first, as one multi-valued feature (the deepest six).
    """

    min_behaviours: int = 1
    categories: Ways = "leaf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.categories not in WAYS:
            raise unknown("value of data.categories", self.categories, WAYS)

    def schema(self) -> Schema:
        length = DEEPEST if self.categories == "all" else None
        schema = Schema(
            times=self.times,
            tables=tuple(Table(name, "string") for name in ("user", "item", "category")),
            features=(
                Feature("user", "profile", "user"),
                Feature("item", "item", "item"),
                Feature("category", "item", "category", length=length),
            ),
            history=("item", "category"),
        )
        return self.with_options(schema)

    def acquire(self) -> Source:
        folder = Path(self.raw or f"data/raw/{self.name}")
        return Source(present(folder, (REVIEWS, META), HOW), notes=(CITATION,))

    def load(self, engine: Engine, source: Source) -> None:
        reviews, meta = source.files
        events = read_reviews(reviews)
        engine.register("reviews", events)
        paths = read_categories(meta, set(events.column("item").to_pylist()))
        engine.register("category_paths", self._categories(paths))
        kept = engine.run(
            "log",
            """CREATE TABLE log AS
            SELECT "user", r.item, category, "timestamp", ord
            FROM (SELECT "user", item, "timestamp", min(ord) AS ord
                  FROM reviews GROUP BY "user", item, "timestamp") r
            LEFT JOIN category_paths p ON r.item = p.item""",
        )
        engine.dropped["duplicates"] = events.num_rows - kept

    def split(self) -> str:
        return holdout(test=1, validation=1)

    def _categories(self, paths: dict[str, list[str]]) -> pa.Table:
        """Item and category, one row an item."""
        values: list[Any]
        if self.categories == "leaf":
            kind, values = pa.string(), [path[-1] for path in paths.values()]
        else:
            kind = pa.list_(pa.string())
            values = [list(dict.fromkeys(path))[-DEEPEST:] for path in paths.values()]
        named = pa.array(list(paths), pa.string())
        return pa.table({"item": named, "category": pa.array(values, kind)})


def read_reviews(path: Path) -> pa.Table:
    """``user``, ``item``, ``timestamp`` (seconds) and ``ord`` (line number) of every review.

    Raises InputError, with file and line, for a damaged file, a line that is no JSON object, a
    field that is missing or empty, and a time that is no whole number or in milliseconds.
    """
    columns: dict[str, list] = {"user": [], "item": [], "timestamp": [], "ord": []}
    for number, line in _lines(path):
        try:
            review = json.loads(line)
            user, item, time = (review[k] for k in ("reviewerID", "asin", "unixReviewTime"))
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: {_cut(line)} ({type(error).__name__}: {error}); expected "
                "a JSON object with reviewerID, asin and unixReviewTime; use the official file"
            ) from None
        for name, value in (("reviewerID", user), ("asin", item)):
            if not (isinstance(value, str) and value.strip()) or unnameable(value):
                raise InputError(
                    f"{path}, line {number}: {name} is {value!r}; expected a text that is not "
                    f"empty, {EXPECTED['string']}; correct or remove the line"
                )
        if not isinstance(time, int) or isinstance(time, bool) or not 0 <= time < MILLISECONDS:
            raise InputError(
                f"{path}, line {number}: unixReviewTime is {time!r}; expected whole seconds since "
                "1970 (not milliseconds); correct the file"
            )
        for column, value in zip(columns.values(), (user, item, time, number), strict=True):
            column.append(value)
    if not columns["user"]:
        raise InputError(f"{path} holds no review; expected one JSON object a line; {HOW} again")
    return pa.table(columns)


def read_categories(path: Path, items: set[str]) -> dict[str, list[str]]:
    """The first category path, root first, of those of `items` that have one.

    Raises InputError, with file and line, for a damaged file and a line of another form.
    """
    paths: dict[str, list[str]] = {}
    for number, line in _lines(path):
        name = ASIN.search(line)
        if name is None:
            raise InputError(
                f"{path}, line {number}: {_cut(line)} has no asin; expected an object with asin "
                "and categories; use the official file"
            )
        if name[1] in items and name[1] not in paths:
            path_ = _first_path(path, number, line)
            if path_:
                paths[name[1]] = path_
    return paths


def _first_path(path: Path, number: int, line: str) -> list[str]:
    try:
        try:
            record = json.loads(line)
        except ValueError:
            record = ast.literal_eval(line)
        found = record.get("categories") or [[]]
        first = found if isinstance(found[0], str) else found[0]
        if not all(isinstance(node, str) and node.strip() for node in first):
            raise TypeError("categories is no list of paths of names")
        if any(map(unnameable, first)):
            raise ValueError(f"a category is not {EXPECTED['string']}")
    except (*UNPARSED, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}, line {number}: {_cut(line)} ({type(error).__name__}: {error}); "
            "expected a JSON object or a Python dictionary whose categories is a list of lists of "
            "names; use the official file"
        ) from None
    return first


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number, from 1, and text of the lines that are not blank."""
    number = 0
    try:
        with open_text(path, errors="strict") as file:
            for number, line in enumerate(lines(path, file, LONGEST), 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read past line {number} ({error}); expected a whole gzip file of "
            f"UTF-8 text; {HOW} again"
        ) from error


def _cut(line: str) -> str:
    """The beginning of a line, for an error."""
    text = line.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
