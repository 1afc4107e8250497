"""Dense stacks, the activations of the CTR literature, and reproducible dropout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Literal

import tensorflow as tf

from at4ctr.contracts import Activation, Part, Tensor
from at4ctr.errors import InputError, unknown
from at4ctr.layers.population import batch_moments

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
PRODUCTS = {"float32": None, "mixed_bfloat16": tf.bfloat16, "mixed_float16": tf.float16}

_LOW: ContextVar[tf.DType | None] = ContextVar("low", default=None)


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Inside, the products of dense layers are computed in the type that ``precision`` names.

    Their results return to float32 at once, so that variables, biases, activations, statistics,
    softmax, losses and what an optimizer sees are float32 throughout.
    """
    if precision not in PRODUCTS:
        raise unknown("fit.precision", precision, PRODUCTS)
    token = _LOW.set(PRODUCTS[precision])
    try:
        yield
    finally:
        _LOW.reset(token)


def product(x: Tensor, kernel: Tensor, equation: str = "") -> Tensor:
    """x W of a dense layer, as ``products_in`` says. x [..., I], W [I, O] -> [..., O].

    equation: of another product, as ``tf.einsum`` reads it.
    """
    low = _LOW.get()
    a, b = (x, kernel) if low is None else (tf.cast(x, low), tf.cast(kernel, low))
    found = tf.einsum(equation, a, b) if equation else tf.linalg.matmul(a, b)
    return found if low is None else tf.cast(found, x.dtype)


class Dense(tf.Module):
    """y = xW + b, W Glorot uniform from a stateless seed, b zero. x [..., I] -> [..., units]."""

    def __init__(self, width: int, units: int, seed: tuple[int, int], name: str) -> None:
        super().__init__(name=name)
        limit = (6.0 / (width + units)) ** 0.5
        start = tf.random.stateless_uniform([width, units], seed, -limit, limit)
        self.kernel = tf.Variable(start, name="kernel")
        self.bias = tf.Variable(tf.zeros([units]), name="bias")

    def __call__(self, x: Tensor) -> Tensor:
        return product(x, self.kernel) + self.bias


_KEPT: ContextVar[bool] = ContextVar("kept", default=False)


@contextmanager
def without_dropout() -> Iterator[None]:
    """Inside, a training pass drops nothing out and draws no seed."""
    token = _KEPT.set(True)
    try:
        yield
    finally:
        _KEPT.reset(token)


class Dice(tf.Module):
    """f(x) = p x + (1 − p) α x, p = σ((x − E[x]) / √(Var[x] + ε)), α learned from 0 (DIN, Eq. 4).

    Training uses the statistics of the batch; of several replicas each uses its own rows. Serving
    uses ``mean`` and ``variance``, which no training step changes: `at4ctr.population` estimates
    them for the weights that are evaluated or saved. The public code uses the batch's in serving
    too, so that a served score would depend on its neighbours.
    """

    epsilon = 1e-9

    def __init__(self, units: int, name: str) -> None:
        super().__init__(name=name)
        self.alpha = tf.Variable(tf.zeros([units]), name="alpha")
        self.mean = tf.Variable(tf.zeros([units]), trainable=False, name="mean")
        self.variance = tf.Variable(tf.ones([units]), trainable=False, name="variance")

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        if training:
            mean, variance = batch_moments(self, x)
        else:
            mean, variance = tf.identity(self.mean), tf.identity(self.variance)
        gate = tf.sigmoid((x - mean) * tf.math.rsqrt(variance + self.epsilon))
        return x * (gate + (1.0 - gate) * self.alpha)


class PReLU(tf.Module):
    """max(0, x) + α min(0, x), one α per unit, initially 0.1 (as in the public code of DIEN)."""

    def __init__(self, units: int, name: str) -> None:
        super().__init__(name=name)
        self.alpha = tf.Variable(tf.fill([units], 0.1), name="alpha")

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        del training
        return tf.nn.relu(x) - self.alpha * tf.nn.relu(-x)


class Affine(tf.Module):
    """y = γ x + β per input. The public code's input "batch normalisation" is this: it never reads
    batch statistics (readings of DBPMaN's and CAN's released models)."""

    def __init__(self, width: int, name: str = "affine") -> None:
        super().__init__(name=name)
        self.gamma = tf.Variable(tf.ones([width]), name="gamma")
        self.beta = tf.Variable(tf.zeros([width]), name="beta")

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Affine:
        """Over parts side by side; γ starts at each part's ``scale``."""
        made = cls(sum(part.width for part in parts))
        made.gamma.assign([part.scale for part in parts for _ in range(part.width)])
        return made

    def __call__(self, x: Tensor) -> Tensor:
        return self.gamma * x + self.beta


class Draws(tf.Module):
    """Seeds for stateless draws; the state is a variable, so a checkpoint resumes it exactly."""

    def __init__(self, seed: int, name: str = "draws") -> None:
        super().__init__(name=name)
        self.generator = tf.random.Generator.from_seed(seed, alg="philox")

    def seed(self) -> Tensor:
        """A new seed [2] int32 at every call."""
        return tf.cast(self.generator.make_seeds(1)[:, 0], tf.int32)


class Dropout(tf.Module):
    """Inverted dropout in training; x itself in serving and inside ``without_dropout``."""

    def __init__(self, rate: float, seed: int, name: str = "dropout") -> None:
        super().__init__(name=name)
        if not 0 <= rate < 1:
            raise InputError(f"dropout is {rate}; expected at least 0 and below 1; use 0 for none")
        self.rate = rate
        self.draws = Draws(seed) if rate else None

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        if not training or self.draws is None or _KEPT.get():
            return x
        return tf.nn.experimental.stateless_dropout(x, self.rate, self.draws.seed())


class MLP(tf.Module):
    """Dense → activation → dropout, repeated. x [..., width] -> [..., units[-1]].

    last: activation of the last layer; the same as the others by default.
    """

    def __init__(
        self,
        width: int,
        units: tuple[int, ...],
        activation: Activation,
        *,
        seed: int,
        last: Activation | None = None,
        dropout: float = 0.0,
        name: str = "mlp",
    ) -> None:
        super().__init__(name=name)
        if not units or min(units) < 1:
            raise InputError(
                f"units of {name} are {units}; expected one width or more, all positive"
            )
        widths = (width, *units)
        self.dense = [
            Dense(a, b, (seed, i), f"dense_{i}")
            for i, (a, b) in enumerate(zip(widths, units, strict=False))
        ]
        kinds = [activation] * (len(units) - 1) + [last or activation]
        self.activations = [
            build_activation(k, u, i) for i, (k, u) in enumerate(zip(kinds, units, strict=True))
        ]
        self.dropouts = [
            Dropout(dropout, seed * 1009 + i, f"dropout_{i}") for i in range(len(units))
        ]
        self.units, self.width = tuple(units), units[-1]

    def __call__(self, x: Tensor, *, training: bool) -> Tensor:
        return self.layers(x, training=training)[-1]

    def layers(self, x: Tensor, *, training: bool) -> tuple[Tensor, ...]:
        """The output of every layer, from the first to the last."""
        return self.after(self.dense[0](x), training=training)

    def after(self, x: Tensor, *, training: bool) -> tuple[Tensor, ...]:
        """The output of every layer, given the product and bias of the first one."""
        found = []
        for i, dense in enumerate(self.dense):
            x = self.finish(i, dense(x) if i else x, training=training)
            found.append(x)
        return tuple(found)

    def finish(self, i: int, x: Tensor, *, training: bool) -> Tensor:
        """The output of layer i, given its product and bias."""
        return self.dropouts[i](activate(self.activations[i], x, training), training)


class Trunk(MLP):
    """affine → MLP over the concatenated parts: the last layers of the public code of DIEN, CAN and
    DBPMaN.

    The affine layer's γ starts at each part's ``scale``.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        units: tuple[int, ...],
        activation: Activation,
        dropout: float,
        seed: int,
    ) -> None:
        width = self.input = sum(part.width for part in parts)
        super().__init__(width, units, activation, seed=seed, dropout=dropout, name="trunk")
        self.affine = Affine.of(parts)

    def layers(self, x: Tensor, *, training: bool) -> tuple[Tensor, ...]:
        return super().layers(self.affine(x), training=training)

    def join(self, parts: Sequence[Tensor], *, training: bool) -> tuple[Tensor, ...]:
        """The output of every layer, of parts as `joined` takes them."""
        return self.after(self.first(parts), training=training)

    def first(self, parts: Sequence[Tensor]) -> Tensor:
        """Product and bias of the first layer, of the same parts."""
        return joined(parts, self.affine, self.dense[0].kernel) + self.dense[0].bias


def joined(parts: Sequence[Tensor], affine: Affine, kernel: Tensor) -> Tensor:
    """(γ x + β) W, x the parts [B, w] side by side, W [Σw, O] -> [B, O].

    A part of one row, [1, w] statically, stands for every row, and its product is computed once.
    """
    once = [i for i, part in enumerate(parts) if part.shape[0] == 1]
    if len(once) in (0, len(parts)):
        return product(affine(tf.concat(parts, -1)), kernel)
    widths = [part.shape[-1] for part in parts]
    gamma, beta = (tf.split(v, widths) for v in (affine.gamma, affine.beta))
    kernels = tf.split(kernel, widths)
    sums = []
    for own in (once, [i for i in range(len(parts)) if i not in once]):
        g, b, x = (tf.concat([v[i] for i in own], -1) for v in (gamma, beta, parts))
        sums.append(tf.linalg.matmul(g * x + b, tf.concat([kernels[i] for i in own], 0)))
    return sums[0] + sums[1]


def activate(activation, x: Tensor, training: bool) -> Tensor:  # type: ignore[no-untyped-def]
    """Applies what `build_activation` returned to x [B, units]."""
    return activation(x, training) if isinstance(activation, Dice | PReLU) else activation(x)


def build_activation(kind: Activation, units: int, index: int):  # type: ignore[no-untyped-def]
    """A layer's activation. units: its width."""
    match kind:
        case "dice":
            return Dice(units, f"dice_{index}")
        case "prelu":
            return PReLU(units, f"prelu_{index}")
        case "relu":
            return tf.nn.relu
        case "leaky_relu":
            return partial(tf.nn.leaky_relu, alpha=0.01)  # PyTorch's slope
        case "sigmoid":
            return tf.sigmoid
        case "linear":
            return tf.identity
