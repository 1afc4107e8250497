"""This project's training beside other libraries', on the same rows, in interleaved rounds.

python -m benchmarks.bench_peers [--rounds 3] [--peers at4ctr,fbgemm,keras] [--loads pairs,pages]
python -m benchmarks.bench_peers --sizes tiny --rounds 1
    tries each row at tiny sizes; results and page go to ``.peers/``.

A load is a log of `random_log` in requests of 1, 2 or 25 rows. Every peer reads its rows, each with
a copy of its history; ours reads a store of the same rows. A round is one process of each setting,
one after the other. Each library runs in an environment of its own, which is pinned in
``benchmarks/peers/requirements_*.txt`` and made on the first run under ``.peers/``.

Every result is added to ``--results`` at once, and a result that is there is not measured again. So
a measurement can be split, and goes on where it was stopped. Delete the file to begin anew. The
part ``peers`` of the page is written from the file at the end; ``--rounds 0`` does only that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from at4ctr.analysis.tables import markdown
from at4ctr.durable import write_json
from at4ctr.errors import InputError, unknown
from benchmarks import pages
from benchmarks.random_log import Sizes, by_row, drawn, write_store

ROOT = Path(__file__).resolve().parents[1]
PEERS, ENVIRONMENTS = ROOT / "benchmarks" / "peers", ROOT / ".peers"
LOADS = {"independent": 1, "pairs": 2, "pages": 25}  # name -> rows of a request
TITLES = {
    "independent": "Independent rows",
    "pairs": "Pairs: one negative a positive",
    "pages": "Pages of 25 rows a request",
}
AIMS = {"independent": 3.0, "pairs": 3.5, "pages": 4.0}  # over the fastest library
SHIPPED_AIM = 10.0  # over each library as shipped
BUSY = 1.5  # load average a core above which other work had the machine
NOT_QUIET = (
    "**Other work had the machine in these rounds, so no aim is judged.** Libraries on torch lose "
    "far more by that than the others do."
)
TIMEOUT = 1800  # seconds of one process


class Plan(NamedTuple):
    """log: its rows are those that ours reads. batch: rows. steps, warmup: of a library's sparse
    step. few, few_warmup: of a step that walks the tables, which takes about a second."""

    log: Sizes
    batch: int
    steps: int
    warmup: int
    few: int
    few_warmup: int


PLANS = {
    "full": Plan(Sizes(rows=120 * 1024), 1024, steps=32, warmup=6, few=5, few_warmup=2),
    "tiny": Plan(Sizes(2000, 3000, 50, 12, 16 * 64), 64, steps=4, warmup=2, few=3, few_warmup=1),
}


class Setting(NamedTuple):
    """A row of the tables.

    peer: what ``--peers`` names. kind: ours, ours with ``tasks``, a library as ``shipped`` or at
    its ``best``. script: of `PEERS`, run in ``environment``; of ours, the recipe.
    """

    label: str
    peer: str
    kind: str
    optimizer: str
    script: str
    environment: str
    words: tuple[str, ...]
    by_hand: str


OURS, ADAM, ADAGRAD = "at4ctr", "Adam", "row-wise Adagrad"
ROWS_READ = "Adam of the rows that were read, which it lacks"
SPARSE_ADAM = "`torch.optim.SparseAdam` for its tables, and bare steps"


def _ours(label: str, kind: str, optimizer: str, recipe: str, *words: str) -> Setting:
    return Setting(label, OURS, kind, optimizer, recipe, "", words, "nothing")


SETTINGS = (
    _ours("at4ctr, row-wise Adagrad", "ours", ADAGRAD, "din", "fit.optimizer=rowwise_adagrad"),
    _ours("at4ctr, LazyAdam", "ours", ADAM, "din"),
    _ours("at4ctr, LazyAdam, DIN + UIM + NIP", "tasks", ADAM, "din+uim+nip"),
    Setting("FBGEMM, row-wise Adagrad", "fbgemm", "best", ADAGRAD, "run_fbgemm", "fbgemm",
            ("--dimension=20",), "DIN itself, and bare steps; width 20, a multiple of 4, where all "
            "others have 18"),
    Setting("plain Keras, sparse", "keras", "best", ADAM, "run_keras", "deepctr",
            ("--optim=sparse", "--gather"), f"{ROWS_READ}, and gathers from the resource"),
    Setting("DeepCTR, sparse", "deepctr", "best", ADAM, "run_deepctr", "deepctr",
            ("--optim=sparse",), ROWS_READ),
    Setting("FuxiCTR, sparse", "fuxictr", "best", ADAM, "run_fuxictr", "fuxictr",
            ("--optim=sparse", "--loop=raw"), f"{SPARSE_ADAM} without its clipping"),
    Setting("torch-rechub, sparse", "rechub", "best", ADAM, "run_rechub", "rechub",
            ("--optim=sparse",), SPARSE_ADAM),
    Setting("DeepCTR-Torch, sparse", "deepctr_torch", "best", ADAM, "run_deepctr_torch",
            "deepctr_torch", ("--optim=sparse",), SPARSE_ADAM),
    Setting("plain Keras, as shipped", "keras", "shipped", ADAM, "run_keras", "deepctr", (),
            "nothing"),
    Setting("DeepCTR, as shipped", "deepctr", "shipped", ADAM, "run_deepctr", "deepctr", (),
            "`l2_reg_embedding=0`"),
    Setting("FuxiCTR, as shipped", "fuxictr", "shipped", ADAM, "run_fuxictr", "fuxictr", (),
            "its model zoo's DIN put together, which the wheel leaves out"),
    Setting("torch-rechub, as shipped", "rechub", "shipped", ADAM, "run_rechub", "rechub", (),
            "nothing"),
    Setting("DeepCTR-Torch, as shipped", "deepctr_torch", "shipped", ADAM, "run_deepctr_torch",
            "deepctr_torch", (), "`l2_reg_embedding=0`"),
)  # fmt: skip
NAMES = tuple(dict.fromkeys(s.peer for s in SETTINGS))


def environment(name: str) -> Path:
    """The Python of a library's environment, made where it is not there."""
    folder = ENVIRONMENTS / name
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        print(f"making {folder.relative_to(ROOT)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pins = (PEERS / f"requirements_{name}.txt").read_text().split("\n")
        library, *rest = [line for line in pins if line and not line.startswith("#")]
        # A library's own pins are those of its release day, which its code has outlived.
        for wanted in (rest, ["--no-deps", library]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        ready.touch()
    return python


def make(folder: Path, log: Sizes, request: int) -> None:
    """A load on disk: ``rows``, the arrays of `by_row`, and ``store``. The folder is whole or
    absent."""
    if folder.exists():
        return
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "rows").mkdir(parents=True)
    found = drawn(log, request)
    for name, array in by_row(found, log.categories).items():
        np.save(aside / "rows" / f"{name}.npy", array)
    write_store(aside / "store", found, log)
    aside.rename(folder)


def command(s: Setting, plan: Plan, load: str, folder: Path) -> list[str | Path]:
    """What measures a setting on a load that lies in a folder."""
    log = plan.log._asdict()
    if s.peer == OURS:
        words = [*s.words, f"fit.batch_size={plan.batch}"]
        words += ["data.grouping=requests"] if LOADS[load] > 1 else []
        made = [sys.executable, "-m", "benchmarks.bench_train", f"--store={folder / 'store'}"]
        made += [f"--recipe={s.script}", f"--history={log['history']}", "--rounds=1", "--served=0"]
        return [*made, "--set", *words]
    sizes = {name: log[name] for name in ("users", "items", "categories", "history")}
    few = s.kind == "shipped"
    sizes |= {"batch": plan.batch, "steps": plan.few if few else plan.steps}
    sizes |= {"warmup": plan.few_warmup if few else plan.warmup}
    flags = [f"--{name}={value}" for name, value in sizes.items()]
    script = PEERS / f"{s.script}.py"
    return [environment(s.environment), script, f"--rows={folder / 'rows'}", *flags, *s.words]


def measured(command: Sequence[str | Path]) -> dict[str, Any]:
    """The last JSON line that a process prints."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = "\n".join(done.stderr.splitlines()[-15:])
        raise InputError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said}")
    return json.loads(lines[-1])


def missing(
    results: Sequence[Mapping[str, Any]], rounds: int, settings: Sequence[Setting], loads: list[str]
) -> Iterator[tuple[int, str, Setting]]:
    """What is not measured yet, in the order of measuring."""
    done = {(r["round"], r["load"], r["setting"]) for r in results}
    for number in range(rounds):
        for load in loads:
            yield from ((number, load, s) for s in settings if (number, load, s.label) not in done)


def measure(
    name: str, todo: Sequence[tuple[int, str, Setting]], results: list[dict[str, Any]], path: Path
) -> None:
    """Measures in order, and adds each result to the list and the file."""
    plan = PLANS[name]
    for needed in dict.fromkeys(s.environment for _, _, s in todo if s.environment):
        environment(needed)
    for load in dict.fromkeys(load for _, load, _ in todo):
        make(ENVIRONMENTS / "loads" / name / load, plan.log, LOADS[load])
    for number, load, s in todo:
        busy, began = os.getloadavg()[0], time.monotonic()
        found = measured(command(s, plan, load, ENVIRONMENTS / "loads" / name / load))
        result = {
            "setting": s.label,
            "load": load,
            "round": number,
            "sizes": name,
            "examples_per_s": round(found["train_examples_per_s"]),
            "peak_mb": found.get("peak_with_checkpoint_mb", found.get("peak_mb")),
            "machine_load": round(busy, 2),
            "cores": os.cpu_count(),
            "seconds": round(time.monotonic() - began, 1),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "versions": found.get("versions", {}),
        }
        results.append(result)
        write_json(path, results)
        print(f"round {number + 1}  {load}  {s.label}: {result['examples_per_s']:,} examples/s, "
              f"{result['peak_mb']:,} MB, load {busy:.1f}, {result['seconds']:.0f} s",
              file=sys.stderr)  # fmt: skip


class Row(NamedTuple):
    """A setting's results on a load."""

    setting: Setting
    speeds: list[float]
    peak: float

    @property
    def speed(self) -> float:
        return statistics.median(self.speeds)


def rows_of(results: Sequence[Mapping[str, Any]], load: str) -> list[Row]:
    """Of the settings that were measured on a load, in their order."""
    found = []
    for s in SETTINGS:
        runs = [r for r in results if r["load"] == load and r["setting"] == s.label]
        if runs:
            speeds = [float(r["examples_per_s"]) for r in runs]
            found.append(Row(s, speeds, statistics.median(float(r["peak_mb"]) for r in runs)))
    return found


def _own(rows: Sequence[Row], optimizer: str) -> Row | None:
    """Our bare DIN with an optimizer."""
    own = (r for r in rows if r.setting.kind == "ours" and r.setting.optimizer == optimizer)
    return next(own, None)


def _over(rows: Sequence[Row], row: Row) -> float | None:
    """How many times as fast our DIN with its optimizer is."""
    own = _own(rows, row.setting.optimizer)
    return own.speed / row.speed if own else None


def table(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        low, high = min(row.speeds), max(row.speeds)
        ratio = None if row.setting.kind in ("ours", "tasks") else _over(rows, row)
        lines.append(
            [
                row.setting.label,
                str(len(row.speeds)),
                f"{row.speed:,.0f} ({low:,.0f} to {high:,.0f})",
                f"{ratio:.1f}×" if ratio else "",
                f"{row.peak:,.0f}",
                row.setting.by_hand,
            ]
        )
    header = ("DIN", "rounds", "examples/s: median (range)", "at4ctr over it", "peak MB")
    return markdown((*header, "by hand"), lines)


def verdict(load: str, rows: Sequence[Row]) -> list[str]:
    """Whether each aim is met, a line each. An aim whose rows were not measured has none."""
    lines = []

    def line(aim: str, met: bool, found: str) -> None:
        lines.append(f"- {aim}: {'met' if met else '**missed**'}, {found}.")

    best = [r for r in rows if r.setting.kind == "best"]
    fastest = max(best, key=lambda r: r.speed, default=None)
    ratio = _over(rows, fastest) if fastest else None
    if fastest and ratio:
        line(f"{AIMS[load]:g} times the fastest library at its best", ratio >= AIMS[load],
             f"{ratio:.2f} times {fastest.setting.label}")  # fmt: skip
    shipped = [(_over(rows, r), r) for r in rows if r.setting.kind == "shipped"]
    known = [(over, r.setting.label) for over, r in shipped if over]
    if known:
        over, label = min(known)
        line(f"{SHIPPED_AIM:g} times each as shipped", over >= SHIPPED_AIM,
             f"{over:.1f} times {label}, the fastest of them")  # fmt: skip
    tasks = [r for r in rows if r.setting.kind == "tasks"]
    if fastest and tasks:
        over = tasks[0].speed / fastest.speed
        line("With UIM and NIP on, faster than any library's bare DIN", over > 1,
             f"{over:.2f} times {fastest.setting.label}")  # fmt: skip
    for optimizer in (ADAGRAD, ADAM):
        own = _own(rows, optimizer)
        theirs = [r for r in best if r.setting.optimizer == optimizer]
        if own and theirs:
            lean = min(theirs, key=lambda r: r.peak)
            line(f"Less memory than every library, with {optimizer}", own.peak < lean.peak,
                 f"{own.peak:,.0f} MB beside {lean.peak:,.0f} of {lean.setting.label}")  # fmt: skip
    return lines


def page(results: Sequence[Mapping[str, Any]], sizes: str) -> str:
    """The results as Markdown. Raises InputError where there is none."""
    if not results:
        raise InputError("there is no result to write a page of; expected --rounds of at least 1")
    plan = PLANS[sizes]
    busy = [r["machine_load"] for r in results]
    dates = sorted({r["date"] for r in results})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    cores = " or ".join(sorted({str(r["cores"]) for r in results}))
    lines = [
        f"`python -m benchmarks.bench_peers --sizes {sizes}`, {days}, on {cores} cores. The load "
        f"average before a process was {min(busy):.1f} to {max(busy):.1f}, of which the process "
        f"before is a part. Our rows train {plan.log.rows // plan.batch} steps and time the second "
        f"half, on pairs and pages with `data.grouping=requests`. Libraries train {plan.steps} "
        f"sparse steps after {plan.warmup} that warm up, and {plan.few} as shipped after "
        f"{plan.few_warmup}. *at4ctr over it* compares with our DIN under the same optimizer. Our "
        "peak includes the checkpoint.",
    ]
    for load, title in TITLES.items():
        if rows := rows_of(results, load):
            here = (r for r in results if r["load"] == load)
            quiet = all(r["machine_load"] <= BUSY * r["cores"] for r in here)
            lines += ["", f"### {title}", "", *table(rows), ""]
            lines += verdict(load, rows) if quiet else [NOT_QUIET]
    return "\n".join(lines)


def chosen(text: str, known: Sequence[str], what: str) -> list[str]:
    """The names in a list by comma, or all."""
    names = [name for name in text.split(",") if name]
    if wrong := [name for name in names if name not in known]:
        raise unknown(what, wrong[0], known)
    return names or list(known)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="", help=f"by comma, of {', '.join(NAMES)}")
    parser.add_argument("--loads", default="", help=f"by comma, of {', '.join(LOADS)}")
    parser.add_argument("--sizes", choices=PLANS, default="full")
    parser.add_argument("--results", type=Path, help="benchmarks/peers.json, or .peers/tiny.json")
    parser.add_argument("--out", type=Path, help="benchmarks/README.md, or .peers/tiny.md")
    args = parser.parse_args()
    ENVIRONMENTS.mkdir(exist_ok=True)
    path, out = ROOT / "benchmarks" / "peers.json", ROOT / "benchmarks" / "README.md"
    if args.sizes != "full":
        path, out = (ENVIRONMENTS / f"{args.sizes}.{end}" for end in ("json", "md"))
    path, out = args.results or path, args.out or out
    try:
        peers = chosen(args.peers, NAMES, "--peers")
        loads = chosen(args.loads, list(LOADS), "--loads")
        settings = [s for s in SETTINGS if s.peer in peers]
        results = json.loads(path.read_text()) if path.exists() else []
        if other := {r["sizes"] for r in results} - {args.sizes}:
            raise InputError(
                f"{path} has results of the sizes {min(other)}; expected {args.sizes}; give "
                "another file with --results"
            )
        if args.sizes != "full" and not out.exists():
            out.write_text("<!-- peers: begin -->\n<!-- peers: end -->\n")
        measure(args.sizes, list(missing(results, args.rounds, settings, loads)), results, path)
        pages.rewrite(out, "peers", page(results, args.sizes))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
