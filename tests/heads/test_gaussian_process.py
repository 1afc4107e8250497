"""The head of Gaussian processes: its features, logits and deviations, and what it refuses."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from at4ctr.backbones import deepfm, din
from at4ctr.contracts import Interface
from at4ctr.errors import InputError
from at4ctr.heads import gaussian_process
from at4ctr.tasks import Task
from tests import heads
from tests.model import toys
from tests.oracles import gaussian as oracle

SMALL: dict[str, Any] = {"units": (5, 3), "features": 7}
LABELS = ("click", "conversion")


def expected(head: Any, label: str, x: Any, hidden: np.ndarray) -> np.ndarray:
    """φ of each row, by the oracle."""
    process = head.processes[label]
    parts = [p.numpy().astype(float) for e in x.values() for p in e.parts]
    own = parts if len(process.inputs) > 1 else []
    kernels, phases = ([toys.double(getattr(f, n)) for f in process.inputs]
                       for n in ("kernel", "phase"))  # fmt: skip
    first = np.concatenate([hidden, heads.direct(x)], 1)
    rows = zip(first, *own, strict=True)
    return np.array([oracle.features(row, kernels, phases) for row in rows])


@pytest.mark.parametrize("labels", [LABELS[:1], LABELS])
@pytest.mark.parametrize("part_features", [0, 4])
def test_logits_and_deviations_are_those_of_the_random_features(part_features, labels):
    config = gaussian_process.Config(**SMALL, part_features=part_features)
    head: Any = config.build(heads.interfaces("a", "b"), labels, 1)
    toys.jitter(head)
    x = heads.drawn("a", "b")
    out = head(x, training=False, labels=labels)
    assert set(out.logits) == set(out.features) == set(labels)
    for label in labels:
        phi = expected(head, label, x, out.towers[label][-1].numpy().astype(float))
        np.testing.assert_allclose(out.features[label], phi, rtol=1e-4, atol=1e-5)
        process = head.processes[label]
        logits = heads.linear(phi, toys.layer(process.logit.dense)) + heads.wide(x)
        np.testing.assert_allclose(out.logits[label], logits, rtol=1e-4, atol=1e-5)
        factor = toys.double(process.factor)
        deviations = oracle.deviation(phi, np.linalg.inv(factor.T @ factor))
        found = head.deviation(label, out.features[label])
        np.testing.assert_allclose(found, deviations, rtol=1e-3)
    kernels = [toys.double(head.processes[k].inputs[0].kernel) for k in labels]
    assert len({k.tobytes() for k in kernels}) == len(labels)


def test_many_features_tend_to_the_kernel_and_the_prior():
    config = gaussian_process.Config(units=(5,), features=20_000, part_features=0, ridge=0.25)
    head: Any = config.build(heads.interfaces("a"), ("click",), 1)
    process = head.processes["click"]
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    phi = process.features([tf.constant(x)]).numpy().astype(float)
    unit = x - x.mean(1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    apart = ((unit[:, None] - unit[None]) ** 2).sum(-1)
    np.testing.assert_allclose(phi @ phi.T, np.exp(-apart / 2 / config.length**2), atol=0.03)
    del process.factor, head  # [M, M] of so many is large


def test_the_parts_of_the_process_send_no_gradient_down():
    config = gaussian_process.Config(**SMALL, part_features=4)
    head: Any = config.build(heads.interfaces("a"), ("click",), 1)
    x = heads.drawn("a")
    head.networks.of["click"].affine.gamma.assign([0.0] * 5)  # nothing of a part passes the network
    with tf.GradientTape() as tape:
        tape.watch(x["a"].parts)
        out = head(x, training=True, labels=("click",))
        total = tf.reduce_sum(out.logits["click"])
    for gradient in tape.gradient(total, x["a"].parts):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"features": 0}, r"head\.features is 0; expected at least 1"),
        ({"newton": -1}, r"head\.newton is -1; expected at least 0"),
        ({"ridge": 0.0}, r"head\.ridge is 0\.0; expected a finite number above 0"),
        ({"length": float("inf")}, r"head\.length is inf"),
    ],
)
def test_options_that_make_no_process_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        gaussian_process.Config(**changes)


def test_a_label_whose_loss_is_not_its_own_is_refused():
    config = gaussian_process.Config(**SMALL)
    with pytest.raises(InputError, match=r"head gaussian_process has no input"):
        config.build({"fm": Interface((), (), "relu", 3)}, ("click",), 1)
    tasks = {"click": Task(), "conversion": Task(over="all")}
    with pytest.raises(InputError, match=r"tasks\.conversion\.over is all and the head answers"):
        toys.serving(din.Config(), toys.TWO, head=config, tasks=tasks)
    tasks = {name: Task() for name in (*LABELS, "click_without_conversion")}
    with pytest.raises(InputError, match=r"leave tasks\.click_without_conversion out"):
        toys.serving(deepfm.Config(), toys.TWO, head=config, tasks=tasks)


def test_answers_have_a_deviation_beside_each_logit():
    config = gaussian_process.Config(**SMALL)
    arrays = toys.tensors(toys.batch(schema=toys.TWO))
    found = toys.serving(din.Config(), toys.TWO, head=config).answer(arrays)
    assert {f"deviation_{k}" for k in LABELS} < set(found)
    tasks = {"click": Task(), "conversion": Task(serve=False)}
    found = toys.serving(din.Config(), toys.TWO, head=config, tasks=tasks).answer(arrays)
    assert list(found) == ["probability", "logit", "deviation"]
    prior = 1 / np.sqrt(config.ridge)
    assert ((found["deviation"].numpy() > 0) & (found["deviation"].numpy() < 2 * prior)).all()
