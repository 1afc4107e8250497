"""Ranking: each label's positives above its negatives (Pan et al., §6.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import AuxiliaryConfig, Tensor, View
from at4ctr.errors import InputError
from at4ctr.layers.shape import Shape
from at4ctr.losses import pairwise_ranking
from at4ctr.schema import Schema


@dataclass(frozen=True)
class Config(AuxiliaryConfig):
    """weight: (1 − a)/a of the published mixture a · BCE + (1 − a) · ranking. 1 is a = 0.5."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(
                f"ranking.weight is {self.weight}; expected a finite number of at least 0; "
                "set auxiliaries.ranking.weight=1"
            )

    @property
    def use_history(self) -> bool:
        """It reads logits alone."""
        return False

    def build(self, schema: Schema, shape: Shape, seed: int) -> Ranking:
        del schema, shape, seed  # it has no weights
        return Ranking()


class Ranking(tf.Module):
    """L = Σ_k R_k, R_k the `losses.pairwise_ranking` of label k over the rows where it is known.

    k runs over all labels that have a tower. A label's logit is its tower's own, that of
    P(label | other) for a label within another one. A label without both classes in the batch adds
    0. A row of weight 0 (``Schema.weighted``) is left out; other weights change nothing. Of several
    replicas, each pairs its own rows.

    The total loss is Σ_k λ_k BCE_k + weight · Σ_k R_k. For λ_k = 1 and weight = (1 − a)/a it is
    (1/a) Σ_k [a BCE_k + (1 − a) R_k], the mixture of the public code times 1/a. The factor leaves
    Adam's direction as it is, and BCE keeps the scale at which other losses were chosen.
    """

    def __init__(self) -> None:
        super().__init__(name="ranking")

    def loss(self, view: View) -> Tensor:
        losses = [tf.constant(0.0)]
        for name, logits in view.outputs.logits.items():
            known = view.targets.weights[name] > 0
            labels = tf.boolean_mask(view.targets.labels[name], known)
            losses.append(pairwise_ranking(tf.boolean_mask(logits, known), labels))
        return tf.add_n(losses)
