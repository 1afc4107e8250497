"""Recipes and users' own datasets: finds a recipe (CONFIG) and a dataset (DATASET) by name."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from types import ModuleType

from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.errors import InputError, unknown
from at4ctr.folders import modules
from configs._compose import compose


def dataset(name: str) -> type[Options]:
    """A dataset's Config by its name."""
    known = datasets(asked=name)
    if name not in known:
        raise unknown("dataset", name, known)
    return known[name]


def datasets(asked: str = "") -> dict[str, type[Options]]:
    """Name -> Config of every dataset of ``at4ctr/data/datasets`` and of ``configs``.

    asked: the file of ``configs`` that must load; another that does not is left out.
    """
    known: dict[str, type[Options]] = {}
    for package in ("at4ctr.data.datasets", "configs"):
        for module in modules(package):
            try:
                found = _loaded(f"{package}.{module}")
            except InputError:
                if module == asked:
                    raise
                continue
            config = getattr(found, "Config", None)
            if not (isinstance(config, type) and issubclass(config, Options)):
                continue
            if module in known:
                raise InputError(
                    f"dataset {module!r} stands in at4ctr/data/datasets/{module}.py and in "
                    f"configs/{module}.py; expected one of that name; rename the second"
                )
            known[module] = config
    return known


def recipe(name: str, data: Options) -> Experiment:
    """The experiment that ``configs/<name>.py`` makes for a dataset, or ``backbone+task+task``.

    For ``<recipe>+<name>`` it is the recipe's experiment, changed by ``extended`` of
    ``configs/<name>.py``.
    """
    first, *others = name.split("+")
    for other in dict.fromkeys(others):
        if other in modules("configs"):
            extended = getattr(_loaded(f"configs.{other}"), "extended", None)
            if extended is not None and others.count(other) == 1:
                rest = "+".join([first, *(n for n in others if n != other)])
                return extended(recipe(rest, data))
    if name in modules("configs"):
        made = getattr(_loaded(f"configs.{name}"), "experiment", None)
        if made is None:
            raise InputError(
                f"configs/{name}.py has no experiment(data), so it is no recipe; expected one; "
                f"write it, or set DATASET={name} and another CONFIG"
            )
        return made(data)
    return compose(name, data)


def _loaded(module: str) -> ModuleType:
    """A module; of ``configs``, InputError with its line where it cannot be loaded."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        if not module.startswith("configs.") or isinstance(error, InputError):
            raise
        file = f"{module.replace('.', '/')}.py"
        frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):
            frames = [(error.filename or "", error.lineno)]
        line = next((n for f, n in frames if Path(f).name == Path(file).name), None)
        where = f"{file} line {line}" if line else file
        said = " ".join(str(error).split())
        raise InputError(
            f"{where} cannot be loaded ({type(error).__name__}: {said}); expected a module that "
            "Python imports; correct the file"
        ) from error
