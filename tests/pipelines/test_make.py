"""The Makefile: what a variable holds reaches the program as it is, and is never executed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from at4ctr.errors import InputError
from pipelines import words
from tests.publishing import CHECKOUT

TEXT = (CHECKOUT / "Makefile").read_text()
TARGETS = (
    " ".join(re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", TEXT, re.M)).replace("\\\n", "").split()
)
HOSTILE = [
    'x"; touch pwned; "',
    "x'; touch pwned; '",
    "`touch pwned`",
    "$(touch pwned)",
    "$(shell touch pwned) ${shell touch pwned}",
    "$(error stop) $(eval override PY := touch)",
    "costs $5 $$5 $HOME ${HOME} $(HOME) $@",
    "$(",
    "two\nlines\n\nendef\n$(shell touch pwned)\n",
    "a  b\t# no comment ",
    "ends in \\",
    "~ *.* ?[a-z]! & | ; < > () {a,b} % :=",
    "--again -n -",
    "Δ “é” \udcff",  # and a byte that is no UTF-8
]
STUB = """#!/bin/sh
if [ "$2" = pipelines.words ]; then
    exec {python} -c 'import sys; sys.path.insert(0, "{checkout}")
from pipelines import words
sys.executable = ".venv/bin/python"
sys.exit(words.main(sys.argv[3:]))' "$@"
fi
printf '%s\\0' "$@" >argv
exit "${{CODE:-0}}"
"""

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@pytest.fixture
def folder(tmp_path):
    """The Makefile and an environment that is ready, whose Python keeps the words it is given."""
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STUB.format(python=sys.executable, checkout=CHECKOUT))
    python.chmod(0o755)
    for place in ("docs", "build/docs-env"):
        (tmp_path / place).mkdir(parents=True)
    for name in ("requirements.lock", "requirements-dev.lock", "docs/requirements.lock",
                 ".venv/.ready", ".venv/.ready-dev", "build/docs-env/.ready"):  # fmt: skip
        (tmp_path / name).touch()
    return tmp_path


def make(folder, *arguments, **variables):
    """make with an environment of its own and these variables in it."""
    env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **variables}
    return subprocess.run(["make", *arguments], cwd=folder, env=env, capture_output=True,
                          text=True, errors="surrogateescape", check=False)  # fmt: skip


def reads(folder, target):
    """The variables that the recipe of a target reads."""
    done = make(folder, "--dry-run", target)
    assert done.returncode == 0, done.stderr
    return sorted({*re.findall(r"\$\{?([A-Z][A-Z_]*)", done.stdout)} | (
        {"ARGS"} if "pipelines.words" in done.stdout else set()))  # fmt: skip


def given(folder, target, on_the_line, in_the_environment):
    """The words that the program is given."""
    there = {p.name for p in folder.rglob("*")} | {"argv"}
    (folder / "argv").unlink(missing_ok=True)
    line = [f"{name}={value}" for name, value in on_the_line.items()]
    done = make(folder, target, *line, **in_the_environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {p.name for p in folder.rglob("*")} == there
    return (folder / "argv").read_text(errors="surrogateescape").split("\0")[:-1]


def valued(name, value):
    return shlex.join([value, f"--x={value}"]) if name == "ARGS" else value


@pytest.mark.parametrize("target", TARGETS)
def test_every_variable_reaches_its_program_unchanged(folder, target):
    names = reads(folder, target)
    count = len(given(folder, target, dict.fromkeys(names, "x"), {})) if names else 0
    for value in HOSTILE if names else ():
        variables = {name: valued(name, value) for name in names}
        for half in (0, 1):  # of the variables, in the environment; the others on make's line
            line = {n: v for k, (n, v) in enumerate(variables.items()) if k % 2 == half}
            found = given(folder, target, line, {n: variables[n] for n in names if n not in line})
            expected = [n for n in names if n != "ARGS"]
            for name in expected:
                assert found.count(f"--{name.lower()}={value}") + found.count(value) >= 1, name
            if "ARGS" in names:
                assert found[-2:] == [value, f"--x={value}"]
            assert len(found) == count + ("ARGS" in names)


def test_a_variable_that_no_target_reads_is_refused(folder):
    done = make(folder, "train", "DATSET=mylog")
    assert done.returncode == 2
    assert "unknown variable DATSET; expected one of ARGS BACKBONE" in done.stderr
    assert not (folder / "argv").exists()
    known = re.search(r"override known := ((?:.*\\\n)*.*)", TEXT)
    assert known
    read = {name for target in TARGETS for name in reads(folder, target)}
    assert read - {"PATH", "HOME"} <= {*known[1].replace("\\\n", " ").split()}


def test_every_variable_is_in_the_help_and_none_is_in_a_recipe_but_through_the_shell(folder):
    used = {name for target in TARGETS for name in reads(folder, target)}
    assert used | {"PYTHON"} == {*re.findall(r"([A-Z_]+)=", make(folder, "help").stdout)}
    assert {"MODEL", "DATE", "SET", "REASON", "RAW", "DATASET", "CONFIG", "RUN", "TABLE"} < used
    rules = re.sub("^#.*", "", TEXT, flags=re.M)
    assert {*re.findall(r"(?<!\$)\$[({]([A-Z]\w*)", rules)} == {"PY"}


@pytest.mark.parametrize("name", ["PY", "SHELL", "words", "flag", "install", "NOBODYS"])
def test_a_variable_that_is_no_programs_runs_nothing(folder, name):
    found = given(folder, "rollback", {"TO": "3"}, {name: HOSTILE[4]})
    assert found == ["-m", "pipelines.nightly", "rollback", "--model=ctr", "--to=3"]
    (folder / "argv").unlink()
    done = make(folder, "rollback", "TO=3", f"{name}={HOSTILE[4]}")
    assert done.returncode == 2
    assert f"unknown variable {name}; expected one of" in done.stderr
    assert not [*folder.rglob("pwned"), *folder.rglob("argv")]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    ("target", "environment"), [("setup", ".venv"), ("docs", "build/docs-env")]
)
def test_the_python_of_the_set_up_may_have_any_name(folder, value, target, environment):
    (folder / environment / ".ready").unlink()
    for line, env in (([f"PYTHON={value}"], {}), ([], {"PYTHON": value})):
        done = make(folder, target, *line, **env)
        assert done.returncode == 2
        assert f"error: {value} is not Python 3.11; install it" in done.stderr
        assert not list(folder.rglob("pwned"))


def test_blanks_before_a_value_are_lost_on_makes_line_alone(folder):
    assert "--to=  3 " in given(folder, "rollback", {}, {"TO": "  3 "})
    assert "--to=3 " in given(folder, "rollback", {"TO": "  3 "}, {})


def test_args_is_a_list_of_words_quoted_as_in_a_shell(folder):
    asked = "--bless --reason \"the first model\" 'a b' c\\ d"
    found = given(folder, "nightly", {"ARGS": asked}, {})
    assert found[-5:] == ["--bless", "--reason", "the first model", "a b", "c d"]
    with pytest.raises(InputError, match=r"SET='\"it' cannot be split .* close the quotation"):
        words.split("SET", '"it', "seed=1")
    done = make(folder, "nightly", 'ARGS=--reason "it')
    assert done.stderr.startswith("error: ARGS='--reason \"it' cannot be split into words")


def test_no_default_is_named_where_nothing_is_given(folder):
    assert given(folder, "train", {}, {}) == ["-m", "pipelines.train"]
    assert given(folder, "serve", {"MODEL": ""}, {})[-1] == "--model=runs/latest/export"


@pytest.mark.parametrize("code", [1, 10, 11, 12, 75])
def test_make_ends_with_2_and_names_the_programs_own_code(folder, code):
    done = make(folder, "nightly", "DATE=2017-12-01", CODE=str(code))
    assert done.returncode == 2
    assert f"Error {code}" in done.stderr
