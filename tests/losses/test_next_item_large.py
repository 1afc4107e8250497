"""Next-item prediction on batches of a real size: its memory, and slices of every size."""

import subprocess
import sys

import numpy as np
import pytest

from at4ctr.losses import next_item_prediction

D, PLAIN = 3, 0.1


MEMORY = """
from pathlib import Path
import at4ctr
import tensorflow as tf
from at4ctr.losses import next_item_prediction

@tf.function(autograph=False)
def gradients(states, history, lengths):
    with tf.GradientTape() as tape:
        tape.watch([states, history])
        loss = next_item_prediction(states, history, lengths, 0.1)
    return tape.gradient(loss, [states, history])

def peak(batch, length=64):
    x = tf.random.normal([2, batch * length, 4])
    gradients(x[0], x[1], tf.fill([batch], length))
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

small = peak(64)
print(peak(1536) - small)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_is_a_few_matrices_and_not_one_for_each_position():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, check=True)
    matrix = 1536 * 1536 * 4
    assert int(done.stdout) < 16 * matrix  # all positions at once: 63 and more


@pytest.mark.parametrize("block", [64, 300, None])
def test_slices_of_every_class_of_size_are_summed_alike(block):
    """Positions with 1 to 700 terms, against one matrix a slice in float64."""
    rng = np.random.default_rng(11)
    lengths = np.sort(rng.integers(1, 60, 700))[::-1] // np.array([1, 2, 3, 20] * 175)
    lengths = lengths.astype(np.int32)
    starts, rows = np.cumsum(lengths) - lengths, int(lengths.sum())
    states, history = rng.normal(size=(2, rows, D)).astype(np.float32)
    q, e = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (states.astype(float), history))
    total, count = 0.0, 0
    for k in range(lengths.max() - 1):
        terms = np.flatnonzero(lengths > k + 1)
        for part in np.array_split(terms, 1 if block is None else -(-len(terms) // block)):
            if len(terms) < 2:
                continue
            s = q[starts[part] + k] @ e[starts[part] + k + 1].T / PLAIN
            total += sum(np.log(np.exp(s).sum(axis)).sum() for axis in (0, 1)) - 2 * np.trace(s)
            count += len(part)
    found = next_item_prediction(states, history, lengths, PLAIN, block=block)
    assert float(found) == pytest.approx(total / count, rel=1e-5)
