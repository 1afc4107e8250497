"""The model that is served: embed → encode → head → calibrate. It knows nothing of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

import tensorflow as tf

from at4ctr import tasks
from at4ctr.calibration import Calibrator, graph
from at4ctr.contracts import Backbone, Embedded, Encoded, Head, Outputs, Tensor, Uncertain
from at4ctr.layers.embedder import Embedder
from at4ctr.schema import Label


class Expert(NamedTuple):
    """A backbone and the embedding space that it reads. reads_history: whether the backbone reads
    the history."""

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
        without: Label | None = None,
    ) -> None:
        """labels: those of the schema that have a tower. served: those that `answer` gives.
        without: the conversion of a tower of ``click_without_conversion``.
        """
        super().__init__(name="serving")
        self.spaces, self.head = dict(spaces), head
        self.backbones = {name: expert.backbone for name, expert in experts.items()}
        self.space_of = {name: expert.space for name, expert in experts.items()}
        self.reads = {name: expert.reads_history for name, expert in experts.items()}
        self.labels, self.served, self.without = labels, served, without
        self.score_weight = 0.0  # s of a finished model, chosen on validation
        self.shift = tf.Variable(shift, trainable=False, dtype=tf.float32, name="logit_shift")
        self.calibrators: dict[str, graph.Logistic | graph.Piecewise] = {}

    @property
    def towers(self) -> tuple[str, ...]:
        """Every label that has a tower, the derived one last."""
        names = tuple(label.name for label in self.labels)
        return names if self.without is None else (*names, tasks.without_name(self.without))

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
        """Whether any expert reads the history."""
        return any(self.reads.values())

    @property
    def reads_ages(self) -> bool:
        """Whether an expert reads how long ago each behaviour was."""
        return any(embedder.embeds.ages for embedder in self.spaces.values())

    def calibrate(self, calibrators: Mapping[str, Calibrator]) -> None:
        """Sets the fitted maps that `answer` applies after the sampling correction, by label.

        Call it on a finished model. A `tf.function` that was traced before keeps the maps of that
        time, and no checkpoint of the training has the maps. Keras goes on listing the variables of
        a map that was replaced; the export writes those of the present ones.
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
        """history: whether the first space looks it up even if no expert reads it. labels: whose
        towers are computed; None for all."""
        return self.encode(
            self.embed(batch, training=training, history=history), training=training, labels=labels
        )

    def embed(
        self,
        batch: Mapping[str, Tensor],
        *,
        training: bool,
        history: bool = False,
        dense: bool = False,
    ) -> dict[str, Embedded]:
        """The batch in each space: every look-up of a pass. dense: in the dense layout."""
        spaces: dict[str, Embedded] = {}
        for i, (name, embedder) in enumerate(self.spaces.items()):
            read = any(self.reads[e] for e, space in self.space_of.items() if space == name)
            read = read or (history and i == 0)
            spaces[name] = embedder(batch, training=training, history=read, dense=dense)
        return spaces

    def encode(
        self,
        spaces: dict[str, Embedded],
        *,
        training: bool,
        labels: tuple[str, ...] | None = None,
    ) -> Forward:
        """The rest of a pass."""
        experts = {
            name: backbone(spaces[self.space_of[name]], training=training)
            for name, backbone in self.backbones.items()
        }
        wanted = self.towers if labels is None else labels
        return Forward(spaces, experts, self.head(experts, training=training, labels=wanted))

    def call(self, batch: Mapping[str, Tensor], training: bool = False) -> Mapping[str, Tensor]:
        """Label -> uncalibrated logit [B]."""
        return self.forward(batch, training=training).outputs.logits

    def answer(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The answers of the exported model, [B] each: calibrated probabilities and uncalibrated
        logits.

        One served label gives ``probability`` and ``logit``. Several give ``probability_<label>``
        and ``logit_<label>``, and ``probability_<a>_and_<b>`` where b is known within a. A model
        with a score weight above 0 also gives ``score`` (`tasks.score`). A head of Gaussian
        processes adds ``deviation`` or ``deviation_<label>``, the standard deviation of that
        ``logit``.

        A batch with ``owner`` [B] has a row of profile and history for each of H users, and what
        depends on the user alone is computed once for each.
        """
        fused = self.fused if self.score_weight else ()
        names = dict.fromkeys((*self.served, *fused))
        outputs = self._outputs(batch, names)
        logits, corrected = outputs.logits, self.corrected(outputs.logits)
        every = {name: self._probability(name, corrected[name]) for name in names}
        answers = self._named(every, logits)
        for name in self.served if self.uncertain else ():
            after = f"_{name}" if len(self.served) > 1 else ""
            known = cast(Uncertain, self.head)
            answers[f"deviation{after}"] = known.deviation(name, outputs.features[name])
        if fused:
            conversion, without = (every[name] for name in fused)
            answers["score"] = tasks.score(conversion, without, self.score_weight)
        return answers

    @property
    def uncertain(self) -> bool:
        """Whether the head knows the standard deviation of its logits."""
        return bool(getattr(self.head, "processes", {}))

    @property
    def fused(self) -> tuple[str, ...]:
        """The two labels that `tasks.score` reads, () where no derived label is learned."""
        return () if self.without is None else (self.without.name, tasks.without_name(self.without))

    def _outputs(self, batch: Mapping[str, Tensor], labels: Iterable[str]) -> Outputs:
        """Of the labels, and of what their correction for sampling reads."""
        wanted = set(labels)
        if wanted - {label.name for label in self.labels}:
            wanted |= {label.name for label in self.labels if label.sampled}
        names = tuple(name for name in self.towers if name in wanted)
        return self.forward(batch, training=False, labels=names).outputs

    def _named(
        self, every: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The answers of the served labels, from probabilities and logits of at least these."""
        if len(self.served) == 1:
            (name,) = self.served
            return {"probability": every[name], "logit": logits[name]}
        found: dict[str, Tensor] = {}
        whole: dict[str, Tensor] = {}  # label -> probability of it and all that it is known within
        for label in self.labels:
            if label.name in self.served:
                own = found[label.name] = every[label.name]
                if label.within is None:
                    whole[label.name] = own
                elif label.within in whole:
                    whole[label.name] = whole[label.within] * own
                    found[tasks.composed_name(label)] = whole[label.name]
        found |= {name: every[name] for name in self.served if name not in found}
        answers = {f"probability_{name}": value for name, value in found.items()}
        return answers | {f"logit_{name}": logits[name] for name in self.served}

    def scores(self, batch: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """The logits that metrics are computed from: kind -> label -> logits [B] in float64, whose
        probabilities do not saturate.

        ``shifted``: after the sampling correction. ``calibrated``: of the served probability, after
        the label's fitted calibrator; the same where it has none. Both have each served label,
        ``<a>_and_<b>`` where b is known within a, and ``<a>_without_<b>`` where it is learned.
        ``gates``, of a head with experts: [B, E], the weights of each of these labels with a tower.
        """
        names = self.served
        if self.without is not None:
            names = tuple(dict.fromkeys((*names, tasks.without_name(self.without))))
        outputs = self._outputs(batch, names)
        every = self.corrected({k: tf.cast(v, tf.float64) for k, v in outputs.logits.items()})
        shifted = {name: every[name] for name in names}
        fitted = self.calibrators
        calibrated = {k: fitted[k].logits(v) if k in fitted else v for k, v in shifted.items()}
        found = {"shifted": self._composed(shifted), "calibrated": self._composed(calibrated)}
        gates = {name: gate for name, gate in outputs.gates.items() if name in names}
        return found | ({"gates": gates} if gates else {})

    def _composed(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        whole = tasks.composed(self.labels, logits)
        inner = [x for x in self.labels if x.within is not None and x.name in whole]
        return {**logits, **{tasks.composed_name(x): whole[x.name] for x in inner}}

    def corrected(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The logits after the sampling correction: + ln w of the sampled label, and
        `tasks.unsampled` of a label derived within it."""
        found = dict(logits)
        rest = "" if self.without is None else tasks.without_name(self.without)
        for label in self.labels:
            if label.sampled and label.name in logits:
                own = logits[label.name]
                found[label.name] = own + tf.cast(self.shift, own.dtype)
                if rest in logits:
                    found[rest] = tasks.unsampled(logits[rest], own, self.shift)
        return found

    def _probability(self, label: str, logit: Tensor) -> Tensor:
        return self.calibrators.get(label, tf.sigmoid)(logit)
