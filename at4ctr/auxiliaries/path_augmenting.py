"""DBPMaN's path augmenting module: contrast of two masked views of a user's paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from at4ctr.contracts import AuxiliaryConfig, Tensor, View
from at4ctr.errors import InputError
from at4ctr.layers.attention import MASKED
from at4ctr.layers.mlp import Draws
from at4ctr.layers.paths import replace
from at4ctr.layers.shape import Shape, history_required
from at4ctr.schema import UNKNOWN, Schema


@dataclass(frozen=True)
class Config(AuxiliaryConfig):
    """weight: λ. The public code has 0.1 beside a halved log loss, which is 0.2 beside a full one.
    rate: share of a path's items that a view hides. temperature: τ, which divides the similarities;
    1 is the released code, which has none. block: in-batch negatives come from blocks of so many
    samples, which costs less. None is the whole batch, as in the released code.
    """

    needs: ClassVar[tuple[str, ...]] = ("paths", "path_mask", "path_weights")

    weight: float = 0.2
    rate: float = 0.2
    temperature: float = 1.0
    block: int | None = 256

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"path_augmenting.temperature is {self.temperature}; expected above 0")
        if not 0 <= self.rate <= 1:
            raise InputError(f"path_augmenting.rate is {self.rate}; expected between 0 and 1")
        if self.block is not None and self.block < 2:
            raise InputError(
                f"path_augmenting.block is {self.block}; expected none, or 2 samples and more"
            )

    def build(self, schema: Schema, shape: Shape, seed: int) -> PathAugmenting:
        history_required("path_augmenting", shape, "leave path_augmenting out")
        if schema.item_id.name not in schema.history:
            raise InputError(
                f"path_augmenting hides item ids of the history, which has {schema.history}; "
                f"add {schema.item_id.name!r} to Schema.history or leave path_augmenting out"
            )
        return PathAugmenting(self, schema, seed)


class PathAugmenting(tf.Module):
    """L_cl of the public code: S_ij = Σ_p Σ_i cos(z¹_{i,p}, z²_{j,p}) / τ, cross entropy of row i
    against i, mean over the n samples that have a path.

    A view hides each position of each path with probability ``rate``: the item's vector becomes
    that of the unknown id, a trained row (the public code's is its row 0, which pads here);
    the other features stay. A behaviour of two paths is drawn once for each. The backbone's path
    module, with its own weights, then gives z; its queries are those of the unmasked history. A
    behaviour that is not hidden keeps the weight a of the first pass. z has length 1, so that
    neither a's size nor the router's share is in it. So this loss trains only the vectors of items
    and of their other features, in the released code too, and the second pass needs no backward
    pass of the module. This is exact, but for what ``directions`` says of the shortest z.

    Sums run over the p that both samples have, counted from a sample's oldest path; anchors and
    candidates are samples with a path; n < 2 gives 0. The public code keeps samples without a path
    (its data has none). It also hides items at test time, where nothing of this module exists.

    Blocks (not in the public code): samples are dealt like cards to ⌈n / block⌉ blocks, called
    hands in the code, in the order of their number of paths, so that every block has the batch's
    mix of lengths. There are fewer blocks where one would hold a single sample. A uniform guess
    then costs ln(block), not ln(n). Only paths that exist are computed, not P per sample, and the
    work falls in proportion to the block.
    """

    def __init__(self, config: Config, schema: Schema, seed: int) -> None:
        super().__init__(name="path_augmenting")
        self.config, self.table = config, schema.item_id.table
        self.features, self.item = len(schema.history), schema.history.index(schema.item_id.name)
        self.draws = Draws(seed)

    def hidden(self, shape: Tensor) -> Tensor:
        """What the next view hides. bool of the given shape [N, l]."""
        return tf.random.stateless_uniform(shape, self.draws.seed()) < self.config.rate

    def loss(self, view: View) -> Tensor:
        features = tf.split(view.embedded.packed.values, self.features, -1)
        unknown = view.lookup(self.table, tf.constant([UNKNOWN]))
        features[self.item] = tf.zeros_like(features[self.item]) + unknown
        expert = view.expert(*Config.needs)
        one, two = (self._encode(view, expert, tf.add_n(features)) for _ in range(2))
        mask = view.experts[expert].extras["path_mask"]
        return aligned_cross_entropy(one, two, mask, self.config.temperature, self.config.block)

    def _encode(self, view: View, expert: str, anonymous: Tensor) -> Tensor:
        """z of a new view, from behaviours [R, D] without their items. [N, l·D]."""
        first = view.experts[expert].extras
        hidden = self.hidden(tf.shape(first["path_weights"])[:2])
        again = replace(view.embedded, first, hidden, anonymous)
        return view.encode(again, expert).extras["paths"]


def aligned_cross_entropy(
    one: Tensor, two: Tensor, mask: Tensor, temperature: float, block: int | None
) -> Tensor:
    """Mean over samples of lse_j S_ij − S_ii, S_ij = Σ_p ⟨one_{i,p}, two_{j,p}⟩ / τ. Scalar.

    one, two [N, d]: rows of the real (sample, p), in that order; mask [B, P], left-aligned.
    """
    counts = tf.reduce_sum(tf.cast(mask, tf.int32), 1)  # [B]
    n = tf.math.count_nonzero(counts, dtype=tf.int32)
    hands = tf.constant(1)
    if block is not None:
        hands = tf.maximum(tf.minimum((n + block - 1) // block, n // 2), 1)
    sizes = tf.reduce_sum(tf.cast(mask, tf.int32), 0)  # [P] samples with a p-th path
    order = _by_number(counts, mask, sizes)
    slots = (n + hands - 1) // hands
    scores = [
        _scores(a, b, hands, slots)
        for a, b in zip(
            tf.split(tf.gather(one, order) / temperature, sizes, num=mask.shape[1]),
            tf.split(tf.gather(two, order), sizes, num=mask.shape[1]),
            strict=True,
        )
    ]
    logits = tf.add_n(scores)  # [hands, slots, slots]
    real = tf.range(hands * slots) < n
    real = tf.transpose(tf.reshape(real, [slots, hands]))  # rank = slot · hands + hand
    lse = tf.reduce_logsumexp(tf.where(real[:, None, :], logits, MASKED), -1)
    terms = tf.where(real, lse - tf.linalg.diag_part(logits), 0.0)
    return tf.math.divide_no_nan(tf.reduce_sum(terms), tf.cast(n, terms.dtype))


def _by_number(counts: Tensor, mask: Tensor, sizes: Tensor) -> Tensor:
    """Order of the paths by (p, rank of the sample, most paths first). [N]."""
    rank = tf.math.invert_permutation(tf.argsort(-counts, stable=True))
    where = tf.cast(tf.where(mask), tf.int32)
    place = tf.gather(tf.cumsum(sizes, exclusive=True), where[:, 1]) + tf.gather(rank, where[:, 0])
    return tf.math.invert_permutation(place)


def _scores(one: Tensor, two: Tensor, hands: Tensor, slots: Tensor) -> Tensor:
    """⟨one_i, two_j⟩ of samples 0..m−1 within each hand, 0 elsewhere. [hands, slots, slots]."""
    m, width = tf.shape(one)[0], one.shape[-1]
    used = (m + hands - 1) // hands
    dealt = (
        tf.transpose(
            tf.reshape(tf.pad(x, [[0, used * hands - m], [0, 0]]), [used, hands, width]), [1, 0, 2]
        )
        for x in (one, two)
    )
    found = tf.linalg.matmul(*dealt, transpose_b=True)
    rest = slots - used
    return tf.pad(found, [[0, 0], [0, rest], [0, rest]])
