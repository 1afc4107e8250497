"""PICO (Lin et al., AAAI 2023): contrasts two labels' towers at a temperature of each row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import tensorflow as tf

from at4ctr.contracts import AuxiliaryConfig, Targets, Tensor, View
from at4ctr.errors import InputError, unknown
from at4ctr.layers.mlp import MLP
from at4ctr.layers.shape import Shape
from at4ctr.losses.inter_task import inter_task_contrast, inter_task_product
from at4ctr.schema import Schema
from at4ctr.tasks import composed_name

RELATIONS = ("xnor", "xor")
TEMPERATURES = ("personal", "statistical", "fixed")


@dataclass(frozen=True)
class Config(AuxiliaryConfig):
    """weight: λ of the whole task. alpha, beta: weights in it of the relevance network's loss and
    of the contrast (Eq. 12). beta=0 leaves the contrast out, and alpha=0 the relevance network.
    pair: two labels; the first one's tower gives the anchors. () is the first label and the first
        one that is known within it, or else the second label.
    layer: which hidden layer of the towers is contrasted, from 0 (Figure 3).
    relation: of the labels in a relevant row: ``xnor`` equal ones, ``xor`` different ones.
    lower, upper: τˡ and τᵘ.
    temperature: ``personal`` is Eq. 10. ``statistical`` puts the batch's rate of relevant rows in
        the network's place. ``fixed`` is τˡ in every row.
    negatives: False maximises the product of a row's own pair alone.
    units: hidden layers of the relevance network.
    normalise: whether products are cosines.
    """

    weight: float = 1.0
    alpha: float = 1.0
    beta: float = 0.01
    pair: tuple[str, ...] = ()
    layer: int = 0
    relation: Literal["xnor", "xor"] = "xnor"
    lower: float = 0.05
    upper: float = 1.0
    temperature: Literal["personal", "statistical", "fixed"] = "personal"
    negatives: bool = True
    units: tuple[int, ...] = (64, 32)
    normalise: bool = False

    @property
    def use_history(self) -> bool:
        """It reads the head's towers alone."""
        return False

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"pico.{name} is {value}; expected a finite number of at least 0")
        if self.relation not in RELATIONS:
            raise unknown("pico.relation", self.relation, RELATIONS)
        if self.temperature not in TEMPERATURES:
            raise unknown("pico.temperature", self.temperature, TEMPERATURES)
        if not 0 < self.lower <= self.upper < math.inf:
            raise InputError(
                f"pico.lower and pico.upper are {self.lower} and {self.upper}; expected "
                "temperatures above 0, the lower one first"
            )
        if self.beta and not self.alpha and self.negatives and self.temperature == "personal":
            raise InputError(
                "pico.alpha is 0 with pico.temperature=personal, so that nothing would train the "
                "network that gives the temperature; expected alpha above 0; set "
                "auxiliaries.pico.temperature=fixed, or raise alpha"
            )

    def build(self, schema: Schema, shape: Shape, seed: int) -> Pico:
        first, second = self._pair(schema, shape)
        towers = [shape.towers[name] for name in (first, second)]
        depth = min(len(tower.layers) for tower in towers)
        if not 0 <= self.layer < depth:
            raise InputError(
                f"pico.layer is {self.layer} and the towers of {first} and {second} have {depth} "
                "hidden layers that both have; expected one of them, counted from 0; set "
                "auxiliaries.pico.layer=0, or choose a head whose towers have hidden layers"
            )
        for what, a, b in (
            (f"layer {self.layer}", *(tower.layers[self.layer] for tower in towers)),
            ("the input", *(tower.input for tower in towers)),
        ):
            if a != b:
                raise InputError(
                    f"pico multiplies the towers of {first} and {second} element by element, and "
                    f"{what} has {a} units in the one and {b} in the other; expected equal widths; "
                    "choose a head with equal towers, or leave pico out"
                )
        labels = {label.name: composed_name(label) for label in schema.labels}
        whole = tuple(labels.get(name, name) for name in (first, second))
        return Pico(self, (first, second), whole, towers[0].input, seed)

    def _pair(self, schema: Schema, shape: Shape) -> tuple[str, str]:
        if self.pair:
            for name in self.pair:
                if name not in shape.towers:
                    raise unknown("label of pico.pair", name, shape.towers)
            if len(set(self.pair)) != 2 or len(self.pair) != 2:
                raise InputError(
                    f"pico.pair is {','.join(self.pair)}; expected two labels that differ; set "
                    f"auxiliaries.pico.pair={','.join(list(shape.towers)[:2])}"
                )
            return self.pair[0], self.pair[1]
        names = [label.name for label in schema.labels if label.name in shape.towers]
        within = [x.name for x in schema.labels if x.name in names and x.within == names[0]]
        others = within or names[1:]
        if not others:
            raise InputError(
                f"pico contrasts the towers of two labels, and the head has "
                f"{', '.join(shape.towers) or 'none'}; expected a second label; choose a dataset "
                "with one, such as retailrocket, or leave pico out"
            )
        return names[0], others[0]


class Pico(tf.Module):
    """L = α L_rel + β L_cl (Eq. 12), means over the rows of the batch.

    r̂ = σ(MLP(x_a ⊙ x_b)), x what a label's tower reads (Eq. 7, 8);
    L_rel = −(1/B) Σ w [r ln r̂ + (1 − r) ln(1 − r̂)] (Eq. 9);
    τ = τᵘ − (τᵘ − τˡ) r̂, without a gradient to r̂ (Eq. 10);
    L_cl = ``losses.inter_task_contrast`` of the towers' layer h, h_a the anchors (Eq. 11); without
    negatives −(1/B) Σ h_a · h_b (Eq. 4, which prints the other sign).

    r says whether both labels are equal (``xnor``). The label of a tower that is known within
    another is the composed one: a row without a click has no conversion. Rows where one of both is
    unknown have w = 0; otherwise w is the weight of the row. The printed ⊕ is an exclusive or, but
    the text calls rows with equal labels relevant. Eq. 9 prints ln r̂ twice. ``statistical`` takes
    Σ w r / Σ w of the batch in the place of r̂; without any known row τ is τᵘ. Of several replicas
    each contrasts its own rows. λ‖Θ‖ of Eq. 12 is no part of this loss: see ``spaces.main.l2``.
    """

    def __init__(
        self,
        config: Config,
        towers: tuple[str, str],
        labels: tuple[str, ...],
        width: int,
        seed: int,
    ) -> None:
        """towers: whose layers are read. labels: what the relevance compares. width: of inputs."""
        super().__init__(name="pico")
        self.config, self.towers, self.labels = config, towers, labels
        if config.alpha:
            self.relevance = MLP(
                width, (*config.units, 1), "relu", seed=seed, last="linear", name="relevance"
            )

    def loss(self, view: View) -> Tensor:
        config, total = self.config, tf.constant(0.0)
        related, weights = self.related(view.targets)
        logits = None
        if config.alpha:
            logits = self.relevance_logits(view)
            rows = tf.nn.sigmoid_cross_entropy_with_logits(labels=related, logits=logits)
            size = tf.cast(tf.size(rows), tf.float32)
            mean = tf.math.divide_no_nan(tf.reduce_sum(weights * rows), size)
            total += config.alpha * mean
        if config.beta:
            one, other = (view.outputs.towers[k][config.layer] for k in self.towers)
            if config.negatives:
                temperature = self.temperature(logits, related, weights)
                found = inter_task_contrast(one, other, temperature, config.normalise)
            else:
                found = inter_task_product(one, other, config.normalise)
            total += config.beta * found
        return total

    def related(self, targets: Targets) -> tuple[Tensor, Tensor]:
        """r and w of each row, [B] float32."""
        a, b = (targets.labels[name] for name in self.labels)
        different = tf.abs(a - b)
        related = different if self.config.relation == "xor" else 1.0 - different
        return related, tf.minimum(*(targets.weights[name] for name in self.labels))

    def relevance_logits(self, view: View) -> Tensor:
        """The logit of r̂ (Eq. 7, 8). [B]."""
        a, b = (view.outputs.inputs[name] for name in self.towers)
        return tf.squeeze(self.relevance(a * b, training=True), -1)

    def temperature(self, logits: Tensor | None, related: Tensor, weights: Tensor) -> Tensor:
        """τ of each row, without a gradient. [B]."""
        config = self.config
        if config.temperature == "fixed":
            return tf.fill(tf.shape(related), config.lower)
        if config.temperature == "statistical":
            seen = tf.reduce_sum(weights)
            rate = tf.math.divide_no_nan(tf.reduce_sum(weights * related), seen)
            relevance = tf.fill(tf.shape(related), rate)
        else:
            relevance = tf.stop_gradient(tf.sigmoid(logits))
        return config.upper - (config.upper - config.lower) * relevance
