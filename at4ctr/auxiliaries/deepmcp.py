"""DeepMCP (Ouyang et al., IJCAI 2019): a matching and a correlation subnet beside the predictor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import AuxiliaryConfig, Embedded, Tensor, View
from at4ctr.errors import InputError
from at4ctr.layers.mlp import MLP, Draws
from at4ctr.layers.shape import Shape, each, history_required, lengths, mean
from at4ctr.losses import binary_cross_entropy
from at4ctr.schema import Schema


@dataclass(frozen=True)
class Config(AuxiliaryConfig):
    """weight: λ of the whole task. matching, correlation: weights of its two parts; 0 leaves a part
    out. The released values, 5.0 and 0.01, were chosen with Adagrad at a rate of 0.05; with Adam
    the matching part has 0.5 here. units: widths of every tower. negatives: of each clicked row.
    use_history: False for models without a sequence; then the user is the profile alone, and there
    is no correlation part.
    """

    weight: float = 1.0
    matching: float = 0.5
    correlation: float = 0.01
    units: tuple[int, ...] = (512, 256)
    negatives: int = 4
    use_history: bool = True

    def __post_init__(self) -> None:
        for name in ("matching", "correlation"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(
                    f"deepmcp.{name} is {getattr(self, name)}; expected a finite weight of 0 "
                    "or more"
                )
        if self.negatives < 1:
            raise InputError(f"deepmcp.negatives is {self.negatives}; expected at least 1")

    def build(self, schema: Schema, shape: Shape, seed: int) -> DeepMCP:
        if self.use_history:
            history_required(
                "deepmcp with use_history", shape, "set auxiliaries.deepmcp.use_history=false"
            )
        if not (self.matching or _correlates(self)):
            raise InputError(
                f"deepmcp has nothing to learn: matching is {self.matching}, correlation "
                f"{self.correlation} and use_history {self.use_history}; set "
                "auxiliaries.deepmcp.matching above 0 or leave deepmcp out"
            )
        if self.matching and not (shape.profile or self.use_history):
            raise InputError(
                "deepmcp needs a user: the schema serves no profile feature and use_history is "
                "false; set auxiliaries.deepmcp.use_history=true or declare a profile feature"
            )
        if _correlates(self) and not shape.alike:
            raise InputError(
                f"deepmcp's correlation needs behaviours described as the candidate is, but "
                f"the history has {schema.history} and the candidate "
                f"{tuple(f.name for f in schema.served('item'))}; "
                "make them the same or set auxiliaries.deepmcp.correlation=0"
            )
        return DeepMCP(self, shape, seed)


def _correlates(config: Config) -> bool:
    return config.use_history and config.correlation > 0


class DeepMCP(tf.Module):
    """L = matching · L_match + correlation · L_corr, every tower dense relu … dense tanh.

    L_match = −mean_i [y_i ln σ(s_i) + (1 − y_i) ln(1 − σ(s_i))], s = f([profile; mean history]) ·
    g(candidate), over all rows.
    L_corr = −mean_k [ln σ(h(c_k) · h(b_k)) + Σ_q ln σ(−h(c_k) · h(n_kq))], k over clicked rows with
    a history, c_k the candidate, b_k its user's latest behaviour, n_kq candidates of other rows of
    the batch, each drawn uniformly (a row may be drawn twice), h one tower. h is evaluated once per
    row that needs it, which is exact. No such row gives 0; a batch of one has no negatives.

    Choices of this implementation: the history enters the user's tower as its mean, 0 where there
    is none; the context is the latest behaviour alone; and negatives come from the batch (of a
    replica), so that an item is drawn as often as the log shows it, clicked or not. The released
    code reads negatives that were sampled before. A negative may be the item of c_k or b_k itself,
    as in word2vec.
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="deepmcp")
        self.config = config
        if config.matching:
            user = shape.profile + (shape.history if config.use_history else 0)
            self.user = self._tower("user", user, seed)
            self.item = self._tower("item", shape.item, seed + 1)
        if _correlates(config):
            self.correlation = self._tower("correlation", shape.item, seed + 2)
            self.draws = Draws(seed + 3)

    def _tower(self, name: str, width: int, seed: int) -> MLP:
        return MLP(width, self.config.units, "relu", seed=seed, last="linear", name=name)

    def loss(self, view: View) -> Tensor:
        labels = view.labels
        config, found = self.config, tf.constant(0.0)
        if config.matching:
            found += config.matching * self.match(view.embedded, labels)
        if _correlates(config):
            found += config.correlation * self.correlate(view.embedded, labels)
        return found

    def match(self, x: Embedded, labels: Tensor) -> Tensor:
        """L_match, a scalar."""
        user = x.profile
        if self.config.use_history:
            user = tf.concat([user, mean(x)], -1)
        logits = tf.reduce_sum(each(x, _apply(self.user, user)) * _apply(self.item, x.item), -1)
        return binary_cross_entropy(labels, logits)

    def correlate(self, x: Embedded, labels: Tensor) -> Tensor:
        """L_corr, a scalar."""
        ends = each(x, tf.cumsum(lengths(x)))  # among the packed behaviours
        sizes = each(x, lengths(x))
        clicked = tf.cast(tf.where((labels > 0.5) & (sizes > 0))[:, 0], tf.int32)  # [K]
        latest = tf.gather(ends, clicked) - 1
        others = self.others(clicked, tf.size(sizes))  # [K, Q]
        rows, place = tf.unique(tf.concat([clicked, tf.reshape(others, [-1])], 0))
        inputs = [
            tf.gather(x.item, rows),
            tf.gather(x.packed.values[:, : x.item.shape[-1]], latest),
        ]
        made = _apply(self.correlation, tf.concat(inputs, 0))
        items, contexts = made[: tf.size(rows)], made[tf.size(rows) :]
        count = tf.size(clicked)
        targets = tf.gather(items, place[:count])  # [K, W]
        negatives = tf.reshape(tf.gather(items, place[count:]), [count, -1, made.shape[-1]])
        near = tf.reduce_sum(targets * contexts, -1)
        far = tf.linalg.matvec(negatives, targets)  # [K, Q]
        real = tf.cast(tf.size(sizes) > 1, far.dtype)
        losses = tf.nn.softplus(-near) + real * tf.reduce_sum(tf.nn.softplus(far), -1)
        return tf.math.divide_no_nan(tf.reduce_sum(losses), tf.cast(count, losses.dtype))

    def others(self, rows: Tensor, size: Tensor) -> Tensor:
        """Q rows other than each of ``rows`` [K], by a shift of 1 to B − 1. [K, Q]."""
        shape = [tf.size(rows), self.config.negatives]
        shift = tf.random.stateless_uniform(
            shape, self.draws.seed(), 1, tf.maximum(size, 2), dtype=tf.int32
        )
        return (rows[:, None] + shift) % size


def _apply(tower: MLP, x: Tensor) -> Tensor:
    return tf.tanh(tower(x, training=True))
