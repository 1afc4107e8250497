"""Recipes by name: ``backbone+task+task``, with what was tuned for the dataset."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from at4ctr import config
from at4ctr.config import Experiment
from at4ctr.contracts import AuxiliaryConfig, BackboneConfig, HeadConfig
from at4ctr.data.dataset import Options
from at4ctr.errors import InputError, unknown
from at4ctr.folders import config_of, modules
from at4ctr.layers import embedder
from at4ctr.model.build import ExpertConfig
from configs._tuned import tuned


def compose(name: str, data: Options) -> Experiment:
    """The experiment of ``din``, ``din+uim+nip`` or any other backbone and tasks."""
    first, *tasks = name.split("+")
    if first not in modules("at4ctr.backbones"):
        raise unknown("recipe (CONFIG)", first, [*_files(), *modules("at4ctr.backbones")])
    for task in tasks:
        if tasks.count(task) > 1:
            raise InputError(
                f"CONFIG={name} names {task!r} twice; expected each task once; drop one"
            )
    t = tuned(data.name)
    backbone = config_of("backbones", first, "backbone", t.parts.get(first, {}))
    what, others = f"auxiliary or perturbation in CONFIG={name}", modules("at4ctr.perturbations")
    found = {
        k: config_of("auxiliaries", k, what, t.parts.get(k, {}), others)
        for k in tasks
        if k not in others
    }
    made = Experiment.of(
        data,
        backbone,
        t.embedding,
        auxiliaries={task: _reading(settings, backbone) for task, settings in found.items()},
        perturbations={
            k: config_of("perturbations", k, what, t.parts.get(k, {})) for k in tasks if k in others
        },
        head=_head(data, t.parts.get("head", {})),
        fit=t.fit,
        calibrator=t.calibrator,
    )
    return config.override(made, t.fits.get(first, ()))


def _files() -> list[str]:
    """The files of ``configs`` that make an experiment; another one may be a dataset alone."""
    found = []
    for name in modules("configs"):
        try:
            module = importlib.import_module(f"configs.{name}")
        except Exception:  # it cannot be loaded, so it makes none
            continue
        if hasattr(module, "experiment"):
            found.append(name)
    return found


def in_spaces(
    made: Experiment, spaces: Mapping[str, embedder.Config], head: HeadConfig
) -> Experiment:
    """The experiment with each of its experts in each of these spaces, under the head.

    An expert is named after its space; where there are several, ``<space>_<expert>``.
    """
    lone = len(made.experts) == 1
    experts = {
        space if lone else f"{space}_{name}": ExpertConfig(expert.backbone, space)
        for space in spaces
        for name, expert in made.experts.items()
    }
    return replace(made, experts=experts, spaces=dict(spaces), head=head)


def main_space(made: Experiment) -> embedder.Config:
    """The options of the experiment's first space."""
    return next(iter(made.spaces.values()))


def dropout(made: Experiment) -> float:
    """The dropout of the experiment's head."""
    return getattr(made.head, "dropout", 0.0)


def _head(data: Options, settings: Mapping[str, Any]) -> Any:
    """``single`` for a dataset of one label, ``shared_bottom`` for several."""
    name = "single" if len(data.schema().labels) == 1 else "shared_bottom"
    return config_of("heads", name, "head", settings)


def _reading(task: AuxiliaryConfig, backbone: BackboneConfig) -> Any:
    """The task; its field ``use_history``, if any, says whether the backbone reads a history."""
    optional = any(f.name == "use_history" for f in fields(task))  # type: ignore[arg-type]
    return replace(task, use_history=backbone.reads_history) if optional else task  # type: ignore
