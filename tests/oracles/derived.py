"""The label of a click without a conversion, by enumeration of a tiny log; the fused score."""

import numpy as np


def in_sampled_log(click: float, conversion: float, rate: float) -> tuple[float, float]:
    """P(click) and P(click and no conversion) among the rows that sampling keeps, by enumerating
    the outcomes of a row and their probabilities. conversion: P(conversion | click)."""
    outcomes = {
        ("click", "conversion"): click * conversion,
        ("click", "none"): click * (1 - conversion),
        ("none", "none"): (1 - click) * rate,
    }
    kept = sum(outcomes.values())
    clicked = sum(p for (first, _), p in outcomes.items() if first == "click")
    return clicked / kept, outcomes["click", "none"] / kept


def score(conversion: np.ndarray, without: np.ndarray, weight: float) -> np.ndarray:
    """CTnoCVR's final score, one row at a time."""
    pairs = zip(conversion, without, strict=True)
    return np.array([(weight + p - weight * c) / (1 + weight) for p, c in pairs])
