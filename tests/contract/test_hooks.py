"""What the model reads of a part beyond the calls: a misspelt hook would be read by nobody."""

import dataclasses
import importlib

import pytest

from at4ctr.contracts import AuxiliaryConfig, BackboneConfig, HeadConfig
from tests.contract.parts import AUXILIARIES, BACKBONES, HEADS
from tests.model import toys

HOOKS = {
    "backbones": {"activation", "build", "dense", "embeds", "least_history", "reads_history"},
    "auxiliaries": {"build", "demand_rows", "dense", "needs", "weight", "use_history"},
    "heads": {"build", "searches"},
}
PARTS = {"backbones": BACKBONES, "auxiliaries": AUXILIARIES, "heads": HEADS}
NAMES = [(folder, name) for folder, parts in PARTS.items() for name in parts]


def public(kind: type) -> set[str]:
    """What a class itself holds, beyond its functions."""
    return {n for n, v in vars(kind).items() if n[0] != "_" and not callable(v)}


def own(kind: type) -> set[str]:
    """Public names of a class and of those it derives from."""
    return {n for n in dir(kind) if n[0] != "_"}


@pytest.mark.parametrize(("folder", "name"), NAMES)
def test_a_config_has_its_fields_and_known_hooks(folder, name):
    config = PARTS[folder][name]
    fields = {f.name for f in dataclasses.fields(config)}
    assert own(type(config)) <= fields | HOOKS[folder]
    bases = {"backbones": BackboneConfig, "auxiliaries": AuxiliaryConfig, "heads": HeadConfig}
    assert bases[folder] in type(config).__mro__
    assert own(bases[folder]) == HOOKS[folder]


@pytest.mark.parametrize(("folder", "name"), NAMES)
def test_a_part_has_no_class_attribute_of_another_name(folder, name):
    module = importlib.import_module(f"at4ctr.{folder}.{name}")
    built = type(toys.serving(BACKBONES[name]).backbone) if folder == "backbones" else None
    for kind in (k for k in vars(module).values() if isinstance(k, type)):
        if kind.__module__ != module.__name__ or dataclasses.is_dataclass(kind):
            continue
        known = {"direct", "gives", "parts", "states"} if kind is built else set()
        known |= {"searched"} if folder == "heads" else set()
        assert public(kind) <= known, kind


def test_what_a_backbone_gives_is_what_it_fills():
    for name, config in BACKBONES.items():
        model = toys.serving(config)
        encoded = toys.encoded(model, toys.batch(5, 20))
        assert set(getattr(model.backbone, "gives", ())) == set(encoded.extras), name
        states = getattr(model.backbone, "states", None)
        if model.reads_history:
            width = states or 3 * toys.D
            assert encoded.states.shape[-1] == width, name


def test_what_a_task_needs_some_backbone_gives():
    given = {g for c in BACKBONES.values() for g in getattr(toys.serving(c).backbone, "gives", ())}
    for name, config in AUXILIARIES.items():
        assert set(config.needs) <= given, name
