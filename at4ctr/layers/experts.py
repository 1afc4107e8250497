"""Experts of equal widths in batched products, the gates that weigh them, and their mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import tensorflow as tf

from at4ctr.contracts import Activation, Tensor
from at4ctr.errors import InputError
from at4ctr.layers.mlp import Affine, Dropout, activate, build_activation, joined, product
from at4ctr.layers.towers import seed_of

SHARED = "shared"  # the group of experts that every label reads


class Group(tf.Module):
    """The weights of m MLPs: of each layer a kernel [m, I, O] and a bias [m, O].

    Every kernel starts Glorot uniform, each expert from draws of its own.
    """

    def __init__(
        self,
        count: int,
        widths: tuple[int, ...],
        activation: Activation,
        dropout: float,
        seed: int,
        name: str,
    ) -> None:
        super().__init__(name=name)
        self.count = count
        self.kernels, self.biases, self.activations, self.dropouts = [], [], [], []
        for i, (a, b) in enumerate(pairwise(widths)):
            limit = (6.0 / (a + b)) ** 0.5
            start = tf.random.stateless_uniform([count, a, b], (seed, i), -limit, limit)
            self.kernels.append(tf.Variable(start, name=f"kernel_{i}"))
            self.biases.append(tf.Variable(tf.zeros([count, b]), name=f"bias_{i}"))
            self.activations.append(build_activation(activation, count * b, i))
            self.dropouts.append(Dropout(dropout, seed * 1009 + i, f"dropout_{i}"))

    def finish(self, i: int, x: Tensor, *, training: bool) -> Tensor:
        """Bias, activation and dropout of layer i. x, its product [B, m, O] -> the same shape."""
        flat = tf.reshape(x + self.biases[i], [-1, x.shape[1] * x.shape[2]])
        flat = self.dropouts[i](activate(self.activations[i], flat, training), training)
        return tf.reshape(flat, [-1, *x.shape[1:]])


class Experts(tf.Module):
    """Groups of MLPs of the same widths; a layer of all groups asked for is one product.

    counts: group -> its experts. units: widths of every expert's layers. A group's seed comes from
    its name.
    """

    def __init__(
        self,
        counts: Mapping[str, int],
        width: int,
        units: tuple[int, ...],
        activation: Activation,
        dropout: float,
        seed: int,
    ) -> None:
        super().__init__(name="experts")
        if not units or min(units) < 1:
            raise InputError(
                f"units of an expert are {units}; expected one width or more, all positive"
            )
        self.units = units
        self.of = {
            k: Group(m, (width, *units), activation, dropout, seed_of(seed, f"experts of {k}"), k)
            for k, m in counts.items()
            if m
        }

    def from_parts(
        self,
        parts: Sequence[Tensor],
        affine: Affine,
        groups: Sequence[str],
        gates: Mapping[str, Gate],
        *,
        training: bool,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Group -> what its experts give, [B, m, U], and gate -> its weights [B, E]. All of them
        read affine(parts), and the first layer and the gates are one product (`joined`).
        """
        kernels = [self.kernel(groups), *(gate.kernel for gate in gates.values())]
        widths = [kernel.shape[1] for kernel in kernels]
        first, *scores = tf.split(joined(parts, affine, tf.concat(kernels, 1)), widths, 1)
        weights = {k: tf.nn.softmax(z) for k, z in zip(gates, scores, strict=True)}
        return self.after(groups, first, training=training), weights

    def kernel(self, groups: Sequence[str]) -> Tensor:
        """The first layer of all experts of the groups as one kernel [I, E · O]."""
        kernels = tf.concat([self.of[k].kernels[0] for k in groups], 0)
        return tf.reshape(tf.transpose(kernels, [1, 0, 2]), [kernels.shape[1], -1])

    def after(self, groups: Sequence[str], x: Tensor, *, training: bool) -> dict[str, Tensor]:
        """Group -> what its experts give, [B, m, U], of x, the product with ``kernel``."""
        found = self._finish(0, groups, tf.reshape(x, [-1, self._count(groups), self.units[0]]),
                             training=training)  # fmt: skip
        for i in range(1, len(self.units)):
            found = self._layer(i, found, training=training)
        return found

    def __call__(self, inputs: Mapping[str, Tensor], *, training: bool) -> dict[str, Tensor]:
        """Group -> what its experts give, [B, m, U]; inputs: group -> what they read, [B, I]."""
        found = {k: tf.repeat(x[:, None], self.of[k].count, 1) for k, x in inputs.items()}
        for i in range(len(self.units)):
            found = self._layer(i, found, training=training)
        return found

    def _layer(self, i: int, x: Mapping[str, Tensor], *, training: bool) -> dict[str, Tensor]:
        kernels = tf.concat([self.of[k].kernels[i] for k in x], 0)
        products = product(tf.concat(list(x.values()), 1), kernels, "bei,eio->beo")
        return self._finish(i, tuple(x), products, training=training)

    def _finish(
        self, i: int, groups: Sequence[str], products: Tensor, *, training: bool
    ) -> dict[str, Tensor]:
        found = tf.split(products, [self.of[k].count for k in groups], 1)
        return {
            k: self.of[k].finish(i, x, training=training)
            for k, x in zip(groups, found, strict=True)
        }

    def _count(self, groups: Iterable[str]) -> int:
        return sum(self.of[k].count for k in groups)


class Gate(tf.Module):
    """g = softmax(x W): weights of E experts, no bias (Ma et al., KDD 2018, Eq. 7).

    W starts Glorot uniform from a seed of its own, so that two gates start apart.
    """

    def __init__(self, width: int, experts: int, seed: int, name: str) -> None:
        super().__init__(name=name)
        limit = (6.0 / (width + experts)) ** 0.5
        start = tf.random.stateless_uniform([width, experts], (seed, 0), -limit, limit)
        self.kernel = tf.Variable(start, name="kernel")

    def __call__(self, x: Tensor) -> Tensor:
        """[B, width] -> [B, E]."""
        return tf.nn.softmax(product(x, self.kernel))


def mixture(weights: Tensor, experts: Sequence[Tensor]) -> Tensor:
    """Σ_e g_e E_e. weights [B, E]; experts [B, m, U] each, E in all -> [B, U]."""
    return tf.einsum("be,beu->bu", weights, tf.concat(experts, 1))
