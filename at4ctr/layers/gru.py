"""GRU and attentional GRU over packed histories: no step is spent on padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from at4ctr.contracts import Tensor
from at4ctr.errors import unknown
from at4ctr.layers.mlp import Dense
from at4ctr.layers.steps import Steps

Form = Literal["code", "paper"]
FORMS: tuple[Form, ...] = ("code", "paper")


class _Cell(tf.Module):
    """The weights of a recurrence, as TF1's GRUCell has and starts them."""

    def __init__(self, width: int, units: int, seed: int, name: str = "gru") -> None:
        super().__init__(name=name)
        self.inputs = width
        self.gates = Dense(width + units, 2 * units, (seed, 0), "gates")
        self.gates.bias.assign(tf.ones([2 * units]))
        self.candidate = Dense(width + units, units, (seed, 1), "candidate")

    def run(
        self, x: Tensor, attention: Tensor | None, steps: Steps, form: Form, *, training: bool
    ) -> Tensor:
        (gates, gate_kernel), (candidate, candidate_kernel) = self.projected(x)
        kernels = gate_kernel, candidate_kernel
        return scan(gates, candidate, attention, *kernels, steps, form, training=training)

    def projected(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of gates and candidate: projected inputs of all positions, and the state's kernel."""
        kernels = [(tf.convert_to_tensor(d.kernel), d.bias) for d in (self.gates, self.candidate)]
        i = self.inputs
        return [(tf.linalg.matmul(x, kernel[:i]) + bias, kernel[i:]) for kernel, bias in kernels]


class GRU(_Cell):
    """TF1's GRUCell, as DIEN's public code uses it (reset before the recurrent product):

        r, u = σ(W [x; h] + b),   c = tanh(W_c [x; r ⊙ h] + b_c),   h' = u ⊙ h + (1 − u) ⊙ c

    DIEN (Eq. 2-5) resets after the product, U h ⊙ r, which is another model; and it has u and 1 − u
    the other way round, which is the same model from another start. Kernels start Glorot uniform,
    gate biases at 1, candidate biases at 0, as GRUCell's; a history starts from h = 0.
    """

    def __call__(self, x: Tensor, steps: Steps, *, training: bool) -> Tensor:
        """x [R, I] -> states [R, units], both in the order of ``steps``."""
        return self.run(x, None, steps, "code", training=training)


class AUGRU(_Cell):
    """GRU whose update is scaled by the attention a on each behaviour: h' = k ⊙ h + (1 − k) ⊙ c.

    form: "code": k = (1 − a) u, as the public code computes, where a behaviour without attention
    still overwrites 1 − u of the state. "paper": k = 1 − a u, as DIEN prints it, which leaves the
    state alone where a = 0. With gate biases of 1, u starts near σ(1) = 0.73, of keeping in the one
    form and of overwriting in the other.
    """

    def __init__(self, width: int, units: int, form: Form, seed: int, name: str = "augru") -> None:
        super().__init__(width, units, seed, name)
        if form not in FORMS:
            raise unknown("form of the AUGRU", form, FORMS)
        self.form: Form = form

    def __call__(self, x: Tensor, attention: Tensor, steps: Steps, *, training: bool) -> Tensor:
        """x [R, I], attention [R] in [0, 1] -> states [R, units], in the order of ``steps``."""
        return self.run(x, attention, steps, self.form, training=training)

    def shared(self, x: Tensor, attention: Tensor) -> Tensor:
        """One history x [R, I] under N attentions [R, N] -> the last states [N, units], 0 without a
        behaviour. Only serving calls it. The history's inputs are projected once."""
        (gates, gate_kernel), (candidate, candidate_kernel) = self.projected(x)
        total, size = tf.unstack(tf.shape(attention))

        def body(t: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            inputs, a = (gates[t], candidate[t]), attention[t][:, None]
            return t + 1, _cell(inputs, h, gate_kernel, candidate_kernel, a, self.form)[0]

        start = tf.zeros([size, candidate_kernel.shape[-1]], x.dtype)
        return tf.while_loop(lambda t, _: t < total, body, (0, start))[1]


def scan(
    gates: Tensor,
    candidate: Tensor,
    attention: Tensor | None,
    gate_kernel: Tensor,
    candidate_kernel: Tensor,
    steps: Steps,
    form: Form,
    *,
    training: bool,
) -> Tensor:
    """The recurrence on projected inputs -> states [R, J].

    gates [R, 2J] (r, u), candidate [R, J], attention [R] or None for a plain GRU, all in the order
    of ``steps``; kernels [J, 2J] and [J, J]. In training the gradient is written out, which is
    faster. Otherwise it is TensorFlow's, as a SavedModel cannot hold one that reads saved arrays.
    """
    extra = () if attention is None else (attention[:, None],)
    inputs = (gates, candidate, gate_kernel, candidate_kernel, *extra)
    if not training:
        return _forward(*inputs, steps=steps, form=form).states.concat()

    @tf.custom_gradient
    def run(*inputs: Tensor) -> tuple[Tensor, Callable[..., Any]]:
        saved = _forward(*inputs, steps=steps, form=form)

        def gradient(dstates: Tensor) -> tuple[Tensor, ...]:
            return _backward(
                tf.convert_to_tensor(dstates), saved, inputs[2], inputs[3], steps, form
            )

        return saved.states.concat(), gradient

    return run(*inputs)


class _Saved(NamedTuple):
    """One entry per step of what the backward pass reads."""

    attention: tf.TensorArray | None  # a [n_t, 1]
    states: tf.TensorArray  # h' [n_t, J]
    before: tf.TensorArray  # h [n_t, J]
    gates: tf.TensorArray  # (r, u) [n_t, 2J]
    candidates: tf.TensorArray  # c [n_t, J]


def _forward(
    gates: Tensor,
    candidate: Tensor,
    gate_kernel: Tensor,
    candidate_kernel: Tensor,
    attention: Tensor | None = None,
    *,
    steps: Steps,
    form: Form,
) -> _Saved:
    units, dtype = candidate_kernel.shape[-1], gates.dtype
    total = tf.size(steps.counts)
    live = tf.stack([steps.counts, tf.fill([total], units)], 1)
    xs, ys = _split(gates, steps), _split(candidate, steps)
    attended = None if attention is None else _split(attention, steps)

    def body(t: Tensor, h: Tensor, *outputs: tf.TensorArray) -> tuple[Any, ...]:
        h = tf.slice(h, [0, 0], live[t])
        a = None if attended is None else attended.read(t)
        inputs = xs.read(t), ys.read(t)
        after, ru, c = _cell(inputs, h, gate_kernel, candidate_kernel, a, form)
        found = (after, h, ru, c)
        return t + 1, after, *(o.write(t, v) for o, v in zip(outputs, found, strict=True))

    start = tf.zeros([tf.reduce_sum(steps.counts[:1]), units], dtype)
    arrays = [_array(total, width, dtype) for width in (units, units, 2 * units, units)]
    _, _, *found = _loop(lambda t, *_: t < total, body, (0, start, *arrays))
    return _Saved(attended, *found)


def _cell(
    inputs: tuple[Tensor, Tensor],
    h: Tensor,
    gate_kernel: Tensor,
    candidate_kernel: Tensor,
    attention: Tensor | None,
    form: Form,
) -> tuple[Tensor, Tensor, Tensor]:
    """h' [n, J], (r, u) and c of projected inputs [n, 2J] and [n, J], or one row for all, and h."""
    x, y = inputs
    ru = tf.sigmoid(x + tf.linalg.matmul(h, gate_kernel))
    r, u = tf.split(ru, 2, 1)
    c = tf.tanh(y + tf.linalg.matmul(r * h, candidate_kernel))
    return c + _keep(u, attention, form) * (h - c), ru, c


def _keep(u: Tensor, attention: Tensor | None, form: Form) -> Tensor:
    """k of h' = k h + (1 - k) c."""
    if attention is None:
        return u
    return (1.0 - attention) * u if form == "code" else 1.0 - attention * u


def _backward(
    dstates: Tensor,
    saved: _Saved,
    gate_kernel: Tensor,
    candidate_kernel: Tensor,
    steps: Steps,
    form: Form,
) -> tuple[Tensor, ...]:
    """Gradients of gates, candidate, gate_kernel, candidate_kernel and, if any, attention."""
    units, dtype = candidate_kernel.shape[-1], candidate_kernel.dtype
    total, ends = tf.size(steps.counts), steps.ends()
    incoming = _split(dstates, steps)

    def body(t: Tensor, dh: Tensor, *rest: Any) -> tuple[Any, ...]:
        dgate_kernel, dcandidate_kernel, *outputs = rest
        dstate = incoming.read(t) + tf.pad(dh, [[0, ends[t]], [0, 0]])
        step = _step_back(dstate, saved, t, gate_kernel, candidate_kernel, form)
        dgate_kernel += tf.linalg.matmul(step.before, step.gates, transpose_a=True)
        dcandidate_kernel += tf.linalg.matmul(step.reset, step.candidate, transpose_a=True)
        found = (step.gates, step.candidate, step.attention)
        written = (o.write(t, v) for o, v in zip(outputs, found, strict=False))
        return t - 1, step.state, dgate_kernel, dcandidate_kernel, *written

    widths = (2 * units, units) if saved.attention is None else (2 * units, units, 1)
    kernels = tf.zeros_like(gate_kernel), tf.zeros_like(candidate_kernel)
    arrays = [_array(total, width, dtype) for width in widths]
    start = (total - 1, tf.zeros([0, units], dtype), *kernels, *arrays)
    found = _loop(lambda t, *_: t >= 0, body, start)
    dgates, dcandidate, *dattention = (array.concat() for array in found[4:])
    return dgates, dcandidate, *found[2:4], *dattention


class _Step(NamedTuple):
    """Gradients of one step, and the two states that the kernels were multiplied with."""

    state: Tensor  # of h
    gates: Tensor  # before the sigmoid
    candidate: Tensor  # before the tanh
    attention: Tensor | None
    before: Tensor  # h
    reset: Tensor  # r ⊙ h


def _step_back(
    dstate: Tensor,
    saved: _Saved,
    t: Tensor,
    gate_kernel: Tensor,
    candidate_kernel: Tensor,
    form: Form,
) -> _Step:
    """dstate: total gradient of h' [n_t, J]."""
    h, ru, c = (array.read(t) for array in (saved.before, saved.gates, saved.candidates))
    a = None if saved.attention is None else saved.attention.read(t)
    r, u = tf.split(ru, 2, 1)
    kept = dstate * _keep(u, a, form)
    du = dkeep = dstate * (h - c)
    da = None
    if a is not None:
        du = dkeep * (1.0 - a if form == "code" else -a)
        da = -tf.reduce_sum(dkeep * u, 1, keepdims=True)
    dc = tf.raw_ops.TanhGrad(y=c, dy=dstate - kept)
    dreset = tf.linalg.matmul(dc, candidate_kernel, transpose_b=True)
    dru = tf.raw_ops.SigmoidGrad(y=ru, dy=tf.concat([dreset * h, du], 1))
    dh = kept + dreset * r + tf.linalg.matmul(dru, gate_kernel, transpose_b=True)
    return _Step(dh, dru, dc, da, h, r * h)


def _array(size: Tensor, width: int, dtype: tf.DType) -> tf.TensorArray:
    return tf.TensorArray(
        dtype, size, element_shape=[None, width], infer_shape=False, clear_after_read=False
    )


def _split(values: Tensor, steps: Steps) -> tf.TensorArray:
    """One entry per step."""
    array = _array(tf.size(steps.counts), values.shape[-1], values.dtype)
    return array.split(values, steps.counts)


def _loop(
    condition: Callable[..., Tensor], body: Callable[..., Any], start: tuple[Any, ...]
) -> Any:
    """start: the step, a state of as many rows as are alive, then tensors and arrays."""
    shapes = [tf.TensorShape(None) if isinstance(v, tf.TensorArray) else v.shape for v in start[2:]]
    alive = tf.TensorShape([None, start[1].shape[-1]])
    return tf.while_loop(condition, body, start, (tf.TensorShape([]), alive, *shapes))
