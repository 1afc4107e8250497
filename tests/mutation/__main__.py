"""Runs the tests against mutants and writes which were killed.

python -m tests.mutation [--score tests/mutation/score.json] [--only TEXT] [--again]

A copy of the tree is changed, never the tree itself. Each mutant has a process of its own, forked
from one in which the large libraries are loaded, and runs only the tests that it names, up to the
first failure. That test must pass on the unchanged copy. A mutant is not run again while
its file, its tests and its own text are as they were (but with --again). One whose old text does
not stand exactly once in its file is an error. The exit code is 1 where a mutant survives without
an explanation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import at4ctr  # noqa: F401  (before TensorFlow)
from tests.mutation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
SCORE = Path(__file__).with_name("score.json")
PATIENCE = 900  # seconds; a mutant that takes longer hangs, which is noticed
LIBRARIES = ("tensorflow", "tf_keras", "pandas", "sklearn.metrics", "scipy.stats", "duckdb",
             "pyarrow.parquet", "hypothesis", "absl.flags", "matplotlib.pyplot")  # fmt: skip
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


def key(m: Mutant) -> str:
    """Changes with all that decides the outcome, but for the rest of the program."""
    files = [m.file, *(word.split("::")[0] for word in shlex.split(m.tests) if ".py" in word)]
    texts = [(ROOT / file).read_text(encoding="utf-8") for file in files]
    return hashlib.sha256(json.dumps([*m[:4], *texts]).encode()).hexdigest()[:16]


def changed(m: Mutant) -> str:
    """The mutated file; InputError's sentence as SystemExit where the old text is not unique."""
    text = (ROOT / m.file).read_text(encoding="utf-8")
    if text.count(m.old) != 1:
        raise SystemExit(
            f"error: {m.file} holds {m.old!r} {text.count(m.old)} times; expected once; correct "
            "the mutant in tests/mutation/mutants.py"
        )
    return text.replace(m.old, m.new)


def copied(folder: Path) -> Path:
    """A copy of what git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.split("\0"):
        source = ROOT / name
        if name and source.is_file() and not source.is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    return folder


def run(tree: Path, words: Sequence[str]) -> tuple[int | None, str]:
    """pytest's exit code (None: it took too long) and what it printed, in a forked process."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            _child(tree, words, output.fileno())
        code = _waited(child)
        output.seek(0)
        return code, output.read()


def _child(tree: Path, words: Sequence[str], output: int) -> None:
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    shared = ROOT.parent / "shared" / "data"
    os.environ.setdefault("AT4CTR_DATA", str(shared))
    for name in [n for n in sys.modules if n.split(".")[0] in ("at4ctr", "tests")]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(p for p in sys.path if p and Path(p).resolve() != ROOT)]
    code = 99
    try:
        import pytest

        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *words]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def _waited(child: int) -> int | None:
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def judged(m: Mutant, tree: Path) -> dict[str, Any]:
    """Runs a mutant's tests; the file is put back."""
    place = tree / m.file
    kept, text = place.read_text(encoding="utf-8"), changed(m)
    began = time.monotonic()
    try:
        place.write_text(text, encoding="utf-8")
        code, printed = run(tree, shlex.split(m.tests))
    finally:
        place.write_text(kept, encoding="utf-8")
    if code not in (0, 1, 2, None):  # 2: a test file that cannot be imported
        raise SystemExit(f"error: pytest ended with {code} for {m}:\n{printed[-3000:]}")
    by = "it took too long" if code is None else ", ".join(FAILED.findall(printed)[:1])
    outcome = "survived" if code == 0 else "killed"
    found = {**m._asdict(), "outcome": outcome, "by": by,
             "seconds": round(time.monotonic() - began, 1), "key": key(m)}  # fmt: skip
    return {k: v for k, v in found.items() if k != "why" or v}


def demand_sound(test: str, tree: Path) -> None:
    """Ends the program unless a test that killed a mutant passes on the unchanged copy."""
    code, printed = run(tree, [test])
    if code:
        raise SystemExit(
            f"error: {test} fails on the unchanged program; expected it to pass; mend it first\n"
            f"{printed[-3000:]}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--score", type=Path, default=SCORE)
    parser.add_argument("--only", default="", help="mutants whose file or tests hold this text")
    parser.add_argument("--again", action="store_true", help="run finished ones too")
    given = parser.parse_args()
    for m in MUTANTS:
        changed(m)
    before = json.loads(given.score.read_text())["mutants"] if given.score.is_file() else []
    known = {found["key"]: found for found in before}
    wanted = [m for m in MUTANTS if given.only in f"{m.file} {m.tests}"]
    pending = [m for m in wanted if given.again or key(m) not in known]
    for library in LIBRARIES:
        __import__(library)
    with tempfile.TemporaryDirectory(prefix="at4ctr-mutants-") as folder:
        tree = copied(Path(folder))
        sound = set[str]()
        for number, m in enumerate(pending, 1):
            found = judged(m, tree)
            if found["by"].startswith("tests/") and found["by"] not in sound:
                demand_sound(found["by"], tree)
                sound.add(found["by"])
            known[found["key"]] = found
            print(f"{number}/{len(pending)} {found['outcome']} in {found['seconds']} s: {m.file}: "
                  f"{m.old!r} -> {m.new!r} {found['by']}", file=sys.stderr)  # fmt: skip
            _write(given.score, known)
    score = _write(given.score, known)
    print(json.dumps(score["counts"]))
    return int(score["counts"]["unexplained"] > 0)


def _write(path: Path, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The score of the present mutants, in their order; those that were not run are left out."""
    found = [known[key(m)] for m in MUTANTS if key(m) in known]
    survivors = [f for f in found if f["outcome"] == "survived"]
    counts = {
        "mutants": len(MUTANTS),
        "run": len(found),
        "killed": len(found) - len(survivors),
        "explained": sum("why" in f for f in survivors),
        "unexplained": sum("why" not in f for f in survivors),
        "seconds": round(sum(f["seconds"] for f in found)),
    }
    score = {"counts": counts, "mutants": found}
    path.write_text(json.dumps(score, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return score


if __name__ == "__main__":
    sys.exit(main())
