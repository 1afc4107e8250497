"""The two terms of a factorization machine (Rendle, ICDM 2010)."""

from __future__ import annotations

import tensorflow as tf

from at4ctr.contracts import Embedded, Tensor


def second_order(vectors: Tensor) -> Tensor:
    """Σ_{i<j} ⟨v_i, v_j⟩ = ½ Σ_d [(Σ_i v_id)² − Σ_i v_id²] (Rendle, Lemma 3.1); exact, O(F·D).

    vectors [B, F, D] -> [B].
    """
    square = tf.square(tf.reduce_sum(vectors, 1)) - tf.reduce_sum(tf.square(vectors), 1)
    return 0.5 * tf.reduce_sum(square, -1)


def terms(x: Embedded, pooled: Tensor | None = None) -> Tensor:
    """Σ_i w_i + Σ_{i<j} ⟨v_i, v_j⟩ over the sample's fields (Rendle, Eq. 1 without w₀). [B].

    pooled: [B, J], the summed history; each of its J/D features joins the pairs as one more field.
    It brings no first-order term: Σ w over a history says how long it is and who its user is, which
    the user's own weight says, and nothing of the candidate. Behaviours of one feature are not
    paired with one another, nor are the values of a multi-valued field, which is their mean, its
    weight the mean of theirs (each x_i = 1/n, as in Rendle's Fig. 1, which pairs them too).
    """
    return tf.reduce_sum(x.linear, -1) + second_order(fields(x, pooled))


def fields(x: Embedded, pooled: Tensor | None = None) -> Tensor:
    """The vectors of a sample's fields. [B, F, D].

    pooled: [B, J], pooled behaviours; each of their J/D features follows as one more field.
    """
    if pooled is None:
        return x.fields
    width = x.fields.shape[-1]
    more = tf.reshape(pooled, [-1, pooled.shape[-1] // width, width])
    return tf.concat([x.fields, more], 1)
