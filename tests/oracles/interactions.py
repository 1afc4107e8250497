"""Field interactions as printed: float64 numpy, one sample and one pair of fields at a time."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from tests.oracles.models import Layer


def inner_products(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """PNN, Eq. 7: ⟨f_i, f_j⟩ of all pairs i < j."""
    return np.array([sum(p * q for p, q in zip(a, b, strict=True))
                     for a, b in combinations(vectors, 2)])  # fmt: skip


def crossed(x: np.ndarray, layers: Sequence[tuple[Sequence[np.ndarray], np.ndarray]]) -> np.ndarray:
    """DCN V2, Eq. 1 and 2: a layer's kernels (one, or U and V) and its bias. x_0 [W] -> x_L [W]."""
    start = x
    for kernels, bias in layers:
        z = x
        for kernel in kernels:
            z = z @ kernel
        x = start * (z + bias) + x
    return x


def field_parts(
    vectors: Sequence[np.ndarray],
    part: Sequence[int],
    group: Sequence[str],
    r: Mapping[frozenset[str], float],
) -> np.ndarray:
    """GwPFM, Eq. 4 under an elementwise sum: vectors [P, K] of each field -> [K]."""
    found = np.zeros(vectors[0].shape[1])
    for i, j in combinations(range(len(vectors)), 2):
        weight = r[frozenset((group[i], group[j]))]
        found += weight * vectors[i][part[j]] * vectors[j][part[i]]
    return found


def routed(
    hidden: Sequence[np.ndarray], read: np.ndarray, gate: Layer | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and weighted sum of experts' outputs [U] each for one row; no gate: their mean.

    read: what the gate reads [I]. gate: its kernel [I, E] and the bias [E].
    """
    weights = np.full(len(hidden), 1 / len(hidden))
    if gate is not None:
        powers = np.exp(read @ gate[0] + gate[1])
        weights = powers / powers.sum()
    return weights, sum(w * h for w, h in zip(weights, hidden, strict=True))
