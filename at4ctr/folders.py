"""The folder is the registry: a module's file name is the name of a part."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from at4ctr.errors import unknown


def modules(package: str) -> list[str]:
    """The names that a folder offers: its modules, but for those that begin with ``_``."""
    folder = importlib.import_module(package)
    found = (m.name for m in pkgutil.iter_modules(folder.__path__) if not m.ispkg)
    return sorted(name for name in found if not name.startswith("_"))


def config_of(
    folder: str,
    name: str,
    what: str,
    settings: Mapping[str, Any] = MappingProxyType({}),
    others: Iterable[str] = (),
) -> Any:
    """The Config of the module ``at4ctr/<folder>/<name>.py``, with these fields set.

    Raises InputError, which calls the name ``what``, for a module that the folder does not have;
    ``others`` are names that would do as well.
    """
    known = modules(f"at4ctr.{folder}")
    if name not in known:
        raise unknown(what, name, [*known, *others])
    return importlib.import_module(f"at4ctr.{folder}.{name}").Config(**settings)
