"""Entry points. Where one loads TensorFlow, it gets Keras 2 and does not print while it loads."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

from at4ctr.quiet import quietly  # the package sets the Keras version

NAME = "tensorflow"


class _Quietly(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads TensorFlow quietly, when it is first imported.

    It is a finder, so that TensorFlow is not imported at once: a rollback does not need it and need
    not wait for it.
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
        with quietly():
            self.loader.exec_module(module)
            module.config.list_physical_devices()


if NAME not in sys.modules:
    sys.meta_path.insert(0, _Quietly())
