"""Paths of a history, and the module that enhances them (DBPMaN)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from at4ctr.contracts import Embedded, Tensor
from at4ctr.layers.attention import MASKED
from at4ctr.layers.mlp import MLP, Dense
from at4ctr.layers.pairs import Pairs
from at4ctr.layers.shape import lengths as sizes_of


class Paths(NamedTuple):
    """The N real history paths of a batch, sample after sample, oldest first; l a path's length.

    index and follows are rows of ``Embedded.packed``.
    """

    mask: Tensor  # [B, P] True where a sample has a p-th path, left-aligned
    rows: Tensor  # [N] int32: sample
    numbers: Tensor  # [N] int32: p, its index within the sample
    index: Tensor  # [N, l] int32: its behaviours
    follows: Tensor  # [N] int32: the click that follows it

    @classmethod
    def of(cls, lengths: Tensor, length: int, stride: int, paths: int) -> Paths:
        """Of histories [B] int32, packed: those that end before L − stride, L − 2·stride, ….

        A path before position k is [k − l, k), k ≥ l; click k follows it. The last ``paths`` stay.
        """
        counts = tf.clip_by_value((lengths - length) // stride, 0, paths)
        mask = tf.sequence_mask(counts, paths)
        rows, numbers = tf.unstack(tf.cast(tf.where(mask), tf.int32), axis=1)
        behind = stride * (tf.gather(counts, rows) - numbers)  # L − k
        follows = tf.gather(tf.cumsum(lengths), rows) - behind
        index = follows[:, None] + tf.range(-length, 0)
        return cls(mask, rows, numbers, index, follows)


class PathsOfRows(NamedTuple):
    """The paths of each row's user, M in all; of the one user where there is one."""

    path: Tensor  # [M, D]
    rows: Tensor  # [M] int32, non-decreasing
    numbers: Tensor  # [M] int32: p
    follows: Tensor  # [M] int32: the click that follows, among the behaviours of ``by_row``

    @classmethod
    def of(cls, x: Embedded, path: Tensor, paths: Paths, training: bool) -> PathsOfRows:
        """path [N, D]: u of each path of the users (`Enhanced.path`)."""
        if x.owner is None or x.one_user:
            return cls(path, paths.rows, paths.numbers, paths.follows)
        pairs = Pairs.of(tf.reduce_sum(tf.cast(paths.mask, tf.int32), 1), x.owner)
        position = tf.gather(x.packed.positions, tf.gather(paths.follows, pairs.index))
        starts = tf.gather(Pairs.of(sizes_of(x), x.owner).starts, pairs.rows)
        copied = pairs.copy(path, training=training)
        return cls(copied, pairs.rows, pairs.positions, starts + position)


def recent(lengths: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The last ``length`` behaviours of every history [B], latest last: packed rows [B, l] and
    which are real; the others read row 0."""
    back = tf.range(length, 0, -1)
    real = back <= lengths[:, None]
    return tf.where(real, tf.cumsum(lengths)[:, None] - back, 0), real


_WEIGHTS, _HIDDEN, _OTHERS = "path_weights", "path_hidden", "path_others"


def replace(x: Embedded, first: Mapping[str, Tensor], hidden: Tensor, others: Tensor) -> Embedded:
    """Prepares a second pass: ``others`` [R, D] take the place of those behaviours of paths where
    ``hidden`` [N, l]. All else, queries too, stays as it was.

    first: ``Encoded.extras`` of the first pass, whose weights stay where nothing is hidden.
    """
    found = {_WEIGHTS: first[_WEIGHTS], _HIDDEN: hidden, _OTHERS: others}
    return x._replace(extras={**x.extras, **found})


class Weighed(NamedTuple):
    """n paths, each behaviour with its weight."""

    keys: Tensor  # [n, l, D] h
    weights: Tensor  # [n, l, 1] a


class Enhanced(NamedTuple):
    """What the path enhancing module makes of n paths. z_i = share_i · a_i h_i."""

    path: Tensor  # [n, D] u = Σ_i z_i
    shares: Tensor  # [n, l, 1] r̃


class PathEnhancing(tf.Module):
    """The path enhancing module: a path of l behaviours in the light of the click t after it.

        a_i = w₃ᵀ relu(W₂ relu(W₁ [t; h_i])),  g_i = a_i h_i,
        r = softmax(V₂ relu(V₁ [g_1; …; g_l])),  r̃ = r where r ≥ its ``top``-th largest, else 0,
        z_i = r̃_i g_i,  u = Σ_i z_i;

    every layer has a bias, r̃ is not normalised again, and no gradient reaches t. W₁ is split into
    its blocks, so that the part of t is computed once per path: exact.
    """

    def __init__(
        self,
        width: int,
        length: int,
        top: int,
        units: tuple[int, ...],
        router: tuple[int, ...],
        seed: int,
        name: str,
    ) -> None:
        super().__init__(name=name)
        self.top = top
        self.first = Dense(2 * width, units[0], (seed, 100), "first")
        self.rest = MLP(
            units[0], (*units[1:], 1), "relu", seed=seed + 1, last="linear", name="rest"
        )
        self.router = MLP(
            length * width, (*router, length), "relu", seed=seed + 2, last="linear", name="router"
        )

    def __call__(self, x: Weighed, real: Tensor | None = None, *, training: bool) -> Enhanced:
        """real [n, l]: the others get r = 0, all of a path where none is."""
        length, width = x.keys.shape[1:]
        each = x.weights * x.keys  # g [n, l, D]
        logits = self.router(tf.reshape(each, [-1, length * width]), training=training)
        if real is not None:
            logits = tf.where(real, logits, MASKED)
        shares = tf.nn.softmax(logits)
        if real is not None:
            shares *= tf.cast(real, shares.dtype)  # a path of nothing has equal shares until here
        fixed = tf.stop_gradient(shares)
        kept = fixed >= tf.math.top_k(fixed, self.top).values[:, -1:]
        shares = (shares * tf.cast(kept, shares.dtype))[..., None]
        return Enhanced(tf.reduce_sum(shares * each, 1), shares)

    def weigh(self, query: Tensor, keys: Tensor, *, training: bool) -> Weighed:
        """query t [n, D], keys h [n, l, D]."""
        length, width = keys.shape[1:]
        of_query, of_key = tf.split(self.first.kernel, 2)
        once = tf.linalg.matmul(tf.stop_gradient(query), of_query) + self.first.bias  # [n, H]
        hidden = tf.linalg.matmul(tf.reshape(keys, [-1, width]), of_key)
        hidden = tf.reshape(hidden, [-1, length, once.shape[-1]]) + once[:, None]
        hidden = tf.reshape(tf.nn.relu(hidden), [-1, once.shape[-1]])
        scores = self.rest(hidden, training=training)
        return Weighed(keys, tf.reshape(scores, [-1, length, 1]))

    def weigh_again(
        self, query: Tensor, keys: Tensor, extras: Mapping[str, Tensor], *, training: bool
    ) -> Weighed:
        """In a second pass that ``replace`` prepared only hidden behaviours are weighed: exact."""
        where = tf.where(extras[_HIDDEN])  # [M, 2]
        pair = [tf.gather(tf.stop_gradient(query), where[:, 0]), tf.gather_nd(keys, where)]
        scores = self.rest(tf.nn.relu(self.first(tf.concat(pair, -1))), training=training)
        return Weighed(keys, tf.tensor_scatter_nd_update(extras[_WEIGHTS], where, scores))


def replaced(x: Embedded, behaviours: Tensor, index: Tensor) -> Tensor | None:
    """Behaviours of the paths of a pass that ``replace`` prepared [N, l, D]; None of any other."""
    if _HIDDEN not in x.extras:
        return None
    both = tf.concat([behaviours, x.extras[_OTHERS]], 0)
    return tf.gather(both, index + tf.where(x.extras[_HIDDEN], tf.shape(behaviours)[0], 0))


def directions(x: Weighed, shares: Tensor) -> Tensor:
    """z / max(‖z‖, 1e-5), z = r̃ a h. [n, l·D].

    r̃ ≥ 0 and |a| cancel: h / ‖h‖ with the sign of a, where the router keeps it, and so no gradient
    reaches them. (It would where ‖z‖ < 1e-5; there it is left out, and the value is the same.)
    """
    norm = tf.maximum(tf.norm(tf.stop_gradient(x.keys), axis=-1, keepdims=True), 1e-5)
    signed = norm * tf.stop_gradient(shares * x.weights)
    signed /= tf.maximum(tf.abs(signed), 1e-5)
    found = signed * tf.math.l2_normalize(x.keys, -1, epsilon=1e-10)
    return tf.reshape(found, [-1, x.keys.shape[1] * x.keys.shape[2]])
