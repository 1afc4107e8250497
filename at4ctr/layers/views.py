"""Augmented views of a batch: thinned histories, and vectors with elements dropped out."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import AuxiliaryConfig, Embedded, Outputs, Packed, Tensor, View
from at4ctr.errors import InputError
from at4ctr.layers.mlp import MLP, Draws
from at4ctr.layers.shape import Shape, each, history_required, mean, scatter


def dropout(x: Tensor, rate: float, seed: Tensor) -> Tensor:
    """Inverted dropout of single elements by 16 random bits each: half as many as usual.

    The rate is rounded to a multiple of 2⁻¹⁶ and survivors are scaled by that very rate, so the
    expectation is x.
    """
    threshold = min(round(rate * 65536), 65535)
    words = tf.random.stateless_uniform([(tf.size(x) + 1) // 2], seed, None, None, tf.uint32)
    bits = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[: tf.size(x)]
    kept = tf.reshape(bits, tf.shape(x)) >= tf.constant(threshold, tf.uint16)
    return x * (tf.cast(kept, x.dtype) * (65536.0 / (65536 - threshold)))


def thinned(x: Embedded, kept: Tensor) -> Embedded:
    """The batch as if the log had no other behaviours than those where kept [R] bool.

    Those that stay move up in their history, which may become empty.
    """
    index = tf.where(kept)[:, 0]
    before = tf.gather(tf.stack([x.packed.rows, x.packed.positions], 1), index)
    rows, size = before[:, 0], tf.shape(x.mask)[0]
    lengths = tf.math.unsorted_segment_sum(tf.ones_like(rows), rows, size)
    starts = tf.cumsum(lengths, exclusive=True)
    positions = tf.range(tf.size(rows)) - tf.gather(starts, rows)
    extras = {name: tf.gather_nd(dense, before) for name, dense in x.extras.items()}
    packed = Packed(tf.gather(x.packed.values, index), rows, positions)
    steps = tf.reduce_max(tf.concat([lengths, [1]], 0))
    ages = None if x.ages is None else tf.gather(x.ages, index)
    x = x._replace(mask=tf.sequence_mask(lengths, steps), ages=ages)
    return _with_behaviours(x, packed, extras)


def dropped(x: Embedded, rate: float, draws: Draws) -> Embedded:
    """The batch with ``dropout`` of the elements of every vector: of profile, candidate, context
    and behaviours, and of the candidate's output row. First-order weights stay.
    """

    def drop(values: Tensor) -> Tensor:
        return dropout(values, rate, draws.seed())

    profile, item, context = drop(x.profile), drop(x.item), drop(x.context)
    fields = tf.concat([each(x, profile), item, context], 1)  # as the embedder orders them
    where = tf.stack([x.packed.rows, x.packed.positions], 1)
    extras = {name: drop(tf.gather_nd(dense, where)) for name, dense in x.extras.items()}
    x = x._replace(
        profile=profile,
        item=item,
        context=context,
        fields=tf.reshape(fields, [-1, *x.fields.shape[1:]]),
        output=drop(x.output),
    )
    return _with_behaviours(x, x.packed._replace(values=drop(x.packed.values)), extras)


def _with_behaviours(x: Embedded, packed: Packed, extras: dict[str, Tensor]) -> Embedded:
    """The batch with these behaviours, dense and packed; extras [R, D] of each name."""
    where = tf.stack([packed.rows, packed.positions], 1)
    size, steps = tf.shape(x.mask)[0], tf.shape(x.mask)[1]
    return x._replace(
        packed=packed,
        history=scatter(packed.values, where, size, steps),
        extras={name: scatter(values, where, size, steps) for name, values in extras.items()},
    )


@dataclass(frozen=True)
class Augmentation(AuxiliaryConfig):
    """weight: λ (the paper's w). mask: the share of behaviours that a view leaves out. dropout: the
    share of elements of embedded vectors that it sets to 0. units: of the projector g; at least 32
    at its end (Fig. 7a). use_history: False for a model without a sequence, whose views differ by
    ``dropout`` alone. temperature: τ of instances.
    """

    weight: float = 0.01
    mask: float = 0.1
    dropout: float = 0.1
    units: tuple[int, ...] = (64, 64, 32)
    temperature: float = 0.1
    use_history: bool = True

    def __post_init__(self) -> None:
        for name in ("mask", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{_name(self)}.{name} is {getattr(self, name)}; expected at least 0 and "
                    "below 1"
                )
        if not self.temperature > 0:
            raise InputError(f"{_name(self)}.temperature is {self.temperature}; expected above 0")


def _name(config: Augmentation) -> str:
    return type(config).__module__.rsplit(".", 1)[-1]


class ProjectedViews(tf.Module):
    """z = g(h) of each row and z' = g(h') of its augmented view (AQCL §4.1).

    h is the last hidden layer of the first label's tower, from the pass that makes the logit. h' is
    that of a second pass through every backbone and the head, of a batch in which each behaviour is
    left out with probability ``mask`` and each element of each vector is 0 with probability
    ``dropout``. Where experts read several spaces, the same behaviours stay in all. A head without
    hidden layers, as that of an FM, has no h: the vectors of profile, candidate and context, and
    the mean behaviour, stand for it. g is a stack of dense layers with leaky ReLU between them; the
    last one is linear, as SimCLR's. Rates and widths are not printed. The second pass draws no
    dropout of hidden layers.
    """

    def __init__(self, config: Augmentation, shape: Shape, seed: int) -> None:
        super().__init__(name="views")
        if config.use_history:
            who = _name(config)
            instead = f"set auxiliaries.{who}.use_history=false"
            history_required(f"{who} with use_history", shape, instead)
        self.config = config
        hidden = next(iter(shape.towers.values())).layers
        width = shape.profile + shape.item + shape.context
        width += shape.history if config.use_history else 0
        self.projector = MLP(
            hidden[-1] if hidden else width,
            config.units,
            "leaky_relu",
            seed=seed,
            last="linear",
            name="projector",
        )
        self.draws = Draws(seed)

    def __call__(self, view: View) -> tuple[Tensor, Tensor]:
        """z, z' [B, units[-1]]."""
        augmented = self.augmented(view)
        if self._layers(view.outputs):
            first = self._layers(view.outputs)[-1]
            again = {k: view.encode(augmented[s], k) for k, s in view.space_of.items()}
            second = self._layers(view.decode(again))[-1]
        else:
            first = self._vectors(view.embedded)
            second = self._vectors(next(iter(augmented.values())))
        return self.projector(first, training=True), self.projector(second, training=True)

    def augmented(self, view: View) -> dict[str, Embedded]:
        """Space -> the batch in it, augmented."""
        spaces = dict(view.spaces)
        if self.config.mask and self.config.use_history:
            behaviours = tf.shape(view.embedded.packed.rows)
            kept = tf.random.stateless_uniform(behaviours, self.draws.seed()) >= self.config.mask
            spaces = {name: thinned(x, kept) for name, x in spaces.items()}
        if self.config.dropout:
            rate = self.config.dropout
            spaces = {name: dropped(x, rate, self.draws) for name, x in spaces.items()}
        return spaces

    def _layers(self, outputs: Outputs) -> tuple[Tensor, ...]:
        return next(iter(outputs.towers.values()))

    def _vectors(self, x: Embedded) -> Tensor:
        parts = [each(x, x.profile), x.item, x.context]
        return tf.concat([*parts, each(x, mean(x))] if self.config.use_history else parts, 1)
