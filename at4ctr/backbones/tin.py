"""TIN: temporal interest network (Zhou et al., WWW 2024), as Pan et al., §3.1, print its module."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import tensorflow as tf

from at4ctr.contracts import BackboneConfig, Embedded, Embeds, Encoded, Part, Tensor
from at4ctr.errors import InputError, unknown
from at4ctr.layers.attention import pool, pool_all, segment_softmax
from at4ctr.layers.mlp import Dense
from at4ctr.layers.pairs import Pairs
from at4ctr.layers.segments import spread
from at4ctr.layers.shape import Shape, history_required, lengths, part, recency

TIMES = ("position", "interval", "both")
_SCALE = 0.05  # temporal rows start uniform in ±_SCALE, as the embedder's do by default


@dataclass(frozen=True)
class Config(BackboneConfig):
    """time: what encodes when a behaviour was: its relative ``position``, the ``interval`` from it
    to the candidate, or the sum of ``both``. Intervals need a schema with times.
    positions: rows of behaviours in the table of positions; older behaviours share the last one.
    intervals: rows of behaviours in the table of intervals. shortest: seconds, where the second of
    them begins.
    beside: whether to give the interest u alone, for an expert beside others.
    """

    time: Literal["position", "interval", "both"] = "position"
    positions: int = 100
    intervals: int = 24
    shortest: float = 60.0
    beside: bool = False

    def __post_init__(self) -> None:
        if self.time not in TIMES:
            raise unknown("tin.time", self.time, TIMES)
        for name in ("positions", "intervals"):
            if getattr(self, name) < 2:
                raise InputError(f"tin.{name} is {getattr(self, name)}; expected at least 2")
        if not (math.isfinite(self.shortest) and self.shortest > 0):
            raise InputError(
                f"tin.shortest is {self.shortest}; expected a finite number of seconds above 0"
            )

    @property
    def embeds(self) -> Embeds:  # type: ignore[override]
        return Embeds(ages=self.time != "position")

    def build(self, shape: Shape, seed: int) -> TIN:
        history_required("tin", shape, "choose a backbone without one, such as widedeep")
        return TIN(self, shape, seed)


class TIN(tf.Module):
    """Parts: profile, context, item, u; u alone with ``beside``.

    u = Σ_i α_i (ẽ_i ⊙ ṽ) (Pan et al., Eq. 1), α = softmax_i(⟨ẽ_i, ṽ⟩ / √J) over the real
    behaviours, ẽ_i = e_i + p_i and ṽ = v + p_0. e_i [J] is a behaviour and v [J] the candidate. p
    is a row of a table of relative positions, of a table of intervals, or the sum of both. Row 0
    of each table belongs to the candidate. The last behaviour has position 1, the one before it 2.
    Interval row 1 is of ages below ``shortest`` seconds s, row k of ages from 2^(k−2) s to
    2^(k−1) s, and the last row of all longer ones. An unknown age, below 0, adds nothing.

    The sum is computed as (Σ_i α_i ẽ_i) ⊙ ṽ, which is equal. An empty history has u = 0.

    Deviations: the intervals' bounds, which neither paper prints; v is the candidate after one
    linear layer where its features are not the behaviours' own; no batch normalisation and dense
    layer between pooling and product, which the public code has and Eq. 1 has not. u is a product
    of two embeddings, so that it begins some twenty times smaller than they are. In place of that
    normalisation the scale γ of the head's input of u starts at 1 / 0.05, which suits tables that
    start uniform in ±0.05 (``spaces.<name>.scale``).
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="tin")
        self.beside, self.last = config.beside, config.positions
        alike = shape.alike and shape.item == shape.history
        self.project = None if alike else Dense(shape.item, shape.history, (seed, 0), "candidate")
        self.positions = self.intervals = None
        if config.time != "interval":
            self.positions = _table(1 + config.positions, shape.history, (seed, 1), "positions")
        if config.time != "position":
            self.intervals = _table(1 + config.intervals, shape.history, (seed, 2), "intervals")
        self.bounds = [config.shortest * 2.0**k for k in range(config.intervals - 1)]
        widths = (shape.profile, shape.context, shape.item)
        interest = Part(shape.history, 1.0 / _SCALE)
        self.parts = (interest,) if self.beside else (*map(Part, widths), interest)

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        candidate, behaviours = self._encoded(x)
        scale = 1.0 / math.sqrt(behaviours.shape[-1])
        if x.one_user:
            scores = scale * tf.linalg.matmul(behaviours, candidate, transpose_b=True)  # [R, B]
            pooled = pool_all(scores, behaviours)
        else:
            copy = spread if training else tf.gather  # a SavedModel takes no gradient
            rows = x.packed.rows
            if x.owner is not None:
                pairs = Pairs.of(lengths(x), x.owner)
                behaviours, rows = pairs.copy(behaviours, training=training), pairs.rows
            products = behaviours * copy(candidate, rows)
            scores = scale * tf.reduce_sum(products, -1)
            pooled = pool(scores, behaviours, rows, tf.shape(candidate)[0])
        interest = pooled * candidate
        parts = (interest,) if self.beside else (part(x, x.profile), x.context, x.item, interest)
        return Encoded(parts, x.history)

    def correlation(self, x: Embedded) -> Tensor:
        """‖α_i (ẽ_i ⊙ ṽ)‖₂ of each behaviour [R]: how much it contributes to u. Each row must have
        a user of its own."""
        candidate, behaviours = self._encoded(x)
        pairs = behaviours * tf.gather(candidate, x.packed.rows)
        scores = tf.reduce_sum(pairs, -1) / math.sqrt(behaviours.shape[-1])
        weights = segment_softmax(scores, x.packed.rows, tf.shape(candidate)[0])
        return weights * tf.norm(pairs, axis=-1)

    def _encoded(self, x: Embedded) -> tuple[Tensor, Tensor]:
        """ṽ [B, J] and ẽ [R, J]."""
        candidate = x.item if self.project is None else self.project(x.item)
        behaviours = x.packed.values
        if self.positions is not None:
            table = tf.convert_to_tensor(self.positions)
            place = tf.minimum(1 + recency(x), self.last)
            candidate, behaviours = candidate + table[0], behaviours + tf.gather(table, place)
        if self.intervals is not None:
            table = tf.convert_to_tensor(self.intervals)
            ages: Tensor = tf.convert_to_tensor(x.ages)
            place = 1 + tf.searchsorted(tf.constant(self.bounds), ages, side="right")
            known = tf.cast(ages >= 0, table.dtype)[:, None]
            candidate += table[0]
            behaviours += known * tf.gather(table, place)
        return candidate, behaviours


def _table(rows: int, width: int, seeds: tuple[int, int], name: str) -> tf.Variable:
    start = tf.random.stateless_uniform([rows, width], seeds, -_SCALE, _SCALE)
    return tf.Variable(start, name=name)
