"""An experiment: typed, overridable from a command line, and repeatable from its JSON snapshot."""

from __future__ import annotations

import dataclasses
import importlib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from at4ctr.calibration import Asked
from at4ctr.calibration.fitted import Isotonic, Platt
from at4ctr.contracts import BackboneConfig, HeadConfig
from at4ctr.data.dataset import Options
from at4ctr.data.days import Periods
from at4ctr.errors import InputError, unknown
from at4ctr.fit import WATCHED, Fit
from at4ctr.folders import config_of, modules
from at4ctr.gates import anomaly, verdict
from at4ctr.heads import gaussian_process, single
from at4ctr.layers import embedder
from at4ctr.model import quantized
from at4ctr.model.build import ExpertConfig, Plan, label_tasks
from at4ctr.tasks import Task, composed_name, derived

ITSELF = "\0"  # in a tree of overrides: the name of the part below which more is set
PARTS = {"auxiliaries": "auxiliary", "perturbations": "perturbation"}  # that CONFIG=…+name adds
REGISTRIES = ("backbones", "heads", "encodings", "auxiliaries", "perturbations")


@dataclass(frozen=True)
class Experiment:
    """Everything that a run depends on.

    experts: name -> an expert, that is a backbone and the embedding space that it reads.
    spaces: name -> the options of an embedding space; auxiliaries read the first one.
    head: what makes one logit per label of all experts.
    tasks: label -> how it is learned; {} learns every label of the dataset by default settings.
    weighting: of the labels' losses: ``fixed`` by their tasks' weights, or ``uncertainty``, which
        also learns a weight of each (``model.training``).
    auxiliaries: name -> a loss that only training has.
    perturbations: name -> a change of each training batch before it is embedded.
    encodings: name -> options of an encoding of numbers; one that is not named has its defaults.
    calibrator: the map fitted to each label on validation rows, after the sampling correction.
        ``none`` fits none. Use it when the base rate may drift after validation, or to compare log
        losses with published numbers. The head ``gaussian_process`` takes ``none`` or ``platt``.
    export: how the tables of the exported model are stored.

    A backbone, a head and an auxiliary are each the Config of a module in the folder of that name.
    """

    data: Options
    experts: Mapping[str, ExpertConfig]
    spaces: Mapping[str, embedder.Config] = field(
        default_factory=lambda: {"main": embedder.Config()}
    )
    head: HeadConfig = field(default_factory=single.Config)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    weighting: Literal["fixed", "uncertainty"] = "fixed"
    auxiliaries: Mapping[str, Any] = field(default_factory=dict)
    perturbations: Mapping[str, Any] = field(default_factory=dict)
    encodings: Mapping[str, Any] = field(default_factory=dict)
    fit: Fit = field(default_factory=Fit)
    calibrator: Asked = "none"
    export: quantized.Config = field(default_factory=quantized.Config)
    seed: int = 0

    @classmethod
    def of(
        cls,
        data: Options,
        backbone: BackboneConfig,
        embedding: embedder.Config | None = None,
        **settings: Any,
    ) -> Experiment:
        """The experiment of one expert in one space, named after its backbone.

        Its head is ``single`` unless the settings name one. Every label of the dataset has its task
        and every encoding of its numbers its options, so that each can be overridden.
        """
        schema = data.schema()
        settings.setdefault("tasks", {label.name: Task() for label in schema.labels})
        encodings = {n.encoding for n in schema.numbers}
        encodings |= {s.encoding for s in schema.similarities}
        encodings |= {"mns" for t in schema.tables if t.hash_id}
        settings.setdefault(
            "encodings",
            {name: config_of("encodings", name, "encoding") for name in sorted(encodings)},
        )
        lone = Plan.of(backbone, embedding)
        return cls(data, lone.experts, lone.spaces, **settings)

    @property
    def shortcuts(self) -> dict[str, str]:
        """Short names in overrides: the first expert's ``backbone``, the first space's options."""
        return {
            "backbone": f"experts.{next(iter(self.experts))}.backbone",
            "embedding": f"spaces.{next(iter(self.spaces))}",
        }

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The labels that have metrics: those that are served, what is composed of them, and a
        derived label such as ``click_without_conversion``."""
        schema = self.data.schema()
        learned = label_tasks(schema, self.tasks)
        served = [x for x in schema.labels if x.name in learned and learned[x.name].serve]
        names, whole = [x.name for x in served], set[str]()
        for x in served:
            if x.within is None:
                whole.add(x.name)
            elif x.within in whole:
                whole.add(x.name)
                names.append(composed_name(x))
        return (*names, *(name for name in derived(schema.labels) if name in learned))

    @property
    def plan(self) -> Plan:
        """The parts that its models are built of."""
        return Plan(
            experts=self.experts,
            head=self.head,
            spaces=self.spaces,
            tasks=self.tasks,
            auxiliaries=self.auxiliaries,
            perturbations=self.perturbations,
            encodings=self.encodings,
            negative_rate=self.data.negative_rate,
            half_bce=self.fit.half_bce,
            uncertainty=self.weighting == "uncertainty",
            seed=self.seed,
        )

    def __post_init__(self) -> None:
        if self.calibrator not in typing.get_args(Asked):
            raise unknown("calibrator", self.calibrator, typing.get_args(Asked))
        if self.weighting not in ("fixed", "uncertainty"):
            raise unknown("weighting", self.weighting, ("fixed", "uncertainty"))
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed is {self.seed}; expected 0 to 2147483647")
        if self.calibrator in ("isotonic", "auto") and isinstance(
            self.head, gaussian_process.Config
        ):
            raise InputError(
                f"calibrator is {self.calibrator} and head gaussian_process answers deviations, "
                "which no isotonic map scales by a constant; expected none or platt; set "
                "calibrator=platt"
            )
        self._demand_watch()
        for name, expert in self.experts.items():
            least = expert.backbone.least_history
            if self.data.history < least:
                raise InputError(
                    f"data.history is {self.data.history}, too short for {name}, which would "
                    f"never find what it reads in a history; expected at least {least}; set "
                    f"data.history={least} or choose another backbone"
                )

    def _demand_watch(self) -> None:
        if not self.fit.watch:
            return
        label, _, metric = self.fit.watch.rpartition(".")
        if metric not in WATCHED:
            raise unknown("metric of fit.watch", metric, WATCHED)
        if label not in self.evaluated:
            raise unknown("label of fit.watch", label, self.evaluated)


def override(value: Any, assignments: typing.Iterable[str], recipe: str = "") -> Any:
    """Applies ``a.b=c`` assignments to a (nested) dataclass; types come from its annotations.

    All assignments to one dataclass are made at once, so that fields whose values must fit together
    can change together.

    recipe: the name of an experiment's recipe, for errors.
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise InputError(
                f"override {assignment!r} is not of the form field=value; "
                'for example SET="fit.batch_size=2048 data.history=200"'
            )
        first, dot, rest = path.partition(".")
        path = getattr(value, "shortcuts", {}).get(first, first) + dot + rest
        *above, last = path.split(".")
        node = tree
        for name in above:
            if not isinstance(node.get(name), dict):
                node[name] = {ITSELF: node[name]} if name in node else {}
            node = node[name]
        if isinstance(node.get(last), dict):
            node[last][ITSELF] = text
        else:
            node[last] = text
    return _set(value, tree, "", recipe)


def _set(value: Any, tree: Mapping[str, Any], above: str, recipe: str) -> Any:
    """value with the leaves of ``tree`` (texts) parsed and set; ``above`` is its own path."""
    entries = isinstance(value, Mapping)
    if not entries and (not dataclasses.is_dataclass(value) or isinstance(value, type)):
        path = f"{above}.{next(iter(tree))}"
        raise InputError(f"override {path}: nothing lies below {above!r}; expected a shorter path")
    names = list(value) if entries else [f.name for f in dataclasses.fields(value)]
    hints = {} if entries else typing.get_type_hints(type(value))
    new = {}
    for name, leaf in tree.items():
        path = f"{above}.{name}" if above else name
        if name not in names:
            if above in PARTS:
                raise _absent(path, name, above, names, recipe)
            raise unknown(f"{'name' if entries else 'field'} in {path}", name, names)
        now = value[name] if entries else getattr(value, name)
        module = leaf.pop(ITSELF, None) if isinstance(leaf, dict) else leaf
        if module is not None and (folder := registry_of(now)):
            now = config_of(folder, module, f"value of {path}")
            if not isinstance(leaf, dict):
                new[name] = now
                continue
        if isinstance(leaf, dict):
            new[name] = _set(now, leaf, path, recipe)
        elif entries or dataclasses.is_dataclass(now) or isinstance(now, Mapping):
            raise _not_one_value(now, path)
        else:
            new[name] = parse(leaf, hints[name], path)
    return {**value, **new} if entries else dataclasses.replace(value, **new)


def _absent(path: str, name: str, above: str, names: list[str], recipe: str) -> InputError:
    """The error for an override of a part that the recipe does not have."""
    part, known = PARTS[above], modules(f"at4ctr.{above}")
    if name not in known:
        return unknown(f"{part} in {path}", name, known)
    first = recipe.partition("+")[0]
    file = first and first not in modules("at4ctr.backbones")
    return InputError(
        f"override {path}: the recipe has no {part} {name}, so the override sets nothing; "
        f"expected a recipe with it"
        + (f" or one of {', '.join(names)}; " if names else "; ")
        + (f"add it in configs/{first}.py" if file else f"write CONFIG={recipe or 'din'}+{name}")
    )


def registry_of(value: Any) -> str:
    """The folder whose module's Config a value is, such as ``heads``; '' of any other value."""
    package, _, folder = type(value).__module__.rpartition(".")[0].partition(".")
    return folder if package == "at4ctr" and folder in REGISTRIES else ""


def _not_one_value(value: Any, whole: str) -> InputError:
    inside = value if isinstance(value, Mapping) else [f.name for f in dataclasses.fields(value)]
    which = f"set one of its fields: {', '.join(inside)}" if inside else "it has nothing to set"
    return InputError(f"override {whole}: {which}")


def parse(text: str, kind: Any, where: str) -> Any:
    """Text to a value of an annotated type: int, float, bool, str, Literal, tuple, or None."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if text.lower() == "none" and type(None) in args:
            return None
        return parse(text, next(a for a in args if a is not type(None)), where)
    if origin is Literal:
        if text not in args:
            raise unknown(f"value of {where}", text, args)
        return text
    if origin is tuple:
        return tuple(parse(t, args[0], where) for t in text.strip("()").split(",") if t)
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise InputError(f"{where}={text!r}: expected true or false")
        return text.lower() in ("true", "1")
    try:
        if kind is int and text.strip().lstrip("+-").isdigit():
            return int(text)
        number = float(text) if kind in (int, float) else 0.0
        if math.isfinite(number) and (kind is not int or number == int(number)):
            return kind(number) if kind is int else kind(text)
    except (ValueError, OverflowError):
        pass
    wanted = {int: "a whole number", float: "a finite number"}.get(kind, kind.__name__)
    raise InputError(f"{where}={text!r}: expected {wanted}; write {where}=<{kind.__name__}>")


NAMED: Mapping[str, type] = types.MappingProxyType(  # in snapshots, so that a file may move
    {
        "experiment": Experiment,
        "expert": ExpertConfig,
        "space": embedder.Config,
        "task": Task,
        "fit": Fit,
        "export": quantized.Config,
        "platt": Platt,
        "isotonic": Isotonic,
        "periods": Periods,
        "data gate": anomaly.Thresholds,
        "model gate": verdict.Thresholds,
    }
)


def to_json(value: Any) -> Any:
    """A JSON-ready snapshot. A dataclass carries its name in `NAMED`, or that of its registry and
    module, such as ``backbones/din`` and ``datasets/taobao``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": _name(value), **fields}
    if isinstance(value, Mapping):
        return {k: to_json(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    return value


def _name(value: Any) -> str:
    module = type(value).__module__.rpartition(".")[2]
    folder = "datasets" if isinstance(value, Options) else registry_of(value)
    if folder:
        return f"{folder}/{module}"
    names = {kind: name for name, kind in NAMED.items()}
    return names[type(value)]


def from_json(
    value: Any,
    where: str = "config.json",
    datasets: Mapping[str, type[Options]] = types.MappingProxyType({}),
) -> Any:
    """The inverse of ``to_json``; only types of this project, and the given datasets, are made."""
    if isinstance(value, list):
        return tuple(from_json(v, where, datasets) for v in value)
    if not isinstance(value, dict):
        return value
    rest = {k: from_json(v, where, datasets) for k, v in value.items() if k != "type"}
    if "type" not in value:
        return rest
    kind = _kind(str(value["type"]), datasets)
    if kind is None:
        raise InputError(
            f"{where}: {value['type']!r} is not a configuration of this version of at4ctr; "
            "repeat the run with the version that wrote the snapshot"
        )
    known = [f.name for f in dataclasses.fields(kind)]
    for key in rest:
        if key not in known:
            raise unknown(f"field of {value['type']} in {where}", key, known)
    try:
        return kind(**rest)
    except TypeError as error:
        raise InputError(
            f"{where}: {value['type']} cannot be made of what is written there ({error}); "
            "repeat the run with the version that wrote the snapshot"
        ) from None


def _kind(name: str, datasets: Mapping[str, type[Options]]) -> Any:
    folder, _, module = name.rpartition("/")
    if folder == "datasets" and module in datasets:
        return datasets[module]
    package = "at4ctr.data.datasets" if folder == "datasets" else f"at4ctr.{folder}"
    if folder in (*REGISTRIES, "datasets") and module in modules(package):
        return importlib.import_module(f"{package}.{module}").Config
    return NAMED.get(name)
