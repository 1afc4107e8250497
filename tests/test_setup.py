"""What is installed: the locks hold what setup.py asks for, and the code asks for no more."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.publishing import CHECKOUT

OURS = ("at4ctr", "configs", "export", "pipelines")
OF_OTHERS = {"pyspark", "py4j", "airflow"}  # make setup-spark, and the scheduler's own
OF_OPTUNA = {"pyyaml"}  # which tests import, and Optuna needs to run
MODULES = {"google": "protobuf"}  # of many distributions' namespace


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>]", name)[0]).lower()


def asked() -> tuple[set[str], set[str]]:
    """What setup.py names: to run, and besides to develop."""
    (call,) = (n for n in ast.walk(ast.parse((CHECKOUT / "setup.py").read_text()))
               if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "setup")  # fmt: skip
    given = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    return {*map(plain, given["install_requires"])}, {*map(plain, given["extras_require"]["dev"])}


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (CHECKOUT / name).read_text(), re.M))


def imported(folder: Path) -> set[str]:
    """The top modules that files import, at any place in them."""
    found = set[str]()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - {*sys.stdlib_module_names, *OURS}


def test_what_runs_needs_the_first_lock_alone():
    run, dev = asked()
    modules = set[str]().union(*(imported(CHECKOUT / name) for name in OURS)) - OF_OTHERS
    there = packages_distributions()
    for module in modules:
        names = {MODULES[module]} if module in MODULES else {*map(plain, there[module])}
        assert names & run, f"setup.py does not ask for {module}"
    assert not run & dev
    assert run <= {*map(plain, pins("requirements.lock"))}
    assert (dev & {*map(plain, pins("requirements.lock"))}) <= OF_OPTUNA


def test_the_second_lock_adds_to_the_first_and_changes_nothing():
    run, both = pins("requirements.lock"), pins("requirements-dev.lock")
    assert run.items() < both.items()
    assert asked()[1] - OF_OPTUNA <= {plain(name) for name in both.keys() - run.keys()}


@pytest.mark.parametrize("command", ["bdist_wheel", "editable_wheel"])  # of pip install [-e] .
def test_an_installation_is_refused_in_one_sentence(command, tmp_path):
    done = subprocess.run([sys.executable, str(CHECKOUT / "setup.py"), command], cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert re.fullmatch("error: at4ctr was to be installed .* make setup there\n", done.stderr)
    assert not [*tmp_path.iterdir()]


def test_another_folder_imports_the_checkout_by_its_path(tmp_path):
    """As docs/serving.md says; `export.client` itself would load TensorFlow."""
    code = "import at4ctr, export.streams, pipelines.words as w; print(w.__file__)"
    path = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == CHECKOUT / "pipelines" / "words.py"
    assert "PYTHONPATH=/path/to/at4ctr" in (CHECKOUT / "docs" / "serving.md").read_text()
