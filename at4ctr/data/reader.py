"""Batches of a store: shuffled, sampled, sharded, and resumable at any step.

Batch k of an epoch is a pure function of (store, settings, seed, epoch, k). The epoch's row groups
are permuted statelessly (Philox keyed by seed and epoch), every n-th goes to this worker, and
consecutive ones form blocks of at least ``block_users`` users. The kept instances of a block are
permuted as a whole; batches are consecutive slices of the blocks, one after the other.

With ``grouping="requests"`` whole requests are permuted, and a batch has those that begin in its
slice. A request is a run of a user's rows, in the store's order, that see the same behaviours and,
where the schema has times, are of one second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf

from at4ctr.data.block import (
    Ahead,
    Block,
    aligned,
    in_blocks,
    kept_rows,
    permuted_requests,
    request_starts,
    sliding,
    stateless,
)
from at4ctr.data.dataset import Split
from at4ctr.data.sampling import demand_rate, keep, sampled_label
from at4ctr.data.store import RowGroup, Store
from at4ctr.errors import InputError, unknown
from at4ctr.schema import AGES, BEHAVIOURS, UNKNOWN, history_name, weights_name

BLOCKS_HELD = 3
LONGEST = 64  # rows of a request
Grouping = Literal["rows", "requests"]
GROUPINGS: tuple[Grouping, ...] = ("rows", "requests")


class Plan(NamedTuple):
    """An epoch of one worker: its blocks, where each ends (in rows), and the common steps."""

    blocks: tuple[tuple[RowGroup, ...], ...]
    ends: np.ndarray
    steps: int


class Reader:
    """One split of a store in batches (flat dicts; int32 where nothing else is said).

    Every profile, item and context feature ``[B]`` or ``[B, length]``; ``history_<f>`` ``[B, T]``
    or ``[B, T, length]`` of item features in ``schema.history`` and of behaviour features, oldest
    first, left-aligned, zero padded, the latest T before the instance's cut and never past it;
    ``behaviours``, how many behaviours of the user precede the row, whatever T is, and
    ``history_length``, ``user_index``, ``item_index`` ``[B]``; ``label_<name>`` ``[B]`` float32,
    -1 where it is not known; every number ``[B]`` float32, NaN where it is missing;
    ``weights_<f>`` ``[B, length]`` float32 of weighted features; ``weight`` ``[B]`` float32 where
    rows have one; ``history_seconds_ago`` ``[B, T]`` int32, 0 where padded, how long before the row
    each behaviour was, where the schema has times; ``truth_<name>`` ``[B]`` float64 with ``truth``,
    of labels where it is known.

    batch_size: rows of a batch of this worker.
    history: T.
    negative_rate: w in (0, 1], the share of negatives of the sampled label that is kept, whole
        rows with all their labels; below 1 that label and ``u31`` of the
        split are read once, here, to count (some seconds per 100M rows).
    seed: of the order. Sampling does not depend on it.
    shuffle: False gives store order.
    drop_remainder: whether to leave out the last rows that fill no batch; None does so if
        ``shuffle``.
    unknown_rate: share of rows whose user id, and independently item id, reads as unknown, drawn
        anew every epoch, so that the unknown rows of the tables are trained too.
    truth: also yield the true probabilities of a simulated store.
    context: which of several workers this is. All have the same number of steps: with
        ``drop_remainder`` that of the worker with the fewest rows, otherwise that of the one with
        the most; workers that have run out yield batches of 0 rows.
    grouping: ``rows`` permutes rows, each with its user's profile and history. ``requests`` keeps
        the rows of a request in one batch, and profile and history come once for each of its H
        requests: ``[H, ...]``, with ``owner`` ``[B]`` int32, never decreasing, the request of each
        row. B then varies about ``batch_size`` by less than the longest request. A user's id
        reads as unknown in all rows of a request or in none.
    longest_request: a request of more rows is cut. It does not depend on ``batch_size``, so that
        the order of the rows does not either.
    block_users: rows are shuffled across at least so many users, or all. Memory is about three
        blocks of 4 bytes a behaviour and history feature and 20 bytes an instance.
    Raises InputError for settings out of range, a split without rows, a batch larger than the data.
    """

    def __init__(
        self,
        store: Store,
        split: Split,
        *,
        batch_size: int,
        history: int,
        negative_rate: float = 1.0,
        seed: int = 0,
        shuffle: bool = True,
        drop_remainder: bool | None = None,
        truth: bool = False,
        unknown_rate: float = 0.0,
        context: tf.distribute.InputContext | None = None,
        block_users: int = 32_768,
        grouping: Grouping = "rows",
        longest_request: int = LONGEST,
    ) -> None:
        self.store, self.split, self.schema = store, split, store.schema
        self.label = store.schema.labels[0].column  # known in every row
        self.batch_size, self.history, self.negative_rate = batch_size, history, negative_rate
        self.seed, self.shuffle, self.truth, self.block_users = seed, shuffle, truth, block_users
        self.drop_remainder = shuffle if drop_remainder is None else drop_remainder
        self.unknown_rate, self.grouping = unknown_rate, grouping
        self.longest_request = longest_request
        self.workers = context.num_input_pipelines if context else 1
        self.worker = context.input_pipeline_id if context else 0
        self._check_settings()
        groups = store.groups(split)
        kept = kept_rows(store, split, groups, negative_rate)
        self._kept = {g: int(k) for g, k in zip(groups, kept, strict=True) if k}
        self._check_rows()
        self._plan = lru_cache(maxsize=4)(self._make_plan)
        self._blocks = Ahead(self._load, BLOCKS_HELD)

    @property
    def rows(self) -> int:
        """Kept rows of an epoch, over all workers."""
        return sum(self._kept.values())

    def steps(self, epoch: int) -> int:
        """Batches of an epoch, the same on every worker."""
        return self._plan(epoch).steps

    def dataset(
        self, epoch: int, start: int = 0, *, parallel: int = 2, prefetch: int = 4
    ) -> tf.data.Dataset:
        """Batches ``start``, ``start + 1``, ... of an epoch, in order.

        Resumes exactly from ``start``, and from a ``tf.train.Checkpoint`` of its iterator.
        ``parallel`` batches are cut at once and ``prefetch`` lie ready.
        """
        names = list(self._spec)
        types = [dtype for dtype, _ in self._spec.values()]
        types += [np.int32] if self.grouping == "requests" else []
        names += ["owner"] if self.grouping == "requests" else []
        fixed = self.drop_remainder and self.grouping == "rows"
        size = self.batch_size if fixed else None

        def cut(index: np.ndarray) -> list[np.ndarray]:
            return list(self.batch(epoch, int(index)).values())

        def fetch(index: tf.Tensor) -> dict[str, tf.Tensor]:
            tensors = tf.numpy_function(cut, [index], types, stateful=False)
            for name, tensor in zip(names, tensors, strict=True):
                inner = self._spec[name][1] if name in self._spec else ()
                tensor.set_shape((size, *inner))
            return dict(zip(names, tensors, strict=True))

        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        batches = tf.data.Dataset.range(start, max(start, self.steps(epoch)))
        batches = batches.map(fetch, num_parallel_calls=parallel, deterministic=True)
        return batches.prefetch(prefetch).with_options(options)

    def batch(self, epoch: int, index: int) -> dict[str, np.ndarray]:
        """Batch ``index`` of an epoch in numpy: what ``dataset`` yields at that step."""
        plan = self._plan(epoch)
        if not 0 <= index < plan.steps:
            raise InputError(
                f"batch {index} of epoch {epoch}: expected 0 to {plan.steps - 1}, "
                "the steps of that epoch"
            )
        total = int(plan.ends[-1])
        first = min(index * self.batch_size, total)
        last = min(first + self.batch_size, total)
        low = int(np.searchsorted(plan.ends, first, side="right"))
        pieces: list[dict[str, np.ndarray]] = []
        for number in range(min(low, len(plan.ends) - 1), len(plan.ends)):
            begin = int(plan.ends[number - 1]) if number else 0
            if begin >= last and pieces:
                break
            block = self._blocks.get(epoch, number, len(plan.ends))
            rows = block.whole(slice(max(first - begin, 0), max(last - begin, 0)))
            pieces.append(self._slice(block, rows))
        if len(pieces) == 1:
            return pieces[0]
        if self.grouping == "requests":
            users = np.cumsum([0, *(len(p["history_length"]) for p in pieces)], dtype=np.int32)
            for piece, before in zip(pieces, users, strict=False):
                piece["owner"] += before
        return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}

    @cached_property
    def _spec(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        """Type and shape without B of every entry of a batch, in order."""

        def wide(name: str) -> tuple[int, ...]:
            length = self.schema.feature(name).length
            return () if length is None else (length,)

        now = [f.name for g in ("profile", "item", "context") for f in self.schema.group(g)]
        past = [f.name for f in self.schema.behaviour]
        spec: dict[str, tuple[type, tuple[int, ...]]] = {n: (np.int32, wide(n)) for n in now}
        spec |= {history_name(n): (np.int32, (self.history, *wide(n))) for n in past}
        spec |= {AGES: (np.int32, (self.history,))} if self.schema.times else {}
        spec |= {"history_length": (np.int32, ()), BEHAVIOURS: (np.int32, ())}
        floats = [label.column for label in self.schema.labels]
        floats += [n.name for n in self.schema.numbers]
        floats += ["weight"] if self.schema.weighted else []
        spec |= dict.fromkeys(floats, (np.float32, ()))
        spec |= {weights_name(n): (np.float32, wide(n)) for n in self._weighted}
        spec |= {"user_index": (np.int32, ()), "item_index": (np.int32, ())}
        return spec | dict.fromkeys(self._truths, (np.float64, ()))

    @cached_property
    def _weighted(self) -> list[str]:
        return [f.name for f in self.schema.features if f.weighted]

    @cached_property
    def _truths(self) -> list[str]:
        return [f"truth_{label}" for label in (self.store.truth if self.truth else ())]

    @cached_property
    def _hidden(self) -> list[str]:
        """Instance columns that say where an id reads as unknown; hashed ids never do."""
        ids = (self.schema.user_id, self.schema.item_id) if self.unknown_rate else ()
        return [f"{f.name} hidden" for f in ids if not self.schema.table(f.table).buckets]

    def _slice(self, block: Block, rows: slice) -> dict[str, np.ndarray]:
        """Some consecutive rows of a block as a batch."""
        at = {name: column[rows] for name, column in block.instances.items()}
        batch: dict[str, np.ndarray] = {}
        firsts = block.firsts(rows)  # of each request
        of_user = at if firsts is None else {name: column[firsts] for name, column in at.items()}
        own = "user_row" if "user_row" in at else "user"
        rows_of = {"profile": of_user[own], "item": at["item"]}
        for group in ("profile", "item"):
            for f in self.schema.group(group):
                ids = np.take(self.store.ids(f.name), rows_of[group], axis=0)
                hidden = (of_user if group == "profile" else at).get(f"{f.name} hidden")
                batch[f.name] = ids if hidden is None else np.where(hidden, UNKNOWN, ids)
        for f in self.schema.group("context"):
            batch[f.name] = at[f.name].copy()
        positions = np.arange(self.history, dtype=np.int32)
        real = (positions - of_user["length"][:, None]) >> 31  # [H, T]: all bits set, or none
        begin = of_user["begin"].astype(np.intp)
        for name, windows in block.windows.items():
            shape = (len(begin), *self._spec[name][1])
            values = windows[begin].view(np.int32).reshape(shape)
            mask = real if values.ndim == 2 else real[:, :, None]
            batch[name] = np.bitwise_and(values, mask, out=aligned(shape))
        if AGES in batch:  # as yet the times themselves
            np.subtract(of_user["second"][:, None], batch[AGES], out=batch[AGES])
            np.bitwise_and(batch[AGES], real, out=batch[AGES])
        batch["history_length"] = of_user["length"].copy()
        batch[BEHAVIOURS] = at["cut"].copy()
        for label in self.schema.labels:
            batch[label.column] = at[label.column].astype(np.float32)
        for n in self.schema.numbers:
            if n.group in rows_of:
                batch[n.name] = np.take(self.store.number(n.name), rows_of[n.group])
            else:
                batch[n.name] = at[n.name].copy()
        if self.schema.weighted:
            batch["weight"] = at["weight"].copy()
        for name in self._weighted:
            rows_at = rows_of[self.schema.feature(name).group]
            batch[weights_name(name)] = np.take(self.store.weights(name), rows_at, axis=0)
        batch["user_index"] = at["user"].copy()
        batch["item_index"] = self.store.items(at["item"]).copy()
        for name in self._truths:
            batch[name] = at[name].copy()
        if firsts is not None:
            sizes = np.diff(firsts, append=len(at["item"]))
            batch["owner"] = np.repeat(np.arange(len(firsts), dtype=np.int32), sizes)
        return batch

    def _load(self, epoch: int, number: int) -> Block:
        """Decodes, samples and permutes a block."""
        groups = self._plan(epoch).blocks[number]
        users = self.store.read(self.split, groups, truth=self.truth)
        columns = dict(users.instances)
        u31, kept = columns.pop("u31"), np.arange(len(columns["cut"]))
        if self.negative_rate < 1:
            sampled = columns[sampled_label(self.schema.labels, self.negative_rate)]
            kept = np.flatnonzero(keep(sampled, u31, self.negative_rate))
        self._check_count(groups, len(kept))
        rng = stateless(self.seed, epoch, 1 + number)
        owners = np.repeat(np.arange(len(users.users), dtype=np.int32), users.counts)
        starts = None
        if self.grouping == "requests":
            same = [owners, columns["cut"]]
            same += [columns[name] for name in ("timestamp", "user_row") if name in columns]
            starts = request_starts([column[kept] for column in same], self.longest_request)
            if self.shuffle:
                kept, starts = permuted_requests(kept, starts, rng)
        elif self.shuffle:
            kept = rng.permutation(kept)
        owner = owners[kept]
        columns = {name: np.take(column, kept) for name, column in columns.items()}
        cut = columns["cut"]
        columns["length"] = np.minimum(cut, self.history)
        columns["begin"] = np.take(users.offsets, owner) + (cut - columns["length"])
        columns["user"] = np.take(users.users, owner)
        for name in self._hidden:
            columns[name] = rng.random(len(kept)) < self.unknown_rate
            if starts is not None and name == f"{self.schema.user_id.name} hidden":
                sizes = np.diff(starts, append=len(kept))
                columns[name] = np.repeat(columns[name][starts], sizes)
        sequences = dict(users.behaviours)
        items = sequences.pop("item")
        sequences |= {
            f.name: np.take(self.store.ids(f.name), items, axis=0)
            for f in self.schema.behaviour
            if f.group == "item"
        }
        windows = {
            history_name(f.name): sliding(sequences[f.name], self.history)
            for f in self.schema.behaviour
        }
        if self.schema.times:
            past, now = sequences["timestamp"], columns.pop("timestamp")
            start = int(min(past.min(initial=2**62), now.min(initial=2**62)))
            self._check_span(groups, start, past, now)
            columns["second"] = (now - start).astype(np.int32)
            windows[AGES] = sliding(past - start, self.history)
        return Block(columns, windows, starts)

    def _make_plan(self, epoch: int) -> Plan:
        groups = list(self._kept)
        if self.shuffle:
            order = stateless(self.seed, epoch, 0).permutation(len(groups))
            groups = [groups[i] for i in order]
        shares = [groups[i :: self.workers] for i in range(self.workers)]
        rows = [sum(self._kept[g] for g in share) for share in shares]
        if self.drop_remainder:
            steps = min(rows) // self.batch_size
            if not steps:
                raise self._too_large(min(rows), f" for a worker in epoch {epoch}")
        else:
            steps = math.ceil(max(rows) / self.batch_size)
        blocks = in_blocks(shares[self.worker], self.block_users)
        ends = np.cumsum([sum(self._kept[g] for g in block) for block in blocks])
        return Plan(blocks, ends, steps)

    def _check_settings(self) -> None:
        where = f"reader of {self.store.path}, split {self.split}"
        for name in ("batch_size", "history", "block_users", "longest_request"):
            if getattr(self, name) < 1:
                raise InputError(f"{where}: {name} is {getattr(self, name)}; expected at least 1")
        if self.grouping not in GROUPINGS:
            raise unknown(f"grouping of the {where}", self.grouping, GROUPINGS)
        if self.grouping == "requests" and self.batch_size < self.longest_request:
            raise InputError(
                f"{where}: batch_size is {self.batch_size} with grouping=requests; expected at "
                f"least {self.longest_request}, the rows of the longest request, on each device "
                "and shard; set a larger fit.batch_size, or data.grouping=rows"
            )
        demand_rate(self.negative_rate, where)
        if self.negative_rate < 1:
            sampled_label(self.schema.labels, self.negative_rate, where)
        if not 0 <= self.unknown_rate < 1:
            raise InputError(
                f"{where}: unknown_rate is {self.unknown_rate}; expected 0 <= rate < 1, the share "
                "of ids that read as unknown; set data.unknown_rate=0 for none"
            )
        if self.truth and not self.store.truth:
            raise InputError(
                f"{where}: truth=True, but the store holds no true probabilities; expected a store "
                "simulated with them; read it with truth=False"
            )

    def _check_rows(self) -> None:
        if not self._kept:
            raise InputError(
                f"store {self.store.path}: split {self.split} has 0 rows to read; expected at "
                "least 1; prepare it with another split or with smaller minimum lengths"
            )
        if len(self._kept) < self.workers:
            raise InputError(
                f"store {self.store.path}: split {self.split} has {len(self._kept)} row groups "
                f"with rows for {self.workers} workers; expected one each; use fewer workers"
            )
        if self.drop_remainder and self.rows < self.batch_size * self.workers:
            raise self._too_large(self.rows // self.workers, " for a worker")

    def _too_large(self, rows: int, of: str) -> InputError:
        return InputError(
            f"store {self.store.path}, split {self.split}: batch_size is {self.batch_size}, larger "
            f"than the {rows} rows kept{of}; set batch_size to at most {rows} "
            "(fit.batch_size in a recipe)"
        )

    def _check_span(self, groups: Sequence[RowGroup], start: int, *times: np.ndarray) -> None:
        span = max(int(t.max(initial=start)) for t in times) - start
        if span >= 2**31:
            raise InputError(
                f"store {self.store.path}: the times of {len(groups)} row groups from "
                f"{groups[0].part} span {span:,} seconds; expected less than 2^31, 68 years; "
                "correct the unit of the log's times and prepare it again"
            )

    def _check_count(self, groups: Sequence[RowGroup], found: int) -> None:
        expected = sum(self._kept[g] for g in groups)
        if found != expected:
            raise InputError(
                f"store {self.store.path}: {found} {self.split} rows in {len(groups)} row groups "
                f"from {groups[0].part}, expected {expected}; delete the store and prepare it again"
            )
