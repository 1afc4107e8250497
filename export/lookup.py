"""From raw ids, as they stand in the log, to the model's batch: lookup, cutting and padding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import FIRST_ID, MISSING, PADDING, UNKNOWN, Feature, Table, history_name


class Lookup(tf.Module):
    """Raw ids [...] of one table -> model ids [...] int32.

    A missing value (-1 or "") is ``PADDING``. Line i of the vocabulary file is i + 2 and anything
    else ``UNKNOWN``; a hashed table gives 2 + FarmHash64(text) mod buckets.
    """

    def __init__(self, table: Table, vocabulary: Path | None) -> None:
        """vocabulary: None for a hashed table, or for one without a single id."""
        super().__init__(name=f"lookup_{table.name}")
        self.table = table
        self.hash_table = None if vocabulary is None else _hash_table(table, vocabulary)

    def __call__(self, raw: Tensor) -> Tensor:
        if self.table.buckets:
            text = raw if raw.dtype == tf.string else tf.as_string(raw)
            found = FIRST_ID + tf.strings.to_hash_bucket_fast(text, self.table.buckets)
        elif self.hash_table is None:
            found = tf.fill(tf.shape(raw), tf.constant(UNKNOWN, tf.int64))
        else:
            found = FIRST_ID + self.hash_table.lookup(raw)
        missing = tf.constant(MISSING[self.table.dtype], raw.dtype)
        return tf.cast(tf.where(raw == missing, tf.constant(PADDING, tf.int64), found), tf.int32)


class _Vocabulary(tf.lookup.TextFileInitializer):
    """Named by its content. TensorFlow names it by its path, and two tables of one name share one
    content per process: a rebuilt vocabulary would silently answer with the old ids."""

    def __init__(self, vocabulary: Path, dtype: str) -> None:
        with vocabulary.open("rb") as file:
            self._content = hashlib.file_digest(file, "sha256").hexdigest()
        super().__init__(
            str(vocabulary),
            key_dtype=tf.as_dtype(dtype),
            key_index=tf.lookup.TextFileIndex.WHOLE_LINE if dtype == "string" else 0,
            value_dtype=tf.int64,
            value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
        )

    @property
    def _shared_name(self) -> str:
        return f"vocabulary_{self._content}_{self.key_dtype.name}"


def _hash_table(table: Table, vocabulary: Path) -> tf.lookup.StaticHashTable:
    rows = _Vocabulary(vocabulary, table.dtype)
    missing = MISSING[table.dtype]
    try:
        found = tf.lookup.StaticHashTable(rows, UNKNOWN - FIRST_ID)
        known = found.lookup(tf.constant(missing, found.key_dtype)) >= 0
    except tf.errors.InvalidArgumentError as error:  # such as an empty line
        raise InputError(
            f"vocabulary {vocabulary} cannot be read ({error.message.split(' [Op:')[0][-80:]}); "
            f"expected one {table.dtype} a line, none of them empty; prepare the store again"
        ) from error
    if known:
        raise InputError(
            f"vocabulary {vocabulary} holds the id {missing!r}, which stands for a missing value "
            "in requests; expected other ids; recode or drop it in the log and prepare it again"
        )
    return found


class Front(tf.Module):
    """Raw features -> the batch that an ``Embedder`` reads.

    history: T, the number of latest behaviours that the model sees. past: whether it reads any.
    Features with ``serve=False``, and a history that is not read, are no input: they are padding
    for the model.
    """

    def __init__(self, store: Store, history: int, *, past: bool = True) -> None:
        super().__init__(name="front")
        self.schema, self.history, self.reads_past = store.schema, history, past
        used = {f.table for f in (*self.now, *self.past)}
        self.tables = {
            t.name: Lookup(t, None if t.buckets else _vocabulary(store, t))
            for t in self.schema.tables
            if t.name in used
        }

    @property
    def now(self) -> tuple[Feature, ...]:
        """The served features of this moment: profile, item, context."""
        groups = ("profile", "item", "context")
        return tuple(f for g in groups for f in self.schema.group(g) if f.serve)  # type: ignore[arg-type]

    @property
    def past(self) -> tuple[Feature, ...]:
        """The served features of a behaviour; the first decides which positions are real."""
        if not self.reads_past:
            return ()
        return tuple(f for f in self.schema.behaviour if f.serve)

    @property
    def inputs(self) -> dict[str, Feature]:
        """The feature of every named input."""
        return {f.name: f for f in self.now} | {history_name(f.name): f for f in self.past}

    def dtype(self, feature: Feature) -> tf.DType:
        return tf.as_dtype(self.schema.table(feature.table).dtype)

    def missing(self, feature: Feature) -> int | str:
        return MISSING[self.schema.table(feature.table).dtype]

    def ids(
        self, features: Iterable[Feature], raw: Mapping[str, Tensor], size: Tensor
    ) -> dict[str, Tensor]:
        """Raw [size] or [size, M] -> ids [size] or [size, length] of some features of this moment.
        One row stands for all."""
        return {f.name: rows(self._ids(f, raw[f.name]), size, f.name) for f in features}

    def histories(self, raw: Mapping[str, Tensor], size: Tensor) -> dict[str, Tensor]:
        """``history_<f>`` raw [size, L] or [size, L, M] -> ids [size, T] or [size, T, length], and
        lengths [size]. One row stands for all; a feature of L = 0 is missing.

        The latest T real positions, in order, left-aligned; padding may stand anywhere. Only they
        are looked up, so that a history of 10,000 costs little more than one of T.
        Fails (INVALID_ARGUMENT) where the features of a behaviour differ in L.
        """
        if not self.past:
            return {}
        name = history_name(self.past[0].name)
        first = rows(raw[name], size, name)
        real = first != tf.constant(self.missing(self.past[0]), first.dtype)
        real = real if self.past[0].length is None else tf.reduce_any(real, -1)
        where, place, lengths = latest(real, self.history)
        batch = {"history_length": lengths}
        for f in self.past:
            key = history_name(f.name)
            values = raw[key]
            none = tf.cast(tf.shape(values)[1:] == 0, tf.int32)
            ends = [[0, 0], [0, none[0] * tf.shape(real)[1]]]
            ends += [[0, none[1]]] if f.length else []  # gather_nd takes nothing of width 0
            values = tf.pad(values, ends, constant_values=self.missing(f))
            fits = tf.debugging.assert_equal(
                tf.shape(values)[1],
                tf.shape(real)[1],
                f"{key} must have as many positions as {name}, or none",
            )
            with tf.control_dependencies([fits]):
                values = rows(values, size, key)
            found = self._ids(f, tf.gather_nd(values, where))  # [R] or [R, length]
            batch[key] = tf.scatter_nd(place, found, [size, self.history, *found.shape[1:]])
        return batch

    def parse(self, serialized: Tensor) -> dict[str, Tensor]:
        """``tf.Example`` [B] -> raw features; whatever an example leaves out is missing."""
        spec: dict[str, Any] = {}
        for f in self.now:
            spec[f.name] = tf.io.RaggedFeature(self.dtype(f))
            if f.length is None:
                spec[f.name] = tf.io.FixedLenFeature([], self.dtype(f), self.missing(f))
        for f in self.past:
            inner = [] if f.length is None else [tf.io.RaggedFeature.UniformRowLength(f.length)]
            key = history_name(f.name)
            spec[key] = tf.io.RaggedFeature(self.dtype(f), key, partitions=inner)
        raw = tf.io.parse_example(serialized, spec)
        for key, f in self.inputs.items():
            if isinstance(raw[key], tf.RaggedTensor):
                raw[key] = raw[key].to_tensor(self.missing(f))
        for f in self.past:  # as long as the first, which alone must be there
            key, first = history_name(f.name), raw[history_name(self.past[0].name)]
            short = tf.maximum(tf.shape(first)[1] - tf.shape(raw[key])[1], 0)
            ends = [[0, 0], [0, short], *([[0, 0]] if f.length else [])]
            raw[key] = tf.pad(raw[key], ends, constant_values=self.missing(f))
        return raw

    def unserved(self, size: Tensor, users: Tensor) -> dict[str, Tensor]:
        """Padding for what the served model does not read. users: rows of profile and history."""
        batch = {}
        if self.schema.history and not self.reads_past:
            batch["history_length"] = tf.zeros([users], tf.int32)
        for f in self.schema.features:
            wide = [] if f.length is None else [f.length]
            if not f.serve and f.group != "behaviour":
                count = users if f.group == "profile" else size
                batch[f.name] = tf.zeros([count, *wide], tf.int32)
            if not f.serve and f.group == "behaviour" and self.reads_past:
                batch[history_name(f.name)] = tf.zeros([users, self.history, *wide], tf.int32)
        return batch

    def _ids(self, feature: Feature, raw: Tensor) -> Tensor:
        found = self.tables[feature.table](raw)
        return found if feature.length is None else leading(found, feature.length)


def rows(values: Tensor, size: Tensor, name: str) -> Tensor:
    """[size, ...] of as many rows or of one, which stands for all; anything else fails
    (INVALID_ARGUMENT)."""
    shape = tf.shape(values)
    fits = tf.debugging.Assert(
        (shape[0] == size) | (shape[0] == 1),
        [f"{name} must have one row, or as many as the candidates: it has", shape[0], "of", size],
    )
    with tf.control_dependencies([fits]):
        return tf.broadcast_to(values, tf.concat([[size], shape[1:]], 0))


def latest(real: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The last ``count`` True of every row of real [B, L].

    Returns their places in it [R, 2], their places in the result [R, 2], and how many a row
    has [B].
    """
    ranks = tf.cumsum(tf.cast(real, tf.int32), axis=1)  # 1, 2, ... at real positions
    lengths = tf.reduce_sum(tf.cast(real, tf.int32), 1)
    places = ranks - 1 - tf.maximum(lengths - count, 0)[:, None]
    where = tf.where(real & (places >= 0))
    place = tf.stack([tf.cast(where[:, 0], tf.int32), tf.gather_nd(places, where)], 1)
    return where, place, tf.minimum(lengths, count)


def leading(ids: Tensor, count: int) -> Tensor:
    """The first ``count`` ids other than padding of every row. [n, M] -> [n, count]."""
    real = ids != PADDING
    places = tf.cumsum(tf.cast(real, tf.int32), axis=1) - 1
    where = tf.where(real & (places < count))
    place = tf.stack([tf.cast(where[:, 0], tf.int32), tf.gather_nd(places, where)], 1)
    found = tf.scatter_nd(place, tf.gather_nd(ids, where), [tf.shape(ids)[0], count])
    return tf.ensure_shape(found, [None, count])


def _vocabulary(store: Store, table: Table) -> Path | None:
    return store.vocabulary_path(table.name) if store.rows(table.name) > FIRST_ID else None
