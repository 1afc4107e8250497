"""The posterior of Gaussian-process logits, from one pass over the training rows.

It is a function of the weights, the seed and the log alone. So no training step keeps it, and a
resumed training ends with the same one.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from at4ctr import tasks
from at4ctr.feed import Feed
from at4ctr.layers.gaussian import GaussianProcess, evidence
from at4ctr.model.serving import ServingModel

EPOCH = 0  # whose batches are read: the one epoch that every training has


class Posterior:
    """Estimates the precision of each Gaussian process of a model's head.

    A row counts with its weight and, of a label that is unknown there, not at all. Rows are those
    of epoch 0, each once, however many epochs trained on them. Negatives that training did not keep
    are no evidence.
    """

    def __init__(self, model: ServingModel, feed: Feed) -> None:
        """feed: of the training rows, under the strategy that made the model."""
        self.model, self.feed = model, feed
        self.processes: Mapping[str, GaussianProcess] = getattr(model.head, "processes", {})
        self._pass = tf.function(self._run, reduce_retracing=True)

    def estimate(self) -> None:
        """Sets every process's precision, by the weights at hand and serving's statistics; every
        host must call it at the same step."""
        if not self.processes:
            return
        batches, total = self.feed(EPOCH, 0), 0.0
        for _ in range(self.feed.steps(EPOCH)):
            total += self._pass(next(batches)).numpy()
        for process, own in zip(self.processes.values(), total, strict=True):
            process.set_precision(own)

    def _run(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """[labels, M, M], over the rows of all replicas."""
        strategy = self.feed.strategy
        return strategy.reduce("SUM", strategy.run(self._replica, args=(batch,)), None)

    def _replica(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        names = tuple(self.processes)
        found = self.model.forward(batch, training=False, labels=names).outputs
        weights = tasks.targets(self.model.labels, batch).weights
        return tf.stack([evidence(found.features[k], found.logits[k], weights[k]) for k in names])
