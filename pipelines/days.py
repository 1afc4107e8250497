"""Splits a raw log into day folders: python -m pipelines.days --dataset taobao

data/taobao/dt=2017-12-01/part-00000.csv holds the lines of that day as they are, in their order,
under the log's header if it has one. _SUCCESS says that they are all there, _SIMULATED that the log
is simulated. A folder appears whole. A second run changes nothing, and if a folder holds another
log of its day, the command refuses before it writes any folder. A line is read once, and memory
does not grow with the log.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO

from absl import flags

import configs
from at4ctr.data.dataset import Options, Source
from at4ctr.data.days import READY, SIMULATED, Lines
from at4ctr.data.disk import demand_room, explained, locked
from at4ctr.data.engines import csv_file
from at4ctr.data.engines.base import bar
from at4ctr.data.engines.csv_file import check_file, inflated, readable
from at4ctr.durable import make_folder, sync
from at4ctr.errors import InputError
from at4ctr.plural import counted
from export.streams import ignoring_closed_pipes
from pipelines import command, train

BLOCK = 16 << 20  # bytes of lines in memory
DEFLATED = 4  # bytes of text in a byte of gzip
EPOCH = date(1970, 1, 1).toordinal()
PART = "part-00000.csv"


@dataclass(frozen=True)
class Dealt:
    """days: the days that were asked for and that the log has, with their numbers of rows. new:
    days whose folders were not there before. left_out: rows of other days."""

    root: Path
    days: dict[date, int]
    new: tuple[date, ...]
    left_out: int
    simulated: bool

    def __str__(self) -> str:
        rows = sum(self.days.values())
        kind = ", simulated" if self.simulated else ""
        other = f"; rows of other days, left out: {self.left_out:,}" if self.left_out else ""
        there = len(self.days) - len(self.new)
        known = f"; {there} of them were there already" if there else ""
        return (
            f"{self.root}: {counted(len(self.days), 'day')}{kind}, {min(self.days)} to "
            f"{max(self.days)}, {rows:,} rows{other}{known}"
        )


def deal(data: Options, root: Path, first: date | None = None, last: date | None = None) -> Dealt:
    """Splits the raw log of a dataset into ``root/dt=YYYY-MM-DD``.

    first, last: of the days; by default those of the log (`Lines`).
    Raises InputError for a dataset whose log cannot be split, a line without a day, no row of these
    days, another log in a day's folder, and a disk that is too small or may not be written.
    """
    lines = _lines(data)
    first, last = first or lines.first, last or lines.last
    if first > last:
        raise InputError(
            f"the days begin at {first} and end at {last}; expected a first one before the last, "
            "or the same; exchange --begin and --end"
        )
    source = data.acquire()
    with explained(root):
        make_folder(root)
        with locked(root / ".days.lock"):
            for left in root.glob(".days.tmp-*"):  # of a killed process, as this one has the lock
                shutil.rmtree(left)
            aside = root / f".days.tmp-{os.getpid()}"
            try:
                rows, other = _write(lines, source, aside, first, last)
                _finish(aside, simulated=source.simulated)
                new = _place(aside, root, source)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return Dealt(root, rows, new, other, source.simulated)


def _lines(data: Options) -> Lines:
    if data.LINES is None:
        known = [name for name, found in configs.datasets().items() if found.LINES is not None]
        raise InputError(
            f"the raw log of {data.name} cannot be dealt to days, as it does not say which day a "
            f"line is of (LINES); expected one of {', '.join(known)}; write its day folders "
            "yourself, in its raw format"
        )
    return data.LINES


def _write(
    lines: Lines, source: Source, aside: Path, first: date, last: date
) -> tuple[dict[date, int], int]:
    """Writes the parts; the rows of each day, and of all others."""
    for file in source.files:
        check_file(file)
    text = sum(f.stat().st_size * (DEFLATED if _packed(f) else 1) for f in source.files)
    demand_room(aside.parent, text, "the day folders")
    rows = Counter[int]()
    wanted = range(first.toordinal() - EPOCH, last.toordinal() - EPOCH + 1)
    for file in source.files:
        for head, dealt in _blocks(lines, file):
            for day, found in dealt.items():
                rows[day] += len(found)
                if day in wanted:
                    _append(aside / f"dt={date.fromordinal(EPOCH + day)}", head, found)
    kept = {date.fromordinal(EPOCH + day): rows[day] for day in sorted(rows) if day in wanted}
    if not kept:
        raise InputError(
            f"{', '.join(map(str, source.files))} has no row of {first} to {last} among its "
            f"{rows.total():,}; expected some; name the days with --begin and --end, and look at "
            "the unit of its timestamps"
        )
    return kept, rows.total() - sum(kept.values())


def _blocks(lines: Lines, file: Path) -> Iterator[tuple[bytes, dict[int, list[bytes]]]]:
    """The header, and a block of lines by day, in their order; block after block."""
    with _opened(file) as (log, raw):
        text = csv_file.lines(file, log)
        head = next(text, b"") if lines.header else b""
        before = int(lines.header)
        while block := _next_block(text):
            if not block[-1].endswith(b"\n"):
                block[-1] += b"\n"
            dealt: dict[int, list[bytes]] = defaultdict(list)
            at = 0
            try:
                for at, line in enumerate(block):  # noqa: B007  (told of where it stops)
                    dealt[lines.day(line)].append(line)
            except (ValueError, IndexError, OverflowError) as error:
                raise InputError(
                    f"{file} line {before + at + 1} ({block[at][:80].rstrip()!r}) has no day that "
                    f"can be read ({error}); expected one in every line; correct or delete the line"
                ) from error
            before += len(block)
            bar(f"days of {file.name}", raw.tell() / max(file.stat().st_size, 1))
            yield head, dealt
    if sys.stderr.isatty():
        print(file=sys.stderr)


def _next_block(text: Iterator[bytes]) -> list[bytes]:
    """The next lines, of `BLOCK` bytes or so; none at the end."""
    block, size = list[bytes](), 0
    for line in text:
        block.append(line)
        size += len(line)
        if size >= BLOCK:
            break
    return block


def _packed(file: Path) -> bool:
    return file.suffix == ".gz"


@contextmanager
def _opened(file: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The text of a file, and the file, whose place tells how far it is."""
    with readable(file), file.open("rb") as raw:
        if not _packed(file):
            yield raw, raw
            return
        yield inflated(file, raw), raw


def _append(folder: Path, head: bytes, found: list[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / PART).open("ab") as part:
        if not part.tell():
            part.write(head)
        part.writelines(found)


def _finish(aside: Path, *, simulated: bool) -> None:
    """Marks the folders, all of whose bytes are on the disk."""
    for folder in aside.iterdir():
        sync(folder / PART)
        for mark in (SIMULATED, READY) if simulated else (READY,):
            (folder / mark).touch()
        sync(folder)


def _place(aside: Path, root: Path, source: Source) -> tuple[date, ...]:
    """Renames the folders into place, those of new days alone; these days."""
    folders = sorted(aside.iterdir())
    there = {f for f in folders if (root / f.name).exists()}
    for folder in folders:
        if folder in there and not _same(folder, root / folder.name):
            raise InputError(
                f"{root / folder.name} holds another log of its day; expected what "
                f"{', '.join(map(str, source.files))} has of it, or no folder; choose another "
                "--out, or move that folder away"
            )
    new = [f for f in folders if f not in there]
    for folder in new:
        folder.rename(root / folder.name)
    sync(root)
    return tuple(date.fromisoformat(f.name.removeprefix("dt=")) for f in new)


def _same(a: Path, b: Path) -> bool:
    names = sorted(p.name for p in a.iterdir())
    if not b.is_dir() or sorted(p.name for p in b.iterdir()) != names:
        return False
    return filecmp.cmpfiles(a, b, names, shallow=False)[0] == names


def flag_values() -> flags.FlagValues:
    """Flags of this command alone."""
    f = flags.FlagValues()
    for name, default, text in (
        ("dataset", "taobao", "the dataset whose raw log is split"),
        ("raw", "", "the raw log's file or folder; empty: data/raw/<dataset>"),
        ("set", "", "overrides, such as 'data.simulate_rows=2000000'"),
        ("out", "", "root of the day folders; empty: data/<dataset>"),
        ("begin", "", "the first day, YYYY-MM-DD; empty: the log's"),
        ("end", "", "the last day, YYYY-MM-DD; empty: the log's"),
    ):
        flags.DEFINE_string(name, default, text, flag_values=f)
    flags.DEFINE_boolean("help", False, "this text", flag_values=f)
    return f


@ignoring_closed_pipes()
def main(arguments: Sequence[str]) -> int:
    """Splits a log by flags; the exit code."""
    return command.run(
        "days", __doc__, flag_values(), arguments, _days, "run the same command again"
    )


def _days(f: flags.FlagValues) -> None:
    data = train.options(f.dataset, f.raw, f.set)
    root = Path(f.out or f"data/{data.name}")
    print(deal(data, root, _day("begin", f.begin), _day("end", f.end)))


def _day(flag: str, text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise InputError(
            f"--{flag} is {text!r}; expected a day such as 2017-12-01; give one, or leave it out"
        ) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
