"""Entry points. Where one loads TensorFlow, it gets Keras 2, is quiet and takes less memory."""

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

from at4ctr.quiet import quietly  # the package sets the Keras version

NAME = "tensorflow"
M_ARENA_MAX = -8  # of glibc's malloc.h
SPARED = ("pandas", "scipy", "h5py")  # Keras loads them for features that nothing here uses


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Inside, packages that nothing has loaded yet seem not to be installed, to all threads."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is an ImportError
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def _one_arena_a_core() -> None:
    """Limits how many pools of freed memory glibc keeps, unless ``MALLOC_ARENA_MAX`` does. Its
    default, 8 a core, takes 40 MB more and is no faster."""
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        limit = getattr(ctypes.CDLL(None), "mallopt", None)  # another C library has none
        if limit is not None:
            limit(M_ARENA_MAX, len(os.sched_getaffinity(0)))


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads TensorFlow when it is first imported: quietly, without `SPARED`, with few arenas.

    It is a finder, so that TensorFlow is not imported at once: a rollback does not need it and need
    not wait for it. Without `SPARED` a process of TensorFlow alone is 70 MB smaller.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        _one_arena_a_core()
        with quietly(), _without(SPARED):
            self.loader.exec_module(module)
            module.config.list_physical_devices()


if NAME not in sys.modules:
    sys.meta_path.insert(0, _Loader())
