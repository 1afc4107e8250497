"""Which rows make a step, and which host and device each of them goes to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from at4ctr import cluster
from at4ctr.data.reader import Reader
from at4ctr.errors import InputError

MakeReader = Callable[[int, tf.distribute.InputContext], Reader]


class Feed:
    """The training batches of this host, distributed over its devices.

    An epoch's row groups are dealt to S shards (``Reader``'s ``context``), and batch k of B rows is
    rows k·B/S to (k+1)·B/S − 1 of shard 0, those of shard 1, and so on: the same rows in the same
    order whatever the number of hosts and devices. Of W hosts each reads S/W shards, and no other;
    of R devices device i takes rows i·B/R to (i+1)·B/R − 1. All take as many steps as the shard
    with the fewest rows fills. An epoch leaves out the further rows of the other shards, and each
    epoch leaves out other rows.

    make_reader: rows of its batches and its shard -> the reader.
    shards: S; 0 is one for each host.
    Raises InputError where hosts, devices and shards cannot share a batch equally.
    """

    def __init__(
        self,
        make_reader: MakeReader,
        batch_size: int,
        shards: int,
        strategy: tf.distribute.Strategy,
    ) -> None:
        hosts, devices = cluster.hosts(), strategy.num_replicas_in_sync
        self.strategy, self.batch_size = strategy, batch_size
        self.shards = shards or hosts.size
        if self.shards % hosts.size:
            raise InputError(
                f"fit.shards is {shards}, which {hosts.size} hosts cannot share equally; use a "
                f"multiple of {hosts.size}"
            )
        if self.shards % devices and devices % self.shards:
            raise InputError(
                f"fit.shards is {shards}, which {devices} devices cannot share equally; use a "
                f"multiple or a divisor of {devices}"
            )
        parts = max(self.shards, devices)
        if batch_size % parts:
            what = "shards" if self.shards > devices else "devices"
            raise InputError(
                f"fit.batch_size is {batch_size}, which {parts} {what} cannot share equally; use a "
                f"multiple of {parts}"
            )
        self.batches = parts // self.shards  # of each shard's reader, in a step
        mine = self.shards // hosts.size
        self._local = devices // hosts.size
        self._readers = [
            make_reader(
                batch_size // parts,
                tf.distribute.InputContext(self.shards, hosts.rank * mine + i, devices),
            )
            for i in range(mine)
        ]

    def steps(self, epoch: int) -> int:
        """The number of steps of an epoch, the same on every host."""
        count = self._readers[0].steps(epoch) // self.batches
        if not count:
            raise InputError(
                f"fit.batch_size {self.batch_size} is larger than the {self._readers[0].rows} rows "
                f"of the {self._readers[0].split} split; use a smaller batch"
            )
        return count

    def __call__(self, epoch: int, start: int) -> Any:
        """An epoch's distributed batches from a step on."""
        return iter(
            self.strategy.distribute_datasets_from_function(lambda _: self._dataset(epoch, start))
        )

    def compiled(self, step: Callable[..., Any], *others: tf.TensorSpec) -> Any:
        """A `tf.function` of a batch and ``others``: one trace, however many rows a batch has.

        AutoGraph is off: it would take more time than the rest of the trace (WORKSPACE.md), and no
        part branches on a tensor in Python.
        """
        batches = self.strategy.distribute_datasets_from_function(lambda _: self._dataset(0, 0))
        signature = (batches.element_spec, *others)
        return tf.function(step, input_signature=signature, autograph=False)

    def where(self, epoch: int, batch: int) -> str:
        """A sentence for an error: how a person finds the rows of a batch."""
        per = self.batches
        index = f"{batch * per}..{(batch + 1) * per - 1}" if per > 1 else f"{batch}"
        of = f" of each of {self.shards} shards" if self.shards > 1 else ""
        return (
            f"(epoch {epoch}, batch {index}{of}: look at it with "
            f"Reader.batch({epoch}, {batch * per}))"
        )

    def _dataset(self, epoch: int, start: int) -> tf.data.Dataset:
        """One batch for each local device, step after step."""
        sources = [r.dataset(epoch, start * self.batches) for r in self._readers]
        joined = math.ceil(len(sources) / self._local)
        if joined > 1:
            sources = [
                tf.data.Dataset.zip(tuple(sources[i : i + joined])).map(_stacked)
                for i in range(0, len(sources), joined)
            ]
        if len(sources) == 1:
            return sources[0]
        count, per = (self.steps(epoch) - start) * self._local, self._local // len(sources)
        turns = tf.data.Dataset.range(count).map(lambda i: i % self._local // per)
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return tf.data.Dataset.choose_from_datasets(sources, turns).with_options(options)


def _stacked(*parts: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    found = {name: tf.concat([p[name] for p in parts], 0) for name in parts[0]}
    if "owner" in found:
        users = [tf.shape(p["history_length"])[0] for p in parts]
        before = tf.cumsum(tf.stack(users), exclusive=True)
        found["owner"] = tf.concat([p["owner"] + before[i] for i, p in enumerate(parts)], 0)
    return found
