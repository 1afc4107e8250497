"""Next-item prediction: InfoNCE between a state and the behaviour that follows it.

One [n, n] matrix of similarities serves both directions and the hand-written gradient, which is
computed with the loss; without a gradient that part is pruned from the graph. Second derivatives
are not supported, nor XLA.
"""

from itertools import pairwise
from typing import NamedTuple

import tensorflow as tf

from at4ctr.errors import InputError
from at4ctr.losses._inputs import check_shape, check_temperature, unit

_LOSS = "next_item_prediction"

# exp(cos/τ) and its sums over 1e5 samples stay inside float32's normal range up to 1/τ = 40.
LARGEST_PLAIN_LOGIT = 40.0

# Slices whose size lies between two of these share batched products, padded to the longest of a
# tile; a tile has about so many logits, which then stay in the cache.
_SIZES = (1, 32, 128, 2**30)
_TILE = 2**18


def next_item_prediction(
    states: tf.Tensor,
    behaviours: tf.Tensor,
    lengths: tf.Tensor,
    temperature: float,
    *,
    item_ids: tf.Tensor | None = None,
    block: int | None = None,
    part: tuple[tf.Tensor | int, int] = (0, 1),
) -> tf.Tensor:
    """L_pi + L_ip of AT4CTR, Eq. 9 and 10, with sim the cosine. A scalar in nats, float32.

    L_pi = -(1/N) Σ_{(i,k)} ln [ exp(sim(r_i^k, e_i^{k+1})/τ) / Σ_j exp(sim(r_i^k, e_j^{k+1})/τ) ],
    and L_ip with e_i^{k+1} fixed and r_j^k in the denominator. states r [R, d], sample after
    sample, where state k has seen behaviours 0..k; behaviours e [R, d], oldest first, without
    padding, as `Packed.values`; lengths [B], how many of the R rows each sample has; τ > 0.

    Histories of any length (the paper assumes all full): a term (i, k) counts, and j is a
    candidate at k, where both k and k+1 are real, in both directions. Positions with fewer than
    two such samples are left out of the sum and of N, the number of counted terms. N = 0 gives 0.

    Not in the paper: with `item_ids` [R], other samples with the same item at k+1 are no
    candidates at k, in both directions; the sample's own pair always is. With `block`, the n_k
    terms of a position are split, in the order of their samples, into ⌈n_k / block⌉ blocks of equal
    size (to within one), and candidates come from the anchor's own block. The cost falls by
    B / block, and a uniform guess loses ln(block), not ln(B), in each direction. With `part`
    (i, n), the sums run over every n-th block (or position) from the i-th on, while N still counts
    all terms. So the n parts add up to the loss.

    Vectors shorter than 1e-4 are shrunk instead of normalised, so the gradient at the zero vector
    is finite. Raises InputError for a temperature that is not positive, a block below 4, or static
    shapes that do not fit.
    """
    states, behaviours = tf.convert_to_tensor(states), tf.convert_to_tensor(behaviours)
    lengths = tf.convert_to_tensor(lengths)
    _check(states, behaviours, lengths, temperature, block)
    terms = _terms(tf.cast(lengths, tf.int32), block)
    labels = None if item_ids is None else _labels(item_ids, states)
    total = _sum_over_slices(unit(states), unit(behaviours), labels, terms, temperature, part)
    return tf.math.divide_no_nan(total, tf.cast(tf.size(terms.rows), tf.float32))


def _check(
    states: tf.Tensor,
    behaviours: tf.Tensor,
    lengths: tf.Tensor,
    temperature: float,
    block: int | None,
) -> None:
    """Refuses a temperature that is not positive, a block below 4, and shapes that do not fit."""
    check_temperature(_LOSS, temperature)
    if block is not None and block < 4:
        raise InputError(
            f"block of {_LOSS} is {block}: expected at least 4, or None for the whole batch"
        )
    check_shape(_LOSS, "states", states, tf.TensorShape([None, None]))
    check_shape(_LOSS, "behaviours", behaviours, states.shape)
    check_shape(_LOSS, "lengths", lengths, tf.TensorShape([None]))


def _labels(item_ids: tf.Tensor, states: tf.Tensor) -> tf.Tensor:
    """Integers or strings -> one number per item, which compares fastest. [R] int32."""
    item_ids = tf.convert_to_tensor(item_ids)
    check_shape(_LOSS, "item_ids", item_ids, states.shape[:1])
    return tf.unique(item_ids).idx


class _Terms(NamedTuple):
    """The N counted terms, ordered by slice: a position, or a block of the terms at a position."""

    rows: tf.Tensor  # [N] of the state; the behaviour to predict is in the row after it
    sizes: tf.Tensor  # [number of slices], each at least 2, sum N


def _terms(lengths: tf.Tensor, block: int | None) -> _Terms:
    positions = tf.range(tf.reduce_max(tf.concat([lengths, [1]], 0)) - 1)
    counted = positions[:, None] < lengths[None, :] - 1  # [T-1, B]
    sizes = tf.reduce_sum(tf.cast(counted, tf.int32), 1)
    counted &= (sizes >= 2)[:, None]
    found = tf.cast(tf.where(counted), tf.int32)
    starts = tf.cumsum(lengths, exclusive=True)
    sizes = tf.boolean_mask(sizes, sizes >= 2)
    if block is not None:
        parts = (sizes + block - 1) // block
        smaller, larger = tf.repeat(sizes // parts, parts), tf.repeat(sizes % parts, parts)
        sizes = smaller + tf.cast(tf.ragged.range(parts).flat_values < larger, tf.int32)
    return _Terms(tf.gather(starts, found[:, 1]) + found[:, 0], sizes)


def _sum_over_slices(
    states: tf.Tensor,
    behaviours: tf.Tensor,
    labels: tf.Tensor | None,
    terms: _Terms,
    temperature: float,
    part: tuple[tf.Tensor | int, int],
) -> tf.Tensor:
    """Σ over slices of Σ_i [lse_j s_ij + lse_j s_ji - 2 s_ii], s = Q Eᵀ / τ, for unit rows [R, d].

    With G = softmax over rows + softmax over columns of s: dQ = (G - 2 I) E / τ and
    dE = (G - 2 I)ᵀ Q / τ.
    """

    @tf.custom_gradient
    def value(q: tf.Tensor, e: tf.Tensor):  # type: ignore[no-untyped-def]
        starts = tf.cumsum(terms.sizes, exclusive=True)
        mine = tf.range(tf.size(terms.sizes)) % part[1] == part[0]
        found = []
        for low, high in pairwise(_SIZES):
            chosen = tf.where(mine & (terms.sizes > low) & (terms.sizes <= high))[:, 0]
            slices = _Slices(tf.gather(starts, chosen), tf.gather(terms.sizes, chosen))
            found.append(_sum_in_tiles(slices, terms.rows, q, e, labels, temperature))
        losses, rows, *gradients = zip(*found, strict=True)
        order, size = tf.concat(rows, 0), tf.shape(q)[0]
        dq, de = (tf.concat(g, 0) for g in gradients)
        return tf.add_n(losses), lambda up: (
            up * _spread(dq, order, size),
            up * _spread(de, order + 1, size),
        )

    return value(states, behaviours)


def _spread(rows: tf.Tensor, order: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """[n, d] at places ``order`` of ``size``, 0 elsewhere; a gather is faster than a scatter."""
    count = tf.size(order)
    where = tf.tensor_scatter_nd_update(tf.fill([size], count), order[:, None], tf.range(count))
    return tf.gather(tf.pad(rows, [[0, 1], [0, 0]]), where)


class _Slices(NamedTuple):
    starts: tf.Tensor  # [n]
    sizes: tf.Tensor  # [n]


# A loss, the rows it was of [n], and its gradients at them [n, d].
_Sum = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]


def _sum_in_tiles(
    slices: _Slices,
    terms: tf.Tensor,
    states: tf.Tensor,
    behaviours: tf.Tensor,
    labels: tf.Tensor | None,
    temperature: float,
) -> _Sum:
    """`_tile`, of as many slices at a time as make `_TILE` logits."""
    longest = tf.reduce_max(tf.concat([slices.sizes, [1]], 0))
    per = tf.maximum(1, _TILE // (longest * longest))
    count = (tf.size(slices.sizes) + per - 1) // per
    shapes = ((tf.int32, [None]), *((tf.float32, [None, states.shape[1]]),) * 2)
    arrays = [
        tf.TensorArray(dtype, size=count, element_shape=shape, infer_shape=False)
        for dtype, shape in shapes
    ]

    def one_more(i: tf.Tensor, total: tf.Tensor, *arrays: tf.TensorArray):  # type: ignore[no-untyped-def]
        tile = _Slices(*(x[i * per : (i + 1) * per] for x in slices))
        loss, *parts = _tile(tile, terms, states, behaviours, labels, temperature)
        return i + 1, total + loss, *(a.write(i, p) for a, p in zip(arrays, parts, strict=True))

    _, total, *arrays = tf.while_loop(
        lambda i, *_: i < count,
        one_more,
        (tf.constant(0), tf.constant(0.0), *arrays),
        parallel_iterations=1,
    )
    if tf.executing_eagerly() and count == 0:  # where an empty TensorArray has nothing to stack
        return total, slices.sizes[:0], states[:0], states[:0]
    rows, dq, de = (a.concat() for a in arrays)
    return total, rows, dq, de


def _tile(
    slices: _Slices,
    terms: tf.Tensor,
    states: tf.Tensor,
    behaviours: tf.Tensor,
    labels: tf.Tensor | None,
    temperature: float,
) -> _Sum:
    """All of the sums above for n slices, padded to the longest of them, w."""
    steps = tf.range(tf.reduce_max(slices.sizes))
    valid = steps < slices.sizes[:, None]
    rows = tf.gather(terms, tf.minimum(slices.starts[:, None] + steps, tf.size(terms) - 1))
    real = tf.cast(valid, tf.float32)[..., None]  # [n, w, 1]
    q = tf.gather(states, rows) * (real / temperature)  # [n, w, d]
    e = tf.gather(behaviours, rows + 1) * real
    same = None
    if labels is not None:
        names = tf.gather(labels, rows + 1)
        same = names[:, :, None] == names[:, None, :]
    own = tf.reduce_sum(q * e, -1, keepdims=True)
    logits = tf.matmul(q, e, transpose_b=True)  # [n, w, w]
    softmax = _plain if 1.0 / temperature <= LARGEST_PLAIN_LOGIT else _stable
    normalisers, weights, own_weight = softmax(logits, own, same, real)
    dq = (tf.matmul(weights, e) + own_weight * e) / temperature
    de = tf.matmul(weights, q, transpose_a=True) + own_weight * q
    kept = (tf.boolean_mask(x, valid) for x in (rows, dq, de))
    return tf.reduce_sum(real * (normalisers - 2.0 * own)), *kept


# Both take logits [n, w, w], the own ones and what is real [n, w, 1], and return: lse of row i plus
# lse of column i [n, w, 1]; G, where rows and columns are real [n, w, w]; and what the diagonal of
# G - 2 I needs beyond G, a scalar or [n, w, 1].
_Softmax = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def _plain(logits: tf.Tensor, own: tf.Tensor, same: tf.Tensor | None, real: tf.Tensor) -> _Softmax:
    """One exponential serves rows and columns: cosines bound it, so no maximum is subtracted."""
    powers = tf.exp(logits)
    if same is not None:
        powers *= tf.cast(~same, tf.float32)  # drops the own pair too
    rows = tf.matmul(powers, real)  # faster than reduce_sum
    columns = tf.matmul(powers, real, transpose_a=True)
    own_weight = tf.constant(-2.0)
    if same is not None:
        own_power = tf.exp(own)
        rows, columns = rows + own_power, columns + own_power
        own_weight = own_power * (1.0 / rows + 1.0 / columns) - 2.0
    weights = powers * (real / rows + _transposed(real / columns))
    return tf.math.log(rows) + tf.math.log(columns), weights, own_weight


def _stable(logits: tf.Tensor, own: tf.Tensor, same: tf.Tensor | None, real: tf.Tensor) -> _Softmax:
    """For temperatures so small that exp(1/τ) leaves float32."""
    if same is not None:
        logits = tf.where(same, logits.dtype.min, logits)
        logits = tf.linalg.set_diag(logits, own[..., 0])
    outside = tf.where(real > 0, 0.0, logits.dtype.min)
    rows = tf.reduce_logsumexp(logits + _transposed(outside), axis=2, keepdims=True)
    columns = _transposed(tf.reduce_logsumexp(logits + outside, axis=1, keepdims=True))
    weights = tf.exp(tf.minimum(logits - rows, 0.0)) * real
    weights += tf.exp(tf.minimum(logits - _transposed(columns), 0.0)) * _transposed(real)
    return rows + columns, weights, tf.constant(-2.0)


def _transposed(x: tf.Tensor) -> tf.Tensor:
    return tf.linalg.matrix_transpose(x)
