"""The parts that the folders offer, and which combinations of them are tried.

``make test`` tries a sample in which every pair of a backbone and a head, of a backbone and a set
of auxiliaries, and of a head and a set of ``WITH_HEADS`` occurs; ``make contract`` tries every
combination.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Iterable
from functools import cache
from itertools import combinations, product
from typing import Any, NamedTuple

from at4ctr.contracts import Interface, Tower
from at4ctr.errors import InputError
from at4ctr.folders import modules
from at4ctr.layers.shape import Shape
from at4ctr.schema import Schema
from tests.model import toys

WHOLE = os.environ.get("AT4CTR_CONTRACT") == "all"
ALL = "all"  # a set: every auxiliary that a backbone can serve


def configs(folder: str) -> dict:
    """Name -> default Config, of every module of a folder that has one."""
    found = {
        m: importlib.import_module(f"at4ctr.{folder}.{m}") for m in modules(f"at4ctr.{folder}")
    }
    return {name: module.Config() for name, module in found.items() if hasattr(module, "Config")}


BACKBONES, AUXILIARIES, HEADS = (configs(f) for f in ("backbones", "auxiliaries", "heads"))
SETS: dict[str, tuple[str, ...]] = {
    "none": (),
    **{name: (name,) for name in AUXILIARIES},
    "uim+nip": ("uim", "nip"),
    ALL: tuple(AUXILIARIES),
}
SCHEMAS: dict[str, Schema] = {"one": toys.SCHEMA, "two": toys.TWO}  # by their number of labels
WITH_HEADS = ("none", ALL)
COMMON = "din"
ONE = ("single", "shared_bottom")  # heads tried with one label here; tests/heads tries the others
CALLED = [f"{h}, {labels}" for h in HEADS for labels in SCHEMAS if labels == "two" or h in ONE]


class Case(NamedTuple):
    """Names of a backbone, of a head and its number of labels (``CALLED``), and of a set."""

    backbone: str
    head: str
    auxiliaries: str

    @property
    def settings(self) -> dict[str, Any]:
        """Of ``toys.serving``."""
        head, schema = self.head.split(", ")
        return {"schema": SCHEMAS[schema], "head": HEADS[head]}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the auxiliaries; of ``ALL`` those that the backbone and the head can serve."""
        found = SETS[self.auxiliaries]
        if self.auxiliaries != ALL:
            return found
        return tuple(n for n in found if fits(self.backbone, [n]) and labelled(self.head, [n]))


@cache
def body(backbone: str) -> Any:
    return BACKBONES[backbone].build(Shape.of(toys.SCHEMA, toys.D), 0)


def fits(backbone: str, names: Iterable[str]) -> bool:
    """Whether the backbone gives all that the auxiliaries need of it."""
    given = set(getattr(body(backbone), "gives", ()))
    return all(set(AUXILIARIES[n].needs) <= given for n in names)


def labelled(head: str, names: Iterable[str]) -> bool:
    """Whether a head, as a ``Case`` names it, has as many labels as the auxiliaries need."""
    return head.endswith("two") or not any(map(pairs_labels, names))


def labels_for(names: Iterable[str]) -> dict[str, Any]:
    """Of ``toys.serving``: as few labels as the auxiliaries need, with a head for them."""
    head = "shared_bottom, two" if any(map(pairs_labels, names)) else "single, one"
    return Case("", head, "none").settings


@cache
def pairs_labels(name: str) -> bool:
    """Whether an auxiliary reads two towers, and so refuses a head of one."""
    shape = Shape.of(toys.SCHEMA, toys.D)._replace(towers={"click": Tower(8, (8,))})
    try:
        AUXILIARIES[name].build(toys.SCHEMA, shape, 0)
    except InputError:
        return True
    return False


@cache
def serves(head: str, backbone: str) -> bool:
    """Whether a head, as a ``Case`` names it, takes the backbone and its number of labels."""
    name, schema = head.split(", ")
    built, config = body(backbone), BACKBONES[backbone]
    face = Interface(built.parts, getattr(built, "direct", ()), config.activation, 0)
    labels = tuple(label.name for label in SCHEMAS[schema].labels)
    try:
        HEADS[name].build({backbone: face}, labels, 0)
    except InputError:
        return False
    return True


def auxiliaries(names: Iterable[str]) -> dict[str, Any]:
    return {name: AUXILIARIES[name] for name in names}


@cache
def every() -> tuple[Case, ...]:
    """The whole product without what is refused."""
    found = (Case(*parts) for parts in product(BACKBONES, CALLED, SETS))
    return tuple(
        c for c in found if fits(c.backbone, c.names) and serves(c.head, c.backbone)
        and labelled(c.head, c.names)
    )  # fmt: skip


def pairs(case: Case) -> set[tuple[tuple[str, str], ...]]:
    """What of a case the sample must hold: each part, and pairs of parts.

    Each backbone meets every auxiliary in the set `ALL`, and so does each head; each backbone meets
    the heads of `ONE`, and each head the backbone `COMMON`.
    """
    found = set(combinations(zip(Case._fields, case, strict=True), 2))
    if case.auxiliaries not in WITH_HEADS:
        found = {pair for pair in found if ("auxiliaries", case.auxiliaries) not in pair}
    if case.backbone != COMMON and case.head.partition(",")[0] not in ONE:
        found -= {(("backbone", case.backbone), ("head", case.head))}
    return found | {(part,) for part in zip(Case._fields, case, strict=True)}


@cache
def sample() -> tuple[Case, ...]:
    """Cases in which each of these parts and pairs that the product has occurs, chosen greedily."""
    has, found = {case: pairs(case) for case in every()}, []
    left = set().union(*has.values())
    while left:
        best = max(has, key=lambda case: len(has[case] & left))
        found.append(best)
        left -= has[best]
    return tuple(found)


def cases(but: Collection[str] = (), *, few: bool = False) -> tuple[Case, ...]:
    """What is tried. but: sets of auxiliaries that are left out.

    few: of the sample only so many that each head occurs, with as many backbones, for a test that
        takes long. Auxiliaries occur together there.
    """
    found = [c for c in (every() if WHOLE else sample()) if c.auxiliaries not in but]
    if WHOLE or not few:
        return tuple(found)
    found = [c for c in found if c.auxiliaries in WITH_HEADS]
    left, chosen = {case.head for case in found}, []
    tried: set[str] = set()
    while left:
        new = [c for c in found if c.head in left]
        chosen.append(max(new, key=lambda case: case.backbone not in tried))
        left.discard(chosen[-1].head)
        tried.add(chosen[-1].backbone)
    return tuple(chosen)
