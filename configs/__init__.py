"""Recipes and users' own datasets: what a name in CONFIG or DATASET stands for."""

from __future__ import annotations

import importlib

from at4ctr.config import Experiment
from at4ctr.data.dataset import Options
from at4ctr.errors import InputError, unknown
from at4ctr.folders import modules
from configs._compose import compose


def dataset(name: str) -> type[Options]:
    """A dataset's Config by its name."""
    known = datasets()
    if name not in known:
        raise unknown("dataset", name, known)
    return known[name]


def datasets() -> dict[str, type[Options]]:
    """Name -> Config of every dataset of ``at4ctr/data/datasets`` and of ``configs``."""
    known: dict[str, type[Options]] = {}
    for package in ("at4ctr.data.datasets", "configs"):
        for module in modules(package):
            found = importlib.import_module(f"{package}.{module}")
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

    ``<recipe>+<name>`` is the recipe's, as ``extended`` of ``configs/<name>.py`` changes it.
    """
    first, *others = name.split("+")
    for other in dict.fromkeys(others):
        if other in modules("configs"):
            extended = getattr(importlib.import_module(f"configs.{other}"), "extended", None)
            if extended is not None and others.count(other) == 1:
                rest = "+".join([first, *(n for n in others if n != other)])
                return extended(recipe(rest, data))
    if name in modules("configs"):
        made = getattr(importlib.import_module(f"configs.{name}"), "experiment", None)
        if made is None:
            raise InputError(
                f"configs/{name}.py has no experiment(data), so it is no recipe; expected one; "
                f"write it, or set DATASET={name} and another CONFIG"
            )
        return made(data)
    return compose(name, data)
