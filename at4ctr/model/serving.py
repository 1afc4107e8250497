"""The model that is served: embed → encode → head → calibrate. It knows nothing of training."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from at4ctr.calibration import Calibrator, graph
from at4ctr.contracts import Backbone, Embedded, Encoded, Head, Outputs, Tensor
from at4ctr.layers.embedder import Embedder
from at4ctr.schema import history_name


class ServingModel(tf.keras.Model):
    """A calibrated click probability from a batch of ids.

    shift: ln w, added to the logit of a model trained on negatives kept at rate w, so that the
    probability is that of the unsampled log (He et al. 2014, §6.3): q = p / (p + (1 − p)/w)
    = σ(logit + ln w).
    """

    def __init__(
        self,
        embedder: Embedder,
        backbone: Backbone,
        head: Head,
        shift: float,
        *,
        reads_history: bool = True,
    ) -> None:
        """reads_history: whether the backbone does; otherwise no behaviour is looked up."""
        super().__init__(name="serving")
        self.embedder, self.backbone, self.head = embedder, backbone, head
        self.reads_history = reads_history
        self.shift = tf.Variable(shift, trainable=False, dtype=tf.float32, name="logit_shift")
        self.calibrator: graph.Logistic | graph.Piecewise | None = None

    def calibrate(self, calibrator: Calibrator | None) -> None:
        """Sets the fitted map that `answer` applies after the sampling correction, or none.

        Of a finished model: a `tf.function` that was traced before keeps the map of its time, and
        training's checkpoints know of none. Keras goes on listing the variables of a map that was
        replaced; the export writes those of the present one.
        """
        self.calibrator = None if calibrator is None else graph.served(calibrator)

    def forward(
        self,
        batch: Mapping[str, Tensor],
        *,
        training: bool,
        history: bool = False,
        shared: bool = False,
    ) -> tuple[Embedded, Encoded, Outputs]:
        """Every stage, for the training model to read. history: look it up in any case. shared:
        the batch has one user for all candidates."""
        history = history or self.reads_history
        embedded = self.embedder(batch, training=training, history=history, shared=shared)
        encoded = self.backbone(embedded, training=training)
        return embedded, encoded, self.head(encoded, training=training)

    def call(
        self, batch: Mapping[str, Tensor], training: bool = False, shared: bool = False
    ) -> Mapping[str, Tensor]:
        """Task -> uncalibrated logit [B]."""
        return self.forward(batch, training=training, shared=shared)[2].logits

    def answer(self, batch: Mapping[str, Tensor], *, shared: bool = False) -> dict[str, Tensor]:
        """What is exported: calibrated ``probability`` [B] and uncalibrated ``logit`` [B].

        shared: the batch has one row of the profile and the history for all B candidates, and what
        depends on them alone is computed once. Of a backbone without ``shares`` they are repeated.
        """
        if shared and not getattr(self.backbone, "shares", False):
            batch, shared = self._repeated(batch), False
        (logit,) = self(batch, training=False, shared=shared).values()
        probability = self.calibrator or tf.sigmoid
        return {"probability": probability(logit + self.shift), "logit": logit}

    def scores(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a model is measured by, in float64, where no probability saturates [B].

        ``shifted``: the logit after the sampling correction. ``calibrated``: that of the served
        probability, after the fitted calibrator; the same where there is none.
        """
        (logit,) = self(batch, training=False).values()
        shifted = tf.cast(logit, tf.float64) + tf.cast(self.shift, tf.float64)
        calibrated = shifted if self.calibrator is None else self.calibrator.logits(shifted)
        return {"shifted": shifted, "calibrated": calibrated}

    def _repeated(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A shared user's rows, once for every candidate."""
        schema = self.embedder.schema
        size = tf.shape(batch[schema.item_id.name])[0]
        of_user = {f.name for f in schema.group("profile")}
        return {
            name: tf.repeat(ids, size, 0)
            if name in of_user or name.startswith(history_name(""))
            else ids
            for name, ids in batch.items()
        }
