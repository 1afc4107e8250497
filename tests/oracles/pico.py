"""PICO's losses in float64 numpy with plain loops, as the text reads its equations."""

import numpy as np


def contrast(anchors, candidates, temperature, normalise=False) -> float:
    """Eq. 11: each row's own pair against all pairs of the row, as a mean."""
    a, c = np.asarray(anchors, np.float64), np.asarray(candidates, np.float64)
    if normalise:
        a = a / np.linalg.norm(a, axis=1, keepdims=True)
        c = c / np.linalg.norm(c, axis=1, keepdims=True)
    total = 0.0
    for x in range(len(a)):
        scores = [float(np.dot(a[x], c[z])) / float(temperature[x]) for z in range(len(c))]
        top = max(scores)
        total -= scores[x] - top - np.log(sum(np.exp(s - top) for s in scores))
    return total / len(a)


def agreement(first, second, relation="xnor") -> np.ndarray:
    """Whether the two labels of each row are equal; ``xor``: whether they differ."""
    equal = [int(a == b) for a, b in zip(first, second, strict=True)]
    return np.array(equal) if relation == "xnor" else 1 - np.array(equal)


def relevance(inputs_a, inputs_b, layers) -> np.ndarray:
    """Eq. 7 and 8: ReLU layers (W, b) of the product, a sigmoid after the last one."""
    x = np.asarray(inputs_a, np.float64) * np.asarray(inputs_b, np.float64)
    for i, (kernel, bias) in enumerate(layers):
        x = x @ kernel + bias
        x = np.maximum(x, 0) if i + 1 < len(layers) else x
    return 1 / (1 + np.exp(-x[:, 0]))


def cross_entropy(y, p, weights) -> float:
    """Eq. 9 with ln(1 − p) in its second term, over the rows of the batch."""
    rows = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    return float((np.asarray(weights) * rows).sum() / len(rows))
