"""Metrics by their definitions, with plain loops; quadratic where the definition is."""

import math


def auc(labels, scores) -> float:
    wins, pairs = 0.0, 0
    for y, s in zip(labels, scores, strict=True):
        for z, t in zip(labels, scores, strict=True):
            if y == 1 and z == 0:
                pairs += 1
                wins += 1.0 if s > t else 0.5 if s == t else 0.0
    return wins / pairs


def gauc(labels, scores, groups, weights="equal") -> float:
    members: dict = {}
    for y, s, g in zip(labels, scores, groups, strict=True):
        members.setdefault(g, []).append((y, s))
    total, weight = 0.0, 0.0
    for rows in members.values():
        if len({y for y, _ in rows}) == 2:
            w = 1.0 if weights == "equal" else len(rows)
            total += w * auc(*zip(*rows, strict=True))
            weight += w
    return total / weight


def expected_calibration_error(labels, probabilities, bins) -> float:
    """Equal mass, for probabilities that are all different."""
    rows = sorted(zip(probabilities, labels, strict=True))
    cells: dict = {}
    for rank, row in enumerate(rows):
        cells.setdefault(math.floor(bins * rank / len(rows)), []).append(row)
    error = 0.0
    for cell in cells.values():
        predicted = sum(p for p, _ in cell) / len(cell)
        observed = sum(y for _, y in cell) / len(cell)
        error += len(cell) / len(rows) * abs(predicted - observed)
    return error


def wilson(successes: int, trials: int, z: float) -> tuple[float, float]:
    """The two rates p with |successes/trials - p| = z √(p (1 - p) / trials), by bisection."""

    def distance(p: float) -> float:
        return abs(successes / trials - p) - z * math.sqrt(p * (1 - p) / trials)

    def root(inside: float, outside: float) -> float:
        if distance(outside) <= 0:
            return outside
        for _ in range(200):
            middle = (inside + outside) / 2
            if distance(middle) <= 0:
                inside = middle
            else:
                outside = middle
        return inside

    rate = successes / trials
    return root(rate, 0.0), root(rate, 1.0)
