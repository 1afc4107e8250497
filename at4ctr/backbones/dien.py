"""DIEN: deep interest evolution network (Zhou et al., AAAI 2019), sized as in its public code."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import BackboneConfig, Embedded, Encoded, Packed, Part
from at4ctr.errors import unknown
from at4ctr.layers.attention import TargetAttention, segment_softmax
from at4ctr.layers.gru import AUGRU, FORMS, GRU, Form
from at4ctr.layers.mlp import PReLU
from at4ctr.layers.pairs import Pairs
from at4ctr.layers.shape import Shape, history_required, lengths, part, product, total
from at4ctr.layers.steps import Steps


@dataclass(frozen=True)
class Config(BackboneConfig):
    """form: of the AUGRU's update: ``code`` is the public code's, ``paper`` the one that the paper
    prints (``layers.gru.AUGRU`` has both equations). attention: widths of the activation unit."""

    form: Form = "code"
    attention: tuple[int, ...] = (80, 40)

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise unknown("backbone.form", self.form, FORMS)

    def build(self, shape: Shape, seed: int) -> DIEN:
        history_required("dien", shape, "choose a backbone without one, such as widedeep")
        return DIEN(self, shape, seed)


class DIEN(tf.Module):
    """Parts: profile, context, item, Σh, h_T, item ⊙ Σh, by

        s_t = GRU(e_1 … e_t),   q = PReLU(W item + b),
        a = softmax_t(w₃ᵀσ(W₂σ(W₁[q; s_t; q − s_t; q ⊙ s_t]))),   h_T = AUGRU(s; a),

    all J wide (J of a behaviour). The attention is the public code's; the paper's is softmax(sᵀWq).
    Weights are normalised over real behaviours and Σh sums those only (the public code adds the
    padding row too). An empty history gives h_T = 0. ``Encoded.states`` are the s_t, which DIEN's
    auxiliary loss (``next_behaviour``) reads.
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="dien")
        width = shape.history
        self.gru = GRU(width, width, seed + 20)
        self.attention = TargetAttention(shape.item, width, config.attention, seed)
        self.query = PReLU(width, "query")
        self.evolution = AUGRU(width, width, config.form, seed + 21)
        self.product = shape.alike
        widths = [shape.profile, shape.context, shape.item, width, width]
        widths += [shape.item] if self.product else []
        self.parts = tuple(map(Part, widths))

    def __call__(self, x: Embedded, *, training: bool) -> Encoded:
        pooled = part(x, total(x))
        steps = Steps.of(x.packed, tf.shape(x.mask)[0])
        states = self.gru(steps.pack(x.packed.values), steps, training=training)
        query = self.query(self.attention.project(x.item), training)
        if x.one_user:
            scores = self.attention.cross(query, states, training=training)
            final = self.evolution.shared(states, tf.nn.softmax(scores, 0))
        else:
            own, of_row = states, steps
            if x.owner is not None:
                pairs = Pairs.of(lengths(x), x.owner)
                own = pairs.copy(steps.unpack(states), training=training)
                packed = Packed(own, pairs.rows, pairs.positions)
                of_row = Steps.of(packed, tf.shape(x.item)[0])
                own = of_row.pack(own)
            scores = self.attention.scores(query, own, of_row.rows, training=training)
            weights = segment_softmax(scores, of_row.rows, of_row.size)
            final = of_row.final(self.evolution(own, weights, of_row, training=training))
        parts = [part(x, x.profile), x.context, x.item, pooled, final]
        if self.product:
            parts.append(product(x, pooled))
        return Encoded(tuple(parts), steps.dense(states, tf.shape(x.mask)[1]))
