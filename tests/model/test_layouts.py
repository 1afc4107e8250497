"""The dense layout gives the losses and gradients of the packed one, compiles, and is few nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.kernels import get_registered_kernels_for_op

from at4ctr import layout
from at4ctr.auxiliaries import icl, nip, uim
from at4ctr.errors import InputError
from at4ctr.fit import Fit
from at4ctr.model.build import Plan
from at4ctr.optimizers import LazyAdam
from tests.contract.parts import BACKBONES
from tests.model import toys

TASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "uim": {"uim": uim.Config()},
    "nip": {"nip": nip.Config(block=4, mask_duplicates=True)},
    "both": {"uim": uim.Config(mask_duplicates=True), "nip": nip.Config()},
}
COVERED = sorted(name for name, config in BACKBONES.items() if config.dense)
CASES = [(b, "none") for b in COVERED] + [("din", t) for t in TASKS if t != "none"]
CASES += [("dnn", "both"), ("deepfm", "both")]
L2 = 0.01
HOST: set[str] = set()  # operations without a kernel for GPUs


def built(backbone, tasks):
    model = toys.serving(BACKBONES[backbone])
    made = toys.training(model, TASKS[tasks], l2=L2)
    for module in (*model.backbones.values(), model.head, *made.auxiliaries.values()):
        toys.jitter(module)
    return made


def arrays():
    """Garbage stands where no behaviour is."""
    return toys.tensors(toys.dirty(toys.batch(11, 6, seed=2), extra=2))


def losses_and_gradients(model, batch, *, graph=False):
    def step():
        with tf.GradientTape() as tape:
            losses = model.losses_of(batch)
        found = tape.gradient(losses["total"], model.trainable_variables)
        pairs = zip(model.trainable_variables, found, strict=True)
        return losses, {v.name: tf.convert_to_tensor(g) for v, g in pairs if g is not None}

    return tf.function(step, autograph=False)() if graph else step()


def assert_same(found, expected):
    (losses, gradients), (others, wanted) = found, expected
    assert losses.keys() == others.keys()
    for name, loss in losses.items():
        np.testing.assert_allclose(loss, others[name], rtol=2e-5, err_msg=name)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, wanted[name], rtol=2e-3, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(("backbone", "tasks"), CASES)
def test_losses_and_gradients_are_those_of_the_packed_layout(backbone, tasks):
    model, batch = built(backbone, tasks), arrays()
    packed = losses_and_gradients(model, batch)
    model.dense = True
    assert_same(losses_and_gradients(model, batch), packed)


def test_xla_compiles_what_follows_the_look_ups_and_agrees():
    model, batch = built("din", "both"), arrays()
    model.dense = True
    plain = losses_and_gradients(model, batch)
    model.xla = True
    assert_same(losses_and_gradients(model, batch, graph=True), plain)


def test_a_batch_without_behaviours():
    model = built("din", "both")
    batch = toys.tensors(toys.batch(4, 3, lengths=[0, 0, 0, 0]))
    packed = losses_and_gradients(model, batch)
    model.dense = True
    assert_same(losses_and_gradients(model, batch), packed)


def traced(tasks):
    """Operation -> how often it stands in a traced training step, functions included."""
    model, batch = built("din", tasks), arrays()
    model.dense = True
    optimizer = LazyAdam(0.001)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            total = model.losses_of(batch)["total"]
        found = tape.gradient(total, model.trainable_variables, unconnected_gradients="none")
        pairs = zip(found, model.trainable_variables, strict=True)
        optimizer.apply_gradients([(g, v) for g, v in pairs if g is not None])
        return total

    graph = step.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return Counter(n.op for n in nodes)


def test_a_dense_step_has_few_nodes_and_all_run_on_gpus():
    alone, whole = (traced(tasks) for tasks in ("none", "both"))
    assert whole.total() <= 1.7 * alone.total()
    assert not {"While", "StatelessWhile", "Where", "TensorListReserve"} & whole.keys()
    kinds = {}
    for name in whole:
        kernels = get_registered_kernels_for_op(name).kernel
        kinds[name] = {k.device_type for k in kernels}
    assert {name for name, on in kinds.items() if on and not on & {"GPU", "DEFAULT"}} == HOST


def test_the_layout_is_chosen_by_device_and_by_what_has_a_dense_form(caplog):
    covered = Plan.of(BACKBONES["din"], auxiliaries=TASKS["both"])
    dien = Plan.of(BACKBONES["dien"])
    other = Plan.of(BACKBONES["din"], auxiliaries={"icl": icl.Config()})
    assert [layout.dense("auto", covered, gpus) for gpus in (False, True)] == [False, True]
    assert layout.dense("dense", covered, False)
    assert not layout.dense("packed", covered, True)
    caplog.set_level("INFO")
    assert not layout.dense("auto", dien, False)
    assert not caplog.messages
    assert not layout.dense("auto", dien, True)
    assert caplog.messages == ["layout: packed, as backbone dien has no dense form"]
    for plan, who in ((dien, "backbone dien"), (other, "auxiliary icl")):
        with pytest.raises(InputError, match=f"fit.layout is dense and {who} has no dense form"):
            layout.dense("dense", plan, False)
    with pytest.raises(InputError, match=r"dense and data.grouping=requests has no dense form"):
        layout.dense("dense", covered, True, requests=True)
    assert not layout.dense("auto", covered, True, requests=True)
    idle = replace(other, auxiliaries={"icl": icl.Config(weight=0.0)})
    assert layout.dense("dense", idle, False)
    assert not layout.on_gpus()


def test_other_words_are_refused():
    with pytest.raises(InputError, match=r"fit\.layout"):
        Fit(layout="sparse")  # type: ignore[arg-type]
