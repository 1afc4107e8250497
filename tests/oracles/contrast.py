"""AQCL Eq. 2 to 6 by literal loops in float64, and the transport problem by plain scaling."""

import numpy as np

from tests.oracles.losses import cosine


def instance(z: np.ndarray, augmented: np.ndarray, temperature: float) -> float:
    terms = []
    for i in range(len(z)):
        powers = [np.exp(cosine(z[i], other) / temperature) for other in augmented]
        terms.append(-np.log(powers[i] / sum(powers)))
    return float(np.mean(terms)) if terms else 0.0


def quantised(z, augmented, codebook, alpha, nearest, temperature, cluster_temperature) -> float:
    terms = []
    for i in range(len(z)):
        own = [np.exp(cosine(z[i], other) / temperature) for other in augmented]
        clusters = [np.exp(cosine(z[i], q) / cluster_temperature) for q in codebook]
        near = sum(sorted(clusters)[-nearest:])
        above = own[i] ** (1 - alpha[i]) * near ** alpha[i]
        terms.append(-np.log(above / (sum(own) + sum(clusters))))
    return float(np.mean(terms)) if terms else 0.0


def transport(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """diag(u) exp(s / ε) diag(v), columns scaled to 1/T and then rows to 1/B."""
    plan = np.exp(scores.astype(np.float64) / epsilon)
    rows, columns = plan.shape
    for _ in range(iterations):
        plan = plan / plan.sum(0) / columns
        plan = plan / plan.sum(1)[:, None] / rows
    return plan


def codebook(z, codewords, assigned, temperature) -> float:
    terms = []
    for b in range(len(z)):
        powers = [np.exp(cosine(z[b], q) / temperature) for q in codewords]
        terms.append(-np.log(powers[assigned[b]] / sum(powers)))
    return float(np.mean(terms)) if terms else 0.0


def share(behaviours: np.ndarray, mean: float, w1: float, w2: float) -> np.ndarray:
    return np.array([np.exp(-w1 * (float(n) / mean) ** w2) for n in behaviours])
