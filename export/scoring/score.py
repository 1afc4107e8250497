"""The scores of files of requests, beside their ids, in a Parquet file that is whole or absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from at4ctr.data.disk import locked
from at4ctr.durable import digest, make_folder, replaced
from at4ctr.errors import InputError, unknown
from export.scoring import files
from export.scoring.arrays import Rows, arrays, demand_type, largest, parsed, said
from export.scoring.version import MANIFEST, Version

CELLS = 2_000_000  # values of a padded input at a time
GROUP = 65_536  # rows of a row group of the result


@dataclass(frozen=True)
class Requests:
    """Files whose rows a version can answer.

    raw: the file, or the folder of the files. schemas: columns by file. kept: the columns that are
    written beside the scores. total: rows of all files; None where the number is not known before
    they are read.
    """

    raw: Path
    schemas: Mapping[Path, pa.Schema]
    kept: pa.Schema
    total: int | None


def opened(version: Version, raw: Path, absent: Sequence[str] = ()) -> Requests:
    """The requests of a file or of a folder's files; nothing but their columns is read.

    All columns are kept but the lists that the version reads.

    absent: inputs that no file has and that are missing in each row.
    Raises InputError for a column that is missing, of a wrong type, or named as an answer is; for
    files whose columns differ; and where no file has a row.
    """
    for name in absent:
        if name not in version.inputs:
            raise unknown("input (--absent)", name, version.inputs)
    if version.item in absent:
        raise InputError(
            f"--absent names {version.item}; expected the candidate in each request; give the "
            f"files a column {version.item}"
        )
    schemas = {file: files.schema(file) for file in files.find(raw)}
    kept = [_checked(version, file, schema, absent) for file, schema in schemas.items()]
    for file, found in zip(schemas, kept, strict=True):
        if not found.equals(kept[0]):
            _refuse_other(next(iter(schemas)), kept[0], file, found)
    counts = [files.count(file) for file in schemas]
    known = [n for n in counts if n is not None]
    total = sum(known) if len(known) == len(counts) else None
    if total == 0:
        raise _no_row(raw)
    return Requests(raw, schemas, kept[0], total)


def score(
    version: Version,
    requests: Requests,
    out: Path,
    *,
    rows: int = 4096,
    nulls: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Writes ``out``: the kept columns and the version's answers, a row a request, in the order of
    the files and their rows; returns the number of rows.

    The file appears at the end, in the place of an older one. Until then a hidden file beside it
    grows, which an error deletes. After a kill the next call begins anew.

    rows: at most so many are answered at once. nulls: whether a null is a missing value.
    progress: called with the number of rows that are done.
    Raises InputError for rows that cannot be answered (`arrays`), where no file has a row, where
    ``out`` lies among the requests, and while another process writes it.
    """
    _demand_place(requests, out)
    make_folder(out.parent)
    with locked(out.with_name(f".{out.name}.lock"), wait=False) as held:
        if not held:
            raise InputError(
                f"{out} is being written by another process; expected one at a time; wait for it, "
                "or name another file with OUT="
            )
        try:
            with replaced(out) as aside:
                return _write(version, requests, aside, rows, nulls, progress)
        except BaseException:
            with suppress(OSError):
                out.with_name(f".{out.name}.tmp").unlink(missing_ok=True)
            raise


def _write(
    version: Version,
    requests: Requests,
    aside: Path,
    rows: int,
    nulls: bool,
    progress: Callable[[int], None] | None,
) -> int:
    answers = [pa.field(name, pa.float32()) for name in version.outputs]
    facts = {
        "at4ctr.model": str(version.path),
        "at4ctr.manifest": digest(version.path / MANIFEST),
        "at4ctr.simulated": str(version.simulated).lower(),
    }
    schema = pa.schema([*requests.kept, *answers], metadata=facts)
    done, held = 0, list[pa.Table]()
    with pq.ParquetWriter(aside, schema, compression="zstd") as writer:

        def flush() -> None:
            if held:
                writer.write_table(pa.concat_tables(held), row_group_size=GROUP + rows)
                held.clear()

        for chunk in _chunks(version, requests, rows):
            found = _answer(version, chunk, nulls)
            columns = [chunk.table.column(name) for name in requests.kept.names]
            columns += [pa.array(found[name], pa.float32()) for name in version.outputs]
            held.append(pa.table(columns, schema=schema))
            done += len(chunk.table)
            if sum(map(len, held)) >= GROUP:
                flush()
            if progress is not None:
                progress(done)
        flush()
    if not done:
        raise _no_row(requests.raw)
    return done


def _chunks(version: Version, requests: Requests, rows: int) -> Iterator[Rows]:
    """Typed rows, few enough that no padded input is larger than `CELLS`, but for one row."""
    for file, columns in requests.schemas.items():
        for chunk in files.chunks(file, columns, rows):
            table = chunk.table
            if not file.name.endswith(files.PARQUET):
                for name in set(version.inputs) & set(columns.names):
                    made = parsed(version.inputs[name], table.column(name), chunk)
                    table = table.set_column(columns.names.index(name), name, made)
            yield from _halved(version, replace(chunk, table=table))


def _halved(version: Version, rows: Rows) -> Iterator[Rows]:
    size = len(rows.table)
    if size > 1 and largest(version, rows) > CELLS:
        yield from _halved(version, rows.slice(0, size // 2))
        yield from _halved(version, rows.slice(size // 2, size - size // 2))
    else:
        yield rows


def _answer(version: Version, rows: Rows, nulls: bool) -> Mapping[str, object]:
    given = arrays(version, rows, nulls=nulls)
    try:
        return version.answer(given)
    except tf.errors.InvalidArgumentError as error:
        last = rows.first + len(rows.table) - 1
        raise InputError(
            f"{rows.file}, rows {rows.first:,} to {last:,}: the model refuses them "
            f"({' '.join(error.message.split())[:200]}); expected what its SIGNATURES.md says; "
            "correct them"
        ) from error


def _checked(version: Version, file: Path, schema: pa.Schema, absent: Sequence[str]) -> pa.Schema:
    """The columns of a file that are kept, as the result has them."""
    for name, column in version.inputs.items():
        if name in absent and name in schema.names:
            raise InputError(
                f"{file} has the column {name!r}, and --absent says that it has none; expected one "
                "or the other; leave it out of --absent, or rename the column"
            )
        if name not in absent and name not in schema.names:
            raise InputError(
                f"{file} has no column {name!r} and has {', '.join(schema.names)}; expected "
                f"{said(column)} under each input's name ({', '.join(version.inputs)}); add or "
                f'rename it, or let it be missing in each row with ARGS="--absent={name}"'
            )
        if name not in absent and file.name.endswith(files.PARQUET):
            demand_type(column, schema.field(name).type, str(file))
    for name in version.outputs:
        if name in schema.names:
            raise InputError(
                f"{file} has a column {name!r}, as an answer of the model is called; expected "
                "another name, or the scores would overwrite it; rename it"
            )
    lists = {name for name, column in version.inputs.items() if column.depth}
    kept = [field for field in schema if field.name not in lists]
    if not file.name.endswith(files.PARQUET):
        typed = {n: pa.int64() if c.kind == "int64" else pa.float64()
                 for n, c in version.inputs.items() if c.kind != "string"}  # fmt: skip
        kept = [pa.field(f.name, typed.get(f.name, f.type)) for f in kept]
    return pa.schema([pa.field(f.name, f.type) for f in kept])


def _refuse_other(first: Path, expected: pa.Schema, file: Path, found: pa.Schema) -> None:
    for name in dict.fromkeys([*expected.names, *found.names]):
        kinds = [
            str(s.field(name).type) if name in s.names else "not there" for s in (expected, found)
        ]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"{file}: column {name!r} is {kinds[1]}, and {kinds[0]} in {first}; expected the "
                "same columns of the same types in all files; write them alike"
            )


def _demand_place(requests: Requests, out: Path) -> None:
    if out.suffix != ".parquet" or out.is_dir():
        raise InputError(
            f"OUT is {out}; expected a Parquet file, such as scores.parquet; name one with OUT="
        )
    raw = requests.raw.resolve()
    if raw in (out.resolve(), out.resolve().parent):
        raise InputError(
            f"OUT {out} lies at the place of the requests, {requests.raw}; expected another, as "
            "the next run would read it as requests; name one with OUT="
        )


def _no_row(raw: Path) -> InputError:
    return InputError(f"{raw} has no row; expected at least one request; name another with RAW=")
