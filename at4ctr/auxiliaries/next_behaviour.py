"""DIEN's auxiliary loss (Zhou et al., AAAI 2019, Eq. 6): each state against the next behaviour."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import AuxiliaryConfig, Tensor, View
from at4ctr.errors import InputError
from at4ctr.layers.mlp import MLP, Affine, Dense, Draws
from at4ctr.layers.shape import Shape, history_required
from at4ctr.schema import Schema


@dataclass(frozen=True)
class Config(AuxiliaryConfig):
    """weight: α (Eq. 7). The public code has 1.0 beside a halved log loss, which is 2.0 beside a
    full one. units: widths of the discriminator."""

    weight: float = 2.0
    units: tuple[int, ...] = (100, 50)

    def __post_init__(self) -> None:
        if not self.units or min(self.units) < 1:
            raise InputError(
                f"next_behaviour.units are {self.units}; expected one width or more, all positive"
            )

    def build(self, schema: Schema, shape: Shape, seed: int) -> NextBehaviour:
        del schema
        history_required("next_behaviour", shape, "leave next_behaviour out")
        return NextBehaviour(self, shape, seed)


class NextBehaviour(tf.Module):
    """L = −(1/P) Σ_(i,t) [ln p(s_t, e_{t+1}) + ln(1 − p(s_t, e'))], P pairs of real neighbours,

        p = σ(w₃ᵀσ(W₂σ(W₁(γ ⊙ [s_t; e] + β)))).

    s_t is the backbone's state (the behaviour itself where it has none), e_{t+1} the raw embedding
    of the behaviour that followed, and e' that of a behaviour drawn uniformly from the batch's real
    ones. So an item is drawn by its popularity, as in the public code, which draws a row of the
    log. In both the draw may give the true item. Without a pair the loss is 0.

    Deviations: the paper has p = σ(s_tᵀe), the public code this discriminator with a two-way
    softmax, of which one logit is the same model. The public code divides by B (T − 1), padding
    included, so that its weight falls with the padding; P counts real pairs only. As W₁ is linear,
    its part of s_t is computed once for both terms and its part of e once per behaviour.
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="next_behaviour")
        self.split = [shape.states, shape.history]
        width = sum(self.split)
        self.affine = Affine(width)
        self.first = Dense(width, config.units[0], (seed, 0), "first")
        self.rest = MLP(
            config.units[0],
            (*config.units[1:], 1),
            "sigmoid",
            seed=seed + 1,
            last="linear",
            name="rest",
        )
        self.draws = Draws(seed + 2)

    def loss(self, view: View) -> Tensor:
        values, rows, positions = view.embedded.packed
        now = tf.where(rows[1:] == rows[:-1])[:, 0]  # [P] behaviours that another one follows
        where = tf.stack([tf.gather(rows, now), tf.gather(positions, now)], 1)
        states = tf.gather_nd(view.encoded.states, where)
        by_state, by_behaviour = self._first(states, values)
        drawn = self.drawn(tf.size(now), tf.size(rows), self.draws.seed())
        true = self._logits(by_state + tf.gather(by_behaviour, now + 1))
        noise = self._logits(by_state + tf.gather(by_behaviour, drawn))
        terms = tf.nn.softplus(-true) + tf.nn.softplus(noise)
        return tf.math.divide_no_nan(tf.reduce_sum(terms), tf.cast(tf.size(now), terms.dtype))

    @staticmethod
    def drawn(pairs: Tensor, behaviours: Tensor, seed: Tensor) -> Tensor:
        """One of R packed behaviours for each of P pairs. [P] int32."""
        top = tf.maximum(behaviours, 1)
        return tf.random.stateless_uniform([pairs], seed, 0, top, tf.int32)

    def _first(self, states: Tensor, behaviours: Tensor) -> tuple[Tensor, Tensor]:
        """W₁(γ ⊙ [s; e] + β) + b in its two summands: states [P, S], behaviours [R, J]."""
        gamma, beta = (tf.split(v, self.split) for v in (self.affine.gamma, self.affine.beta))
        kernel = tf.split(self.first.kernel, self.split)
        parts = (
            tf.linalg.matmul(g * x + b, k)
            for g, x, b, k in zip(gamma, (states, behaviours), beta, kernel, strict=True)
        )
        by_state, by_behaviour = parts
        return by_state + self.first.bias, by_behaviour

    def _logits(self, first: Tensor) -> Tensor:
        return tf.squeeze(self.rest(tf.sigmoid(first), training=True), -1)
