"""Files of requests, Parquet or CSV, and their rows in chunks of bounded memory."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from at4ctr.errors import InputError
from export.scoring.arrays import Rows

PARQUET, CSV = (".parquet",), (".csv", ".csv.gz")
BLOCK = 8 << 20  # bytes of a CSV file at a time, and so the longest line


def find(raw: Path) -> list[Path]:
    """The files of a folder by name, or the one file. Names that begin with . or _ are ignored.

    Raises InputError where there is none, or both Parquet and CSV.
    """
    ends = (*PARQUET, *CSV)
    if raw.is_dir():
        named = (p for p in raw.iterdir() if p.is_file() and p.name[0] not in "._")
        found = sorted(p for p in named if p.name.endswith(ends))
    else:
        found = [raw] if raw.is_file() and raw.name.endswith(ends) else []
    if not found:
        what = "holds none" if raw.is_dir() else "is none" if raw.exists() else "does not exist"
        raise InputError(
            f"{raw} {what}; expected a file of requests that ends in {', '.join(ends)}, or a "
            "folder of such files; name it with RAW="
        )
    if len({p.name.endswith(PARQUET) for p in found}) > 1:
        raise InputError(
            f"{raw} holds both Parquet and CSV files; expected one kind; move the others away"
        )
    return found


def schema(file: Path) -> pa.Schema:
    """The columns of a file; those of CSV are texts.

    Raises InputError for a file that cannot be read, has no header, or names a column twice.
    """
    try:
        if file.name.endswith(PARQUET):
            found = pq.read_schema(file)
            names = found.names
        else:
            opened = gzip.open if file.name.endswith(".gz") else open
            with opened(file, "rt", encoding="utf-8-sig", newline="") as lines:
                names = next(csv.reader(lines), [])
            found = pa.schema([(name, pa.string()) for name in names])
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(file, error) from error
    if not names:
        raise InputError(
            f"{file} is empty; expected a header and rows; write the file again, or take it away"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"{file} names the column {twice[0]!r} twice; expected each once; rename one of them"
        )
    return found


def count(file: Path) -> int | None:
    """Rows of a Parquet file; None of CSV, which would have to be read."""
    if not file.name.endswith(PARQUET):
        return None
    try:
        return pq.read_metadata(file).num_rows
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, error) from error


def chunks(file: Path, columns: pa.Schema, rows: int) -> Iterator[Rows]:
    """The rows of a file in its order, at most so many at a time.

    Raises InputError for a damaged file, or a CSV line of another number of fields.
    """
    first = 1
    try:
        for batch in _batches(file, columns, rows):
            whole = pa.Table.from_batches([batch])
            for begin in range(0, len(whole), rows):
                part = whole.slice(begin, rows)
                yield Rows(part, str(file), first)
                first += len(part)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, error) from error


def _batches(file: Path, columns: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
    if file.name.endswith(PARQUET):
        with pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(batch_size=rows)
        return
    convert = pa_csv.ConvertOptions(
        column_types={name: pa.string() for name in columns.names}, strings_can_be_null=False
    )
    read = pa_csv.ReadOptions(block_size=BLOCK)
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    options = {"read_options": read, "parse_options": parse, "convert_options": convert}
    with pa_csv.open_csv(file, **options) as lines:
        yield from lines


def unreadable(file: Path, error: BaseException) -> InputError:
    """The error for a file that is damaged or may not be read."""
    said = " ".join(str(error).split())[:200]
    return InputError(
        f"{file} cannot be read ({said}); expected a whole Parquet or CSV file; write it again"
    )
