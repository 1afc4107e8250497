"""Blocks of instances, decoded and ready to slice; the reader keeps two or three in memory."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from at4ctr.data.dataset import Split
from at4ctr.data.sampling import keep, sampled_label
from at4ctr.data.store import GROUPS_AT_ONCE, RowGroup, Store, flat, list_lengths
from at4ctr.errors import InputError


@dataclass(frozen=True)
class Block:
    """The kept instances of some row groups, in their final order.

    instances: [N] arrays: ``begin`` and ``length`` of the window among the block's behaviours,
        ``cut``, ``user``, ``item`` and ``user_row`` (dims rows), labels, context features and
        numbers, ``weight`` and true probabilities.
    windows: per history feature [E + 1] opaque items; item i is the T behaviours from i on.
    starts: the first row of each request, increasing; None where rows stand by themselves.
    """

    instances: Mapping[str, np.ndarray]
    windows: Mapping[str, np.ndarray]
    starts: np.ndarray | None = None

    def whole(self, rows: slice) -> slice:
        """The rows of all requests that begin within a slice; the slice itself without requests."""
        if self.starts is None:
            return rows
        ends = np.append(self.starts, len(self.instances["item"]))
        first, last = np.searchsorted(self.starts, [rows.start, rows.stop])
        return slice(int(ends[first]), int(ends[last]))

    def firsts(self, rows: slice) -> np.ndarray | None:
        """Where each request of ``whole`` rows begins among them; None without requests."""
        if self.starts is None:
            return None
        first, last = np.searchsorted(self.starts, [rows.start, rows.stop])
        return self.starts[first:last] - rows.start


def in_blocks(groups: Sequence[RowGroup], users: int) -> tuple[tuple[RowGroup, ...], ...]:
    """Consecutive row groups together, every block of at least so many users where possible."""
    blocks: list[list[RowGroup]] = [[]]
    for group in groups:
        if sum(g.users for g in blocks[-1]) >= users:
            blocks.append([])
        blocks[-1].append(group)
    if len(blocks) > 1 and sum(g.users for g in blocks[-1]) < users:
        last = blocks.pop()
        blocks[-1] += last
    return tuple(tuple(block) for block in blocks)


def stateless(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """Independent draws for every (seed, epoch, stream)."""
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def request_starts(columns: Sequence[np.ndarray], longest: int) -> np.ndarray:
    """Where the runs of rows that agree in all columns [N] begin; longer runs are cut."""
    size = len(columns[0])
    begins = np.zeros(size, bool)
    begins[:1] = True
    for column in columns:
        begins[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(begins)
    place = np.arange(size) - np.repeat(starts, np.diff(starts, append=size))
    return np.flatnonzero(place % longest == 0)


def permuted_requests(
    rows: np.ndarray, starts: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows [N] with whole requests permuted, and where each begins."""
    order = rng.permutation(len(starts))
    sizes = np.diff(starts, append=len(rows))[order]
    begins = np.cumsum(sizes) - sizes
    return rows[np.repeat(starts[order] - begins, sizes) + np.arange(len(rows))], begins


def kept_rows(store: Store, split: Split, groups: Sequence[RowGroup], w: float) -> np.ndarray:
    """Rows of every row group that are kept at negative rate w; below 1, one scan of the split.

    InputError where the sampling leaves no negative of a split that has some.
    """
    if w == 1:
        return np.array([g.rows for g in groups], dtype=np.int64)
    column = sampled_label(store.schema.labels, w)
    label, u31 = f"{split}_{column}", f"{split}_u31"
    counts = [np.zeros(0, np.int64)]
    for first in range(0, len(groups), GROUPS_AT_ONCE):
        some = groups[first : first + GROUPS_AT_ONCE]
        table = store.columns(some, [label, u31])
        kept = keep(flat(table.column(label)), flat(table.column(u31)), w)
        users = np.cumsum([0, *(g.users for g in some)])
        rows = np.concatenate([[0], np.cumsum(list_lengths(table.column(label)))])[users]
        counts.append(np.diff(np.concatenate([[0], np.cumsum(kept)])[rows]))
    found = np.concatenate(counts)
    counted = store.counts(split)
    positives = counted["labels"][column.removeprefix("label_")]["positives"]
    if counted["rows"] > positives == found.sum():
        raise InputError(
            f"store {store.path}: no negative of split {split} is left at negative_rate {w}; "
            "expected both classes; set a larger data.negative_rate"
        )
    return found


def sliding(values: np.ndarray, history: int) -> np.ndarray:
    """[E + 1] overlapping opaque items: item i is the bytes of ``values[i : i + history]``.

    ``values`` is [E] or [E, length] int32; positions past its end are zero. Indexing with starts
    then copies whole windows, which costs a fraction of gathering their elements.
    """
    values = values.astype(np.int32, copy=False)
    padding = np.zeros((history, *values.shape[1:]), np.int32)
    padded = np.ascontiguousarray(np.concatenate([values, padding]))
    step = padded.strides[0]
    return np.ndarray((len(values) + 1,), f"V{step * history}", padded.data, strides=(step,))


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialised int32 at a 64-byte boundary, which TensorFlow takes over without a copy."""
    size = math.prod(shape)
    buffer = np.empty(size + 16, np.int32)
    first = (-buffer.ctypes.data % 64) // 4
    return buffer[first : first + size].reshape(shape)


class Ahead:
    """A cache of the latest results of a pure function of (epoch, block). It computes the next one
    ahead."""

    def __init__(self, load: Callable[[int, int], Block], size: int) -> None:
        self._load, self._size = load, size
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")
        self._held: OrderedDict[tuple[int, int], Future[Block]] = OrderedDict()

    def get(self, epoch: int, number: int, count: int) -> Block:
        """Block ``number`` of the ``count`` of an epoch; waits for it where need be."""
        with self._lock:
            future = self._request(epoch, number)
            if number + 1 < count:
                self._request(epoch, number + 1)
            while len(self._held) > self._size:
                self._held.popitem(last=False)
        try:
            return future.result()
        except BaseException:
            with self._lock:
                self._held.pop((epoch, number), None)
            raise

    def _request(self, epoch: int, number: int) -> Future[Block]:
        key = (epoch, number)
        if key not in self._held:
            self._held[key] = self._pool.submit(self._load, *key)
        self._held.move_to_end(key)
        return self._held[key]
