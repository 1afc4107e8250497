"""Scores a file of requests with a run's exported model: make predict RUN= RAW= OUT=

RAW is a Parquet or CSV file, or a folder of them, with a row a candidate. Its columns have the
names and the raw values of the inputs of the exported signature serving_default; docs/serving.md
says how lists are written. OUT has all columns but those lists, and each answer of the model.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from at4ctr.errors import InputError
from export.streams import ignoring_closed_pipes
from pipelines import command

EVERY = 15.0  # seconds between lines of progress where no terminal shows it


class Progress:
    """Prints the rows that are done, rows per second and, for Parquet, the time left.

    On a terminal it rewrites one line; elsewhere it prints a line every `EVERY` seconds.
    """

    def __init__(self, total: int | None) -> None:
        self.total, self.terminal = total, sys.stderr.isatty()
        self.began = self.shown = time.perf_counter()

    def __call__(self, done: int) -> None:
        now = time.perf_counter()
        if now - self.shown < (0.5 if self.terminal else EVERY):
            return
        self.shown, speed = now, done / (now - self.began)
        line = f"predict: {done:,} rows, {speed:,.0f} rows/s"
        if self.total is not None:
            line = f"predict: {done:,} of {self.total:,} rows, {speed:,.0f} rows/s"
            line += f", {(self.total - done) / speed:,.0f} s left"
        print(f"\r\033[K{line}" if self.terminal else line, end="" if self.terminal else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def predict(
    run: Path, raw: Path, out: Path, absent: Sequence[str], rows: int, *, nulls: bool
) -> str:
    """Writes the scores and returns a sentence about them. Arguments and errors are those of
    `scoring`."""
    from export.scoring import files, score, version  # which loads TensorFlow

    files.find(raw)
    path = version.newest(run)
    model = version.load(path)
    requests = score.opened(model, raw, absent)
    simulated = " of a simulated log" if model.simulated else ""
    print(f"predict: {raw} with {path}, a model{simulated}", file=sys.stderr, flush=True)
    progress = Progress(requests.total)
    try:
        done = score.score(model, requests, out, rows=rows, nulls=nulls, progress=progress)
    finally:
        progress.close()
    seconds = time.perf_counter() - progress.began
    return (
        f"{out}: {done:,} rows with {', '.join(model.outputs)}, in {seconds:,.1f} s "
        f"({done / seconds:,.0f} rows/s){simulated and ', by a model' + simulated}"
    )


def flag_values() -> flags.FlagValues:
    """Flags of this command alone: the modules of other commands have some of these names."""
    f = flags.FlagValues()
    for name, default, text in (
        ("run", "runs/latest", "a run, a folder of versions, or an exported version"),
        ("raw", "", "a Parquet or CSV file of requests, or a folder of them"),
        ("out", "", "the Parquet file of the scores"),
    ):
        flags.DEFINE_string(name, default, text, flag_values=f)
    flags.DEFINE_list("absent", [], "inputs without a column: all missing", flag_values=f)
    flags.DEFINE_enum(
        "nulls",
        "refuse",
        ["refuse", "missing"],
        "a null in RAW: refuse it, or take it as missing",
        flag_values=f,
    )
    flags.DEFINE_integer("batch", 4096, "rows that are answered at once", 1, flag_values=f)
    flags.DEFINE_boolean("help", False, "this text", flag_values=f)
    return f


@ignoring_closed_pipes()
def main(arguments: Sequence[str]) -> int:
    """Scores by flags; the exit code: 0, 2 on bad input, 130 when interrupted."""
    after = "nothing was written; the same command begins anew"
    return command.run("predict", __doc__, flag_values(), arguments, _predict, after)


def _predict(f: flags.FlagValues) -> None:
    for name, example in (("raw", "requests.parquet"), ("out", "scores.parquet")):
        if not f[name].value:
            raise InputError(
                f"{name.upper()} is not set; expected a file; set {name.upper()}={example}"
            )
    print(predict(Path(f.run), Path(f.raw), Path(f.out), f.absent, f.batch,
                  nulls=f.nulls == "missing"))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
