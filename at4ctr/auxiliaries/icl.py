"""ICL: contrast of a row with its augmented view, among those of the batch (AQCL, Eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import Tensor, View
from at4ctr.layers.shape import Shape
from at4ctr.layers.views import Augmentation, ProjectedViews
from at4ctr.losses import instance_contrast
from at4ctr.schema import Schema


@dataclass(frozen=True)
class Config(Augmentation):
    """The options of its views."""

    def build(self, schema: Schema, shape: Shape, seed: int) -> InstanceContrast:
        del schema
        return InstanceContrast(self, shape, seed)


class InstanceContrast(tf.Module):
    """L_ICL = −(1/B) Σ_i ln [ e^(cos(z_i, z'_i)/τ) / Σ_j e^(cos(z_i, z'_j)/τ) ].

    SimCLR (Chen et al., ICML 2020) as AQCL §4.1 has it: one clean and one augmented view, z of
    ``layers.views.ProjectedViews``. Of several replicas, negatives are each one's own rows.
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="icl")
        self.temperature = config.temperature
        self.views = ProjectedViews(config, shape, seed)

    def loss(self, view: View) -> Tensor:
        return instance_contrast(*self.views(view), self.temperature)
