"""DMR: deep match to rank (Lyu et al., AAAI 2020); trunk sized as in the public code of DIEN, CAN
and DBPMaN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from at4ctr.contracts import (
    Activation,
    BackboneConfig,
    Embedded,
    Embeds,
    Encoded,
    Packed,
    Part,
    Tensor,
)
from at4ctr.errors import InputError
from at4ctr.layers.attention import TargetAttention, pool, pool_all
from at4ctr.layers.mlp import Dense, PReLU
from at4ctr.layers.pairs import Pairs
from at4ctr.layers.shape import (
    Shape,
    history_required,
    lengths,
    part,
    product,
    recency,
    scatter,
    total,
)

_POSITION = 8  # width of a position's embedding
_DEPTH = 40.0  # 1 + e⁻⁴⁰ is 1 in float32, and the square of e⁻⁴⁰ is still a normal number


@dataclass(frozen=True)
class Config(BackboneConfig):
    """attention: widths of both activation units. positions: rows of each position table; older
    behaviours share the last one."""

    embeds: ClassVar[Embeds] = Embeds(output=True)
    activation: ClassVar[Activation] = "prelu"

    attention: tuple[int, ...] = (80, 40)
    positions: int = 100

    def __post_init__(self) -> None:
        if self.positions < 1:
            raise InputError(f"dmr.positions is {self.positions}; expected at least 1")

    def build(self, shape: Shape, seed: int) -> DMR:
        history_required("dmr", shape, "choose a backbone without one, such as widedeep")
        return DMR(self, shape, seed)


class DMR(tf.Module):
    """Parts: profile, context, item, Σh, interest, r_u2i, r_i2i, item ⊙ Σh.

    r_u2i = ⟨u, v'⟩, u the user vector [D] of ``UserToItem``, v' the candidate's output row
    (§"user-to-item network"); r_i2i and interest [J] are those of ``ItemToItem``. An empty history
    has u = 0 and both relevances 0. ``Encoded.states`` are the user vectors of every prefix.

    r_i2i sums scores without normalising, so it grows with the history. The public code's input
    layer is a batch normalisation with batch statistics. Here nothing is normalised: the head's
    affine input layer has one learned γ for r_i2i, and that γ starts at 1 / ``positions`` where
    all others start at 1. The model is the same; only where it starts differs.

    Other deviations from the public code: a trunk of 200-80 instead of 512-256-128; no embedding of
    the behaviour's type in the queries; a behaviour and the candidate are the vectors of all their
    features; items are matched, not categories.
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="dmr")
        self.item_to_item = ItemToItem(config, shape, seed)
        self.user_to_item = UserToItem(config, shape, seed + 20)
        self.product = shape.alike
        widths = [shape.profile, shape.context, shape.item, shape.history, shape.history, 1]
        after = [Part(shape.item)] if self.product else []
        self.parts = (*map(Part, widths), Part(1, 1.0 / config.positions), *after)
        self.states = shape.dimension

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        ranks = recency(x)
        history, of_row = x.packed, ranks
        if x.owner is not None and not x.one_user:
            pairs = Pairs.of(lengths(x), x.owner)
            values = pairs.copy(x.packed.values, training=training)
            history = Packed(values, pairs.rows, pairs.positions)
            of_row = tf.gather(ranks, pairs.index)
        interest, scored = self.item_to_item(
            x.item, history, of_row, training=training, one_user=x.one_user
        )
        user, states = self.user_to_item(x, ranks, training=training)
        matched = tf.reduce_sum(part(x, user) * x.output, -1)
        pooled = part(x, total(x))
        parts = [part(x, x.profile), x.context, x.item, pooled, interest]
        parts += [matched[:, None], scored[:, None]]
        if self.product:
            parts.append(product(x, pooled))
        return Encoded(tuple(parts), states)


class Positions(tf.Module):
    """One vector per recency, Glorot uniform; recencies beyond the table share its last row.

    The public code numbers the slots of a padded sequence of 50 with the latest behaviour last:
    the same order, counted from the other end.
    """

    def __init__(self, rows: int, seed: int) -> None:
        super().__init__(name="positions")
        limit = (6.0 / (rows + _POSITION)) ** 0.5
        start = tf.random.stateless_uniform([rows, _POSITION], [seed, 0], -limit, limit)
        self.table = tf.Variable(start, name="table")

    def clip(self, ranks: Tensor) -> Tensor:
        """Recency (`shape.recency`) -> row of the table."""
        return tf.minimum(ranks, self.table.shape[0] - 1)


class ItemToItem(tf.Module):
    """How alike the candidate is to each behaviour (§"item-to-item network").

    q_t = PReLU(W [item; p_t] + b), a_t = w₃ᵀσ(W₂σ(W₁[q_t; k_t; q_t − k_t; q_t ⊙ k_t])),
    interest = Σ_t softmax(a)_t k_t [J], r_i2i = Σ_t a_t over real behaviours, unnormalised.
    W is split, exactly: the candidate's part once per sample, the position's once per position.
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="item_to_item")
        width = shape.item + _POSITION
        self.positions = Positions(config.positions, seed)
        self.attention = TargetAttention(width, shape.history, config.attention, seed)
        self.activation = PReLU(shape.history, "query_prelu")

    def __call__(
        self,
        item: Tensor,
        history: Packed,
        ranks: Tensor,
        *,
        training: bool,
        one_user: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """item [B, I], R behaviours of width J -> interest [B, J], r_i2i [B]. one_user: the
        behaviours are those of one user."""
        keys, rows, _ = history
        kernel, bias = self.attention.project.kernel, self.attention.project.bias
        of_item, of_position = tf.split(kernel, [item.shape[-1], _POSITION])
        once = tf.linalg.matmul(item, of_item) + bias  # [B, J]
        places = tf.linalg.matmul(self.positions.table, of_position)  # [positions, J]
        places = tf.gather(places, self.positions.clip(ranks))
        if one_user:
            query = self.activation(once + places[:, None], training)  # [R, B, J]
            scores = self.attention.cross_own(query, keys, training=training)
            return pool_all(scores, keys), tf.reduce_sum(scores, 0)
        query = self.activation(tf.gather(once, rows) + places, training)  # [R, J]
        scores = self.attention.scores(query, keys, None, training=training)
        size = tf.shape(item)[0]
        interest = pool(scores, keys, rows, size)
        return interest, tf.math.unsorted_segment_sum(scores, rows, size)


class UserToItem(tf.Module):
    """The user after each behaviour, whatever the candidate (§"user-to-item network").

    a_t as in ``ItemToItem`` with q_t = PReLU(W p_t + b);
    u_t = PReLU(V Σ_{i≤t} softmax(a_1..a_t)_i k_i + c) [D]; the user vector is the last u_t, 0 for
    an empty history. p_t counts from the end of the whole history, also in earlier prefixes, as in
    the public code. Since a_t does not depend on the prefix, all prefixes are cumulative sums of
    e^{a_t − max a} and e^{a_t − max a} k_t: T exponentials where the public code has T². A score
    more than 40 below its history's largest counts there as 40 below, so that no prefix divides 0
    by 0; float32 cannot tell where a prefix's own largest lies within 23 of it. The user vector is
    pooled by itself, so that a graph in which nobody reads the states has no such sums.
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="user_to_item")
        self.positions = Positions(config.positions, seed)
        self.attention = TargetAttention(_POSITION, shape.history, config.attention, seed)
        self.activation = PReLU(shape.history, "query_prelu")
        self.project = Dense(shape.history, shape.dimension, (seed, 110), "user")
        self.user_activation = PReLU(shape.dimension, "user_prelu")

    def __call__(self, x: Embedded, ranks: Tensor, *, training: bool) -> tuple[Tensor, Tensor]:
        """-> user vector [B, D], prefix user vectors [B, T, D], 0 where padded."""
        keys, rows, _ = x.packed
        query = self.activation(self.attention.project(self.positions.table), training)
        places = self.positions.clip(ranks)
        scores = self.attention.scores(query, keys, places, training=training)  # [R]
        last = pool(scores, keys, rows, tf.shape(x.mask)[0])
        some = tf.cast(tf.reduce_any(x.mask, 1, keepdims=True), last.dtype)
        states = self._user(prefix_means(scores, x.packed, x.mask), training)  # [R, D]
        return self._user(last, training) * some, _dense(states, x.packed, x.mask)

    def _user(self, pooled: Tensor, training: bool) -> Tensor:
        return self.user_activation(self.project(pooled), training)


def prefix_means(scores: Tensor, history: Packed, mask: Tensor) -> Tensor:
    """Softmax-weighted mean of the behaviours of every prefix: scores [R] -> [R, J]."""
    values, rows, positions = history
    top = tf.math.unsorted_segment_max(tf.stop_gradient(scores), rows, tf.shape(mask)[0])
    powers = tf.exp(tf.maximum(scores - tf.gather(top, rows), -_DEPTH))[:, None]
    # Dense: sums over the packed rows of a whole batch would lose a small row's digits.
    dense = _dense(tf.concat([powers * values, powers], -1), history, mask)
    steps = tf.range(tf.shape(mask)[1])
    earlier = tf.cast(steps[None, :] <= steps[:, None], dense.dtype)  # [T, T]
    sums = tf.linalg.matmul(earlier, dense)  # on all threads, as tf.cumsum is not
    sums = tf.gather_nd(sums, tf.stack([rows, positions], 1))
    return sums[:, :-1] / sums[:, -1:]


def _dense(packed: Tensor, history: Packed, mask: Tensor) -> Tensor:
    """[R, W] -> [B, T, W], 0 where padded."""
    where = tf.stack([history.rows, history.positions], 1)
    return scatter(packed, where, *tf.unstack(tf.shape(mask)))
