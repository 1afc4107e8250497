"""CL4CTR (Wang et al., WSDM 2023): contrast, alignment and uniformity of the fields' vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from at4ctr.contracts import AuxiliaryConfig, Embedded, Tensor, View
from at4ctr.errors import InputError
from at4ctr.layers.mlp import Dense, Draws
from at4ctr.layers.shape import Shape, each, history_required, mean
from at4ctr.layers.views import dropout
from at4ctr.losses.field_contrast import field_alignment, field_uniformity
from at4ctr.schema import Schema


@dataclass(frozen=True)
class Config(AuxiliaryConfig):
    """weight: λ of the task (the paper's α). beta: of alignment and uniformity beside the contrast.
    use_history: the mean behaviour stands among the fields, one field per history feature; False
    for models without a sequence. mask: dropout of the two views. layers, hidden, dropout: depth,
    feed-forward width and dropout of the encoder.
    """

    weight: float = 1.0
    beta: float = 0.01
    use_history: bool = True
    mask: float = 0.5
    layers: int = 3
    hidden: int = 128
    dropout: float = 0.2

    def __post_init__(self) -> None:
        for name in ("mask", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"cl4ctr.{name} is {getattr(self, name)}; expected at least 0 and below 1"
                )
        for name in ("layers", "hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"cl4ctr.{name} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.beta < float("inf"):
            raise InputError(f"cl4ctr.beta is {self.beta}; expected a finite number of at least 0")

    def build(self, schema: Schema, shape: Shape, seed: int) -> FieldContrast:
        del schema
        if self.use_history:
            history_required(
                "cl4ctr with use_history", shape, "set auxiliaries.cl4ctr.use_history=false"
            )
        return FieldContrast(self, shape, seed)


class FieldContrast(tf.Module):
    """L = L_cl + β (L_a + L_u) on the fields E [B, F, D] of profile, candidate and context.

    L_cl = mean_i ‖W₁ vec(T(E_i ⊙ m₁)) + b₁ − W₂ vec(T(E_i ⊙ m₂)) − b₂‖², m₁ and m₂ two dropout
    masks of single elements, T one encoder for both views, W₁ and W₂ two layers (F·D -> D). L_a and
    L_u are those of ``losses.field_contrast``. Sizes are the released code's. T is built as
    PyTorch's encoder is by default: normalisation after each residual, ReLU, dropout of the
    attention's weights, of both residual branches and of the hidden layer, no position, no last
    normalisation.

    Deviations: the released code flattens the fields without transposing them back and so mixes
    samples, which this does not; alignment and uniformity are in-batch, over a sample's vectors
    instead of whole tables; weights are Glorot. The mean history is a guess: the paper has no
    sequences. An empty history is a field of zeros. The paper starts embeddings from N(0, 0.01²);
    they belong to the embedder (embedding.scale=0.017 has that deviation).
    """

    def __init__(self, config: Config, shape: Shape, seed: int) -> None:
        super().__init__(name="cl4ctr")
        self.config, self.dimension = config, shape.dimension
        width = shape.profile + shape.item + shape.context
        width += shape.history if config.use_history else 0
        self.encoder = [
            EncoderLayer(shape.dimension, config.hidden, seed + i, f"encoder_{i}")
            for i in range(config.layers)
        ]
        self.views = [Dense(width, shape.dimension, (seed, 100 + i), f"view_{i}") for i in range(2)]
        self.draws = Draws(seed)

    def fields(self, x: Embedded) -> Tensor:
        """[B, F, D], the mean history's features last."""
        if not self.config.use_history:
            return x.fields
        pooled = each(x, mean(x))  # [B, J]
        more = tf.reshape(pooled, [-1, pooled.shape[-1] // self.dimension, self.dimension])
        return tf.concat([x.fields, more], 1)

    def contrast(self, fields: Tensor) -> Tensor:
        """L_cl of [B, F, D]; both views run through the encoder as one batch."""
        size, count = tf.shape(fields)[0], fields.shape[1]
        both = self._dropped(self.config.mask)(tf.concat([fields, fields], 0))
        x = tf.reshape(both, [-1, self.dimension])  # rows of fields: [2BF, D]
        for layer in self.encoder:
            x = layer(x, count, self._dropped(self.config.dropout))
        one, two = tf.split(tf.reshape(x, [2 * size, count * self.dimension]), 2)
        apart = self.views[0](one) - self.views[1](two)  # [B, D]
        return tf.math.divide_no_nan(2.0 * tf.nn.l2_loss(apart), tf.cast(size, apart.dtype))

    def loss(self, view: View) -> Tensor:
        fields = self.fields(view.embedded)
        found = self.contrast(fields)
        if self.config.beta:
            found += self.config.beta * (field_alignment(fields) + field_uniformity(fields))
        return found

    def _dropped(self, rate: float) -> Callable[[Tensor], Tensor]:
        def dropped(x: Tensor) -> Tensor:
            if not rate:
                return x
            return dropout(x, rate, self.draws.seed())

        return dropped


class EncoderLayer(tf.Module):
    """x' = N(x + softmax(QKᵀ/√D) V W_O), out = N(x' + W₂ relu(W₁ x')), one head, post-norm."""

    def __init__(self, width: int, hidden: int, seed: int, name: str) -> None:
        super().__init__(name=name)
        self.width = width
        self.inward = Dense(width, 3 * width, (seed, 0), "query_key_value")
        self.outward = Dense(width, width, (seed, 1), "outward")
        self.up = Dense(width, hidden, (seed, 2), "up")
        self.down = Dense(hidden, width, (seed, 3), "down")
        self.norms = [LayerNorm(width, f"norm_{i}") for i in range(2)]

    def __call__(self, x: Tensor, count: int, dropped: Callable[[Tensor], Tensor]) -> Tensor:
        """x [N·count, D], groups of ``count`` rows that see each other -> the same shape."""
        grouped = tf.reshape(self.inward(x), [-1, count, 3 * self.width])
        query, key, value = tf.split(grouped, 3, -1)  # [N, count, D]
        scores = tf.linalg.matmul(query * self.width**-0.5, key, transpose_b=True)
        seen = tf.linalg.matmul(dropped(tf.nn.softmax(scores)), value)
        x = self.norms[0](x + dropped(self.outward(tf.reshape(seen, tf.shape(x)))))
        return self.norms[1](x + dropped(self.down(dropped(tf.nn.relu(self.up(x))))))


class LayerNorm(tf.Module):
    """γ (x − mean(x)) / √(var(x) + 1e-5) + β along the last axis."""

    def __init__(self, width: int, name: str) -> None:
        super().__init__(name=name)
        self.gamma = tf.Variable(tf.ones([width]), name="gamma")
        self.beta = tf.Variable(tf.zeros([width]), name="beta")

    def __call__(self, x: Tensor) -> Tensor:
        return _standardised(x, 1e-5) * self.gamma + self.beta


def _standardised(x: Tensor, epsilon: float) -> Tensor:
    """(x − mean(x)) / √(var(x) + ε); its gradient by hand, in fewer passes than the chain's.

    With r = 1/√(var(x) + ε), y the result and u what comes from above:
    dx = r (u − mean(u) − y mean(u ⊙ y)).
    """

    @tf.custom_gradient
    def value(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        apart = x - tf.reduce_mean(x, -1, keepdims=True)
        r = tf.math.rsqrt(tf.reduce_mean(tf.square(apart), -1, keepdims=True) + epsilon)
        y = apart * r

        def gradient(u: Tensor) -> Tensor:
            along = tf.reduce_mean(u * y, -1, keepdims=True)
            return r * (u - tf.reduce_mean(u, -1, keepdims=True) - y * along)

        return y, gradient

    return value(x)
