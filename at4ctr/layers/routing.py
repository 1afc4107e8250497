"""Experts of any backbones under layers of their own, and what each label reads of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, Interface, Outputs, Tensor
from at4ctr.errors import InputError
from at4ctr.layers.experts import Gate, mixture
from at4ctr.layers.mlp import Affine, Trunk, joined
from at4ctr.layers.towers import Towers, activation_of, parts_required, seed_of


class Route(NamedTuple):
    """What the tower of a label reads, as names of experts.

    experts: those that its gate weighs. stopped: those among them that the label's loss does not
    train. gate: those whose parts the gate reads.
    """

    experts: tuple[str, ...]
    stopped: tuple[str, ...]
    gate: tuple[str, ...]


class Routed(tf.Module):
    """h_e = affine → dense layers of expert e's parts;
    f_k = Σ_e g_ke h_e over the experts of label k's route, g_k = softmax(affine_k(x_k) W_k) of the
    parts x_k that its gate reads;
    logit_k = w_k · [tower_k(f_k); direct] + b_k + wide, direct and wide those of the same experts.

    No gradient passes h_e, direct and wide of an expert that is ``stopped``. Where ``gated`` is
    False, or a route has one expert, all g_ke are equal and there is no gate. An expert without
    parts, as an FM, has no h_e. Nothing is computed of an expert that no label asked for reads.
    """

    def __init__(
        self,
        name: str,
        experts: Mapping[str, Interface],
        routes: Mapping[str, Route],
        units: tuple[int, ...],
        tower: tuple[int, ...],
        activation: Activation | None,
        dropout: float,
        seed: int,
        *,
        gated: bool = True,
    ) -> None:
        super().__init__(name=name)
        parts_required(name, experts)
        self.routes, self.gates, self.affines = dict(routes), {}, {}
        self.trunks: dict[str, Trunk] = {}
        for e, face in experts.items():
            if (kind := activation or face.activation) == "linear":
                raise InputError(
                    f"head {name} has linear layers on expert {e!r}; expected an activation, as "
                    "linear layers would merge several embedding spaces into one; set "
                    "head.activation=relu"
                )
            if face.parts:
                self.trunks[e] = Trunk(face.parts, units, kind, dropout, face.seed + 10)
        self.expert_names: dict[str, tuple[str, ...]] = {}
        self.towers: dict[str, Towers] = {}
        for k, route in self.routes.items():
            faces = {e: experts[e] for e in route.experts}
            weighed = tuple(e for e in route.experts if e in self.trunks)
            if gated and len(weighed) > 1:
                parts = [part for e in route.gate for part in experts[e].parts]
                own = seed_of(seed, f"gate of {k}")
                self.affines[k] = Affine.of(parts)
                self.gates[k] = Gate(sum(p.width for p in parts), len(weighed), own, f"gate_{k}")
                self.expert_names[k] = weighed
            kind = activation_of(activation, faces)
            self.towers[k] = Towers(faces, [k], units[-1], tower, kind, dropout, seed)
        self.tower_widths = {k: towers.widths[k] for k, towers in self.towers.items()}

    def __call__(
        self, x: Mapping[str, Encoded], *, training: bool, labels: tuple[str, ...]
    ) -> Outputs:
        read = {e for k in labels for e in self.routes[k].experts}
        hidden = {
            e: trunk.join(x[e].parts, training=training)[-1]
            for e, trunk in self.trunks.items()
            if e in read
        }
        found = [self._label(k, x, hidden, training) for k in labels]
        return Outputs(
            *({k: v for one in of for k, v in one.items()} for of in zip(*found, strict=True))
        )

    def _label(
        self, k: str, x: Mapping[str, Encoded], hidden: Mapping[str, Tensor], training: bool
    ) -> Outputs:
        route, weights = self.routes[k], {}
        outputs = [
            tf.stop_gradient(hidden[e]) if e in route.stopped else hidden[e]
            for e in route.experts
            if e in hidden
        ]
        if k in self.gates:
            parts = [part for e in route.gate for part in x[e].parts]
            weights = {k: tf.nn.softmax(joined(parts, self.affines[k], self.gates[k].kernel))}
            merged = mixture(weights[k], [h[:, None] for h in outputs])
        else:
            merged = tf.add_n(outputs) / len(outputs)
        read = {e: _stopped(x[e]) if e in route.stopped else x[e] for e in route.experts}
        return self.towers[k]({k: merged}, read, training=training, gates=weights)

    def bias(self, label: str) -> tf.Variable:
        """The constant of a label's logit."""
        return self.towers[label].bias(label)


def _stopped(x: Encoded) -> Encoded:
    """The same terms of a logit; no gradient passes them."""
    return x._replace(direct=tuple(map(tf.stop_gradient, x.direct)), wide=tf.stop_gradient(x.wide))
