"""The embedder: owner of every table, and the only way from ids to vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import tensorflow as tf

from at4ctr.contracts import TABLE, Embedded, Embeds, Encoding, Packed, Tensor
from at4ctr.errors import InputError
from at4ctr.layers.hash_id import HashID
from at4ctr.layers.quantized import Stored, gathered
from at4ctr.layers.segments import deal
from at4ctr.layers.shape import scatter
from at4ctr.layers.similarity import Similarity
from at4ctr.schema import AGES, PADDING, Feature, Group, Schema, history_name, weights_name

_GROUPS: tuple[Group, ...] = ("profile", "item", "context")  # of a sample's own fields
_LINEAR = "/linear"  # after a table's name: its first-order weights
_PHILOX = 1  # TensorFlow's number of the generator of every CPU and GPU
SLICE = 1 << 20  # values of a table that are drawn at a time


@dataclass(frozen=True)
class Config:
    """dimension: D of every table. scale: rows start uniform in ±scale. l2: weight of
    ``touched_l2`` in the loss (0 for none)."""

    dimension: int = 18
    scale: float = 0.05
    l2: float = 0.0

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise InputError(f"embedding.dimension is {self.dimension}; expected at least 1")
        for name in ("scale", "l2"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"embedding.{name} is {getattr(self, name)}; expected 0 or more")


class Embedder(tf.Module):
    """Looks up every feature of a batch.

    In training each table is read by one gather, of the distinct ids of sample and history. Each
    further behaviour feature (``extras``), the output table and each table of first-order weights
    have a gather of their own.

    Padding (id 0) is a zero vector everywhere. Behaviours are looked up at real positions only;
    the dense history is scattered from them, which costs nothing where nothing reads it.
    A multi-valued feature is the mean of its real values' rows, weighted where it has weights.
    """

    def __init__(
        self,
        schema: Schema,
        rows: Mapping[str, int],
        config: Config,
        seed: int = 0,
        embeds: Embeds = Embeds(),  # noqa: B008  (immutable)
        encodings: Mapping[str, Encoding] = MappingProxyType({}),
        vectors: Mapping[str, np.ndarray] = MappingProxyType({}),
        hash_ids: Mapping[str, HashID] = MappingProxyType({}),
        similarities: Mapping[str, Similarity] = MappingProxyType({}),
    ) -> None:
        """rows: of each table, padding and unknown included. embeds: what the backbone needs.
        encodings: of each number that is served and of each similarity. vectors: table ->
        pre-trained rows [rows, W]. hash_ids: of each table with ``Table.hash_id``.
        """
        super().__init__(name="embedder")
        self.schema, self.dimension, self.embeds = schema, config.dimension, embeds
        self.encodings, self.similarities = dict(encodings), dict(similarities)
        self.hash_ids = dict(hash_ids)
        if embeds.ages and not schema.times:
            raise InputError(
                "the backbone reads how long ago each behaviour was and the schema has no times; "
                "expected Schema(times=True); declare it, or choose another backbone"
            )
        self.output = f"{schema.item_id.table}/output" if embeds.output else ""
        self.tables: dict[str, tf.Variable | Stored] = {
            table.name: tf.Variable(
                vectors[table.name], trainable=not table.frozen, name=f"{TABLE}{table.name}"
            )
            if table.vectors and not table.hash_id
            else self._table(table.name, rows[table.name], config.scale, [seed, i])
            for i, table in enumerate(schema.tables)
            if table.hash_id != "alone"
        }
        self.projections = {
            table.name: _projection(vectors[table.name], self.dimension, [seed, 1000 + i])
            for i, table in enumerate(schema.tables)
            if table.vectors and not table.hash_id
        }
        if self.output:
            size, seeds = rows[schema.item_id.table], [seed, len(schema.tables)]
            self.tables[self.output] = self._table(self.output, size, config.scale, seeds)
        if embeds.first_order:  # apart from the vectors, whose rows a history names too
            for name in dict.fromkeys(f.table for g in _GROUPS for f in schema.served(g)):
                start = tf.zeros([rows[name], 1])
                self.tables[name + _LINEAR] = tf.Variable(start, name=f"{TABLE}{name}_linear")

    def _table(self, name: str, rows: int, scale: float, seed: list[int]) -> tf.Variable:
        variable = tf.Variable(
            tf.zeros([rows, self.dimension]), name=f"{TABLE}{name.replace('/', '_')}"
        )
        fill_uniform(variable, seed, scale)
        return variable

    def lookup(self, table: str, ids: Tensor) -> Tensor:
        """Rows of a table: ids [...] -> [..., D]; padding gives zeros. Pre-trained rows of another
        width are brought to D by one learned product. A HashID's vector is added to the row, or
        takes its place (``Table.hash_id``).
        """
        if table in self.hash_ids:
            flat = self.hash_ids[table](tf.reshape(ids, [-1]))
            found = tf.reshape(flat, tf.concat([tf.shape(ids), [self.dimension]], 0))
            found = tf.ensure_shape(found, [*ids.shape, self.dimension])
            if table in self.tables:
                found += gathered(self.tables[table], ids)
        else:
            found = gathered(self.tables[table], ids)
        if table in self.projections:
            found = tf.linalg.matmul(found, self.projections[table])
        return found * tf.cast(ids != PADDING, found.dtype)[..., None]

    def _rows(self, ids: Mapping[str, Tensor], training: bool, kind: str = "") -> dict[str, Tensor]:
        """Feature (or ``history_`` feature) -> its rows [n, D].

        Training reads each row of a table once, however many features name it, so that its gradient
        arrives summed, under ids that ``tf.unique`` gave (``LazyAdam`` recognises them by that).
        kind: of the tables, ``_LINEAR`` for first-order weights [n, 1].
        """
        by_table: dict[str, list[str]] = {}
        for key in (k for k in ids if not k.startswith(weights_name(""))):
            by_table.setdefault(self._feature(key).table + kind, []).append(key)
        vectors: dict[str, Tensor] = {}
        for table, keys in by_table.items():
            flat = [tf.reshape(ids[k], [-1]) for k in keys]
            found = (
                self._distinct(table, flat) if training else [self.lookup(table, i) for i in flat]
            )
            for key, part in zip(keys, found, strict=True):
                weights = ids.get(weights_name(key))
                vectors[key] = self._pool(self._feature(key), ids[key], part, weights)
        return vectors

    def _distinct(self, table: str, ids: list[Tensor]) -> list[Tensor]:
        """``lookup`` of each of some ids [n] with one gather of the rows that differ."""
        distinct, index = tf.unique(tf.concat(ids, 0))
        return deal(self.lookup(table, distinct), tf.split(index, [tf.size(i) for i in ids]))

    def _feature(self, key: str) -> Feature:
        return self.schema.feature(key.removeprefix(history_name("")))

    def _pool(self, feature: Feature, ids: Tensor, flat: Tensor, weights: Tensor | None) -> Tensor:
        if feature.length is None:
            return flat
        values = tf.reshape(flat, [-1, feature.length, flat.shape[-1]])
        real = tf.cast(ids != PADDING, values.dtype)
        if weights is not None:
            real *= weights
            values *= weights[..., None]
        real = tf.reduce_sum(real, -1, keepdims=True)
        return tf.math.divide_no_nan(tf.reduce_sum(values, -2), real)

    def __call__(
        self,
        batch: Mapping[str, Tensor],
        *,
        training: bool = False,
        history: bool = True,
        dense: bool = False,
    ) -> Embedded:
        """The reader's batch (ids) -> what a backbone sees; training-only features stay out.

        history: False where nothing reads it; behaviours are then not looked up and have width 0.
        dense: every position is looked up, padding as zeros, so that shapes are static.
        A batch with ``owner`` [B] has rows of profile and history for H users, not for B rows.
        """
        schema = self.schema
        count = tf.shape(batch[schema.item_id.name])[0]
        owner = batch.get("owner")
        users = batch[schema.user_id.name]
        one_user = owner is not None and users.shape[0] == 1
        size = count if owner is None else tf.constant(1) if one_user else tf.shape(users)[0]  # H
        names = {g: [f.name for f in schema.served(g)] for g in _GROUPS}
        ids = [*names["profile"], *names["item"], *names["context"]]
        numbers = {g: [n.name for n in schema.served_numbers(g)] for g in _GROUPS}
        names["profile"] += numbers["profile"]
        names["context"] += [*numbers["item"], *numbers["context"], *self.similarities]
        fields = [*names["profile"], *names["item"], *names["context"]]
        extras = [f.name for f in schema.served("behaviour") if f.name not in schema.history]
        lengths = batch["history_length"] if schema.history else tf.zeros([size], tf.int32)
        if dense:
            steps = self._longest(batch)
            mask = tf.range(steps) < lengths[:, None]
            where = places(size, steps)
        else:
            steps = tf.reduce_max(tf.concat([lengths, [1]], 0))
            mask = tf.sequence_mask(lengths, steps)  # [B, T], T the longest history of this batch
            where = tf.cast(tf.where(mask), tf.int32)  # [R, 2]
        past, extras = (schema.history, extras) if history else ((), [])
        vectors: dict[str, Tensor] = {}
        several = [weights_name(n) for n in ids if schema.feature(n).weighted]
        weights = {key: batch[key] for key in several}
        # Apart, so that behaviour features nobody reads are not given zero gradients.
        for now, names_of in ((ids, past), *(([], [n]) for n in extras)):
            keys = map(history_name, names_of)
            behaviours = {k: _behaviours(batch[k], mask, where, dense) for k in keys}
            of_now = weights if now else {}
            vectors |= self._rows({n: batch[n] for n in now} | of_now | behaviours, training)
        values = {**batch, **self._similarities(batch, owner)} if self.similarities else batch
        vectors |= {name: encode(values[name]) for name, encode in self.encodings.items()}
        of_user = names["profile"] if owner is not None else []
        if one_user:
            vectors |= {n: tf.ensure_shape(vectors[n], [1, self.dimension]) for n in of_user}
        packed = self._concat([history_name(n) for n in past], vectors, where)

        def place(values: Tensor) -> Tensor:
            """[R, W] -> [H, T, W]."""
            if dense:
                return tf.reshape(values, [-1, steps, values.shape[-1]])
            return scatter(values, where, size, steps)

        return Embedded(
            fields=tf.stack([_each(vectors[n], owner, n in of_user) for n in fields], 1),
            profile=self._concat(names["profile"], vectors, size),
            item=self._concat(names["item"], vectors, count),
            context=self._concat(names["context"], vectors, count),
            history=place(packed),
            mask=mask,
            packed=Packed(packed, where[:, 0], where[:, 1]),
            extras={n: place(vectors[history_name(n)]) for n in extras},
            linear=self._linear(ids, batch, training, owner, of_user),
            output=self._output(batch[schema.item_id.name]),
            owner=owner,
            ages=self._ages(batch, where, steps) if self.embeds.ages and history else None,
            dense=dense,
        )

    def _longest(self, batch: Mapping[str, Tensor]) -> int:
        """T of the reader, which the graph knows."""
        past = self.schema.history
        return int(batch[history_name(past[0])].shape[1]) if past else 1

    def _similarities(self, batch: Mapping[str, Tensor], owner: Tensor | None) -> dict[str, Tensor]:
        users, items = batch[self.schema.user_id.name], batch[self.schema.item_id.name]
        users = _each(users, owner, owner is not None)
        return {name: of(users, items) for name, of in self.similarities.items()}

    def _ages(self, batch: Mapping[str, Tensor], where: Tensor, steps: Tensor) -> Tensor:
        return tf.cast(tf.gather_nd(batch[AGES][:, :steps], where), tf.float32)

    def _linear(
        self,
        names: Sequence[str],
        batch: Mapping[str, Tensor],
        training: bool,
        owner: Tensor | None,
        of_user: Sequence[str],
    ) -> Tensor:
        """[B, F] of the fields of these names."""
        if not self.embeds.first_order:
            return tf.zeros([tf.shape(batch[self.schema.item_id.name])[0], 0])
        keys = [*names, *(weights_name(n) for n in names if self.schema.feature(n).weighted)]
        found = self._rows({key: batch[key] for key in keys}, training, _LINEAR)
        return tf.concat([_each(found[name], owner, name in of_user) for name in names], -1)

    def _output(self, ids: Tensor) -> Tensor:
        return self.lookup(self.output, ids) if self.output else tf.zeros([tf.size(ids), 0])

    def _concat(self, names: list[str], vectors: Mapping[str, Tensor], like: Tensor) -> Tensor:
        if names:
            return tf.concat([vectors[n] for n in names], -1)
        return tf.zeros([like if like.shape.rank == 0 else tf.shape(like)[0], 0])


def places(size: Tensor, steps: int) -> Tensor:
    """[size * steps, 2] int32: every (row, position), row after row."""
    rows, positions = tf.meshgrid(tf.range(size), tf.range(steps), indexing="ij")
    return tf.reshape(tf.stack([rows, positions], -1), [-1, 2])


def _behaviours(ids: Tensor, mask: Tensor, where: Tensor, dense: bool) -> Tensor:
    """Ids [H, L, ...] of the batch -> [R, ...], in the dense layout with padding (0)."""
    if not dense:
        return tf.gather_nd(ids[:, : tf.shape(mask)[1]], where)
    real = tf.reshape(mask, [-1, *([1] * (ids.shape.rank - 2))])
    flat = tf.reshape(ids, [-1, *ids.shape[2:]])
    return tf.where(real, flat, tf.constant(PADDING, ids.dtype))


def _each(rows: Tensor, owner: Tensor | None, of_user: bool) -> Tensor:
    """[B, …]: of users, each row's owner's."""
    return tf.gather(rows, owner) if of_user else rows


def fill_uniform(table: tf.Variable, seed: Sequence[int], scale: float) -> None:
    """Fills a table [rows, D] with the values of ``tf.random.stateless_uniform`` in ±scale.

    It draws `SLICE` values at a time. TensorFlow's own draw of a whole table, its product and its
    sum would hold the table three times. Philox gives four values for each count of its counter.
    """
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    low, high = (int(word) for word in counter)
    rows, width = table.shape
    step = max(4, SLICE // width // 4 * 4)
    span, least = tf.constant(scale) - tf.constant(-scale), tf.constant(-scale)
    copies = tf.distribute.get_strategy().experimental_local_results(table)
    for first in range(0, rows, step):
        size = min(step, rows - first)
        count = (low + (high << 64) + first * width // 4) % (1 << 128)
        drawn = tf.raw_ops.StatelessRandomUniformV2(
            shape=[size, width],
            key=key,
            counter=tf.constant([count % (1 << 64), count >> 64], tf.uint64),
            alg=_PHILOX,
        )
        for copy in copies:  # ``copy[first:last].assign`` would read a slice first, and so copy all
            tf.raw_ops.ResourceStridedSliceAssign(
                ref=copy.handle,
                begin=[first],
                end=[first + size],
                strides=[1],
                value=drawn * span + least,
            )


def _projection(vectors: np.ndarray, dimension: int, seed: list[int]) -> tf.Variable:
    """[W, D], Glorot uniform."""
    width = vectors.shape[1]
    limit = math.sqrt(6.0 / (width + dimension))
    start = tf.random.stateless_uniform([width, dimension], seed, -limit, limit)
    return tf.Variable(start, name="projection")


def touched_l2(x: Embedded, *, history: bool) -> Tensor:
    """(1/B) Σ ‖e‖² over what the batch looked up for the backbone: the vector of each field of
    profile, candidate and context; its first-order weight and the candidate's output row, where
    the backbone asks for them (``Embeds``); and each feature's vector of each behaviour, with
    history. Other behaviour features (``Embedded.extras``) do not count.

    history: whether the backbone reads it; what only a task reads does not count. A multi-valued
    feature counts by the mean of its rows. A row counts as often as the batch uses it, and one
    that no sample uses does not decay (AQCL §5.2.2 does not say; with a dense L2 every row would).
    """
    parts = [x.fields, x.linear, x.output]
    if history and x.owner is None:
        parts.append(x.packed.values)
    elif history:
        rows = tf.math.unsorted_segment_sum(
            tf.ones_like(x.item[:, 0]), x.owner, tf.shape(x.mask)[0]
        )
        parts.append(x.packed.values * tf.sqrt(tf.gather(rows, x.packed.rows))[:, None])
    size = tf.cast(tf.shape(x.item)[0], x.item.dtype)
    return tf.math.divide_no_nan(2.0 * tf.add_n([tf.nn.l2_loss(part) for part in parts]), size)
