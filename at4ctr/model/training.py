"""The model that is trained: a serving model, and auxiliaries, which only add losses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import tensorflow as tf

from at4ctr import tasks
from at4ctr.contracts import (
    Auxiliary,
    Embedded,
    Encoded,
    Monitored,
    Outputs,
    Perturbation,
    Tensor,
    View,
)
from at4ctr.layers.embedder import touched_l2
from at4ctr.layers.mlp import without_dropout
from at4ctr.model.serving import ServingModel
from at4ctr.tasks import Task


class TrainingModel(tf.keras.Model):
    """L = Σ_k λ_k L_k + Σ_a λ_a L_a + Σ_e l2_e · ‖touched rows of space e‖².

    k runs over labels (``tasks.loss``), a over auxiliaries (AT4CTR, Eq. 12), e over embedding
    spaces (``touched_l2``).

    With ``uncertainty`` the first sum is Σ_k [exp(−s_k) λ_k L_k + s_k / 2], s_k = ln σ_k² trainable
    from 0 (Kendall, Gal and Cipolla, CVPR 2018, the approximation of §3.2 for classification). A
    label's share of the loss then tends to λ_k exp(−s_k) L_k = 1/2. Its L_k stays unweighted in
    the curves, and ``weight of <label>`` is exp(−s_k). A label whose λ_k is 0 has no s_k.
    """

    def __init__(
        self,
        serving: ServingModel,
        label_tasks: Mapping[str, Task],
        auxiliaries: Mapping[str, tuple[Auxiliary, float]],
        *,
        perturbations: Mapping[str, Perturbation] = MappingProxyType({}),
        history: bool = True,
        l2: Mapping[str, float] | None = None,
        half_bce: bool = False,
        uncertainty: bool = False,
    ) -> None:
        """auxiliaries: name -> (auxiliary, λ). perturbations: applied in order of their names.
        history: whether an auxiliary reads the history. l2: of each space. half_bce: halves every
        L_k, as the public code's losses do (its λ are then relative to half a log loss).
        """
        super().__init__(name="training")
        self.serving, self.label_tasks = serving, dict(label_tasks)
        used = {name: pair for name, pair in auxiliaries.items() if pair[1]}  # λ = 0 is none
        self.weights_of = {name: weight for name, (_, weight) in used.items()}
        self.auxiliaries = {name: auxiliary for name, (auxiliary, _) in used.items()}
        self.perturbations = dict(sorted(perturbations.items()))
        self.history, self.half = history, 0.5 if half_bce else 1.0
        self.l2 = {space: weight for space, weight in (l2 or {}).items() if weight}
        weighed = [k for k, task in label_tasks.items() if uncertainty and task.weight]
        self.log_variances = {k: tf.Variable(0.0, name=f"log_variance_{k}") for k in weighed}
        self.dense = self.xla = False  # the layout; whether XLA compiles what follows look-ups

    def view(self, batch: Mapping[str, Tensor]) -> View:
        """A training pass, as the auxiliaries read it."""
        batch = self._perturbed(batch)
        return self._view(batch, self._embed(batch))

    def _perturbed(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        for perturb in self.perturbations.values():
            batch = perturb(batch)
        return batch

    def _embed(self, batch: Mapping[str, Tensor]) -> dict[str, Embedded]:
        return self.serving.embed(batch, training=True, history=self.history, dense=self.dense)

    def _view(self, batch: Mapping[str, Tensor], spaces: dict[str, Embedded]) -> View:
        found = self.serving.encode(spaces, training=True)
        return View(
            batch=batch,
            targets=tasks.targets(self.serving.labels, batch),
            spaces=found.spaces,
            experts=found.experts,
            outputs=found.outputs,
            lookup=self.serving.embedder.lookup,
            space_of=self.serving.space_of,
            encode=self._encode,
            decode=self._decode,
        )

    def losses_of(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every loss by name, unweighted, their weighted ``total``, and what auxiliaries give
        beside their losses as ``<auxiliary>_<name>``; scalars."""
        batch = self._perturbed(batch)
        spaces = self._embed(batch)
        if not self.xla:
            return self._losses_after(batch, spaces)
        after = tf.function(self._losses_after, jit_compile=True, autograph=False)
        found: dict[str, Tensor] = after(dict(batch), spaces)
        return found

    def _losses_after(
        self, batch: Mapping[str, Tensor], spaces: dict[str, Embedded]
    ) -> dict[str, Tensor]:
        """All of a step between the look-ups and the gradients of what they found."""
        view = self._view(batch, spaces)
        found = tasks.loss(self.serving.labels, self.label_tasks, view.outputs.logits, view.targets)
        terms = self._terms(found)
        for name, s in self.log_variances.items():
            found[f"weight of {name}"] = tf.exp(-tf.convert_to_tensor(s))
        for name, auxiliary in self.auxiliaries.items():
            made = auxiliary.loss(view)
            if isinstance(made, Monitored):
                found |= {f"{name}_{k}": value for k, value in made.monitors.items()}
                made = made.loss
            found[name] = made
            terms.append(self.weights_of[name] * found[name])
        if self.l2:
            reads = self.serving.reads
            penalties = {
                space: touched_l2(
                    view.spaces[space],
                    history=any(reads[e] for e, s in self.serving.space_of.items() if s == space),
                )
                for space in self.l2
            }
            found["l2"] = tf.add_n(list(penalties.values()))
            terms += [self.l2[space] * penalty for space, penalty in penalties.items()]
        total = terms[0]
        for term in terms[1:]:
            total += term
        return {**found, "total": total}

    def label_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Σ_k λ_k L_k of a batch as it is: no perturbation, dropout or auxiliary; a scalar."""
        with without_dropout():
            logits = self.serving.forward(batch, training=True).outputs.logits
        targets = tasks.targets(self.serving.labels, batch)
        found = tasks.loss(self.serving.labels, self.label_tasks, logits, targets)
        return tf.add_n(self._terms(found))

    def _terms(self, losses: Mapping[str, Tensor]) -> list[Tensor]:
        """λ_k L_k of each label or, of learned weights, e^−s_k λ_k L_k + s_k / 2."""
        terms = {k: self.half * self.label_tasks[k].weight * loss for k, loss in losses.items()}
        for name, variable in self.log_variances.items():
            s = tf.convert_to_tensor(variable)
            terms[name] = tf.exp(-s) * terms[name] + 0.5 * s
        return list(terms.values())

    def _encode(self, x: Embedded, expert: str) -> Encoded:
        with without_dropout():
            return self.serving.backbones[expert](x, training=True)

    def _decode(self, experts: Mapping[str, Encoded]) -> Outputs:
        names = tuple(label.name for label in self.serving.labels)
        with without_dropout():
            return self.serving.head(experts, training=True, labels=names)
