"""TIM as Pan et al. print it (Eq. 1): float64 numpy, one sample and one behaviour at a time."""

import numpy as np

from tests.oracles.models import Layer, Sample, dense, softmax


def interest(
    sample: Sample,
    ages: np.ndarray,
    positions: np.ndarray | None,
    intervals: np.ndarray | None,
    shortest: float,
    project: Layer | None,
) -> tuple[np.ndarray, np.ndarray]:
    """u [J], and ‖α_i (ẽ_i ⊙ ṽ)‖ of each behaviour [L]. ages [L]: seconds, below 0 if unknown."""
    v = sample.item if project is None else dense(sample.item, project)
    tables = [t for t in (positions, intervals) if t is not None]
    v = v + sum(t[0] for t in tables)
    encoded = []
    for i, (e, age) in enumerate(zip(sample.history, ages, strict=True)):
        p = np.zeros_like(e)
        if positions is not None:
            p = p + positions[min(len(ages) - i, len(positions) - 1)]
        if intervals is not None and age >= 0:
            row = 1
            while row < len(intervals) - 1 and age >= shortest * 2 ** (row - 1):
                row += 1
            p = p + intervals[row]
        encoded.append(e + p)
    if not encoded:
        return np.zeros_like(v), np.zeros(0)
    weights = softmax(np.array([e @ v / np.sqrt(len(v)) for e in encoded]))
    terms = [w * (e * v) for w, e in zip(weights, encoded, strict=True)]
    return np.sum(terms, axis=0), np.array([np.linalg.norm(t) for t in terms])
