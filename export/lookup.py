"""Turns raw values of the log into the model's batch: look-up of ids, truncation, padding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.data.store import Store
from at4ctr.errors import InputError
from at4ctr.schema import (
    AGES,
    FIRST_ID,
    MISSING,
    PADDING,
    UNKNOWN,
    Feature,
    Group,
    Number,
    Schema,
    Table,
    history_name,
    weights_name,
)

PRESENT: tuple[Group, ...] = ("profile", "item", "context")
NAN = float("nan")


class Input(NamedTuple):
    """A named input of a signature.

    of: the feature or number whose raw values it has, or the feature whose values it weighs. For
        ages it is the first feature of a behaviour.
    missing: the value that stands for a missing one.
    past: whether it has a value for each behaviour.
    """

    name: str
    of: Feature | Number
    dtype: tf.DType
    missing: int | str | float
    past: bool = False

    @property
    def group(self) -> Group:
        return self.of.group

    @property
    def length(self) -> int | None:
        """None for one value; otherwise how many of several values are read."""
        return self.of.length if isinstance(self.of, Feature) and not self.aged else None

    @property
    def weighs(self) -> bool:
        """Whether it holds the weights of the values of another input, ``of.name``."""
        return self.name == weights_name(self.of.name)

    @property
    def aged(self) -> bool:
        """Whether it holds how many seconds before the request each behaviour was."""
        return self.name == AGES


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
    """A vocabulary whose table is named by its content. TensorFlow would name it by its path, and
    tables of one name share their content in a process, so that a rebuilt vocabulary would silently
    answer with the old ids."""

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
    ages: whether it reads how long ago each was, the input ``history_seconds_ago``.
    Features with ``serve=False``, and a history that is not read, are no input: they are padding
    for the model.
    """

    def __init__(
        self, store: Store, history: int, *, past: bool = True, ages: bool = False
    ) -> None:
        super().__init__(name="front")
        self.schema, self.history, self.reads_past = store.schema, history, past
        self.reads_ages = ages
        used = {f.table for f in (*self.now, *self.past)}
        self.tables = {
            t.name: Lookup(t, None if t.buckets else _vocabulary(store, t))
            for t in self.schema.tables
            if t.name in used
        }

    @property
    def now(self) -> tuple[Feature, ...]:
        """The served features of this moment: profile, item, context."""
        return tuple(f for g in PRESENT for f in self.schema.served(g))

    @property
    def past(self) -> tuple[Feature, ...]:
        """The served features of a behaviour; the first decides which positions are real."""
        if not self.reads_past:
            return ()
        return tuple(f for f in self.schema.behaviour if f.serve)

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The served numbers, all of this moment."""
        return tuple(n for g in PRESENT for n in self.schema.served_numbers(g))

    @property
    def inputs(self) -> dict[str, Input]:
        """Every input by its name."""
        weighted = [f for f in self.now if f.weighted]
        found = [
            *(_ids_input(self.schema, f) for f in self.now),
            *(Input(n.name, n, tf.float32, NAN) for n in self.numbers),
            *(Input(weights_name(f.name), f, tf.float32, NAN) for f in weighted),
            *(_ids_input(self.schema, f, past=True) for f in self.past),
            *(Input(AGES, f, tf.int64, -1, past=True) for f in self.past[:1] if self.reads_ages),
        ]
        return {one.name: one for one in found}

    def present(
        self, raw: Mapping[str, Tensor], size: Tensor, groups: Iterable[Group] = PRESENT
    ) -> dict[str, Tensor]:
        """The model's batch without its history, of some groups' inputs of this moment.

        Raw ids [size] or [size, M] become ids [size] or [size, length]. Numbers [size] stay as they
        are. Weights [size, M] stay with their values. One row is repeated for all ``size`` rows.
        Fails (INVALID_ARGUMENT) for an infinite number, a weight that is infinite or negative, and
        weights of another width than their values.
        """
        of = tuple(groups)
        found: dict[str, Tensor] = {}
        for f in (f for f in self.now if f.group in of):
            key, ids = weights_name(f.name), self.tables[f.table](raw[f.name])
            if f.length is None:
                found[f.name] = rows(ids, size, f.name)
            elif not f.weighted:
                found[f.name] = rows(leading(ids, f.length), size, f.name)
            else:
                weights = rows(_weights(raw[key], tf.shape(ids)[1], key, f.name), size, key)
                ids = rows(ids, size, f.name)
                found[f.name] = leading(ids, f.length)
                found[key] = leading(weights, f.length, ids != PADDING)
        for n in (n for n in self.numbers if n.group in of):
            found[n.name] = rows(_finite(raw[n.name], n.name), size, n.name)
        return found

    def histories(self, raw: Mapping[str, Tensor], size: Tensor) -> dict[str, Tensor]:
        """``history_<f>`` raw [size, L] or [size, L, M] -> ids [size, T] or [size, T, length], and
        lengths [size]. One row is repeated for all ``size`` rows; a feature of L = 0 is missing.

        The latest T real positions, in order, left-aligned; padding may stand anywhere. Only they
        are looked up, so that a history of 10,000 costs little more than one of T.
        Ages, where they are read, are [size, L] seconds -> [size, T].
        Fails (INVALID_ARGUMENT) where the features of a behaviour differ in L, or an age is below
        -1.
        """
        if not self.past:
            return {}
        inputs = self.inputs
        name = history_name(self.past[0].name)
        first = rows(raw[name], size, name)
        real = first != tf.constant(inputs[name].missing, first.dtype)
        real = real if self.past[0].length is None else tf.reduce_any(real, -1)
        where, place, lengths = latest(real, self.history)
        batch = {"history_length": lengths}
        for f in self.past:
            key = history_name(f.name)
            values = _as_long(raw[key], inputs[key], real, name, size)
            found = self.tables[f.table](tf.gather_nd(values, where))  # [R] or [R, M]
            found = found if f.length is None else leading(found, f.length)
            batch[key] = tf.scatter_nd(place, found, [size, self.history, *found.shape[1:]])
        if self.reads_ages:
            values = _as_long(raw[AGES], inputs[AGES], real, name, size)
            found = _seconds(tf.gather_nd(values, where))
            batch[AGES] = tf.scatter_nd(place, found, [size, self.history])
        return batch

    def parse(self, serialized: Tensor) -> dict[str, Tensor]:
        """``tf.Example`` [B] -> raw features; whatever an example leaves out is missing."""
        spec: dict[str, Any] = {}
        inputs = self.inputs
        for key, one in inputs.items():
            inner = [] if one.length is None else [tf.io.RaggedFeature.UniformRowLength(one.length)]
            if one.past:
                spec[key] = tf.io.RaggedFeature(one.dtype, key, partitions=inner)
            elif one.length is None:
                spec[key] = tf.io.FixedLenFeature([], one.dtype, one.missing)
            else:
                spec[key] = tf.io.RaggedFeature(one.dtype)
        found = tf.io.parse_example(serialized, spec)
        ragged = {k: v for k, v in found.items() if isinstance(v, tf.RaggedTensor)}
        raw = found | {k: v.to_tensor(inputs[k].missing) for k, v in ragged.items()}
        for key, one in inputs.items():
            if one.weighs:
                fits = _as_many(ragged[key], ragged[one.of.name], key, one.of.name)
                with tf.control_dependencies([fits]):
                    raw[key] = _widened(raw[key], raw[one.of.name], one)
            elif one.past:  # as long as the first, which alone must be there
                raw[key] = _widened(raw[key], raw[history_name(self.past[0].name)], one)
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


def _ids_input(schema: Schema, feature: Feature, *, past: bool = False) -> Input:
    dtype = schema.table(feature.table).dtype
    name = history_name(feature.name) if past else feature.name
    return Input(name, feature, tf.as_dtype(dtype), MISSING[dtype], past)


def _as_long(values: Tensor, given: Input, real: Tensor, first: str, size: Tensor) -> Tensor:
    """Values of behaviours [1 or size, L] or [1 or size, L, M] for all rows of real [size, L];
    L = 0 is missing. first: the input that real is of."""
    none = tf.cast(tf.shape(values)[1:] == 0, tf.int32)
    ends = [[0, 0], [0, none[0] * tf.shape(real)[1]]]
    ends += [[0, none[1]]] if given.length else []  # gather_nd takes nothing of width 0
    values = tf.pad(values, ends, constant_values=given.missing)
    fits = tf.debugging.assert_equal(
        tf.shape(values)[1],
        tf.shape(real)[1],
        f"{given.name} must have as many positions as {first}, or none",
    )
    with tf.control_dependencies([fits]):
        return rows(values, size, given.name)


def _seconds(ages: Tensor) -> Tensor:
    """Ages [R] int64 as the reader has them, int32; longer ones are the longest."""
    fits = tf.debugging.Assert(
        tf.reduce_all(ages >= -1),
        [f"{AGES} holds a negative age; expected seconds from 0, or -1 for an unknown one"],
    )
    with tf.control_dependencies([fits]):
        return tf.cast(tf.minimum(ages, tf.int32.max), tf.int32)


def _finite(values: Tensor, name: str) -> Tensor:
    """The values, after a check that none is infinite; NaN is a missing number."""
    fits = tf.debugging.Assert(
        ~tf.reduce_any(tf.math.is_inf(values)),
        [f"{name} holds an infinite number; expected finite numbers, or NaN for a missing one"],
    )
    with tf.control_dependencies([fits]):
        return tf.identity(values)


def _weights(values: Tensor, width: Tensor, name: str, of: str) -> Tensor:
    """Weights [n, M] of M values; a missing one (NaN) is 1, as are all where M is 0."""
    found = tf.shape(values)[1]
    wrong = tf.math.is_inf(values) | (values < 0)
    checks = [
        tf.debugging.Assert(
            (found == width) | (found == 0),
            [f"{name} must have as many values as {of}, or none: it has", found, "of", width],
        ),
        tf.debugging.Assert(
            ~tf.reduce_any(wrong),
            [f"{name} holds no weight; expected finite weights of at least 0, or NaN for 1"],
        ),
    ]
    with tf.control_dependencies(checks):
        values = tf.pad(values, [[0, 0], [0, tf.where(found == 0, width, 0)]], constant_values=NAN)
    return tf.where(tf.math.is_nan(values), tf.ones_like(values), values)


def _as_many(weights: tf.RaggedTensor, values: tf.RaggedTensor, name: str, of: str) -> Any:
    """The weights, after a check that each example has as many as values, or none."""
    found, expected = weights.row_lengths(), values.row_lengths()
    return tf.debugging.Assert(
        tf.reduce_all((found == expected) | (found == 0)),
        [f"an example must have as many values of {name} as of {of}, or none"],
    )


def _widened(values: Tensor, like: Tensor, given: Input) -> Tensor:
    """[B, n, ...] with as many positions as ``like``, missing ones at the end."""
    short = tf.maximum(tf.shape(like)[1] - tf.shape(values)[1], 0)
    ends = [[0, 0], [0, short], *([[0, 0]] * (values.shape.rank - 2))]
    return tf.pad(values, ends, constant_values=given.missing)


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


def leading(values: Tensor, count: int, real: Tensor | None = None) -> Tensor:
    """The first ``count`` real values of every row, then zeros. [n, M] -> [n, count].

    real: which ones are, [n, M]; None for ids, of which all but padding are.
    """
    real = values != PADDING if real is None else real
    places = tf.cumsum(tf.cast(real, tf.int32), axis=1) - 1
    where = tf.where(real & (places < count))
    place = tf.stack([tf.cast(where[:, 0], tf.int32), tf.gather_nd(places, where)], 1)
    found = tf.scatter_nd(place, tf.gather_nd(values, where), [tf.shape(values)[0], count])
    return tf.ensure_shape(found, [None, count])


def _vocabulary(store: Store, table: Table) -> Path | None:
    return store.vocabulary_path(table.name) if store.rows(table.name) > FIRST_ID else None
