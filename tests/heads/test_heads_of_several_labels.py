"""Heads with experts, and heads whose networks read each other, against their literal forms."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.contracts import Interface, Part
from at4ctr.errors import InputError
from at4ctr.heads import aitm, autoheri, cross_stitch, mmoe, ple, single_dnn
from at4ctr.layers.mlp import Dice
from at4ctr.optimizers import LazyAdam
from tests import heads
from tests.model import toys
from tests.oracles import heads as oracle
from tests.oracles import models

LABELS = ("click", "conversion")
SIZES: dict[str, Any] = {"expert": (7, 5), "tower": (4, 3)}
MMOE = mmoe.Config(experts=3, **SIZES)
CGC = ple.Config(own=(2,), shared=(1,), **SIZES)
PLE = ple.Config(own=(1, 2), shared=(2, 1), **SIZES)
NETS: dict[str, Any] = {
    "single_dnn": single_dnn.Config(units=(6, 3)),
    "cross_stitch": cross_stitch.Config(units=(6, 3)),
    "aitm": aitm.Config(units=(6, 3)),
    "autoheri": autoheri.Config(units=(6, 3)),
}
ALL = {"mmoe": MMOE, "cgc": CGC, "ple": PLE, **NETS}


def build(config, names="ab", labels=LABELS, activation="prelu"):
    head: Any = config.build(heads.interfaces(*names, activation=activation), labels, 1)
    toys.jitter(head)
    return head, heads.drawn(*names)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=5e-5, atol=5e-6)


def activated(z: np.ndarray, layer: Any, part: slice, *, training: bool) -> np.ndarray:
    """Of one expert's units, which are a part of its group's."""
    alpha = toys.double(layer.alpha)[part]
    if not isinstance(layer, Dice):
        return models.prelu(z, alpha)
    mean, variance = (toys.double(v)[part] for v in (layer.mean, layer.variance))
    if training:
        mean, variance = z.mean(0), z.var(0)
    return models.dice(z, mean, variance, alpha)


def expert_outputs(group, x: np.ndarray, *, training: bool) -> list[np.ndarray]:
    """Each expert of a group by itself."""
    found = []
    for e in range(group.count):
        h = x
        for kernel, bias, activation in zip(
            group.kernels, group.biases, group.activations, strict=True
        ):
            z = models.dense(h, (toys.double(kernel)[e], toys.double(bias)[e]))
            part = slice(e * z.shape[1], (e + 1) * z.shape[1])
            h = activated(z, activation, part, training=training)
        found.append(h)
    return found


def mixture(x: np.ndarray, gate, experts: list[np.ndarray]) -> np.ndarray:
    kernel = toys.double(gate.kernel)
    return np.array([oracle.mixed(row, kernel, [e[i] for e in experts]) for i, row in enumerate(x)])


def assert_logits(out, logits, x, last):
    for label, h in last.items():
        dense = toys.layer(logits.of[label].dense)
        expected = heads.linear(np.concatenate([h, heads.direct(x)], 1), dense) + heads.wide(x)
        assert_close(out.logits[label], expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", ["prelu", "dice"])
@pytest.mark.parametrize("config", [MMOE, CGC, PLE], ids=["mmoe", "cgc", "ple"])
def test_experts_and_gates(config, activation, training):
    head, x = build(config, activation=activation)
    out = head(x, training=training, labels=LABELS)
    start = heads.affine(heads.parts(x), head.affine)
    reads = dict.fromkeys((*LABELS, "shared"), start)
    levels = [(head.experts, head.gates)] if config is MMOE else zip(
        head.levels, head.gates, strict=True
    )  # fmt: skip
    for experts, gates in levels:
        given = {k: expert_outputs(experts.of[k], reads[k], training=training) for k in experts.of}
        everything = [e for group in given.values() for e in group]
        seen = {k: [*given.get(k, ()), *given["shared"]] for k in LABELS} | {"shared": everything}
        weights = {k: np.array([models.softmax(row @ toys.double(gate.kernel)) for row in reads[k]])
                   for k, gate in gates.items()}  # fmt: skip
        reads = {k: mixture(reads[k], gate, seen[k]) for k, gate in gates.items()}
    towers = {k: toys.trunk(head.towers.of[k], reads[k], training=training) for k in LABELS}
    assert_logits(out, head.towers.logits, x, towers)
    for label in LABELS:
        assert_close(out.gates[label], weights[label])
        assert len(head.expert_names[label]) == out.gates[label].shape[1]
        assert_close(out.towers[label][-1], towers[label])
        if training:
            assert_close(out.inputs[label], reads[label])
            assert head.tower_widths[label] == (reads[label].shape[1], config.tower)


def test_the_experts_of_a_label_stand_before_the_shared_ones():
    assert build(CGC)[0].expert_names["conversion"] == ("conversion 1", "conversion 2", "shared 1")
    assert build(MMOE)[0].expert_names["click"] == ("shared 1", "shared 2", "shared 3")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "bottom"), [(n, b) for n in NETS for b in ((), (5,)) if n != "single_dnn" or not b]
)
def test_networks(name, bottom, training):
    head, x = build(dataclasses.replace(NETS[name], bottom=bottom) if bottom else NETS[name])
    out = head(x, training=training, labels=LABELS)
    networks = head.towers if name == "aitm" else head.networks
    start = dict.fromkeys(LABELS, heads.parts(x))
    if bottom:
        start = dict.fromkeys(LABELS, toys.trunk(
            networks.bottom, heads.affine(start["click"], networks.bottom.affine), training=training
        ))  # fmt: skip
    layers = {
        k: [h if bottom else heads.affine(h, networks.of[k].affine)] for k, h in start.items()
    }
    order = [(i, k) for i in range(2) for k in LABELS]
    if name == "autoheri":
        order = [(i, k) for k in LABELS for i in range(2)]
    for i, k in order:
        net = networks.of[k]
        z = models.dense(layers[k][-1], toys.layer(net.dense[i]))
        if name == "autoheri" and k == "conversion":
            edges, below = head.edges[k], layers["click"][1:]
            chances = models.sigmoid(toys.double(edges.structure)[:, i])
            maps = np.split(toys.double(edges.kernels[i]), [6])
            z = z + sum(p * h @ m for p, h, m in zip(chances, below, maps, strict=True))
        layers[k].append(activated(z, net.activations[i], slice(None), training=training))
        if name != "cross_stitch" or k != LABELS[-1]:
            continue
        alpha = toys.double(head.stitches[i])
        rows = zip(*(layers[k][-1] for k in LABELS), strict=True)
        mixed = [oracle.stitched(alpha, list(row)) for row in rows]
        for j, k in enumerate(LABELS):
            layers[k][-1] = np.array([row[j] for row in mixed])
    if name == "aitm":
        transfer = head.transfers["conversion"]
        passed = toys.trunk(transfer.passed, layers["click"][-1], training=training)
        maps = np.split(toys.double(transfer.kernel), 3, 1)
        pairs = zip(passed, layers["conversion"][-1], strict=True)
        layers["conversion"].append(np.array([oracle.transferred(*pair, *maps) for pair in pairs]))
    assert_logits(out, head.logits, x, {k: h[-1] for k, h in layers.items()})
    for k in LABELS:
        assert head.tower_widths[k].layers == tuple(h.shape[1] for h in out.towers[k])
        for h, expected in zip(out.towers[k], layers[k][1:], strict=True):
            assert_close(h, expected)
        if training:
            assert_close(out.inputs[k], start[k])
            assert head.tower_widths[k].input == start[k].shape[1]


def test_the_start_of_a_cross_stitch_is_a_share():
    labels = ("a", "b", "c")
    head: Any = cross_stitch.Config(units=(4, 2), keep=0.8).build(heads.interfaces("a"), labels, 1)
    for stitch in head.stitches:
        np.testing.assert_allclose(tf.reduce_sum(stitch, 1), 1.0, rtol=1e-6)
        np.testing.assert_allclose([stitch[1, 1, 0], stitch[1, 2, 1]], [0.8, 0.1], rtol=1e-6)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("name", ALL)
def test_labels_that_are_not_asked_for_are_left_out(name, label):
    """And what is read of the others is what the label depends on."""
    head, x = build(ALL[name])
    with tf.GradientTape() as tape:
        out = head(x, training=False, labels=(label,))
    assert set(out.logits) == set(out.towers) == {label}
    assert not out.gates or set(out.gates) == {label}
    (other,) = set(LABELS) - {label}
    logits = head.logits if name in NETS else head.towers.logits
    unread = list(logits.of[other].trainable_variables)
    if name == "single_dnn" or (name in ("aitm", "autoheri") and label == "click"):
        networks = head.towers if name == "aitm" else head.networks
        unread += networks.of[other].trainable_variables
    if name in ("mmoe", "cgc", "ple"):
        unread += head.towers.of[other].trainable_variables
    if name == "cgc":
        unread += head.levels[0].of[other].trainable_variables
    assert all(g is None for g in tape.gradient(out.logits[label], unread))
    both = head(x, training=False, labels=LABELS)
    assert_close(out.logits[label], both.logits[label])


@pytest.mark.parametrize("name", [n for n in ALL if n != "cross_stitch"])
def test_another_label_leaves_the_start_of_a_logit(name):
    one, two = (
        ALL[name].build(heads.interfaces("a", "b"), labels, 1) for labels in (LABELS[:1], LABELS)
    )
    x = heads.drawn("a", "b")
    found = [head(x, training=False, labels=("click",)).logits["click"] for head in (one, two)]
    if name != "ple":  # whose shared gates read the other label's experts
        np.testing.assert_array_equal(*found)
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize("name", ["mmoe", "cgc"])
def test_experts_and_gates_are_apart_after_50_steps(name):
    config = mmoe.Config(expert=(8,), tower=(4,)) if name == "mmoe" else ple.Config(
        own=(1,), shared=(2,), expert=(8,), tower=(4,)
    )  # fmt: skip
    head: Any = config.build(heads.interfaces("a"), LABELS, 1)
    x, optimizer = heads.drawn("a"), LazyAdam(0.01)
    labels = {k: tf.constant(np.arange(heads.ROWS) % 2 == i, tf.float32)
              for i, k in enumerate(LABELS)}  # fmt: skip

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            logits = head(x, training=True, labels=LABELS).logits
            losses = [tf.nn.sigmoid_cross_entropy_with_logits(labels[k], logits[k]) for k in LABELS]
            loss = tf.add_n([tf.reduce_mean(each) for each in losses])
        found = tape.gradient(loss, head.trainable_variables)
        optimizer.apply_gradients(zip(found, head.trainable_variables, strict=True))
        return loss

    optimizer.build(head.trainable_variables)
    losses = [float(step()) for _ in range(50)]
    assert losses[-1] < losses[0]
    groups = (head.experts if name == "mmoe" else head.levels[0]).of
    kernels = np.concatenate([g.kernels[0].numpy() for g in groups.values()])
    gates = head(x, training=False, labels=LABELS).gates
    shared = [gates[k].numpy()[:, -2:] for k in LABELS]
    for i in range(len(kernels)):
        for j in range(i):
            assert np.abs(kernels[i] - kernels[j]).max() > 1e-3
    assert np.abs(shared[0] - shared[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("config", "labels", "said"),
    [
        (cross_stitch.Config(), ("click",), "head cross_stitch mixes .* click alone"),
        (cross_stitch.Config(keep=1.5), LABELS, r"keep=1\.5"),
        (mmoe.Config(experts=0), LABELS, "head mmoe has 0 experts"),
        (ple.Config(own=(1, 1)), LABELS, r"own=\(1, 1\) and shared=\(1,\)"),
        (ple.Config(shared=(0,)), LABELS, "expected at least 0 and 1"),
        (ple.Config(), ("shared",), "rename the label"),
        (mmoe.Config(expert=()), LABELS, r"units of an expert are \(\)"),
    ],
)
def test_what_makes_no_sense_is_refused(config, labels, said):
    with pytest.raises(InputError, match=said) as raised:
        config.build(heads.interfaces("a"), labels, 1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ALL)
def test_experts_without_a_part_are_refused(name):
    faces = {"fm": Interface((), (Part(1),), "relu", 0)}
    with pytest.raises(InputError, match=r"^head \w+ has no input: fm gives"):
        ALL[name].build(faces, LABELS, 1)
