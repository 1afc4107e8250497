"""Heads of several labels as the papers print them: float64 numpy, one row at a time."""

import numpy as np

from tests.oracles.models import softmax


def mixed(x: np.ndarray, gate: np.ndarray, experts: list[np.ndarray]) -> np.ndarray:
    """MMoE, Eq. 6 and 7, and CGC: one row x [I], a gate's kernel [I, E], E outputs of experts."""
    weights = softmax(x @ gate)
    return sum(w * e for w, e in zip(weights, experts, strict=True))


def stitched(alpha: np.ndarray, layers: list[np.ndarray]) -> list[np.ndarray]:
    """Cross-stitch, Eq. 1, unit by unit: alpha [K, K, U], K layers [U]."""
    return [
        np.array(
            [
                sum(alpha[k, j, u] * h[u] for j, h in enumerate(layers))
                for u in range(len(layers[0]))
            ]
        )
        for k in range(len(layers))
    ]


def transferred(
    passed: np.ndarray, own: np.ndarray, h1: np.ndarray, h2: np.ndarray, h3: np.ndarray
) -> np.ndarray:
    """AITM, Eq. 4 to 6, of one row: [k], [k], three maps [k, k] -> [k]."""
    scores = np.array([(u @ h2) @ (u @ h3) / np.sqrt(len(u)) for u in (passed, own)])
    return sum(w * (u @ h1) for w, u in zip(softmax(scores), (passed, own), strict=True))
