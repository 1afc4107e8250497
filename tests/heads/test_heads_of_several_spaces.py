"""Heads over experts of several embedding spaces: values, and which loss trains which table."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import deepfm, widedeep
from at4ctr.contracts import Encoded, Interface
from at4ctr.errors import InputError
from at4ctr.heads import ame, mixture, stem
from at4ctr.layers.embedder import Config as Space
from at4ctr.model.build import ExpertConfig, Plan, serving_model, training_model
from tests import heads
from tests.model import toys
from tests.oracles import interactions as oracle

LABELS = ("click", "conversion")
SIZES: dict[str, Any] = {"expert": (6, 5), "tower": (4, 3)}
AL: dict[str, Any] = {**SIZES, "auxiliary": ("conversion",)}
EXPERTS = {"c": ("a", "click", 4), "v": ("b", "conversion", 6), "s": ("a", "shared", 4)}
CASES: dict[str, tuple[Any, str]] = {
    "mixture": (mixture.Config(**SIZES), "cvs"),
    "mean": (mixture.Config(weights="mean", **SIZES), "cvs"),
    "ame": (ame.Config(**SIZES), "cvs"),
    "stem": (stem.Config(**SIZES), "cvs"),
    "stem_al": (stem.Config(**AL), "cv"),
    "stem_al shared": (stem.Config(**AL), "cvs"),
}
READ = {  # label -> the experts of its tower, and those of its gate
    "stem": {"click": ("cvs", "cs"), "conversion": ("cvs", "vs")},
    "stem_al": {"click": ("cv", "c"), "conversion": ("v", "v")},
    "stem_al shared": {"click": ("cvs", "cs"), "conversion": ("v", "v")},
}
TRAINED = {  # label -> the spaces whose tables its loss trains
    "stem": {"click": "cs", "conversion": "vs"},
    "stem_al": {"click": "cv", "conversion": "v"},
    "stem_al shared": {"click": "cvs", "conversion": "v"},
}
EVERY = dict.fromkeys(LABELS, ("cvs", "cvs"))


def faces(names: str) -> dict[str, Interface]:
    """Experts of the parts ``a`` or ``b``, each in the space of a label or the shared one."""
    found = {}
    for i, name in enumerate(names):
        kind, space, dimension = EXPERTS[name]
        face = heads.interfaces(kind)[kind]
        found[name] = face._replace(seed=40 + 20 * i, space=space, dimension=dimension)
    return found


def drawn(names: str) -> dict[str, Encoded]:
    kinds = {name: EXPERTS[name][0] for name in names}
    return {n: heads.drawn(kind, seed=i)[kind] for i, (n, kind) in enumerate(kinds.items())}


def build(name: str):
    config, names = CASES[name]
    head: Any = config.build(faces(names), LABELS, 1)
    toys.jitter(head)
    return head, drawn(names)


def some(x: dict[str, Encoded], names: str) -> dict[str, Encoded]:
    return {n: x[n] for n in x if n in names}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_they_equal_the_oracle(name, training):
    head, x = build(name)
    out = head(x, training=training, labels=LABELS)
    hidden = {}
    for e, trunk in head.trunks.items():
        read = heads.affine(heads.parts({e: x[e]}), trunk.affine)
        hidden[e] = toys.trunk(trunk, read, training=training)
    for k in LABELS:
        names, of_gate = READ.get(name, EVERY)[k]
        gate = None
        if k in head.gates:
            kernel, affine = toys.double(head.gates[k].kernel), head.affines[k]
            gate = kernel * toys.double(affine.gamma)[:, None], toys.double(affine.beta) @ kernel
        assert (gate is None) == (name == "mean" or len(names) == 1)
        read = heads.parts({e: x[e] for e in (of_gate if name != "mean" else names)})
        rows = [
            oracle.routed([hidden[e][i] for e in names], read[i], gate) for i in range(heads.ROWS)
        ]
        merged = np.array([m for _, m in rows])
        tower = toys.trunk(head.towers[k].of[k], merged, training=training)
        last = np.concatenate([tower, heads.direct(some(x, names))], 1)
        logit = heads.linear(last, toys.layer(head.towers[k].logits.of[k].dense))
        logit = logit + heads.wide(some(x, names))
        np.testing.assert_allclose(out.logits[k], logit, rtol=5e-5, atol=5e-6)
        assert (k in out.gates) == (k in head.expert_names) == (gate is not None)
        if gate is not None:
            np.testing.assert_allclose(out.gates[k], np.array([w for w, _ in rows]), rtol=5e-5)
            assert head.expert_names[k] == tuple(names)
        if training:
            np.testing.assert_allclose(out.inputs[k], merged, rtol=5e-5, atol=5e-6)
            assert head.tower_widths[k] == (merged.shape[1], SIZES["tower"])


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("name", CASES)
def test_labels_that_are_not_asked_for_are_left_out(name, label):
    head, x = build(name)
    with tf.GradientTape() as tape:
        out = head(x, training=False, labels=(label,))
    assert set(out.logits) == set(out.towers) == {label}
    (other,) = set(LABELS) - {label}
    unread = [*head.towers[other].trainable_variables]
    for part in (head.gates, head.affines):
        unread += part[other].trainable_variables if other in part else []
    assert all(g is None for g in tape.gradient(out.logits[label], unread))
    both = head(x, training=False, labels=LABELS)
    np.testing.assert_allclose(out.logits[label], both.logits[label], rtol=1e-5, atol=1e-6)


def planned(name: str) -> Plan:
    """The case in whole models, whose backbones give direct parts and wide terms as well."""
    config, names = CASES[name]
    of_label, shared = widedeep.Config(pool_history=True), deepfm.Config(pool_history=True)
    spaces = {EXPERTS[n][1]: Space(EXPERTS[n][2], 0.5) for n in names}
    experts = {n: ExpertConfig(shared if n == "s" else of_label, EXPERTS[n][1]) for n in names}
    return Plan(experts, config, spaces, seed=3)


def nonzero(gradients) -> bool:
    found = [tf.convert_to_tensor(g).numpy() for g in gradients if g is not None]
    assert all(np.isfinite(g).all() for g in found)
    return any(g.any() for g in found)


@pytest.mark.parametrize("name", CASES)
def test_a_labels_loss_trains_its_spaces_alone(name):
    """Tables and experts' layers alike, and the same of the logits outside training."""
    plan = planned(name)
    serving: Any = serving_model(toys.TWO, toys.ROWS, plan)
    toys.jitter(serving)
    model = training_model(serving, toys.TWO, plan)
    arrays = toys.tensors(toys.batch(9, 6, schema=toys.TWO))
    with tf.GradientTape(persistent=True) as tape:
        losses, logits = model.losses_of(arrays), serving(arrays)
    for label in LABELS:
        trained = TRAINED.get(name, dict.fromkeys(LABELS, "cvs"))[label]
        for e, trunk in serving.head.trunks.items():
            tables = serving.spaces[serving.space_of[e]].tables
            for source in (losses, logits):
                for of in (tables.values(), trunk.trainable_variables):
                    found = nonzero(tape.gradient(source[label], list(of)))
                    assert found == (e in trained), (label, e)


@pytest.mark.parametrize("name", ["stem", "stem_al", "ame"])
def test_one_user_with_many_candidates(name):
    model = serving_model(toys.TWO, toys.ROWS, planned(name))
    toys.jitter(model)
    toys.assert_one_user_is_repeated(model, toys.TWO)


@pytest.mark.parametrize(
    ("config", "names", "labels", "said"),
    [
        (stem.Config(), "cv", LABELS, r"no expert with parts in the embedding space 'shared'"),
        (stem.Config(), "cs", LABELS, r"space 'conversion'; .* add spaces\.conversion"),
        (stem.Config(), "cvs", ("click",), r"expert 'v' in the embedding space 'conversion'"),
        (stem.Config(), "s", ("shared",), "rename the label"),
        (stem.Config(auxiliary=LABELS), "cv", LABELS, "auxiliary labels alone: click, conversion"),
        (stem.Config(auxiliary=("clicks",)), "cv", LABELS, "did you mean click"),
        (ame.Config(), "cs", LABELS, r"ame has embedding spaces of dimension 4 alone"),
        (mixture.Config(activation="linear"), "cs", LABELS, r"mixture has linear layers on .* 'c'"),
    ],
)
def test_what_makes_no_sense_is_refused(config, names, labels, said):
    with pytest.raises(InputError, match=said) as raised:
        config.build(faces(names), labels, 1)
    assert "\n" not in str(raised.value)


def test_an_expert_without_parts_is_a_term_of_the_logits_alone():
    given = faces("cv") | {"fm": faces("s")["s"]._replace(parts=(), direct=())}
    x = drawn("cv") | {"fm": drawn("s")["s"]._replace(parts=(), direct=())}
    head: Any = CASES["mixture"][0].build(given, LABELS, 1)
    assert head.expert_names["click"] == ("c", "v")
    without = {**x, "fm": x["fm"]._replace(wide=tf.zeros([heads.ROWS]))}
    a, b = (head(e, training=False, labels=LABELS).logits["click"] for e in (x, without))
    np.testing.assert_allclose(a - b, x["fm"].wide, rtol=1e-4, atol=1e-5)
