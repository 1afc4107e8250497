"""Raw logs as CSV: checks before the engine reads one, and its errors with file and line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, AnyStr

import numpy as np

from at4ctr.errors import InputError

EXPANSION = 100  # bytes of text that a byte of gzip may give; logs give up to 30, deflate 1,032
SMALL = 64 << 20  # bytes of text that any gzip file may give
LONGEST_LINE = 1 << 24  # characters
CHUNK = 1 << 20  # bytes
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
csv.field_size_limit(LONGEST_LINE)
WHOLE = " *[+-]?[0-9]+ *"  # a whole number; no fraction and no exponent, which would be rounded


def check_file(path: Path) -> None:
    """Raises InputError for a raw file that is missing or empty."""
    if not path.is_file():
        raise InputError(
            f"raw log {path} does not exist; expected the dataset's log; name its file or folder "
            "with data.raw (RAW=path), or leave that empty to use data/raw"
        )
    if path.stat().st_size == 0:
        raise InputError(
            f"raw log {path} is empty (0 bytes); expected a log; put the complete file there"
        )


class _Bounded(io.RawIOBase):
    """The decompressed bytes of a gzip file; InputError where they are too many for its size."""

    def __init__(self, path: Path, packed: IO[bytes]) -> None:
        self.path, self.size = path, path.stat().st_size
        self.log, self.given = gzip.GzipFile(fileobj=packed), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.log.read(len(buffer))
        buffer[: len(data)] = data
        self.given += len(data)
        if self.given > max(SMALL, EXPANSION * self.size):
            raise InputError(
                f"{self.path} has {self.size:,} bytes and gives more than {self.given:,} when it "
                f"is decompressed; expected at most {EXPANSION} times its size or {SMALL >> 20} "
                "MiB, as of a log; fetch it again, or decompress it yourself if it is what it "
                "should be"
            )
        return len(data)


def inflated(path: Path, packed: IO[bytes]) -> io.BufferedReader:
    """The text of an open gzip file, as bytes. Raises InputError where it is longer than a file of
    that size can honestly hold."""
    return io.BufferedReader(_Bounded(path, packed), CHUNK)


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Opens a text file, compressed or not, as bytes."""
    with path.open("rb") as file:
        yield inflated(path, file) if path.suffix == ".gz" else file


@contextmanager
def open_text(path: Path, errors: str = "replace") -> Iterator[IO[str]]:
    """Opens a text file, compressed or not; its line ends stay as they are."""
    with open_bytes(path) as file:
        yield io.TextIOWrapper(file, encoding="utf-8", errors=errors, newline="")


def lines(path: Path, file: IO[AnyStr], longest: int = LONGEST_LINE) -> Iterator[AnyStr]:
    """The lines of an open text file; InputError for one of `longest` characters or more."""
    number = 0
    while line := file.readline(longest):
        number += 1
        if len(line) == longest:
            raise InputError(
                f"{path} line {number} has {longest:,} characters or more; expected one row a "
                "line; correct the file's line ends"
            )
        yield line


def demand_rows(path: Path, read: int, held: int) -> None:
    """Raises InputError unless an engine has read as many rows as a file holds."""
    if read != held:
        raise InputError(
            f"{path} was read as {read:,} rows; expected the {held:,} that it holds; prepare it "
            "again once nobody writes to it, or write it again in plain CSV or Parquet"
        )


def rows_held(path: Path, *, header: bool) -> tuple[int, bool]:
    """How many rows a text file has at most, and whether it has exactly so many.

    It counts the lines that are not blank; a quoted field may have line breaks in it. Raises
    InputError for a gzip file that is damaged, or too long when it is decompressed.
    """
    count, quoted, after_break = -int(header), False, True
    with readable(path), open_bytes(path) as file:
        while chunk := file.read(CHUNK):
            data = np.frombuffer(chunk, np.uint8)
            breaks = (data == ord("\n")) | (data == ord("\r"))
            count += int(np.count_nonzero(~breaks[1:] & breaks[:-1]))
            count += int(after_break and not breaks[0])
            after_break, quoted = bool(breaks[-1]), quoted or b'"' in chunk
    return count, not quoted


def check_first_line(
    path: Path, columns: Mapping[str, str], delimiter: str, header: bool, quote: str
) -> None:
    """Raises InputError where the first line has other columns, is a header that should be none, or
    is no header where one is expected."""
    line = _first_line(path)
    if quote:
        found = next(csv.reader([line], delimiter=delimiter, quotechar=quote), [])
    else:
        found = line.split(delimiter)
    names = ",".join(columns)
    if len(found) != len(columns):
        raise InputError(
            f"{path} line 1 has {len(found)} column(s) separated by {delimiter!r} ({line[:80]!r}); "
            f"expected {len(columns)} ({names}); convert the file to that delimiter and order"
        )
    if header and found != list(columns):
        raise InputError(
            f"{path} line 1 is {line[:80]!r}; expected the header {names!r}; put it back"
        )
    numeric = [value for value, kind in zip(found, columns.values(), strict=True)
               if kind == "BIGINT"]  # fmt: skip
    if not header and numeric and not any(re.search(r"\d", value) for value in numeric):
        raise InputError(
            f"{path} line 1 is a header ({line[:80]!r}); expected the first row of the log, as the "
            "file has no header; delete the line"
        )


def header(path: Path, delimiter: str) -> list[str]:
    """The names in the first line of a file."""
    return next(csv.reader([_first_line(path)], delimiter=delimiter), [])


def _first_line(path: Path) -> str:
    with readable(path), open_bytes(path) as file:
        begin = file.read(CHUNK >> 10)
    if begin.startswith(UTF_16) or begin.count(0) * 4 > len(begin):
        raise InputError(
            f"{path} line 1 begins with the bytes {begin[:8]!r}, as UTF-16 does; expected UTF-8 "
            "text; convert the file, for instance with iconv -f UTF-16 -t UTF-8"
        )
    with readable(path), open_text(path) as text:
        return text.readline(1 << 16).rstrip("\r\n").lstrip("\ufeff")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Inside, an error of reading the file becomes an InputError, which is one sentence."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        if path.suffix == ".gz" and not isinstance(error, PermissionError):
            raise InputError(
                f"{path} is not a readable gzip file ({error}); expected the complete download; "
                "fetch it again"
            ) from error
        raise InputError(
            f"{path} cannot be read ({error}); expected a readable file; correct its permissions "
            "or its disk"
        ) from error


def line_at(
    path: Path, row: int, *, delimiter: str = ",", header: bool = False, quote: str = ""
) -> tuple[int, list[str]]:
    """Line number, from 1, and fields of a row, from 0; blank lines are lines but no rows.

    Reads the file up to there, so only for an error.
    """
    with open_text(path) as file:
        for number, fields in _rows(lines(path, file), delimiter, quote):
            if row == -int(header):
                return number, fields
            row -= 1
    raise AssertionError(f"{path} has no such row")  # unless it is being changed


def _rows(file: Iterator[str], delimiter: str, quote: str) -> Iterator[tuple[int, list[str]]]:
    """Line where a row ends, and its fields."""
    if quote:
        reader = csv.reader(file, delimiter=delimiter, quotechar=quote)
        yield from ((reader.line_num, fields) for fields in reader if fields)
    else:
        rows = ((n, line.rstrip("\r\n")) for n, line in enumerate(file, 1))
        yield from ((n, line.split(delimiter)) for n, line in rows if line)


def error_of(path: Path, message: str) -> InputError:
    """The error for DuckDB's message about a CSV file."""
    line = re.search(r"Line: (\d+)", message)
    where = f"{path} line {line[1]}" if line else f"{path}"
    count = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if count:
        return InputError(
            f"{where} has {count[2]} column(s); expected {count[1]}; correct or delete the line"
        )
    if "gzip" in message.lower() or "compress" in message.lower():
        return InputError(
            f"{path} is not a complete gzip file ({first_line(message)}); expected the whole "
            "download; fetch it again"
        )
    if "not utf-8" in message:
        return InputError(f"{where} is not UTF-8; expected UTF-8 text; convert the file")
    mixed = _other_line_end(path)
    if mixed:
        return InputError(
            f"{path} line {mixed} ends otherwise than line 1; expected one kind of line end, LF "
            "or CRLF, throughout; convert the file, for instance with dos2unix"
        )
    return InputError(
        f"{where} cannot be read as CSV ({first_line(message)}); expected one row a line; "
        "correct the file"
    )


def _other_line_end(path: Path) -> int | None:
    """The first line that ends with LF where the first ends with CRLF, or the other way."""
    with open_text(path) as file:
        ends = ((n, "\r\n" if line.endswith("\r\n") else line[-1:])
                for n, line in enumerate(lines(path, file), 1))  # fmt: skip
        _, first = next(ends, (1, ""))
        return next((n for n, end in ends if end in ("\n", "\r", "\r\n") and end != first), None)


def first_line(message: str) -> str:
    """An engine's message without its advice."""
    return message.strip().splitlines()[0].rstrip(".")
