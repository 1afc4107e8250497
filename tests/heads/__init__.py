"""Experts of two backbones' widths, and their parts as arrays, for the tests of every head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from at4ctr.contracts import Activation, Encoded, Interface, Part
from tests.model.toys import double
from tests.oracles import models as oracle

ROWS = 6
PARTS = {"a": (Part(3), Part(2, 0.5)), "b": (Part(4),)}  # 0.5: where that part's γ starts
DIRECT = {"a": (), "b": (Part(2), Part(1))}


def interfaces(*names: str, activation: Activation = "prelu") -> dict[str, Interface]:
    return {
        name: Interface(PARTS[name], DIRECT[name], activation, 40 + i)
        for i, name in enumerate(names)
    }


def drawn(*names: str, seed: int = 0) -> dict[str, Encoded]:
    rng = np.random.default_rng(seed)

    def tensor(*shape: int) -> tf.Tensor:
        return tf.constant(rng.normal(size=shape), tf.float32)

    return {
        name: Encoded(
            tuple(tensor(ROWS, part.width) for part in PARTS[name]),
            tf.zeros([ROWS, 1, 1]),
            direct=tuple(tensor(ROWS, part.width) for part in DIRECT[name]),
            wide=tensor(ROWS),
        )
        for name in names
    }


def side_by_side(tensors: Sequence[tf.Tensor]) -> np.ndarray:
    found = [t.numpy().astype(np.float64) for t in tensors]
    return np.concatenate([np.zeros((ROWS, 0)), *found], 1)


def parts(x: Mapping[str, Encoded]) -> np.ndarray:
    return side_by_side([part for e in x.values() for part in e.parts])


def direct(x: Mapping[str, Encoded]) -> np.ndarray:
    return side_by_side([part for e in x.values() for part in e.direct])


def wide(x: Mapping[str, Encoded]) -> np.ndarray:
    return np.sum([np.asarray(e.wide, np.float64) for e in x.values()], 0)


def affine(x: np.ndarray, layer: tf.Module) -> np.ndarray:
    return x * double(layer.gamma) + double(layer.beta)


def linear(x: np.ndarray, layer: oracle.Layer) -> np.ndarray:
    return oracle.dense(x, layer)[:, 0]
