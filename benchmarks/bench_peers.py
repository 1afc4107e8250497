"""This project's training beside other libraries', on rows of the same log, in interleaved rounds.

python -m benchmarks.bench_peers [--rounds 3] [--peers at4ctr,fbgemm,keras] [--loads pairs,pages]
python -m benchmarks.bench_peers --sizes tiny --rounds 1
    tries each row at tiny sizes; results and page go to ``.peers/``.

A load is a log of `random_log` in requests of 1, 2 or 25 rows. This project trains all rows of a
load, from a store. A library trains the first rows, as many as its steps take, each with a copy of
its history.
A round is one process of each setting, one after the other. Settings of the kinds in `ONCE` run in
the first round only. Each library runs in an environment of its own, which is pinned in
``benchmarks/peers/requirements_*.txt`` and made under ``.peers/`` on the first run, and again after
its pins change.

Every result is added to ``--results`` at once. A result in that file is not measured again, unless
it is of other code or another machine, or other processes used the CPU beside it. So a measurement
can be split, and goes on where it was stopped. The part ``peers`` of the page is written from the
file at the end, also after a process that failed. ``--rounds 0`` does only that.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from at4ctr import runs
from at4ctr.analysis.tables import markdown
from at4ctr.data.store import FORMAT
from at4ctr.durable import write_json
from at4ctr.errors import InputError, unknown
from benchmarks import pages, random_log
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
ONCE = ("tasks", "shipped")  # kinds that run in the first round only
BUSY = 1.5  # load average a core above which other processes used the CPU
NOT_QUIET = "Other processes used the CPU during these rounds, so no aim is judged."
TIMEOUT = 1800  # seconds of one process


class Plan(NamedTuple):
    """log: the rows that this project reads. batch: rows. steps, warmup: of a library's sparse
    step. few, few_warmup: of a dense step, which updates whole tables and takes about a second."""

    log: Sizes
    batch: int
    steps: int
    warmup: int
    few: int
    few_warmup: int


PLANS = {
    "full": Plan(Sizes(rows=120 * 1024), 1024, steps=40, warmup=40, few=5, few_warmup=2),
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
    _ours("at4ctr, row-wise Adagrad, width 20", "ours", ADAGRAD, "din",
          "fit.optimizer=rowwise_adagrad", "spaces.main.dimension=20"),
    _ours("at4ctr, LazyAdam", "ours", ADAM, "din"),
    _ours("at4ctr, LazyAdam, DIN + UIM + NIP", "tasks", ADAM, "din+uim+nip"),
    Setting("FBGEMM, row-wise Adagrad, width 20", "fbgemm", "best", ADAGRAD, "run_fbgemm",
            "fbgemm", ("--dimension=20",), "DIN itself, and bare steps"),
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


def digest(*parts: bytes | str) -> str:
    """The first hex digits of a SHA-256."""
    made = hashlib.sha256()
    for part in parts:
        made.update(part.encode() if isinstance(part, str) else part)
        made.update(b"\0")
    return made.hexdigest()[:12]


@cache
def machine() -> str:
    """The model of this machine's CPU, and a digest that tells the machine from others."""
    info, unique = Path("/proc/cpuinfo"), Path("/etc/machine-id")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = unique.read_text().strip() if unique.exists() else ""
    return f"{models[0] if models else platform.machine()}, {digest(name or platform.node())[:8]}"


@cache
def sources() -> str:
    """A digest of the code and pinned packages that all measurements run."""
    names = ("bench_step.py", "bench_train.py", "random_log.py")
    files = [ROOT / "requirements.lock", *(ROOT / "benchmarks" / name for name in names)]
    for folder in (ROOT / "at4ctr", ROOT / "configs", PEERS):
        files += sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".txt"))
    return digest(inspect.getsource(command), *(p.read_bytes() for p in files))


def code(s: Setting, plan: Plan) -> str:
    """A digest of what a setting's result is made by, but for the machine."""
    return digest(sources(), repr(plan), repr(s._replace(by_hand="")))


def run(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a process to its end. Raises InputError where it fails."""
    words = " ".join(map(str, command))
    try:
        done = subprocess.run(command, text=True, check=False, **options)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{words} did not end within {error.timeout:.0f} s; run it alone to see why"
        ) from None
    except OSError as error:
        raise InputError(f"{words} could not be started: {error}") from None
    if done.returncode:
        said = "".join(f"\n{line}" for line in (done.stderr or "").splitlines()[-15:])
        raise InputError(f"{words} ended with {done.returncode}, expected 0{said}")
    return done


def environment(name: str) -> Path:
    """The Python of a library's environment, which is made where none has its pins."""
    folder, pins = ENVIRONMENTS / name, (PEERS / f"requirements_{name}.txt").read_text()
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists() or ready.read_text() != digest(pins):
        print(f"making {folder}", file=sys.stderr)
        run([sys.executable, "-m", "venv", "--clear", folder])
        lines = pins.split("\n")
        library, *rest = [line for line in lines if line and not line.startswith("#")]
        # A library's own pins are those of its release day, which its code has outlived.
        for wanted in (rest, ["--no-deps", library]):
            run([python, "-m", "pip", "install", "--quiet", *wanted])
        ready.write_text(digest(pins))
    return python


def load_folder(sizes: str, load: str) -> Path:
    """Where a load lies. The name ends with a digest of what the load is made by."""
    log, script = PLANS[sizes].log, Path(random_log.__file__).read_bytes()
    made = digest(repr(log), str(LOADS[load]), str(FORMAT), script)
    return ENVIRONMENTS / "loads" / sizes / f"{load}-{made}"


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


def threads() -> int:
    """Of each process: the cores that it may use, as TensorFlow takes them in ours."""
    return len(os.sched_getaffinity(0))


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
    sizes |= {"warmup": plan.few_warmup if few else plan.warmup, "threads": threads()}
    flags = [f"--{name}={value}" for name, value in sizes.items()]
    script = PEERS / f"{s.script}.py"
    return [environment(s.environment), script, f"--rows={folder / 'rows'}", *flags, *s.words]


def measured(command: Sequence[str | Path]) -> dict[str, Any]:
    """The last JSON line that a process prints."""
    done = run(command, cwd=ROOT, capture_output=True, timeout=TIMEOUT)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise InputError(f"{' '.join(map(str, command))} printed no JSON line, expected one")
    return json.loads(lines[-1])


def current(results: Sequence[Mapping[str, Any]], sizes: str) -> list[Mapping[str, Any]]:
    """The results of today's code on this machine."""
    codes = {s.label: code(s, PLANS[sizes]) for s in SETTINGS}
    return [
        r
        for r in results
        if r.get("machine") == machine() and r.get("code", "") == codes.get(r["setting"])
    ]


def busy(result: Mapping[str, Any]) -> bool:
    """Whether other processes used the CPU beside it."""
    return max(result["load_before"], result["load_after"]) > BUSY * result["cores"]


def place(result: Mapping[str, Any]) -> tuple[int, str, str]:
    """The key of a result; there is one result of each."""
    return result["round"], result["load"], result["setting"]


def missing(
    results: Sequence[Mapping[str, Any]], rounds: int, settings: Sequence[Setting], loads: list[str]
) -> Iterator[tuple[int, str, Setting]]:
    """The settings that have no undisturbed result yet, in the order of measuring."""
    done = {place(r) for r in results if not busy(r)}
    for number in range(rounds):
        run_now = [s for s in settings if number == 0 or s.kind not in ONCE]
        for load in loads:
            yield from ((number, load, s) for s in run_now if (number, load, s.label) not in done)


def measure(
    name: str, todo: Sequence[tuple[int, str, Setting]], results: list[dict[str, Any]], path: Path
) -> None:
    """Measures in order. A result joins the list and the file, for any other of its `place`."""
    plan = PLANS[name]
    for needed in dict.fromkeys(s.environment for _, _, s in todo if s.environment):
        environment(needed)
    for load in dict.fromkeys(load for _, load, _ in todo):
        make(load_folder(name, load), plan.log, LOADS[load])
    for number, load, s in todo:
        before, began = os.getloadavg()[0], time.monotonic()
        found = measured(command(s, plan, load, load_folder(name, load)))
        result = {
            "setting": s.label,
            "load": load,
            "round": number,
            "sizes": name,
            "examples_per_s": round(found["train_examples_per_s"]),
            "peak_mb": found.get("peak_with_checkpoint_mb", found.get("peak_mb")),
            "load_before": round(before, 2),
            "load_after": round(os.getloadavg()[0], 2),
            "cores": os.cpu_count(),
            "threads": threads(),
            "machine": machine(),
            "commit": runs.commit(),
            "code": code(s, plan),
            "seconds": round(time.monotonic() - began, 1),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "versions": found.get("versions", {}),
        }
        results[:] = [r for r in results if place(r) != place(result)] + [result]
        write_json(path, results)
        print(f"round {number + 1}  {load}  {s.label}: {result['examples_per_s']:,} examples/s, "
              f"{result['peak_mb']:,} MB, load {before:.1f} to {result['load_after']:.1f}, "
              f"{result['seconds']:.0f} s", file=sys.stderr)  # fmt: skip


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
    """How many times as fast this project's DIN is with the row's optimizer."""
    own = _own(rows, row.setting.optimizer)
    return own.speed / row.speed if own else None


def _least(rows: Sequence[Row], theirs: Sequence[Row]) -> tuple[float, str] | None:
    """The least of these multiples over some libraries, each with its own optimizer, and which
    library has it."""
    return min(((over, r.setting.label) for r in theirs if (over := _over(rows, r))), default=None)


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
    shipped = [r for r in rows if r.setting.kind == "shipped"]
    if found := _least(rows, best):
        over, label = found
        line(f"{AIMS[load]:g} times each library at its best", over >= AIMS[load],
             f"{over:.2f} times {label}, the nearest")  # fmt: skip
    if found := _least(rows, shipped):
        over, label = found
        line(f"{SHIPPED_AIM:g} times each as shipped", over >= SHIPPED_AIM,
             f"{over:.1f} times {label}, the nearest")  # fmt: skip
    tasks = [r for r in rows if r.setting.kind == "tasks"]
    if best and tasks:
        fastest = max(best, key=lambda r: r.speed)
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
        raise InputError(
            "there is no result of this code on this machine; expected --rounds of at least 1"
        )
    plan = PLANS[sizes]
    average = [r[name] for r in results for name in ("load_before", "load_after")]
    dates = sorted({r["date"] for r in results})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    cores, workers, machines, commits = (
        " or ".join(sorted({str(r[name]) for r in results}))
        for name in ("cores", "threads", "machine", "commit")
    )
    ours = plan.log.rows // plan.batch
    lines = [
        f"`python -m benchmarks.bench_peers --sizes {sizes}`, {days}, commit {commits}, "
        f"{machines}, {cores} cores, {workers} threads a process. The load average beside the "
        f"processes was {min(average):.1f} to {max(average):.1f}, of which they are a part.",
        "",
        "All train rows of the same log:",
        "",
        f"- ours all {plan.log.rows:,}, in {ours} steps, of which the second half is timed;",
        f"- libraries at their best the first {(plan.warmup + plan.steps) * plan.batch:,}: "
        f"{plan.warmup} steps that warm up, {plan.steps} that are timed;",
        f"- libraries as shipped the first {(plan.few_warmup + plan.few) * plan.batch:,}: "
        f"{plan.few_warmup} steps that warm up, {plan.few} that are timed.",
        "",
        "On pairs and pages ours has `data.grouping=requests`. DIN + UIM + NIP and libraries as "
        "shipped run in the first round only. *at4ctr over it* "
        "compares with our DIN under the same optimizer. FBGEMM takes widths that are multiples of "
        "4, so it and our row beside it have 20, where all others have 18. Our peak includes the "
        "checkpoint.",
    ]
    for load, title in TITLES.items():
        if rows := rows_of(results, load):
            disturbed = any(busy(r) for r in results if r["load"] == load)
            lines += ["", f"### {title}", "", *table(rows), ""]
            lines += [NOT_QUIET] if disturbed else verdict(load, rows)
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
        known = current(results, args.sizes)
        todo = list(missing(known, args.rounds, settings, loads))
        try:
            measure(args.sizes, todo, results, path)
        except InputError:
            if known := current(results, args.sizes):
                pages.rewrite(out, "peers", page(known, args.sizes))
            raise
        pages.rewrite(out, "peers", page(current(results, args.sizes), args.sizes))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
