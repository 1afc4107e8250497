"""Devices and hosts: which strategy trains, which host is the chief, and what it does for all.

One host trains on its devices. Several hosts train together where ``TF_CONFIG``, which most
schedulers set, names them. Each runs the same command:

    {"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}

Only the first worker (or ``chief``) writes, evaluates and exports. All hosts need the same
``data/`` and ``runs/``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from at4ctr.errors import InputError

T = TypeVar("T")
EXAMPLE = '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'


class Hosts(NamedTuple):
    """How many processes train together, and which of them this is; 0 is the chief."""

    size: int
    rank: int


def hosts() -> Hosts:
    """What ``TF_CONFIG`` says; one host where it is not set or names a single one.

    Raises InputError for one that is malformed.
    """
    return _parsed(os.environ.get("TF_CONFIG", ""))


@lru_cache
def _parsed(text: str) -> Hosts:
    if not text:
        return Hosts(1, 0)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise _malformed(f"is no JSON ({error})") from None
    if not (isinstance(value, dict) and isinstance(value.get("cluster"), dict)):
        raise _malformed("names no cluster")
    cluster, task = value["cluster"], value.get("task")
    for role in cluster:
        if role not in ("chief", "worker"):
            raise _malformed(
                f"has a cluster with {role!r}; every host holds the whole model and takes part in "
                "every step (docs/scale.md)"
            )
    addresses: list[Any] = []
    for role in ("chief", "worker"):
        found = cluster.get(role, [])
        addresses += found if isinstance(found, list) else [found]
    if not addresses or not all(isinstance(a, str) and a.count(":") for a in addresses):
        raise _malformed(f"has the addresses {addresses}, not all of them host:port")
    if len(set(addresses)) < len(addresses):
        raise _malformed(f"names one address twice in {', '.join(addresses)}")
    return Hosts(len(addresses), _index(cluster, task))


def _index(cluster: Mapping[str, list[str]], task: Any) -> int:
    """Of this process in chief, worker 0, worker 1, ..."""
    if not isinstance(task, dict) or task.get("type") not in cluster:
        raise _malformed(f"has the task {task}, whose type is none of {', '.join(cluster)}")
    index, size = task.get("index"), len(cluster[task["type"]])
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < size:
        raise _malformed(f"has the task {task}, whose index is not from 0 to {size - 1}")
    return index + (len(cluster.get("chief", ())) if task["type"] == "worker" else 0)


def _malformed(what: str) -> InputError:
    return InputError(f"TF_CONFIG {what}; expected the like of {EXAMPLE}; mend it, or unset it")


def is_chief() -> bool:
    return hosts().rank == 0


def strategy(devices: tuple[str, ...] = ()) -> tf.distribute.Strategy:
    """The strategy over the hosts of ``TF_CONFIG``, each with all its GPUs or its CPU. On one host
    it is over the named devices or all GPUs; without either it is the default one, on one CPU.

    With several hosts each must call it before any operation runs in its process.
    """
    if hosts().size > 1:
        if devices:
            raise InputError(
                f"fit.devices names {', '.join(devices)} and TF_CONFIG {hosts().size} hosts; "
                "expected one of the two; leave fit.devices empty: every host uses all its GPUs"
            )
        return _multi_worker()
    known = {d.name.removeprefix("/device:") for d in tf.config.list_logical_devices()}
    for name in devices:
        if name not in known or devices.count(name) > 1:
            raise InputError(
                f"fit.devices names {name!r} of {', '.join(devices)}; expected different ones of "
                f"{', '.join(sorted(known))}; leave it empty for every visible GPU"
            )
    if devices or tf.config.list_physical_devices("GPU"):
        return _mirrored(devices)
    return tf.distribute.get_strategy()


# Once per process: the collectives of two strategies on the same devices share their keys.
@lru_cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(list(devices) or None)


@lru_cache
def _multi_worker() -> tf.distribute.Strategy:
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise InputError(
            f"this host could not join the cluster of TF_CONFIG ({_first_line(error)}); expected "
            "its own port to be free and the other hosts to answer; start all with the same "
            "TF_CONFIG but for the task"
        ) from error


def chief_does(work: Callable[[], T]) -> T:
    """Runs ``work`` on the chief, while the others wait; its value goes to all, by way of JSON.

    An exception of it stops every host. The chief raises it as it is, the others an InputError with
    its message.
    """
    if hosts().size == 1:
        return work()
    said: dict[str, Any] = {}
    failed: Exception | None = None
    if is_chief():
        try:
            said = {"value": work()}
        except Exception as error:
            failed, said = error, {"error": str(error) or type(error).__name__}
    said = json.loads(_from_chief(json.dumps(said).encode()))
    if failed is not None:
        raise failed
    if "error" in said:
        raise InputError(said["error"])
    return said["value"]


def _from_chief(text: bytes) -> bytes:
    """The chief's text, on every host: a sum to which the others add zeros."""
    (size,) = _sum(np.array([len(text)]))
    mine = np.frombuffer(text, np.uint8) if is_chief() else np.zeros(int(size), np.uint8)
    return bytes(_sum(mine.astype(np.int64)).astype(np.uint8))


def _sum(values: np.ndarray) -> np.ndarray:
    def part(context: tf.distribute.ValueContext) -> tf.Tensor:
        first = context.replica_id_in_sync_group == 0
        return tf.constant(values if first else np.zeros_like(values))

    made = _multi_worker()
    parts = made.experimental_distribute_values_from_function(part)
    return np.asarray(made.reduce("SUM", parts, axis=None))


@contextmanager
def loss_explained() -> Iterator[None]:
    """Inside, the loss of another host raises an InputError, which is one sentence."""
    lost = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,
    )
    try:
        yield
    except lost as error:
        if hosts().size == 1:
            raise
        raise InputError(
            f"another of the {hosts().size} hosts was lost ({_first_line(error)}); expected all "
            "to the end; start every host again with the same command, and they go on from the "
            "last checkpoint"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "ollective" in line or "recvmsg" in line] or lines
    return (said or [type(error).__name__])[-1][:120]
