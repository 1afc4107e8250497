"""Statistics for serving, estimated over training batches with the weights at hand.

They are a function of the weights, the seed and the log alone. So no training step keeps them, a
checkpoint need not hold those of its own weights, and replicas and hosts end with the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from at4ctr.feed import Feed
from at4ctr.layers.mlp import Dice, without_dropout
from at4ctr.layers.population import Sums, collecting_sums, moments
from at4ctr.model.serving import ServingModel

ROWS = 65_536  # about so many are read; their mean is within 0.4 % of a standard deviation
EPOCH = 0  # whose first batches they are: the one epoch that every training has


class Population:
    """Estimates the population statistics of a model's layers, where it has any such layer.

    A forward pass over the first `ROWS` training rows of epoch 0 uses the statistics of each batch,
    over all replicas, and no dropout. Mean and variance are those of all rows together.
    """

    def __init__(self, model: ServingModel, feed: Feed) -> None:
        """feed: of the training rows, under the strategy that made the model."""
        self.model, self.feed = model, feed
        self.layers = [m for m in model.submodules if isinstance(m, Dice)]
        self.steps = min(feed.steps(EPOCH), math.ceil(ROWS / feed.batch_size))
        self._traced: list[Sums] = []  # of a pass, as far as layers and shapes go
        self._pass = feed.compiled(self._run)

    def estimate(self, rows: int = ROWS) -> None:
        """Assigns mean and variance of every layer; every host must call it at the same step.

        rows: at most about so many are read.
        """
        if not self.layers:
            return
        batches, steps = self.feed(EPOCH, 0), math.ceil(rows / self.feed.batch_size)
        totals = [self._pass(next(batches)).numpy() for _ in range(min(self.steps, steps))]
        for layer, sums in self._by_layer(np.sum(totals, 0)).items():
            mean, variance = moments(sums)
            layer.mean.assign(tf.cast(mean, layer.mean.dtype))
            layer.variance.assign(tf.cast(variance, layer.variance.dtype))

    def _run(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The sums of a batch side by side, in one vector so that one copy brings them to the host.

        Every replica has the same."""
        strategy = self.feed.strategy
        return strategy.experimental_local_results(strategy.run(self._replica, args=(batch,)))[0]

    def _replica(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        with collecting_sums() as found, without_dropout():
            self.model.forward(batch, training=True)
        self._traced = found
        return tf.concat([part for sums in found for part in sums[1:]], 0)

    def _by_layer(self, values: np.ndarray) -> dict[Dice, Sums]:
        """The sums of each layer, of all its calls in a pass."""
        found: dict[Dice, Sums] = {}
        for sums in self._traced:
            sizes = [int(part.shape[0]) for part in sums[1:]]
            here, values = np.split(values, [sum(sizes)])
            parts = np.split(here, np.cumsum(sizes)[:-1])
            if sums.layer in found:
                parts = [a + b for a, b in zip(parts, found[sums.layer][1:], strict=True)]
            found[sums.layer] = Sums(sums.layer, *map(tf.constant, parts))
        return found
