"""The losses of twenty training steps, to be compared bit for bit when the house changes.

``python -m tests.contract.golden_losses`` prints them. ``--check`` compares every bit with
``golden_losses.json``, which ``--write`` replaces. ``test_golden.py`` compares five digits, as the
kernels of another machine may round otherwise. The batches come from a numpy generator and the
initial weights from seeds, so that neither the store nor the reader is part of the comparison.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from at4ctr.auxiliaries import nip, uim
from at4ctr.backbones import din
from at4ctr.layers import embedder
from at4ctr.optimizers import LazyAdam
from tests.model import toys

PLACE = Path(__file__).with_suffix(".json")
STEPS, ROWS, HISTORY = 20, 64, 12
EMBEDDING = embedder.Config(dimension=8, scale=0.05)


def losses() -> dict[str, list[str]]:
    """Loss -> its value at each step, as hexadecimal float32."""
    model = toys.training(
        toys.serving(din.Config(), embedding=EMBEDDING),
        {"uim": uim.Config(), "nip": nip.Config()},
        embedding=EMBEDDING,
    )
    optimizer, found = LazyAdam(0.01), dict[str, list[str]]()
    for step in range(STEPS):
        batch = toys.tensors(toys.batch(ROWS, HISTORY, seed=step))
        with tf.GradientTape() as tape:
            values = model.losses_of(batch)
        variables = model.trainable_variables
        pairs = zip(tape.gradient(values["total"], variables), variables, strict=True)
        optimizer.apply_gradients([(g, v) for g, v in pairs if g is not None])
        for name, value in values.items():
            found.setdefault(name, []).append(float(np.float32(value.numpy())).hex())
    return found


def differing(found: Mapping[str, list[str]], kept: Mapping[str, list[str]]) -> list[str]:
    """The steps whose loss is another one, as text."""
    assert found.keys() == kept.keys(), (sorted(found), sorted(kept))
    return [
        f"{name}, step {step}: {before} is now {now}"
        for name, values in kept.items()
        for step, (before, now) in enumerate(zip(values, found[name], strict=True))
        if before != now
    ]


def main(arguments: Sequence[str]) -> int:
    found = losses()
    if "--check" in arguments:
        lines = differing(found, json.loads(PLACE.read_text()))
        print("\n".join(lines) if lines else f"{len(found)} losses, {STEPS} steps: bit for bit")
        return 1 if lines else 0
    text = json.dumps(found, indent=1) + "\n"
    if "--write" in arguments:
        PLACE.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
