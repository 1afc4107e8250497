"""AT4CTR Eq. 6 to 11 as printed, in float64 numpy with plain loops, and numeric gradients."""

from collections.abc import Callable, Sequence

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))


def info_nce(own: float, candidates: list[float], temperature: float) -> float:
    """-log(exp(own / τ) / Σ exp(candidate / τ)), own among the candidates."""
    scores = np.array(candidates) / temperature
    top = scores.max()
    return float(top + np.log(np.exp(scores - top).sum()) - own / temperature)


def binary_cross_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
    total = 0.0
    for y, z in zip(labels, logits, strict=True):
        total += np.logaddexp(0.0, -z) if y == 1 else np.logaddexp(0.0, z)
    return total / len(labels)


def pairwise_ranking(logits: np.ndarray, labels: np.ndarray) -> float:
    terms = [
        np.logaddexp(0.0, other - own)
        for own, y in zip(logits, labels, strict=True)
        for other, n in zip(logits, labels, strict=True)
        if y == 1 and n == 0
    ]
    return float(np.mean(terms)) if terms else 0.0


def one_side(
    anchors: np.ndarray,
    candidates: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    ids: np.ndarray | None,
) -> float:
    terms = []
    for k in range(len(labels)):
        if labels[k] != 1:
            continue
        scores = [
            cosine(anchors[k], candidates[j])
            for j in range(len(labels))
            if j == k or ids is None or ids[j] != ids[k]
        ]
        terms.append(info_nce(cosine(anchors[k], candidates[k]), scores, temperature))
    return sum(terms) / len(terms) if terms else 0.0


def user_item_match(user, item, labels, temperature, user_ids=None, item_ids=None) -> float:
    return one_side(user, item, labels, temperature, item_ids) + one_side(
        item, user, labels, temperature, user_ids
    )


def next_item_prediction(states, history, mask, temperature, item_ids=None, block=None) -> float:
    batch, length = mask.shape
    total, count = 0.0, 0
    for k in range(length - 1):
        terms = [i for i in range(batch) if mask[i, k] and mask[i, k + 1]]
        if len(terms) < 2:
            continue
        blocks = 1 if block is None else -(-len(terms) // block)
        for real in np.array_split(terms, blocks):
            for i in real:
                others = [
                    j
                    for j in real
                    if j == i or item_ids is None or item_ids[j, k + 1] != item_ids[i, k + 1]
                ]
                own = cosine(states[i, k], history[i, k + 1])
                to_items = [cosine(states[i, k], history[j, k + 1]) for j in others]
                to_states = [cosine(history[i, k + 1], states[j, k]) for j in others]
                total += info_nce(own, to_items, temperature)
                total += info_nce(own, to_states, temperature)
                count += 1
    return total / count if count else 0.0


def numeric_gradients(
    function: Callable[..., float], points: Sequence[np.ndarray], step: float = 1e-5
) -> list[np.ndarray]:
    """Central differences of a scalar function of several arrays, one entry at a time."""
    points = [p.astype(np.float64) for p in points]
    gradients = []
    for point in points:
        gradient = np.zeros_like(point)
        for index in np.ndindex(point.shape):
            kept = point[index]
            point[index] = kept + step
            above = function(*points)
            point[index] = kept - step
            below = function(*points)
            point[index] = kept
            gradient[index] = (above - below) / (2 * step)
        gradients.append(gradient)
    return gradients
