"""The posterior of Gaussian-process logits, from passes over the training rows.

It is a function of the weights, the seed and the log alone. So no training step keeps it, and a
resumed training ends with the same one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from at4ctr import tasks
from at4ctr.feed import Feed
from at4ctr.layers.gaussian import GaussianProcess, Laplace, evidence
from at4ctr.model.serving import ServingModel

EPOCH = 0  # whose batches are read: the one epoch that every training has


class Posterior:
    """Fits the last layer of each Gaussian process of a model's head, and its precision.

    ``newton`` steps of Newton's method move the last layer to the mode of its posterior; SGD ends
    before it. Every pass reads the rows of epoch 0 once, however many epochs trained on them. A row
    counts with its weight, and not at all for a label that is unknown there. Negatives that
    training did not keep are no evidence.
    """

    def __init__(self, model: ServingModel, feed: Feed) -> None:
        """feed: of the training rows, under the strategy that made the model."""
        self.model, self.feed = model, feed
        self.processes: Mapping[str, GaussianProcess] = getattr(model.head, "processes", {})
        self._pass = feed.compiled(self._run)

    def estimate(self) -> None:
        """Replaces each process's prior by its posterior, given the present weights and the
        statistics for serving. Every host must call it at the same step, and once only."""
        fits = [Laplace(process) for process in self.processes.values()]
        passes = 1 + getattr(self.model.head, "newton", 0) if fits else 0
        for number in range(passes):
            batches, total = self.feed(EPOCH, 0), np.zeros(())
            for _ in range(self.feed.steps(EPOCH)):
                total = total + self._pass(next(batches)).numpy()
            for fit, own in zip(fits, total, strict=True):
                fit.take(own, last=number == passes - 1)
        for fit in fits:
            fit.finish()

    def _run(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The evidence of each label, over the rows of all replicas."""
        strategy = self.feed.strategy
        return strategy.reduce("SUM", strategy.run(self._replica, args=(batch,)), None)

    def _replica(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        names = tuple(self.processes)
        found = self.model.forward(batch, training=False, labels=names).outputs
        known = tasks.targets(self.model.labels, batch)
        return tf.stack(
            [
                evidence(found.features[k], found.logits[k], known.labels[k], known.weights[k])
                for k in names
            ]
        )
