"""Next-item prediction: InfoNCE between a state and the behaviour that follows it."""

from typing import NamedTuple

import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.losses._inputs import check_shape, check_temperature, unit

_LOSS = "next_item_prediction"

# exp(cos/τ) and its sums over 1e5 samples stay inside float32's normal range up to 1/τ = 40.
LARGEST_PLAIN_LOGIT = 40.0


def next_item_prediction(
    states: tf.Tensor,
    history: tf.Tensor,
    mask: tf.Tensor,
    temperature: float,
    *,
    item_ids: tf.Tensor | None = None,
    block: int | None = None,
) -> tf.Tensor:
    """L_pi + L_ip of AT4CTR, Eq. 9 and 10, with sim the cosine.

    L_pi = -(1/N) Σ_{(i,k)} ln [ exp(sim(r_i^k, e_i^{k+1})/τ) / Σ_j exp(sim(r_i^k, e_j^{k+1})/τ) ],
    and L_ip with e_i^{k+1} fixed and r_j^k in the denominator.

    Histories of any length (the paper assumes all full): a term (i, k) counts, and j is a
    candidate at k, where both k and k+1 are real, in both directions. Positions with fewer than
    two such samples are left out of the sum and of N, the number of counted terms. N = 0 gives 0.

    Duplicates (not in the paper): with `item_ids`, other samples with the same item at k+1 are no
    candidates at k, in both directions; the sample's own pair always is.

    Blocks (not in the paper): with `block`, candidates come from the anchor's own block of
    `block` consecutive samples (the last may be smaller), and "position" above reads "position
    within a block". The cost falls by B / block and the task gets easier: ln(block), not ln(B), is
    the loss of a blind guess. None is the whole batch.

    One position (and block) is done at a time and its gradient is worked out with its value, so
    one [n_k, n_k] matrix lives at once and only [N, d] is kept for the backward pass; without a
    gradient that part is pruned from the graph. Second derivatives are not supported, nor XLA.
    Padding is never read, its gradient is zero. Vectors shorter than 1e-4 are shrunk instead of
    normalised, so the gradient at the zero vector is finite. In float32 whatever the inputs' type.

    Args:
        states: [B, T, d]; states[:, k] has seen behaviours 0..k.
        history: [B, T, d] behaviours, oldest first.
        mask: [B, T] bool, True where real; real positions need not be left-aligned.
        temperature: τ₂ > 0.
        item_ids: [B, T], integers or strings, or None to keep duplicates as candidates.
        block: at least 2, or None.

    Returns:
        Scalar, float32, in nats.

    Raises:
        InputError: a temperature that is not positive, a block below 2, or static shapes that do
            not fit.
    """
    check_temperature(_LOSS, temperature)
    if block is not None and block < 2:
        raise InputError(
            f"block of {_LOSS} is {block}: expected at least 2, or None for the whole batch"
        )
    states, history = tf.convert_to_tensor(states), tf.convert_to_tensor(history)
    check_shape(_LOSS, "states", states, tf.TensorShape([None, None, None]))
    check_shape(_LOSS, "history", history, states.shape)
    mask = tf.convert_to_tensor(mask)
    check_shape(_LOSS, "mask", mask, states.shape[:2])

    terms = _terms(tf.cast(mask, tf.bool), block)
    here = tf.stack([terms.sample, terms.position], axis=1)  # [N, 2]
    after = tf.stack([terms.sample, terms.position + 1], axis=1)
    queries = unit(tf.gather_nd(states, here))  # [N, d]
    items = unit(tf.gather_nd(history, after))
    labels = None
    if item_ids is not None:
        item_ids = tf.convert_to_tensor(item_ids)
        check_shape(_LOSS, "item_ids", item_ids, states.shape[:2])
        labels = tf.unique(tf.gather_nd(item_ids, after)).idx  # int32 compares fastest
    total = _sum_over_slices(queries, items, labels, terms.sizes, temperature)
    return tf.math.divide_no_nan(total, tf.cast(tf.size(terms.sample), tf.float32))


class _Terms(NamedTuple):
    """The N counted terms, ordered by slice: a position, or a block of samples at a position."""

    sample: tf.Tensor  # [N]
    position: tf.Tensor  # [N]
    sizes: tf.Tensor  # [number of slices], each at least 2, sum N


def _terms(mask: tf.Tensor, block: int | None) -> _Terms:
    counted = tf.transpose(mask[:, :-1] & mask[:, 1:])  # [T-1, B]
    found = tf.where(counted)
    position, sample = found[:, 0], found[:, 1]
    slices = position
    if block is not None:
        slices = position * tf.shape(mask, tf.int64)[0] + sample // block  # unique, rising
    _, slice_of, sizes = tf.unique_with_counts(slices)
    large = tf.gather(sizes, slice_of) >= 2
    return _Terms(
        tf.boolean_mask(sample, large),
        tf.boolean_mask(position, large),
        tf.boolean_mask(sizes, sizes >= 2),
    )


def _sum_over_slices(
    queries: tf.Tensor,
    items: tf.Tensor,
    labels: tf.Tensor | None,
    sizes: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    """Σ of `_both_directions` over the slices of `sizes` consecutive rows."""
    count = tf.size(sizes)
    if tf.executing_eagerly() and count == 0:  # where TensorArray.split refuses to make no part
        return tf.reduce_sum(queries) + tf.reduce_sum(items)
    parts = [_split(x, sizes) for x in (queries, items, labels) if x is not None]

    def one_more(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        part = [array.read(i) for array in parts]
        same = part[2][:, None] == part[2][None, :] if labels is not None else None
        return i + 1, total + _both_directions(part[0], part[1], same, temperature)

    def unfinished(i: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
        del total
        return i < count

    start = (tf.constant(0), tf.constant(0.0))
    return tf.while_loop(unfinished, one_more, start, parallel_iterations=1)[1]


def _split(rows: tf.Tensor, sizes: tf.Tensor) -> tf.TensorArray:
    array = tf.TensorArray(
        rows.dtype,
        size=tf.size(sizes),
        element_shape=[None, *rows.shape[1:]],
        infer_shape=False,
    )
    return array.split(rows, sizes)


def _both_directions(
    queries: tf.Tensor, items: tf.Tensor, same: tf.Tensor | None, temperature: float
) -> tf.Tensor:
    """Σ_i [lse_j s_ij + lse_j s_ji - 2 s_ii], s = Q Eᵀ / τ, for unit rows Q and E [n, d].

    With G = softmax over rows + softmax over columns of s:
    dQ = (G - 2 I) E / τ and dE = (G - 2 I)ᵀ Q / τ.
    """

    @tf.custom_gradient
    def value(q: tf.Tensor, e: tf.Tensor):  # type: ignore[no-untyped-def]
        scaled = q / temperature
        own = tf.reduce_sum(scaled * e, axis=1)
        logits = tf.matmul(scaled, e, transpose_b=True)  # [n, n]
        softmax = _plain if 1.0 / temperature <= LARGEST_PLAIN_LOGIT else _stable
        normalisers, weights, own_weight = softmax(logits, own, same)

        dq = (tf.matmul(weights, e) + own_weight * e) / temperature
        de = (tf.matmul(weights, q, transpose_a=True) + own_weight * q) / temperature
        return tf.reduce_sum(normalisers - 2.0 * own), lambda up: (up * dq, up * de)

    return value(queries, items)


# Both return: lse of row i plus lse of column i [n]; G [n, n]; and what the diagonal of G - 2 I
# needs beyond G, a scalar or [n, 1].
_Softmax = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def _plain(logits: tf.Tensor, own: tf.Tensor, same: tf.Tensor | None) -> _Softmax:
    """One exponential serves rows and columns: cosines bound it, so no maximum is subtracted."""
    powers = tf.exp(logits)
    if same is not None:
        powers *= tf.cast(~same, tf.float32)  # drops the own pair too
    ones = tf.ones_like(own)
    rows = tf.linalg.matvec(powers, ones)  # faster than reduce_sum
    columns = tf.linalg.matvec(powers, ones, transpose_a=True)
    own_weight = tf.constant(-2.0)
    if same is not None:
        own_power = tf.exp(own)
        rows, columns = rows + own_power, columns + own_power
        own_weight = (own_power * (1.0 / rows + 1.0 / columns) - 2.0)[:, None]
    weights = powers * (1.0 / rows[:, None] + 1.0 / columns[None, :])
    return tf.math.log(rows) + tf.math.log(columns), weights, own_weight


def _stable(logits: tf.Tensor, own: tf.Tensor, same: tf.Tensor | None) -> _Softmax:
    """For temperatures so small that exp(1/τ) leaves float32."""
    if same is not None:
        logits = tf.where(same, logits.dtype.min, logits)
        logits = tf.linalg.set_diag(logits, own)
    rows = tf.reduce_logsumexp(logits, axis=1)
    columns = tf.reduce_logsumexp(logits, axis=0)
    weights = tf.exp(logits - rows[:, None]) + tf.exp(logits - columns[None, :])
    return rows + columns, weights, tf.constant(-2.0)
