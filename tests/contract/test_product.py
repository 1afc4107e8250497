"""Every backbone with every head and every set of auxiliaries: one step, and what is served."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.optimizers import LazyAdam
from tests.contract import parts
from tests.contract.parts import AUXILIARIES, BACKBONES, CALLED, HEADS, SETS, Case, fits
from tests.model import toys


def test_the_folders_are_found():
    assert {"din", "widedeep"} <= set(BACKBONES)
    assert {"uim", "nip"} <= set(AUXILIARIES)
    assert {"single", "shared_bottom", "mmoe"} <= set(HEADS)
    served = {head for head in CALLED if parts.serves(head, "din")}
    assert {"single, one", "shared_bottom, one", "shared_bottom, two"} <= served
    assert "single, two" not in served


def test_every_part_is_tried_and_with_every_other_kind():
    found = {pair for case in parts.sample() for pair in parts.pairs(case)}
    for name in SETS:
        assert (("auxiliaries", name),) in found
    for backbone, head in product(BACKBONES, CALLED):
        common = backbone == parts.COMMON or head.partition(",")[0] in parts.ONE
        if common and parts.serves(head, backbone):
            assert (("backbone", backbone), ("head", head)) in found
    for backbone in BACKBONES:
        assert (("backbone", backbone), ("auxiliaries", parts.ALL)) in found
    for head in CALLED:
        if parts.serves(head, parts.COMMON):
            assert (("head", head), ("auxiliaries", parts.ALL)) in found


@pytest.mark.parametrize("case", parts.cases(), ids=" ".join)
def test_one_step(case):
    serving = toys.serving(BACKBONES[case.backbone], **case.settings)
    schema = case.settings["schema"]
    starts = [v.numpy() for v in serving.variables]
    model = toys.training(serving, parts.auxiliaries(case.names), schema)
    alone = toys.serving(BACKBONES[case.backbone], **case.settings)
    for a, b in zip(starts, alone.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    arrays = toys.tensors(toys.batch(9, 20, schema=schema))
    with tf.GradientTape() as tape:
        losses = model.losses_of(arrays)
    named = {*(label.name for label in schema.labels), *case.names, "total"}
    assert named <= set(losses)
    assert all(name.startswith(tuple(case.names)) for name in set(losses) - named)
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
    for auxiliary in model.auxiliaries.values():
        assert not served & {id(v) for v in getattr(auxiliary, "variables", ())}
    for name, values in serving.answer(arrays).items():
        assert np.isfinite(values.numpy()).all(), name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_auxiliary_without_what_it_needs_is_refused(backbone):
    for name in AUXILIARIES:
        if not fits(backbone, [name]):
            with pytest.raises(InputError, match=r"needs .* of the backbone"):
                toys.training(toys.serving(BACKBONES[backbone]), parts.auxiliaries([name]))


@pytest.mark.parametrize("head", CALLED)
def test_a_head_that_cannot_serve_is_refused_in_a_sentence(head):
    for backbone in BACKBONES:
        settings = Case(backbone, head, "none").settings
        if parts.serves(head, backbone):
            model = toys.serving(BACKBONES[backbone], **settings)
            assert set(model.served) == {label.name for label in settings["schema"].labels}
            continue
        with pytest.raises(InputError, match=rf"^head {head.split(',')[0]} .*; expected|serves"):
            toys.serving(BACKBONES[backbone], **settings)


@pytest.mark.parametrize("case", parts.cases(but=SETS.keys() - {"none"}), ids=" ".join)
def test_the_bias_of_a_label_is_the_constant_of_its_logit(case):
    model = toys.serving(BACKBONES[case.backbone], **case.settings)
    arrays = toys.tensors(toys.batch(5, 20))
    before = model(arrays)
    for label in model.labels:
        model.head.bias(label.name).assign_add(tf.fill(model.head.bias(label.name).shape, 0.5))
        after = model(arrays)
        for name, logits in after.items():
            moved = 0.5 if name == label.name else 0.0
            np.testing.assert_allclose(logits - before[name], moved, atol=1e-5)
        before = after


def remedy(part: str) -> str:
    """What a part that cannot do without a history tells its user to do."""
    fields = {f.name for f in dataclasses.fields((BACKBONES | AUXILIARIES)[part])}
    if part in BACKBONES:
        pools = "pool_history" in fields
        return "set backbone.pool_history=false" if pools else "choose a backbone without one"
    own = f"set auxiliaries.{part}.use_history=false" if "use_history" in fields else ""
    return own or f"leave {part} out"


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", ["none", *(n for n in AUXILIARIES if not parts.pairs_labels(n))])
def test_without_a_history_it_works_or_is_refused_in_a_sentence(backbone, name):
    arrays = toys.tensors(toys.batch(6, schema=toys.PLAIN))
    refused = None
    try:
        serving = toys.serving(BACKBONES[backbone], toys.PLAIN)
        model = toys.training(serving, parts.auxiliaries(SETS[name]), toys.PLAIN)
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
    assert name == "none" or not AUXILIARIES[name].use_history
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
    arrays = toys.tensors(toys.batch(9, 20, schema=toys.TWO))

    def l2(*names: str) -> float:
        settings = parts.labels_for(names)
        serving = toys.serving(BACKBONES[backbone], **settings)
        toys.jitter(serving.embedder)
        model = toys.training(serving, parts.auxiliaries(names), settings["schema"], l2=1.0)
        return float(model.losses_of(arrays)["l2"])

    alone = l2()
    assert alone > 0
    for name in AUXILIARIES:
        if fits(backbone, [name]) and parts.serves("shared_bottom, two", backbone):
            assert l2(name) == alone, name
