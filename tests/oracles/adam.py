"""Adam (Kingma & Ba, 2015, Algorithm 1 in its "epsilon hat" form) and row-wise Adagrad in float64
numpy."""

from collections.abc import Iterable

import numpy as np

RATE, BETA_1, BETA_2, EPSILON = 1e-2, 0.9, 0.999, 1e-8


class Adam:
    """rows: the rows to update at a step; None for all of them."""

    def __init__(self, start: np.ndarray) -> None:
        self.theta = start.astype(np.float64)
        self.m, self.v = np.zeros_like(self.theta), np.zeros_like(self.theta)
        self.t = 0

    def step(self, gradient: np.ndarray, rows: Iterable[int] | None = None) -> None:
        self.t += 1
        rate = RATE * np.sqrt(1 - BETA_2**self.t) / (1 - BETA_1**self.t)
        for row in range(len(self.theta)) if rows is None else rows:
            g = gradient[row]
            self.m[row] = BETA_1 * self.m[row] + (1 - BETA_1) * g
            self.v[row] = BETA_2 * self.v[row] + (1 - BETA_2) * g * g
            self.theta[row] -= rate * self.m[row] / (np.sqrt(self.v[row]) + EPSILON)


class RowwiseAdagrad:
    """One accumulator a row: the running sum of the mean square of its gradients."""

    def __init__(self, start: np.ndarray, rate: float) -> None:
        self.theta, self.rate = start.astype(np.float64), rate
        self.seen = [0.0] * len(start)

    def step(self, gradient: np.ndarray, rows: Iterable[int]) -> None:
        for row in rows:
            g = gradient[row].astype(np.float64)
            self.seen[row] += float(np.dot(g, g)) / len(g)
            self.theta[row] -= self.rate * g / (self.seen[row] ** 0.5 + EPSILON)
