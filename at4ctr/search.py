"""Structure weights: they learn on validation rows between training steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from at4ctr import optimizers
from at4ctr.contracts import Searched
from at4ctr.errors import InputError
from at4ctr.feed import Feed, MakeReader
from at4ctr.model.training import TrainingModel


def optimizer_of(head: Searched) -> tf.keras.optimizers.Optimizer:
    """The optimizer of a head's structure weights, not built yet."""
    return optimizers.build("adam", head.rate)


class Search:
    """One step of Adam on a head's ``searched`` after every k-th training step (DARTS, Liu et al.,
    ICLR 2019, first order: ξ = 0): a ← a − rate · Adam(∂L_validation/∂a), all other weights as they
    are. L is `TrainingModel.label_loss`.

    Step j takes batch j of the validation split, which is passed over again and again, each time in
    another order. j depends on the training step alone, so a resumed run goes on with the same
    batch. The split's negatives are sampled as those of training are. All products are float32.
    """

    def __init__(
        self, model: TrainingModel, head: Searched, feed: Feed, strategy: tf.distribute.Strategy
    ) -> None:
        self.model, self.head, self.feed, self.strategy = model, head, feed, strategy
        self.optimizer = optimizer_of(head)
        self._step = feed.compiled(self._run)
        self._next = -1  # the step that the open iterator stands before
        self._batches: Any = None

    @classmethod
    def of(
        cls,
        model: TrainingModel,
        make_reader: MakeReader | None,
        batch_size: int,
        shards: int,
        strategy: tf.distribute.Strategy,
    ) -> Search | None:
        """None for a head that searches nothing; InputError where there is no validation row."""
        head: Any = model.serving.head
        if not getattr(head, "searched", ()):
            return None
        if make_reader is None:
            raise InputError(
                f"head {head.name} learns its structure weights on validation rows and there are "
                "none; expected a validation split; hold out rows, or choose another head"
            )
        feed = Feed(make_reader, batch_size, shards, strategy)
        feed.steps(0)  # refuses a split that is too small before the training begins
        return cls(model, head, feed, strategy)

    def build(self) -> None:
        """Makes the optimizer's slots, which a checkpoint restores."""
        self.optimizer.build(self.head.searched)

    def after(self, step: int) -> Mapping[str, float]:
        """What follows training step ``step`` (from 1): {}, or the loss of a step of the search."""
        if step % self.head.every:
            return {}
        number = step // self.head.every - 1
        if number != self._next or self._batches is None:
            self._batches = self._from(number)
        self._next = number + 1
        return {"structure": float(self._step(next(self._batches)))}

    def _from(self, number: int) -> Any:
        """Batches from step ``number`` of the search on, over as many epochs as it takes."""
        epoch = 0
        while number >= self.feed.steps(epoch):
            number -= self.feed.steps(epoch)
            epoch += 1
        while True:
            batches = self.feed(epoch, number)
            for _ in range(self.feed.steps(epoch) - number):
                yield next(batches)
            epoch, number = epoch + 1, 0

    def _run(self, batch: Any) -> tf.Tensor:
        each = self.strategy.run(self._replica, args=(batch,))
        return self.strategy.reduce("MEAN", each, None)

    def _replica(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        searched = self.head.searched
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(searched)
            loss = self.model.label_loss(batch)
            local = loss / self.strategy.num_replicas_in_sync
        self.optimizer.apply_gradients(zip(tape.gradient(local, searched), searched, strict=True))
        return loss
