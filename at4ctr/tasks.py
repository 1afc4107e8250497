"""What an experiment learns of each label, and labels composed of others. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Targets, Tensor
from at4ctr.errors import InputError, unknown
from at4ctr.schema import OPEN, Label

WEIGHT = "weight"  # of a row, in a reader's batch
Over = Literal["within", "all"]


@dataclass(frozen=True)
class Task:
    """How one label is learned.

    weight: of its loss in the total.
    over: of a label that is known ``within`` another one. ``within`` trains its tower on the rows
        where the other label is 1. ``all`` trains the product of both probabilities on every row
        (ESMM, Ma et al., SIGIR 2018, Eq. 3). Both make the tower a model of P(label | other).
    serve: False for a label that only training needs. Nothing of its tower is exported.
    """

    weight: float = 1.0
    over: Over = "within"
    serve: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(
                f"a task's weight is {self.weight}; expected a finite weight of at least 0"
            )
        if self.over not in ("within", "all"):
            raise unknown("a task's over", self.over, ("within", "all"))


def both(a: Tensor, b: Tensor) -> Tensor:
    """The logit of P(x and y) = σ(a) σ(b), from the logits a of P(x) and b of P(y | x).

    ln p/(1 − p) = −ln(e^−a + e^−b + e^−(a+b)), since 1/p = (1 + e^−a)(1 + e^−b). It is exact, and
    finite with a finite gradient wherever a + b is.

    Args:
        a, b: equal shapes, any floating type.

    Returns:
        The shape of both, float32.
    """
    return _both(tf.cast(a, tf.float32), tf.cast(b, tf.float32))


def _both(a: Tensor, b: Tensor) -> Tensor:
    return -tf.reduce_logsumexp(tf.stack([-a, -b, -a - b]), 0)


def composed(labels: Iterable[Label], logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The logit of P(label and all labels that it is known within), in the type of the logits.

    It is given for each label that has a logit, provided that those labels have one.
    """
    found: dict[str, Tensor] = {}
    for label in labels:
        if label.name in logits and label.within in (None, *found):
            own = logits[label.name]
            found[label.name] = own if label.within is None else _both(found[label.within], own)
    return found


def composed_name(label: Label) -> str:
    """What the composed label is called: ``click_and_conversion``."""
    return label.name if label.within is None else f"{label.within}_and_{label.name}"


def without_name(label: Label) -> str:
    """The name of the label of rows that have the outer label and not this one:
    ``click_without_conversion``."""
    return f"{label.within}_without_{label.name}"


def derived(labels: Iterable[Label]) -> dict[str, Label]:
    """``click_without_conversion`` -> conversion, of each label within another one."""
    return {without_name(label): label for label in labels if label.within is not None}


def unsampled(own: Tensor, sampled: Tensor, shift: Tensor) -> Tensor:
    """The logit of P(c) in the whole log, of a label c that only rows with the sampled label have.

    The sampled log keeps the sampled label's negatives at the rate w, so that with both
    probabilities c' and p' in that log P(c) = c' Z, Z = 1 / (p' + (1 − p')/w). As 1/c' = 1 + e^−b
    and 1/Z = 1 + k σ(−a), k = 1/w − 1, ln P(c)/(1 − P(c)) = −ln(e^−b + (1 + e^−b) k σ(−a)), which
    is exact and finite wherever a and b are.

    Args:
        own: b = ln c'/(1 − c') [B], any floating type.
        sampled: a = ln p'/(1 − p') [B], the same type.
        shift: ln w, at most 0, a scalar.

    Returns:
        [B], the type of both.
    """
    k = tf.math.log(tf.math.expm1(-tf.cast(shift, own.dtype)))  # −inf where w is 1
    kept = k + tf.math.log_sigmoid(-sampled)
    return -tf.reduce_logsumexp(tf.stack([-own, kept, kept - own]), 0)


def score(conversion: Any, without: Any, weight: float) -> Any:
    """(s + P(z | y) − s P(y and not z)) / (1 + s): what CTnoCVR ranks candidates by.

    Zhang et al., SIGIR 2022, sweep the "score weight" s and never define it. The form is that of
    their public code (``tools/train_cgc.py``). s = 0 gives P(z | y) itself.

    Args:
        conversion: P(z | y), tensors or arrays of any shape.
        without: P(y and not z), the same shape.
        weight: s, at least 0.

    Returns:
        The same shape, in [0, 1].
    """
    return (weight + conversion - weight * without) / (1.0 + weight)


def responses(labels: Iterable[Label], columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What an evaluation compares predictions with [N]: each label, each composed label, and each
    ``click_without_conversion``.

    columns: label -> 0, 1 or, where unknown, below 0 [N]. Probabilities give probabilities.
    A row without the outer label is known to have no composed label, unless the label is `OPEN`.
    """
    found, whole = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for label in labels:
        own = found[label.name] = columns[label.name]
        if label.within is None:
            whole[label.name] = own
            continue
        outer = whole[label.within]
        product = np.where(outer > 0, np.where(own < 0, own, outer * own), outer)
        whole[label.name] = np.where((outer == 0) & (own == OPEN), own, product)
        found[composed_name(label)] = both = whole[label.name]
        found[without_name(label)] = np.where(both < 0, both, outer - both)
    return found


def targets(labels: Iterable[Label], batch: Mapping[str, Tensor]) -> Targets:
    """The targets of a reader's batch, whose labels are 0, 1 or, where unknown, negative.

    There is a target of each label and of each composed label, such as ``click_and_conversion``. A
    row without the outer label is known to have no composed label, unless the label is `OPEN`.
    Where the composed label is known, so is ``click_without_conversion`` (CTnoCVR, Table 1).
    """
    values, known, whole = dict[str, Tensor](), dict[str, Tensor](), dict[str, str]()
    for label in labels:
        raw = tf.cast(batch[label.column], tf.float32)
        own, has = tf.maximum(raw, 0.0), raw >= 0
        values[label.name], known[label.name] = own, has
        name = whole[label.name] = composed_name(label)
        if label.within is not None:
            outer = whole[label.within]
            none = (values[outer] == 0) & (raw != OPEN)
            values[name], known[name] = values[outer] * own, known[outer] & (none | has)
            rest = without_name(label)
            values[rest], known[rest] = values[outer] - values[name], known[name]
    weights = {name: tf.cast(has, tf.float32) for name, has in known.items()}
    if WEIGHT in batch:
        weights = {name: weight * batch[WEIGHT] for name, weight in weights.items()}
    return Targets(values, weights)


def loss(
    labels: Iterable[Label],
    tasks: Mapping[str, Task],
    logits: Mapping[str, Tensor],
    found: Targets,
) -> dict[str, Tensor]:
    """Label -> (1/B) Σ wᵢ lᵢ, lᵢ the binary cross entropy of a row in nats; 0 of an empty batch.

    A row whose label is unknown has the weight 0 and no gradient.
    """
    declared = {label.name: label for label in labels}
    every, losses = composed(declared.values(), logits), {}
    for name, task in tasks.items():
        truth, logit = name, logits[name]
        if task.over == "all" and name in declared and declared[name].within is not None:
            truth, logit = composed_name(declared[name]), every[name]
        y, w = found.labels[truth], found.weights[truth]
        rows = tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logit)
        size = tf.cast(tf.size(rows), tf.float32)
        losses[name] = tf.math.divide_no_nan(tf.reduce_sum(w * rows), size)
    return losses
