"""Mutual information by its definition, on plain lists."""

import math


def mutual_information(xs: list[bool], ys: list[int]) -> float:
    """Σ p(x, y) ln p(x, y) / (p(x) p(y)) of paired values, in nats."""
    total, size = 0.0, len(xs)
    for x in (False, True):
        for y in (0, 1):
            both = sum(a == x and b == y for a, b in zip(xs, ys, strict=True)) / size
            own = sum(a == x for a in xs) / size
            other = sum(b == y for b in ys) / size
            total += both * math.log(both / (own * other)) if both else 0.0
    return total
