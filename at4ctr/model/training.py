"""The model that is trained: a serving model, and auxiliary tasks that only make losses."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from at4ctr.contracts import Auxiliary, Embedded, Encoded, Tensor, View
from at4ctr.layers.embedder import touched_l2
from at4ctr.layers.mlp import without_dropout
from at4ctr.losses import binary_cross_entropy
from at4ctr.model.serving import ServingModel


class TrainingModel(tf.keras.Model):
    """L = L_main + Σ λ_a L_a + l2 · ‖touched rows‖² (AT4CTR, Eq. 12; ``touched_l2``).

    auxiliaries: name -> (task, λ). history: whether one of them reads the history. half_bce: halves
    L_main, as the public code's losses do (its λ are then relative to half a log loss).
    """

    def __init__(
        self,
        serving: ServingModel,
        auxiliaries: Mapping[str, tuple[Auxiliary, float]],
        *,
        history: bool = True,
        l2: float = 0.0,
        half_bce: bool = False,
    ) -> None:
        super().__init__(name="training")
        self.serving = serving
        used = {name: pair for name, pair in auxiliaries.items() if pair[1]}  # λ = 0 is no task
        self.weights_of = {name: weight for name, (_, weight) in used.items()}
        self.tasks = {name: task for name, (task, _) in used.items()}
        self.history = history
        self.l2, self.main_weight = l2, 0.5 if half_bce else 1.0

    def view(self, batch: Mapping[str, Tensor]) -> View:
        """A training pass, as the auxiliary tasks read it."""
        embedded, encoded, outputs = self.serving.forward(
            batch, training=True, history=self.history
        )
        (task,) = outputs.logits
        return View(
            batch=batch,
            labels={task: batch["label"]},
            embedded=embedded,
            encoded=encoded,
            outputs=outputs,
            lookup=self.serving.embedder.lookup,
            encode=self._encode,
        )

    def losses_of(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every loss by name, unweighted, and their weighted ``total``; scalars."""
        view = self.view(batch)
        ((task, logit),) = view.outputs.logits.items()
        losses = {task: binary_cross_entropy(view.labels[task], logit)}
        total = self.main_weight * losses[task]
        for name, auxiliary in self.tasks.items():
            losses[name] = auxiliary.loss(view)
            total += self.weights_of[name] * losses[name]
        if self.l2:
            losses["l2"] = touched_l2(view.embedded, history=self.serving.reads_history)
            total += self.l2 * losses["l2"]
        losses["total"] = total
        return losses

    def _encode(self, x: Embedded) -> Encoded:
        with without_dropout():
            return self.serving.backbone(x, training=True)
