"""Pre-trained vectors: from a Parquet file beside the raw log to rows of model ids.

The file has columns ``id``, the raw ids, and ``vector``, lists of one width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from at4ctr.data.dataset import Options, Source
from at4ctr.data.engines.base import name
from at4ctr.data.preparation.hash_codes import hash_codes
from at4ctr.errors import InputError
from at4ctr.schema import FIRST_ID, UNKNOWN, Table

if TYPE_CHECKING:
    from at4ctr.data.engines.base import Engine
    from at4ctr.data.store import Store

COLUMNS = ("id", "vector")


def files(config: Options, source: Source) -> dict[str, Path]:
    """Name of `Schema.vectors` -> its file; InputError where one is missing."""
    declared = config.schema().vectors
    if not declared:
        return {}
    beside = folder_of(config, source)
    for vectors in declared:
        path = beside / vectors.file
        if not path.is_file():
            raise InputError(
                f"vectors file {path} of table {vectors.table!r} is missing; expected a Parquet "
                "file with columns id and vector beside the raw log; put it there"
            )
    return {vectors.name: beside / vectors.file for vectors in declared}


def folder_of(config: Options, source: Source) -> Path:
    """Where the files of pre-trained vectors lie: beside the raw log."""
    raw = Path(config.raw or f"data/raw/{config.name}")
    return source.files[0].parent if source.files else raw if raw.is_dir() else raw.parent


def copy(store: Store, folder: Path) -> None:
    """``vectors/<name>.npy`` of another store, as they are."""
    folder.mkdir()
    for named, rows in store.vectors().items():
        np.save(folder / f"{named}.npy", rows)


def write(engine: Engine, config: Options, paths: Mapping[str, Path], folder: Path) -> None:
    """``vectors/<name>.npy`` of every file, by model id. Padding is 0.

    Rows of a table [rows, W] float32: unknown is the mean of the ids that the log knows. Hash codes
    [rows] int64: -1 of what has no vector. Vectors of a similarity [rows, W] float32 of length 1:
    0 where there is none.
    """
    folder.mkdir()
    schema, made = config.schema(), dict[str, np.ndarray]()
    for vectors in schema.vectors:
        table, path = schema.table(vectors.table), paths[vectors.name]
        if vectors.name != table.name:
            rows = _unit(_rows(engine, table, path, partly=True))
        elif table.hash_id:
            rows = hash_codes(_rows(engine, table, path, partly=True), table.hash_bits)
        else:
            rows = _rows(engine, table, path)
            if len(rows) > FIRST_ID:
                rows[UNKNOWN] = rows[FIRST_ID:].mean(axis=0, dtype=np.float64)
        made[vectors.name] = rows
        np.save(folder / f"{vectors.name}.npy", rows)
    for s in schema.similarities:
        of_user, of_item = (made[f"{s.name}.{whose}"].shape[1] for whose in ("user", "item"))
        if of_user != of_item:
            raise InputError(
                f"similarity {s.name!r} has vectors of width {of_user} in "
                f"{paths[f'{s.name}.user']} and of width {of_item} in {paths[f'{s.name}.item']}; "
                "expected one width, as a cosine needs; write vectors of one space"
            )


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each row divided by its length; zeros stay."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _rows(engine: Engine, table: Table, path: Path, *, partly: bool = False) -> np.ndarray:
    """[rows, W] float32 by model id. partly: whether ids may lack a vector; theirs is then 0."""
    vocabulary = engine.arrow(f"SELECT raw FROM {name(f'vocabulary_{table.name}')} ORDER BY id")
    raws = vocabulary.column("raw").combine_chunks()
    found, given = np.zeros((0, 0), np.float32), np.zeros(len(raws), bool)
    with _opened(path) as file:
        for batch in file.iter_batches(columns=list(COLUMNS)):
            vectors, width = _floats(path, batch.column("vector"), batch.column("id"))
            if not found.size and width:
                found = np.zeros((FIRST_ID + len(raws), width), np.float32)
            if len(vectors) and width != found.shape[1]:
                raise _wrong(path, f"vectors of width {found.shape[1]} and {width}",
                             "one width", "write the file again")  # fmt: skip
            ids = _cast(path, batch.column("id"), raws.type)
            place = pc.index_in(ids, value_set=raws)
            known = pc.is_valid(place).to_numpy(zero_copy_only=False)
            rows = place.drop_null().to_numpy()
            twice = rows[given[rows]].tolist() or rows[np.bincount(rows)[rows] > 1].tolist()
            if twice:
                raise _wrong(path, f"id {raws[twice[0]].as_py()!r} twice", "each id once",
                             "delete one of the rows")  # fmt: skip
            given[rows] = True
            found[FIRST_ID + rows] = vectors[known]
    if not given.all() and not (partly and given.any()):
        lacking = raws.filter(pa.array(~given))
        raise InputError(
            f"vectors file {path} lacks {len(lacking):,} of the {len(raws):,} ids of table "
            f"{table.name!r}, such as {lacking[0].as_py()!r}; expected a vector of "
            f"{'some ids' if partly else 'each id'} that training sees; add them to the file"
        )
    return found


def _opened(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _wrong(path, f"no readable Parquet ({error})", "a Parquet file",
                     "write it again") from error  # fmt: skip
    for column in COLUMNS:
        if column not in file.schema_arrow.names:
            raise _wrong(path, f"columns {', '.join(file.schema_arrow.names)}",
                         "columns id and vector", "rename its columns")  # fmt: skip
    return file


def _floats(path: Path, column: pa.Array, ids: pa.Array) -> tuple[np.ndarray, int]:
    """[rows, W] float32 of lists, and W."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind)):  # fmt: skip
        raise _wrong(path, f"column vector of type {kind}", "lists of numbers", "write it again")
    if column.null_count:
        lacking = ids.filter(pc.is_null(column))[0].as_py()
        raise _wrong(path, f"no vector of id {lacking!r}", "one of each id", "delete its row")
    sizes = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    if len(sizes) and (sizes.min() != sizes.max() or not sizes.max()):
        other = int(np.flatnonzero((sizes != sizes[0]) | (sizes == 0))[0])
        raise _wrong(path, f"a vector of width {sizes[other]} at id {ids[other].as_py()!r}",
                     f"one width, {max(int(sizes[0]), 1)} as at its first row",
                     "write the file again")  # fmt: skip
    width = int(sizes[0]) if len(sizes) else 0
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    vectors = values.reshape(len(sizes), width)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        value = vectors[bad[0]][~np.isfinite(vectors[bad[0]])][0]
        raise _wrong(path, f"{value} in the vector of id {ids[int(bad[0])].as_py()!r}",
                     "finite numbers", "correct the vector")  # fmt: skip
    return vectors, width


def _cast(path: Path, ids: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return ids.cast(kind)
    except pa.ArrowException as error:
        raise _wrong(path, f"ids of type {ids.type}", f"{kind}, as the table's ids are",
                     "write the ids with that type") from error  # fmt: skip


def _wrong(path: Path, found: str, expected: str, fix: str) -> InputError:
    return InputError(f"vectors file {path} has {found}; expected {expected}; {fix}")
