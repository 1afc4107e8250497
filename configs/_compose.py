"""Recipes by name: ``backbone+task+task``, with what was tuned for the dataset."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from at4ctr import config
from at4ctr.config import Experiment
from at4ctr.contracts import AuxiliaryConfig, BackboneConfig
from at4ctr.data.dataset import Options
from at4ctr.errors import InputError, unknown
from configs._tuned import tuned


def compose(name: str, data: Options) -> Experiment:
    """The experiment of ``din``, ``din+uim+nip`` or any other backbone and tasks."""
    first, *tasks = name.split("+")
    known = [*config.modules("configs"), *config.modules("at4ctr.backbones")]
    if first not in config.modules("at4ctr.backbones"):
        raise unknown("recipe (CONFIG)", first, known)
    for task in tasks:
        if task not in config.modules("at4ctr.auxiliaries"):
            raise unknown(
                f"auxiliary task in CONFIG={name}", task, config.modules("at4ctr.auxiliaries")
            )
        if tasks.count(task) > 1:
            raise InputError(
                f"CONFIG={name} names {task!r} twice; expected each task once; drop one"
            )
    t = tuned(data.name)
    backbone = _config("backbones", first, t.parts.get(first, {}))
    made = Experiment.of(
        data,
        backbone,
        t.embedding,
        auxiliaries={
            task: _reading(_config("auxiliaries", task, t.parts.get(task, {})), backbone)
            for task in tasks
        },
        head=_head(data, t.parts.get("head", {})),
        fit=t.fit,
        calibrator=t.calibrator,
    )
    return config.override(made, t.fits.get(first, ()))


def _head(data: Options, settings: Mapping[str, Any]) -> Any:
    """``single`` for a dataset of one label, ``shared_bottom`` for several."""
    name = "single" if len(data.schema().labels) == 1 else "shared_bottom"
    return _config("heads", name, settings)


def _config(folder: str, name: str, settings: Mapping[str, Any]) -> Any:
    """The Config of a part, with what was tuned of it."""
    return importlib.import_module(f"at4ctr.{folder}.{name}").Config(**settings)


def _reading(task: AuxiliaryConfig, backbone: BackboneConfig) -> Any:
    """The task; one that can do without a history reads one only where the backbone does."""
    optional = any(f.name == "use_history" for f in fields(task))  # type: ignore[arg-type]
    return replace(task, use_history=backbone.reads_history) if optional else task  # type: ignore
