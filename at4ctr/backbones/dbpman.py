"""DBPMaN: deep behavioral path matching network, sized as in its public code."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import BackboneConfig, Embedded, Encoded, Packed, Part, Tensor
from at4ctr.errors import InputError
from at4ctr.layers.attention import TargetAttention, pool, pool_all
from at4ctr.layers.pairs import by_row
from at4ctr.layers.paths import (
    PathEnhancing,
    Paths,
    PathsOfRows,
    Weighed,
    directions,
    recent,
    replaced,
)
from at4ctr.layers.shape import Shape, history_required, lengths, part, product, total


@dataclass(frozen=True)
class Config(BackboneConfig):
    """length: behaviours of a path. stride: behaviours from one path to the next. paths: the most
    paths of a history; the latest are taken. top: behaviours of a path that its router keeps.
    enhancing, router, attention: hidden widths of the network that weighs a behaviour, of the
    router and of both matching units. follow_score: whether a path's score ⟨c, u_p⟩ is added to the
    attention score of the click after it.
    """

    length: int = 10
    stride: int = 5
    paths: int = 18
    top: int = 5
    enhancing: tuple[int, ...] = (64, 32)
    router: tuple[int, ...] = (32,)
    attention: tuple[int, ...] = (80, 40)
    follow_score: bool = False

    def __post_init__(self) -> None:
        for name in ("length", "stride", "paths", "top"):
            if getattr(self, name) < 1:
                raise InputError(f"dbpman.{name} is {getattr(self, name)}; expected at least 1")
        if self.top > self.length:
            raise InputError(
                f"dbpman.top is {self.top}; expected at most dbpman.length, {self.length}"
            )
        for name in ("enhancing", "router"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise InputError(
                    f"dbpman.{name} is {getattr(self, name)}; expected one width or more, all "
                    "positive"
                )

    @property
    def least_history(self) -> int:
        """One path and the clicks after it."""
        return self.length + self.stride

    def build(self, shape: Shape, seed: int) -> DBPMaN:
        history_required("dbpman", shape, "choose a backbone without one, such as widedeep")
        return DBPMaN(self, shape, seed)


class DBPMaN(tf.Module):
    """DBPMaN. Parts: profile, context, item, Σh, m0, m1, out0, out1, item ⊙ Σh.

    A behaviour of a path is the sum of its features' vectors, h [D] (public code: item + category).
    History paths (``Paths``): u_p = ``PathEnhancing`` of l behaviours, its query the click that
    follows. out0 = (1/P) Σ_p u_p over the real paths, P = ``paths`` (the mean over all P slots).
    Current path, of the last l behaviours: c = out1 = the same with weights of its own, its query
    the candidate's id vector alone. Matching, both DIN units: m0 = ATT(c, {u_p}) [D],
    m1 = ATT(item, history) [J].

    A history of fewer than length + stride behaviours has no path: out0 = m0 = 0 (the public code
    averages padding). A history shorter than a path fills the end of the current path, with r = 0
    at the positions before it, and an empty history has c = 0 (neither occurs in the public code's
    data). ``follow_score`` is the paper's intent and not in the released code: s_p = ⟨c, u_p⟩ is
    added to the second unit's score of click p before its softmax.

    Other deviations: sums over real behaviours only; Glorot uniform where the routers are Glorot
    normal; Dice serves population statistics, where the public code's scores depend on the test
    batch.

    ``Encoded.extras``: ``paths`` [N, l·D], every z_i of u_p = Σ_i z_i normalised to length 1, or 0
    (``directions``); ``path_mask`` [B, P], which samples have them; ``path_weights`` [N, l, 1], a.
    N counts real paths, sample after sample, oldest first. ``layers.paths.replace`` prepares a
    second pass in which some behaviours of paths are others.
    """

    gives = ("paths", "path_mask", "path_weights")

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="dbpman")
        self.config, self.dimension, self.product = config, shape.dimension, shape.alike
        size = shape.dimension
        self.past, self.current = (
            PathEnhancing(
                size, config.length, config.top, config.enhancing, config.router, seed + at, name
            )
            for at, name in ((20, "past"), (30, "current"))
        )
        self.over_paths = TargetAttention(size, size, config.attention, seed + 40, "over_paths")
        self.over_clicks = TargetAttention(
            shape.item, shape.history, config.attention, seed + 50, "over_clicks"
        )
        widths = [shape.profile, shape.context, shape.item, shape.history]
        widths += [size, shape.history, size, size, *([shape.item] if self.product else [])]
        self.parts = tuple(map(Part, widths))

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        size = tf.shape(x.mask)[0]
        sizes = lengths(x)
        behaviours = self._behaviours(x.packed)
        paths = Paths.of(sizes, self.config.length, self.config.stride, self.config.paths)
        weighed = self._past(x, behaviours, paths, training)
        past = self.past(weighed, training=training)
        now = self._current(x, behaviours, sizes, training)
        of_row = PathsOfRows.of(x, past.path, paths, training)
        packed = Packed(of_row.path, of_row.rows, of_row.numbers)
        of_paths = self.over_paths(now, packed, training=training, one_user=x.one_user)
        of_clicks = self._clicks(x, of_row, now, training)
        mean = tf.math.unsorted_segment_sum(past.path, paths.rows, size) / self.config.paths
        mean = tf.ensure_shape(mean, [1 if x.one_user else None, self.dimension])
        mean, pooled = part(x, mean), part(x, total(x))
        parts = [part(x, x.profile), x.context, x.item, pooled, of_paths, of_clicks, mean, now]
        if self.product:
            parts.append(product(x, pooled))
        extras = {
            "paths": directions(weighed, past.shares),
            "path_mask": paths.mask,
            "path_weights": weighed.weights,
        }
        return Encoded(tuple(parts), x.history, extras=extras)

    def _behaviours(self, history: Packed) -> Tensor:
        """Sum of every behaviour's features. [R, D]."""
        count = history.values.shape[-1] // self.dimension
        return tf.add_n(tf.split(history.values, count, -1))

    def _past(self, x: Embedded, behaviours: Tensor, paths: Paths, training: bool) -> Weighed:
        query = tf.gather(behaviours, paths.follows)
        keys = replaced(x, behaviours, paths.index)
        if keys is not None:
            return self.past.weigh_again(query, keys, x.extras, training=training)
        keys = tf.gather(behaviours, paths.index)
        return self.past.weigh(query, keys, training=training)

    def _current(self, x: Embedded, behaviours: Tensor, sizes: Tensor, training: bool) -> Tensor:
        """c [B, D]."""
        index, real = recent(sizes, self.config.length)
        behaviours = tf.pad(behaviours, [[1, 0], [0, 0]])  # row 0 stands where nothing is
        index, real = part(x, index), part(x, real)
        keys = tf.gather(behaviours, tf.where(real, index + 1, 0))
        query = x.item[:, : self.dimension]  # the candidate's id comes first
        weighed = self.current.weigh(query, keys, training=training)
        return self.current(weighed, real, training=training).path

    def _clicks(self, x: Embedded, past: PathsOfRows, now: Tensor, training: bool) -> Tensor:
        """m1 [B, J]."""
        unit, behaviours = self.over_clicks, by_row(x, training=training)
        values, rows, _ = behaviours
        if not self.config.follow_score:
            return unit(x.item, behaviours, training=training, one_user=x.one_user)
        if x.one_user:
            scores = unit.cross(unit.project(x.item), values, training=training)  # [R, B]
            agreement = tf.linalg.matmul(past.path, now, transpose_b=True)  # [N, B]
            scores = tf.tensor_scatter_nd_add(scores, past.follows[:, None], agreement)
            return pool_all(scores, values)
        query = unit.project(x.item)
        scores = unit.scores(query, values, rows, training=training, ordered=True)
        agreement = tf.reduce_sum(tf.gather(now, past.rows) * past.path, -1)  # s_p
        scores = tf.tensor_scatter_nd_add(scores, past.follows[:, None], agreement)
        return pool(scores, values, rows, tf.shape(x.item)[0])
