"""MovieLens 1M and 100K: one row a rating, by tensorflow-datasets' own builder.

F. M. Harper, J. A. Konstan, "The MovieLens datasets: history and context", ACM TiiS 5(4), 2015:
1,000,209 ratings of 3,706 movies by 6,040 users, and 100,000 of 1,682 by 943. Each user's last
rating is test, the one before validation, the rest training.

tensorflow-datasets reads some 20,000 ratings a second, so they are converted once to a Parquet
file, named after the SHA-256 of what they were read from. It is imported only for the conversion.

What to know of the log:

- every user has rated 20 movies or more, and no movie twice.
- users rate a page of movies at a time, so many ratings share their second. Their order inside it
  is that of the records, which tensorflow-datasets shuffled, the same on every machine.
- occupations are merged so that 1M and 100K have the same; ages are the lower bounds of 1M's seven
  ranges. The postcode is left out: 6,040 users have over 3,000, so it is nearly their id.
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
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from at4ctr.data.dataset import Options, Source, holdout
from at4ctr.data.datasets._acquire import sha256
from at4ctr.data.disk import demand_room, locked
from at4ctr.data.engines.csv_file import first_line
from at4ctr.errors import InputError, unknown
from at4ctr.schema import Feature, Schema, Table

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine

RATINGS = {"1m": 1_000_209, "100k": 100_000}
RECORD = 512  # bytes of a rating on the disk, at most, as prepared by tensorflow-datasets
GENRES = 6  # of a movie, at most
LIKED = 4  # stars from which a rating is a positive
FORM = 1  # of the converted file; another number converts again
BATCH = 1 << 13
PATIENCE = 20  # seconds for the first sign of the site; the downloader itself retries for minutes
KEPT = Path("data/raw/movielens")
FOLDER = "movielens/{size}-ratings"
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

    raw: a data folder of tensorflow-datasets, that is one with ``movielens/1m-ratings/<version>``
        in it; empty: ``data/raw/movielens``, where it is downloaded when it is not there.
    min_behaviours: 1, as every user has 20 ratings.
    reject: ``history``, as no user rates a movie twice.
    size: ``1m`` or ``100k``.
    target: ``implicit``, whether the user rates the movie, against drawn negatives; a row sees all
        ratings before it. ``rating``, whether the rating is four stars or more, all negatives
        real (as DIN has it for 20M, arXiv:1706.06978 §6.1); a row sees the ratings of earlier
        seconds. Both see which movies were rated, not with how many stars.
    """

    min_behaviours: int = 1
    reject: Literal["own", "history", "seen"] = "history"
    size: Literal["1m", "100k"] = "1m"
    target: Literal["implicit", "rating"] = "implicit"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, known in (("size", tuple(RATINGS)), ("target", ("implicit", "rating"))):
            if getattr(self, field) not in known:
                raise unknown(f"value of data.{field}", getattr(self, field), known)

    def schema(self) -> Schema:
        return Schema(
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

    def acquire(self) -> Source:
        folder = Path(self.raw) if self.raw else KEPT
        prepared = _prepared(folder, self.size)
        if prepared is None and self.raw:
            raise InputError(
                f"raw log {folder} holds no {FOLDER.format(size=self.size)}/<version> with a "
                "dataset_info.json; expected a data folder of tensorflow-datasets; leave data.raw "
                "(RAW) empty to have MovieLens downloaded"
            )
        return Source((_converted(prepared or _download(self.size), self.size),), notes=(CITATION,))

    def load(self, engine: Engine, source: Source) -> None:
        (path,) = source.files
        engine.read_parquet("ratings", path)
        columns = '"user", gender, age, occupation, item, genres, "timestamp", ord'
        engine.run("log", f"CREATE TABLE log AS SELECT {columns} FROM ratings")
        if self.target == "rating":
            engine.run(
                "impressions",
                f"""CREATE TABLE impressions AS SELECT {columns},
                (rating >= {LIKED})::TINYINT AS label_click FROM ratings""",
            )
        engine.drop("ratings")

    def split(self) -> str:
        return holdout(test=1, validation=1)


def _prepared(folder: Path, size: str) -> Path | None:
    """The newest version that tensorflow-datasets has prepared in a data folder."""
    found = [
        file.parent
        for file in (folder / FOLDER.format(size=size)).glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", file.parent.name)  # others are incomplete
    ]
    return max(found, key=lambda p: [int(n) for n in p.name.split(".")], default=None)


def _download(size: str) -> Path:
    """Has tensorflow-datasets download and prepare the ratings in `KEPT`."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    # tensorflow-datasets 4.9.10 imports this backport and does not require it
    sys.modules.setdefault("importlib_resources", importlib.resources)
    KEPT.mkdir(parents=True, exist_ok=True)
    demand_room(KEPT, RECORD * RATINGS[size], "the raw log")
    with locked(KEPT / f".{size}.lock"):
        if (found := _prepared(KEPT, size)) is not None:
            return found
        name = FOLDER.format(size=size)
        builder = tfds.builder(name, data_dir=KEPT)
        try:
            requests.head(builder.builder_config.download_url, timeout=PATIENCE)
            builder.download_and_prepare()
        except (requests.RequestException, DownloadError, NonMatchingChecksumError) as error:
            raise _undownloaded(name, error) from error
        return Path(builder.data_dir)


def _undownloaded(name: str, error: Exception) -> InputError:
    return InputError(
        f"{name} could not be downloaded into {KEPT} ({type(error).__name__}: "
        f"{_reason(error)}); expected a network that reaches its site; prepare it "
        f"with tensorflow-datasets elsewhere (tfds.load({name!r}, data_dir=folder)), copy the "
        "folder here and name it with data.raw (RAW=folder)"
    )


def _reason(error: Exception) -> str:
    return first_line(str(error) or repr(error))[:200]


def _converted(prepared: Path, size: str) -> Path:
    """The ratings as Parquet, converted unless they were before.

    Its time of modification is the last rating's, so that a second conversion yields the same file.
    """
    digest = hashlib.sha256(f"{FORM}".encode())
    for file in sorted(p for p in prepared.iterdir() if p.is_file()):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    target = KEPT / f"{size}-{digest.hexdigest()[:12]}.parquet"
    if target.is_file():
        return target
    KEPT.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f".{target.name}.lock")):
        if not target.is_file():
            for old in KEPT.glob(f".{target.name}.tmp-*"):  # of a conversion that was killed
                old.unlink()
            scratch = target.with_name(f".{target.name}.tmp-{os.getpid()}")
            try:
                last = _convert(prepared, size, scratch)
                os.utime(scratch, (last, last))
                scratch.replace(target)
            finally:
                scratch.unlink(missing_ok=True)
    return target


def _convert(prepared: Path, size: str, target: Path) -> int:
    """Writes the ratings of a prepared folder as Parquet; returns the last one's time."""
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    from at4ctr.data.engines.base import bar, report

    begin, rows, last, step = time.monotonic(), 0, 0, f"convert movielens {size}"
    try:
        builder = tfds.builder(
            f"{FOLDER.format(size=size)}:{prepared.name}", data_dir=prepared.parents[2]
        )
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
                bar(step, min(1.0, rows / RATINGS[size]))
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
    """A batch of tensorflow-datasets' ratings under our names."""
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
