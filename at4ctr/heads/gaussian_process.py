"""A Gaussian process in the place of each label's last layer, for exploration by Thompson sampling
(SNGP, Liu et al., NeurIPS 2020; Pan et al., Ad Recommendation in a Collapsed and Entangled World,
§6.4 and appendix A.1.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, HeadConfig, Interface, Outputs, Tensor
from at4ctr.errors import InputError
from at4ctr.layers.gaussian import GaussianProcess
from at4ctr.layers.towers import (
    Networks,
    activation_of,
    direct_of,
    parts_of,
    parts_required,
    seed_of,
    wide_of,
)


@dataclass(frozen=True)
class Config(HeadConfig):
    """units, activation, dropout: of each label's network. activation: none for the backbone's own.
    features: random features of the last hidden layer. part_features: those of each part; 0 for
        none, which is SNGP's own form. A label's covariance has M² values, M the sum of them all.
    length: ℓ of every kernel, whose inputs have the length 1.
    ridge: prior precision of β; the prior standard deviation of a logit is 1/√ridge.
    newton: steps of Newton's method by which β reaches the mode of its posterior after training,
        each a pass over the training rows; 0 leaves β as it was trained, as SNGP does.
    """

    units: tuple[int, ...] = (200, 80)
    activation: Activation | None = None
    dropout: float = 0.0
    features: int = 128
    part_features: int = 128
    length: float = 0.35
    ridge: float = 0.25
    newton: int = 3

    def __post_init__(self) -> None:
        for name, low in {"features": 1, "part_features": 0, "newton": 0}.items():
            if getattr(self, name) < low:
                raise InputError(f"head.{name} is {getattr(self, name)}; expected at least {low}")
        for name in ("length", "ridge"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(
                    f"head.{name} is {getattr(self, name)}; expected a finite number above 0"
                )

    def build(
        self, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> GaussianProcesses:
        return GaussianProcesses(self, experts, labels, seed)


class GaussianProcesses(tf.Module):
    """logit_k = f_k(h_k, parts) + wide, h_k = [network_k(parts); direct], network_k = affine_k →
    dense layers, f_k a `layers.gaussian.GaussianProcess` of h_k and of each part.

    Random features are used and not inducing points, because the precision is then a sum over rows
    of a fixed size, which replicas can add up, and no locations have to be learned. The precision
    is summed after training, over the rows of an epoch, with the final weights
    (`at4ctr.posterior`). The same passes move β to its posterior's mode, around which the Laplace
    approximation is made. Neither changes the weights below β.

    The additive terms of the parts are a deviation from SNGP, which normalises the spectrum of the
    hidden layers so that they keep distances. Here f reads the parts themselves: ids that the
    hidden layers do not tell apart have parts of different directions, and their own evidence. No
    gradient passes from these terms to the parts. Further deviations: W is not orthogonal, the
    prior of β enters the posterior and not the training loss, and no moving average over steps is
    kept.

    The terms of ``Encoded.wide``, as those of an FM, are taken as known: they add nothing to the
    standard deviation, and neither do the weights below f.
    """

    def __init__(
        self, config: Config, experts: Mapping[str, Interface], labels: tuple[str, ...], seed: int
    ) -> None:
        super().__init__(name="gaussian_process")
        activation = activation_of(config.activation, experts)
        parts = parts_required("gaussian_process", experts)
        self.networks = Networks(parts, labels, (), config.units, activation, config.dropout, seed)
        self.tower_widths, self.newton = self.networks.widths, config.newton
        own = [i for i, part in enumerate(parts) if part.width and config.part_features]
        self.own = tuple(own)
        direct = sum(part.width for e in experts.values() for part in e.direct)
        self.processes = {
            label: GaussianProcess(
                (config.units[-1] + direct, *(parts[i].width for i in own)),
                (config.features, *([config.part_features] * len(own))),
                config.length,
                config.ridge,
                seed_of(seed, f"process {label}"),
                f"process_{label}",
            )
            for label in labels
        }

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        first, inputs = self.networks.first(x, labels, training=training)
        towers = {k: self.networks.of[k].after(z, training=training) for k, z in first.items()}
        parts, direct, wide = parts_of(x), direct_of(x), wide_of(x)
        read = [tf.stop_gradient(parts[i]) for i in self.own]
        features = {
            k: self.processes[k].features([tf.concat([h[-1], *direct], -1), *read])
            for k, h in towers.items()
        }
        logits = {k: self.processes[k].logit(phi) + wide for k, phi in features.items()}
        return Outputs(logits, towers, inputs, features=features)

    def bias(self, label: str) -> tf.Variable:
        return self.processes[label].logit.bias

    def deviation(self, label: str, features: Tensor) -> Tensor:
        """The standard deviation [B] of a label's logit."""
        return self.processes[label].deviation(features)
