"""A Gaussian process by random features, and the Laplace posterior of its weights, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sigmoid(z: float) -> float:
    return 1.0 / (1.0 + np.exp(-z))


def features(
    inputs: Sequence[np.ndarray], kernels: Sequence[np.ndarray], phases: Sequence[np.ndarray]
) -> np.ndarray:
    """Of one row: inputs [I_j], kernels [I_j, M_j], phases [M_j] -> [ΣM_j]."""
    found: list[float] = []
    for x, kernel, phase in zip(inputs, kernels, phases, strict=True):
        centred = x - x.mean()
        unit = centred / np.sqrt((centred**2).sum() + 1e-6 * x.size)
        for m in range(phase.size):
            angle = sum(unit[i] * kernel[i, m] for i in range(x.size)) + phase[m]
            found.append(np.cos(angle) * np.sqrt(2.0 / phase.size / len(inputs)))
    return np.array(found)


def precision(phi: np.ndarray, logits: np.ndarray, weights: np.ndarray, prior: np.ndarray):
    """Λ [M, M] of rows φ [N, M], logits and weights [N], and the prior's precision [M, M]."""
    found = prior.astype(np.float64)
    for row, z, w in zip(phi, logits, weights, strict=True):
        p = sigmoid(z)
        found = found + w * p * (1 - p) * np.outer(row, row)
    return found


def deviation(phi: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """√(φᵀ Λ⁻¹ φ) of each row."""
    covariance = np.linalg.inv(whole)
    return np.array([np.sqrt(row @ covariance @ row) for row in phi])


def slope(
    phi: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    beta: np.ndarray,
    prior: np.ndarray,
) -> np.ndarray:
    """The gradient of the log posterior by β [M] and, last, by the bias; the prior's mean is 0."""
    found = np.append(-prior @ beta, 0.0)
    for row, z, y, w in zip(phi, logits, labels, weights, strict=True):
        found += w * (y - sigmoid(z)) * np.append(row, 1.0)
    return found
