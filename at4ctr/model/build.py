"""Builds models from an experiment's configs; refuses combinations that make no sense."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from at4ctr.calibration import logit_shift
from at4ctr.contracts import (
    AuxiliaryConfig,
    BackboneConfig,
    Embeds,
    Encoding,
    HeadConfig,
    Interface,
    Numbers,
    Part,
    PerturbationConfig,
)
from at4ctr.encodings import mns
from at4ctr.errors import InputError, unknown
from at4ctr.folders import config_of
from at4ctr.heads import single
from at4ctr.layers import similarity
from at4ctr.layers.embedder import Config as Space
from at4ctr.layers.embedder import Embedder
from at4ctr.layers.hash_id import HashID
from at4ctr.layers.shape import Shape
from at4ctr.model.serving import Expert, ServingModel
from at4ctr.model.training import TrainingModel
from at4ctr.schema import Number, Schema, Similarity
from at4ctr.tasks import Task, derived, without_name


@dataclass(frozen=True)
class ExpertConfig:
    """A backbone, and the embedding space that it reads ('': the first one)."""

    backbone: BackboneConfig
    space: str = ""


@dataclass(frozen=True)
class Plan:
    """The configs that models are built from.

    experts: name -> expert; the first one's weights have the seed that a lone backbone would have.
    spaces: name -> its options; auxiliaries read the first one. tasks: label -> task; {} is every
    label of the schema, by default settings. auxiliaries, perturbations, encodings: name -> the
    Config of a module in that folder; an encoding that is not named has its defaults.
    """

    experts: Mapping[str, ExpertConfig]
    head: HeadConfig
    spaces: Mapping[str, Space] = field(default_factory=lambda: {"main": Space()})
    tasks: Mapping[str, Task] = field(default_factory=dict)
    auxiliaries: Mapping[str, AuxiliaryConfig] = field(default_factory=dict)
    perturbations: Mapping[str, PerturbationConfig] = field(default_factory=dict)
    encodings: Mapping[str, Any] = field(default_factory=dict)
    negative_rate: float = 1.0
    half_bce: bool = False
    uncertainty: bool = False
    seed: int = 0

    @classmethod
    def of(cls, backbone: BackboneConfig, embedding: Space | None = None, **settings: Any) -> Plan:
        """One expert in one space, named after its backbone, under the head ``single``."""
        name = type(backbone).__module__.rsplit(".", 1)[-1]
        settings.setdefault("head", single.Config())
        return cls(
            {name: ExpertConfig(backbone)}, spaces={"main": embedding or Space()}, **settings
        )


def serving_model(
    schema: Schema,
    rows: Mapping[str, int],
    plan: Plan,
    numbers: Mapping[str, Numbers] = MappingProxyType({}),
    vectors: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> ServingModel:
    """rows: size of each table. numbers: what the training rows hold of each number. vectors: of
    `Store.vectors`.
    """
    if not plan.experts or not plan.spaces:
        raise InputError(
            f"the experiment has {len(plan.experts)} experts and {len(plan.spaces)} embedding "
            "spaces; expected at least one of each; name a backbone (CONFIG=din)"
        )
    first = next(iter(plan.spaces))
    space_of = {name: expert.space or first for name, expert in plan.experts.items()}
    for name, space in space_of.items():
        if space not in plan.spaces:
            raise unknown(f"space of expert {name}", space, plan.spaces)
    similarities = {
        s.name: similarity.Similarity(vectors[f"{s.name}.user"], vectors[f"{s.name}.item"], s.name)
        for s in schema.similarities
    }
    spaces = {
        name: Embedder(
            schema,
            rows,
            config,
            _stream(plan.seed, i, name),
            _embeds(plan, space_of, name),
            _encodings(schema, plan, numbers, config.dimension, _stream(plan.seed, i, name)),
            vectors,
            _hash_ids(schema, plan, vectors, config.dimension, _stream(plan.seed, i, name)),
            similarities,
        )
        for i, (name, config) in enumerate(plan.spaces.items())
    }
    if space_of[next(iter(plan.experts))] != first:
        raise InputError(
            f"expert {next(iter(plan.experts))!r} comes first and reads space "
            f"{space_of[next(iter(plan.experts))]!r}; expected the first space, {first!r}, as "
            "auxiliaries read both; put the expert of that space first"
        )
    experts, faces = {}, dict[str, Interface]()
    for i, (name, expert) in enumerate(plan.experts.items()):
        dimension = plan.spaces[space_of[name]].dimension
        shape = Shape.of(schema, dimension)
        seed = _seed(plan.seed, 1 if not i else zlib.crc32(f"expert {name}".encode()))
        body = expert.backbone.build(shape, seed)
        experts[name] = Expert(body, space_of[name], expert.backbone.reads_history)
        direct: tuple[Part, ...] = getattr(body, "direct", ())
        faces[name] = Interface(
            body.parts, direct, expert.backbone.activation, seed, space_of[name], dimension
        )
    chosen = label_tasks(schema, plan.tasks)
    names = tuple(chosen)
    _demand_correctable(schema, names, plan.negative_rate)
    model = ServingModel(
        spaces,
        experts,
        plan.head.build(faces, names, _seed(plan.seed, 2)),
        tuple(label for label in schema.labels if label.name in chosen),
        tuple(name for name in names if chosen[name].serve),
        logit_shift(plan.negative_rate),
        next((x for name, x in derived(schema.labels).items() if name in chosen), None),
    )
    if model.uncertain:
        _demand_own_losses(schema, chosen)
    return model


def training_model(
    serving: ServingModel,
    schema: Schema,
    plan: Plan,
    mean_behaviours: Callable[[], float] = lambda: 1.0,
) -> TrainingModel:
    """The serving model with the plan's tasks and auxiliaries.

    mean_behaviours: of ``Shape``; called where an auxiliary asks for it.
    """
    first_space = next(iter(serving.spaces))
    givers = {
        name: set(getattr(b, "gives", ()))
        for name, b in serving.backbones.items()
        if serving.space_of[name] == first_space
    }
    for name in plan.auxiliaries:
        if name in serving.towers:
            raise InputError(
                f"auxiliary {name!r} has the name of a label; expected names that differ; rename "
                "the label"
            )
    for name, config in plan.auxiliaries.items():
        if not (math.isfinite(config.weight) and config.weight >= 0):
            raise InputError(
                f"auxiliaries.{name}.weight is {config.weight}; expected a finite λ of at least 0"
            )
        if not any(set(config.needs) <= given for given in givers.values()):
            raise InputError(
                f"{name} needs {', '.join(config.needs)} of the backbone, which "
                f"{', '.join(b.name for b in serving.backbones.values())} does not give; choose a "
                f"backbone that does or leave {name} out"
            )
    first = serving.backbone
    shape = Shape.of(schema, next(iter(plan.spaces.values())).dimension)
    states, towers = getattr(first, "states", shape.history), serving.head.tower_widths
    shape = shape._replace(states=states, towers=towers, mean_behaviours=mean_behaviours)
    auxiliaries = {
        name: (
            config.build(schema, shape, _seed(plan.seed, zlib.crc32(name.encode()))),
            config.weight,
        )
        for name, config in sorted(plan.auxiliaries.items())
    }
    return TrainingModel(
        serving,
        label_tasks(schema, plan.tasks),
        auxiliaries,
        perturbations={
            name: config.build(schema, _seed(plan.seed, zlib.crc32(f"perturb {name}".encode())))
            for name, config in plan.perturbations.items()
        },
        history=any(c.use_history for c in plan.auxiliaries.values() if c.weight),
        l2={name: space.l2 for name, space in plan.spaces.items()},
        half_bce=plan.half_bce,
        uncertainty=plan.uncertainty,
    )


def label_tasks(schema: Schema, chosen: Mapping[str, Task]) -> dict[str, Task]:
    """The task of each label that is learned, in the schema's order.

    A derived label, such as ``click_without_conversion``, is learned only where it is named.
    """
    known, more = [label.name for label in schema.labels], derived(schema.labels)
    for name in chosen:
        if name not in known and name not in more:
            raise unknown("label of a task", name, [*known, *more])
    found = {name: chosen.get(name, Task()) for name in known if not chosen or name in chosen}
    asked = [name for name in more if name in chosen]
    if len(asked) > 1:
        raise InputError(
            f"the experiment learns {' and '.join(asked)}; expected at most one of that kind, "
            f"as a version has one score; leave tasks.{asked[-1]} out"
        )
    for name in asked:
        if more[name].name not in found:
            raise InputError(
                f"the experiment learns {name!r} and not {more[name].name!r}, which the score "
                f"also reads; expected both; add tasks.{more[name].name}"
            )
        found[name] = chosen[name]
    for name, task in found.items():
        if task.over == "all" and (name in more or schema.label(name).within is None):
            raise InputError(
                f"tasks.{name}.over is all, and {name!r} is known in every row; expected it of a "
                f"label that is known within another one alone; set tasks.{name}.over=within"
            )
    for label in schema.labels:
        if label.name in found and label.within is not None and label.within not in found:
            raise InputError(
                f"the experiment learns {label.name!r}, which is known within {label.within!r}, "
                f"and not {label.within!r} itself; expected both; add tasks.{label.within}"
            )
    if not any(task.serve for task in found.values()):
        raise InputError(
            "no task of the experiment is served; expected at least one; set "
            f"tasks.{known[0]}.serve=true"
        )
    return found


def _encodings(
    schema: Schema, plan: Plan, numbers: Mapping[str, Numbers], dimension: int, seed: int
) -> dict[str, Encoding]:
    """The encoding of each served number and of each similarity in a space; its seed comes from
    the number's name."""
    found: dict[str, Encoding] = {}
    served = tuple(n for n in schema.numbers if n.serve)
    every: tuple[Number | Similarity, ...] = (*served, *schema.similarities)
    for number in every:
        what = f"encoding of number {number.name!r}"
        config = plan.encodings.get(number.encoding)
        config = config or config_of("encodings", number.encoding, what)
        own = _seed(seed, zlib.crc32(f"number {number.name}".encode()))
        found[number.name] = config.build(numbers.get(number.name, Numbers()), dimension, own)
    return found


def _hash_ids(
    schema: Schema, plan: Plan, vectors: Mapping[str, np.ndarray], dimension: int, seed: int
) -> dict[str, HashID]:
    """Table -> its HashIDs in a space, in the numeral systems of ``encodings.mns``."""
    tables = [table for table in schema.tables if table.hash_id]
    bases = plan.encodings["mns"].bases if "mns" in plan.encodings else mns.Config().bases
    return {
        table.name: HashID(
            vectors[table.name],
            table.hash_bits,
            bases,
            dimension,
            _seed(seed, zlib.crc32(f"hash {table.name}".encode())),
        )
        for table in tables
    }


def _demand_correctable(schema: Schema, names: Iterable[str], rate: float) -> None:
    """Raises InputError for a label whose probability the sampling of negatives would bias.

    The sampled label is corrected by ln w. A label known within it keeps all its rows.
    """
    right: set[str] = set()
    for label in schema.labels:
        if label.sampled or label.within in right:
            right.add(label.name)
            if label.within is not None:
                right.add(without_name(label))
    for name in names:
        if rate < 1 and name not in right:
            raise InputError(
                f"data.negative_rate is {rate} and label {name!r} is neither the sampled one nor "
                "known within it, so that its probability could not be corrected; expected 1; set "
                "data.negative_rate=1"
            )


def _demand_own_losses(schema: Schema, chosen: Mapping[str, Task]) -> None:
    """Raises InputError unless the loss of each label is the cross entropy of its own logit, whose
    second derivative is p (1 − p)."""
    for label in schema.labels:
        if label.name in chosen and label.within and chosen[label.name].over == "all":
            raise InputError(
                f"tasks.{label.name}.over is all and the head answers deviations; expected the "
                f"loss of the label's own logit; set tasks.{label.name}.over=within or another head"
            )
    for name in derived(schema.labels):
        if name in chosen:
            raise InputError(
                f"the experiment learns {name!r} and its head answers deviations, which the "
                f"correction of that label for sampling would change; expected labels of the "
                f"schema alone; leave tasks.{name} out or set another head"
            )


def _embeds(plan: Plan, space_of: Mapping[str, str], space: str) -> Embeds:
    """What the experts of a space ask of its embedder, together."""
    asked = [e.backbone.embeds for name, e in plan.experts.items() if space_of[name] == space]
    return Embeds(*(any(flags) for flags in zip(*asked, strict=True))) if asked else Embeds()


def _stream(seed: int, number: int, name: str) -> int:
    """The seed of a space's tables: the experiment's own for the first space."""
    return _seed(seed, zlib.crc32(f"space {name}".encode())) if number else seed


def _seed(seed: int, part: int) -> int:
    """The seed of a part, independent of other parts': an auxiliary more changes no initial weight
    of the backbone."""
    return int(np.random.SeedSequence([seed, part]).generate_state(1)[0]) & 0x3FFFFFFF
