"""The model that is served: embed → encode → head → calibrate. It knows nothing of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from at4ctr import tasks
from at4ctr.calibration import Calibrator, graph
from at4ctr.contracts import Backbone, Embedded, Encoded, Head, Outputs, Tensor
from at4ctr.layers.embedder import Embedder
from at4ctr.schema import Label


class Expert(NamedTuple):
    """A backbone and the embedding space that it reads. reads_history: whether it does."""

    backbone: Backbone
    space: str
    reads_history: bool = True


class Forward(NamedTuple):
    """Every stage of a pass, for the training model to read."""

    spaces: dict[str, Embedded]
    experts: dict[str, Encoded]
    outputs: Outputs


class ServingModel(tf.keras.Model):
    """Calibrated probabilities of the served labels from a batch of ids.

    shift: ln w, added to the logit of the label whose negatives training kept at rate w, so that
    the probability is that of the unsampled log (He et al. 2014, §6.3): q = p / (p + (1 − p)/w)
    = σ(logit + ln w). A label known within it does not move, since every row where it is known is
    kept; a composed label is composed after the shift.
    """

    def __init__(
        self,
        spaces: Mapping[str, Embedder],
        experts: Mapping[str, Expert],
        head: Head,
        labels: tuple[Label, ...],
        served: tuple[str, ...],
        shift: float,
    ) -> None:
        """labels: of every tower. served: those that `answer` gives."""
        super().__init__(name="serving")
        self.spaces, self.head = dict(spaces), head
        self.backbones = {name: expert.backbone for name, expert in experts.items()}
        self.space_of = {name: expert.space for name, expert in experts.items()}
        self.reads = {name: expert.reads_history for name, expert in experts.items()}
        self.labels, self.served = labels, served
        self.shift = tf.Variable(shift, trainable=False, dtype=tf.float32, name="logit_shift")
        self.calibrators: dict[str, graph.Logistic | graph.Piecewise] = {}

    @property
    def embedder(self) -> Embedder:
        """That of the first space."""
        return next(iter(self.spaces.values()))

    @property
    def backbone(self) -> Backbone:
        """That of the first expert."""
        return next(iter(self.backbones.values()))

    @property
    def reads_history(self) -> bool:
        """Whether an expert does."""
        return any(self.reads.values())

    def calibrate(self, calibrators: Mapping[str, Calibrator]) -> None:
        """Sets the fitted maps that `answer` applies after the sampling correction, by label.

        Of a finished model: a `tf.function` that was traced before keeps the maps of its time, and
        training's checkpoints know of none. Keras goes on listing the variables of a map that was
        replaced; the export writes those of the present ones.
        """
        self.calibrators = {name: graph.served(c) for name, c in calibrators.items()}

    def forward(
        self,
        batch: Mapping[str, Tensor],
        *,
        training: bool,
        history: bool = False,
        labels: tuple[str, ...] | None = None,
    ) -> Forward:
        """history: the first space looks it up in any case. labels: whose towers; None for all."""
        spaces: dict[str, Embedded] = {}
        for i, (name, embedder) in enumerate(self.spaces.items()):
            read = any(self.reads[e] for e, space in self.space_of.items() if space == name)
            read = read or (history and i == 0)
            spaces[name] = embedder(batch, training=training, history=read)
        experts = {
            name: backbone(spaces[self.space_of[name]], training=training)
            for name, backbone in self.backbones.items()
        }
        wanted = tuple(label.name for label in self.labels) if labels is None else labels
        return Forward(spaces, experts, self.head(experts, training=training, labels=wanted))

    def call(self, batch: Mapping[str, Tensor], training: bool = False) -> Mapping[str, Tensor]:
        """Label -> uncalibrated logit [B]."""
        return self.forward(batch, training=training).outputs.logits

    def answer(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is exported, [B] each: calibrated probabilities and uncalibrated logits.

        One served label gives ``probability`` and ``logit``. Several give ``probability_<label>``
        and ``logit_<label>``, and ``probability_<a>_and_<b>`` where b is known within a.

        A batch with ``owner`` [B] has a row of profile and history for each of H users. Where the
        graph knows that H is 1 and every backbone ``shares``, what depends on the user alone is
        computed once; otherwise users are repeated.
        """
        if "owner" in batch and not self._shares(batch):
            batch = self._by_row(batch)
        logits = self.forward(batch, training=False, labels=self.served).outputs.logits
        corrected = self.corrected(logits)
        if len(self.served) == 1:
            (name,) = self.served
            return {"probability": self._probability(name, corrected[name]), "logit": logits[name]}
        found: dict[str, Tensor] = {}
        whole: dict[str, Tensor] = {}  # label -> probability of it and all that it is known within
        for label in self.labels:
            if label.name in logits:
                own = found[label.name] = self._probability(label.name, corrected[label.name])
                if label.within is None:
                    whole[label.name] = own
                elif label.within in whole:
                    whole[label.name] = whole[label.within] * own
                    found[tasks.composed_name(label)] = whole[label.name]
        answers = {f"probability_{name}": value for name, value in found.items()}
        return answers | {f"logit_{name}": value for name, value in logits.items()}

    def scores(self, batch: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """What a model is measured by: kind -> label -> logits [B] in float64, where no probability
        saturates.

        ``shifted``: after the sampling correction. ``calibrated``: of the served probability, after
        the label's fitted calibrator; the same where it has none. Both have each served label, and
        ``<a>_and_<b>`` where b is known within a. ``gates``, of a head with experts: [B, E], the
        weights of each served label.
        """
        outputs = self.forward(batch, training=False, labels=self.served).outputs
        shifted = self.corrected({k: tf.cast(v, tf.float64) for k, v in outputs.logits.items()})
        fitted = self.calibrators
        calibrated = {k: fitted[k].logits(v) if k in fitted else v for k, v in shifted.items()}
        found = {"shifted": self._composed(shifted), "calibrated": self._composed(calibrated)}
        return found | ({"gates": dict(outputs.gates)} if outputs.gates else {})

    def _composed(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        whole = tasks.composed(self.labels, logits)
        inner = [x for x in self.labels if x.within is not None and x.name in whole]
        return {**logits, **{tasks.composed_name(x): whole[x.name] for x in inner}}

    def corrected(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The logits after the sampling correction: + ln w of the sampled label alone."""
        sampled = {label.name for label in self.labels if label.sampled}
        return {
            k: v + tf.cast(self.shift, v.dtype) if k in sampled else v for k, v in logits.items()
        }

    def _probability(self, label: str, logit: Tensor) -> Tensor:
        return self.calibrators.get(label, tf.sigmoid)(logit)

    def _shares(self, batch: Mapping[str, Tensor]) -> bool:
        one = batch[self.embedder.schema.user_id.name].shape[0] == 1
        return one and all(getattr(b, "shares", False) for b in self.backbones.values())

    def _by_row(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same batch with a row of profile and history for each row."""
        of_user = self.embedder.schema.of_user(batch)
        return {
            name: tf.gather(ids, batch["owner"]) if name in of_user else ids
            for name, ids in batch.items()
            if name != "owner"
        }
