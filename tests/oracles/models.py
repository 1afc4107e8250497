"""The models as the papers print them: float64 numpy, one sample and one position at a time."""

from dataclasses import dataclass

import numpy as np

Layer = tuple[np.ndarray, np.ndarray]  # kernel, bias


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def dense(x: np.ndarray, layer: Layer) -> np.ndarray:
    return x @ layer[0] + layer[1]


def target_attention(
    query: np.ndarray, keys: np.ndarray, project: Layer, layers: list[Layer]
) -> np.ndarray:
    """DIN's unit on one sample: query [Q], keys [L, J] without padding -> [J]."""
    if len(keys) == 0:
        return np.zeros(project[0].shape[1])
    q = dense(query, project)
    scores = []
    for k in keys:
        hidden = np.concatenate([q, k, q - k, q * k])
        for layer in layers[:-1]:
            hidden = sigmoid(dense(hidden, layer))
        scores.append(dense(hidden, layers[-1])[0])
    return sum(w * k for w, k in zip(softmax(np.array(scores)), keys, strict=True))


def self_attention(
    x: np.ndarray, query: np.ndarray, key: np.ndarray, value: np.ndarray, *, causal: bool
) -> np.ndarray:
    """softmax(QK'/√d)V over one sample's real behaviours [L, d] -> [L, d]."""
    out = np.zeros_like(x)
    for i in range(len(x)):
        seen = x[: i + 1] if causal else x
        scores = np.array([(x[i] @ query) @ (k @ key) for k in seen]) / np.sqrt(x.shape[1])
        out[i] = sum(w * (k @ value) for w, k in zip(softmax(scores), seen, strict=True))
    return out


def mean_pool(x: np.ndarray) -> np.ndarray:
    return x.mean(0) if len(x) else np.zeros(x.shape[1])


def dice(x: np.ndarray, mean: np.ndarray, variance: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    gate = sigmoid((x - mean) / np.sqrt(variance + 1e-9))
    return gate * x + (1 - gate) * alpha * x


def prelu(x: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, alpha * x)


def projection(x: np.ndarray, layers: list[Layer]) -> np.ndarray:
    """Two layers, ReLU between them."""
    return dense(np.maximum(dense(x, layers[0]), 0.0), layers[1])


def vector(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The row of an id, or the mean of the rows of several; id 0 is no id."""
    real = [table[i] for i in np.atleast_1d(ids) if i != 0]
    return np.mean(real, axis=0) if real else np.zeros(table.shape[1])


@dataclass(frozen=True)
class Sample:
    """One row of a batch as vectors; history [L, J] without padding."""

    profile: np.ndarray
    item: np.ndarray
    context: np.ndarray
    history: np.ndarray


def samples(
    batch: dict[str, np.ndarray],
    tables: dict[str, np.ndarray],
    groups: dict[str, list[tuple[str, str]]],
    history: list[tuple[str, str]],
) -> list[Sample]:
    """groups and history: (feature, table) pairs in order."""

    def row(features: list[tuple[str, str]], values: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros(0), *(vector(tables[t], values[f]) for f, t in features)])

    found = []
    for i in range(len(batch["label_click"])):
        now = {name: values[i] for name, values in batch.items()}
        past = [
            row(history, {f: now[f"history_{f}"][k] for f, _ in history})
            for k in range(now.get("history_length", 0))
        ]
        width = sum(tables[t].shape[1] for _, t in history)
        found.append(
            Sample(
                row(groups["profile"], now),
                row(groups["item"], now),
                row(groups["context"], now),
                np.array(past).reshape(len(past), width),
            )
        )
    return found


def din_input(sample: Sample, project: Layer, layers: list[Layer]) -> np.ndarray:
    pooled = sample.history.sum(0)
    interest = target_attention(sample.item, sample.history, project, layers)
    parts = [sample.profile, sample.context, sample.item, pooled, interest, sample.item * pooled]
    return np.concatenate(parts)


def dnn_input(sample: Sample, *, pool: bool) -> np.ndarray:
    parts = [sample.profile, sample.context, sample.item]
    if pool:
        parts.append(sample.history.sum(0) / max(len(sample.history), 1))
    return np.concatenate(parts)


def widedeep_input(sample: Sample, *, pool: bool) -> tuple[np.ndarray, np.ndarray]:
    """What the deep and what the wide part reads."""
    deep, wide = [sample.profile, sample.context, sample.item], [sample.item]
    if pool:
        pooled = sample.history.sum(0)
        deep.append(pooled)
        wide += [pooled, sample.item * pooled]
    return np.concatenate(deep), np.concatenate(wide)
