"""Every backbone with every set of auxiliaries and every head: one step, and what is served.

The parts are found in the folders, so that a new file is covered by itself.
"""

import dataclasses
import importlib
from collections.abc import Iterable

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.config import modules
from at4ctr.errors import InputError
from at4ctr.optimizers import LazyAdam
from tests.model import toys


def configs(folder: str) -> dict:
    """Name -> default Config, of every module of a folder that has one."""
    found = {
        m: importlib.import_module(f"at4ctr.{folder}.{m}") for m in modules(f"at4ctr.{folder}")
    }
    return {name: module.Config() for name, module in found.items() if hasattr(module, "Config")}


BACKBONES, AUXILIARIES, HEADS = (configs(f) for f in ("backbones", "auxiliaries", "heads"))
SUBSETS = [(), *((name,) for name in AUXILIARIES), ("uim", "nip"), tuple(AUXILIARIES)]


def fits(backbone: str, names: Iterable[str]) -> bool:
    """Whether the backbone gives all that the tasks need of it."""
    gives = getattr(toys.serving(BACKBONES[backbone]).backbone, "gives", ())
    return all(set(AUXILIARIES[n].needs) <= set(gives) for n in names)


def tasks(names) -> dict:
    return {name: AUXILIARIES[name] for name in names}


def test_the_folders_are_found():
    assert {"din", "widedeep"} <= set(BACKBONES)
    assert {"uim", "nip"} <= set(AUXILIARIES)
    assert "single" in HEADS


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("names", SUBSETS, ids=lambda n: "+".join(n) or "none")
def test_one_step(backbone, names, head):
    if len(names) == len(AUXILIARIES):
        names = tuple(n for n in names if fits(backbone, [n]))
    if not fits(backbone, names):
        with pytest.raises(InputError, match=r"needs .* of the backbone"):
            toys.training(toys.serving(BACKBONES[backbone]), tasks(names))
        return
    serving = toys.serving(BACKBONES[backbone], head=HEADS[head])
    starts = [v.numpy() for v in serving.variables]
    model = toys.training(serving, tasks(names))
    alone = toys.serving(BACKBONES[backbone], head=HEADS[head])
    for a, b in zip(starts, alone.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    arrays = toys.tensors(toys.batch(9, 20))
    with tf.GradientTape() as tape:
        losses = model.losses_of(arrays)
    assert {*names, "total"} <= set(losses)
    assert all(np.isfinite(float(v)) for v in losses.values())
    variables = model.trainable_variables
    found = tape.gradient(losses["total"], variables)
    pairs = [(g, v) for g, v in zip(found, variables, strict=True) if g is not None]
    assert all(np.isfinite(tf.convert_to_tensor(g).numpy()).all() for g, _ in pairs)
    LazyAdam(0.01).apply_gradients(pairs)
    after = model.losses_of(arrays)
    assert np.isfinite(float(after["total"]))
    assert float(after["total"]) != float(losses["total"])
    served = {id(v) for v in serving.variables}
    for task in model.auxiliaries.values():
        assert not served & {id(v) for v in getattr(task, "variables", ())}
    for name, values in serving.answer(arrays).items():
        assert np.isfinite(values.numpy()).all(), name


def remedy(part: str) -> str:
    """What a part that cannot do without a history tells its user to do."""
    if part in BACKBONES:
        return "choose a backbone without one"
    fields = {f.name for f in dataclasses.fields(AUXILIARIES[part])}
    own = f"set auxiliaries.{part}.use_history=false" if "use_history" in fields else ""
    return own or f"leave {part} out"


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", ["none", *AUXILIARIES])
def test_without_a_history_it_works_or_is_refused_in_a_sentence(backbone, name):
    arrays = toys.tensors(toys.batch(6, schema=toys.PLAIN))
    refused = None
    try:
        serving = toys.serving(BACKBONES[backbone], toys.PLAIN)
        model = toys.training(serving, tasks(() if name == "none" else (name,)), toys.PLAIN)
    except InputError as error:
        refused = str(error)
    if refused is not None:
        if "of the backbone" not in refused:
            part = backbone if refused.startswith(backbone) else name
            assert refused.startswith(part)
            assert "needs a history" in refused
            assert refused.endswith(f"declare Schema.history or {remedy(part)}") or (
                part in BACKBONES and remedy(part) in refused
            )
        assert "\n" not in refused
        return
    assert name == "none"
    assert not BACKBONES[backbone].reads_history
    assert np.isfinite(float(model.losses_of(arrays)["total"]))


@pytest.mark.parametrize("name", [n for n, c in AUXILIARIES.items() if "use_history" in vars(c)])
def test_the_remedy_of_a_task_helps(name):
    config = dataclasses.replace(AUXILIARIES[name], use_history=False)
    model = toys.training(toys.serving(BACKBONES["fm"], toys.PLAIN), {name: config}, toys.PLAIN)
    arrays = toys.tensors(toys.batch(6, schema=toys.PLAIN))
    assert np.isfinite(float(model.losses_of(arrays)[name]))


@pytest.mark.parametrize("backbone", ["fm", "widedeep", "deepfm"])
def test_pooling_without_a_history_names_its_own_switch(backbone):
    config = dataclasses.replace(BACKBONES[backbone], pool_history=True)
    with pytest.raises(InputError, match=r"or set backbone\.pool_history=false$"):
        toys.serving(config, toys.PLAIN)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_task_leaves_the_l2_penalty_alone(backbone):
    """It is over what the backbone reads, whatever else was looked up."""
    arrays = toys.tensors(toys.batch(9, 20))

    def l2(*names: str) -> float:
        serving = toys.serving(BACKBONES[backbone])
        toys.jitter(serving)
        return float(toys.training(serving, tasks(names), l2=1.0).losses_of(arrays)["l2"])

    alone = l2()
    assert alone > 0
    for name in AUXILIARIES:
        if fits(backbone, [name]):
            assert l2(name) == alone, name
