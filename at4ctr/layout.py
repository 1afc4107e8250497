"""How a training batch holds its histories: packed for CPUs, dense for accelerators.

*Packed* has the real behaviours of all histories, one after the other. Padding costs nothing, but
shapes differ from step to step, and long and short histories are worked on in groups and loops.
*Dense* has T positions for each user, with masks. Its shapes are static and it has no loop, so that
a step is few large operations. Losses and gradients are the same to rounding. Serving, evaluation
and statistics for serving are packed in either case.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.model.build import Plan

log = logging.getLogger(__name__)

Asked = Literal["packed", "dense", "auto"]


def dense(asked: Asked, plan: Plan, gpus: bool, *, requests: bool = False) -> bool:
    """Whether a plan is trained in the dense layout. gpus: whether it is trained on them.
    requests: whether batches are of requests, whose numbers of rows and users vary.

    Raises InputError where ``dense`` is asked for and a part has no dense form. At ``auto`` such a
    plan stays packed, and on GPUs the log says why.
    """
    if asked == "packed" or (asked == "auto" and not gpus):
        return False
    without = [*_without(plan), *(["data.grouping=requests"] if requests else [])]
    if not without:
        return True
    if asked == "dense":
        raise InputError(
            f"fit.layout is dense and {without[0]} has no dense form; expected parts that have "
            "one; set fit.layout=packed or auto"
        )
    log.info("layout: packed, as %s has no dense form", ", ".join(without))
    return False


def on_gpus() -> bool:
    """Whether the replicas of the strategy in force are GPUs; the default one has a CPU."""
    if not tf.distribute.has_strategy():
        return False
    devices = tf.distribute.get_strategy().extended.worker_devices
    return all(tf.DeviceSpec.from_string(d).device_type == "GPU" for d in devices)


def _without(plan: Plan) -> Iterator[str]:
    """The parts of a plan that have no dense form."""
    for name, expert in plan.experts.items():
        kind = type(expert.backbone).__module__.rpartition(".")[2]
        if not expert.backbone.dense:
            yield f"backbone {kind}" if name == kind else f"backbone {kind} of expert {name}"
    for name, auxiliary in plan.auxiliaries.items():
        if auxiliary.weight and not auxiliary.dense:
            yield f"auxiliary {name}"
